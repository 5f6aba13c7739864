"""Benchmarks of write-through: how long a finished game is at risk, what the agent costs, and what a kill loses.

python bench/ephemeral.py [--runs N] [--json FILE] [--markdown FILE]

Real agents by ``ringrift-sync agent`` for 20 spot nodes and the coordinator, which merges; real writers; two games a
second on each node. Percentiles are those of all games of all rounds. The peers are measured in turns with us, on
databases of their own that are played in the same way; the age of the newest safe game is taken ten times a second on
each node, and is what a loss at that moment would cost. Games are played in small commits, as upstream's self-play
does, or stored at once when they are over: only then does the kernel's hint say that there is something to find.
"""

from __future__ import annotations

import itertools
import json
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bench import peers
from bench.command import main
from bench.data import play
from bench.harness import CannotMeasureError, Part, check, note
from bench.lines import OURS, Line, Reach, Result, Samples
from bench.spot_field import SpotField, games_in, kill_process, spot_field
from bench.spot_peers import Copy, Copying, by_rsync, by_sqlite3_rsync
from ringrift_sync_dagster.node.patterns import CONFIGS

SIZES: Final = (1, 10, 20)
RATE: Final = 2
KILLS: Final = 100
RSYNC: Final = "rsync every 5 s"
SQLITE3_RSYNC: Final = "sqlite3_rsync every 5 s"
OFF: Final = "agent off"
_SECONDS: Final = {1: 5.0, 10: 5.0, 20: 7.0}
_PEER_SECONDS: Final = 11.0
_PEER_ROUNDS: Final = 2
_COMMIT_SECONDS: Final = 5.0
_COMMIT_RATE: Final = 10
_COMMIT_ROUNDS: Final = 5
_IDLE_DATABASES: Final = 50
_IDLE_SECONDS: Final = 30.0
_START_SECONDS: Final = 30.0  # databases that were just written are read once more, and scanned once more
_KILL_FROM, _KILL_TO = 1.5, 5.0
_SEED: Final = 7
_HISTOGRAM: Final = ("0", "1", "2", "3", "4 or more")
_SAMPLE_SECONDS: Final = 0.1
_AT_ONCE: Final = "at_once"

LINES: Final = (
    *(
        Line(f"commit to receipt, {size} node{'s' * (size > 1)}: {word}", "s", f"{word}_{size}", reach=reach)
        for size in SIZES
        for word, reach in (
            ("p50", Reach("at most", "1") if size == max(SIZES) else None),
            ("p99", Reach("at most", "3") if size == max(SIZES) else None),
            ("max", None),
        )
    ),
    *(
        Line(f"commit to receipt, {max(SIZES)} nodes, games stored at once: {word}", "s", f"{word}_{_AT_ONCE}")
        for word in ("p50", "p99", "max")
    ),
    *(
        Line(f"age of the newest safe game, {max(SIZES)} nodes: {word}", "s", f"age_{word}", peer)
        for word in ("p50", "p99", "max")
        for peer in (RSYNC, SQLITE3_RSYNC)
    ),
    Line(
        f"idle agent, {_IDLE_DATABASES} databases: processor time", "% of a core", "idle_cpu",
        reach=Reach("below", "0.5"),
    ),
    Line(f"idle agent, {_IDLE_DATABASES} databases: memory", "MB", "idle_memory"),
    Line("writer's p99 commit", "ms", "commit_p99", OFF),
    Line("writer's p99 commit: longer with the agent on by", "ms", "commit_longer", reach=Reach("at most", "2")),
    *(Line(f"games lost by a kill: kills of {KILLS} that lost {many}", "kills", f"lost_{many}") for many in _HISTOGRAM),
    Line("games lost by a kill: mean", "games", "lost_mean"),
    Line("games lost by a kill: most", "games", "lost_most", reach=Reach("at most", "4")),
)  # fmt: skip


def measure(folder: Path, runs: int) -> Result:
    """Measure in a folder of its own."""
    problems: list[str] = []
    samples: Samples = {}
    with spot_field(folder / "field", max(SIZES)) as field:
        samples |= _latencies(field, folder, runs, problems)
        samples |= _kills(field)
        for name in field.names:
            field.stop(name)
        samples |= _commits(field, field.names[0], folder)
        samples |= _idle(field, field.names[1])
    return Result(samples, tuple(problems))


def _latencies(field: SpotField, folder: Path, runs: int, problems: list[str]) -> Samples:
    seen: dict[str, list[float]] = {name: [] for name in (*map(str, SIZES), _AT_ONCE)}
    ages: dict[str, list[float]] = {OURS: [], RSYNC: [], SQLITE3_RSYNC: []}
    with ExitStack() as stack:
        server = stack.enter_context(peers.ssh_server(folder / "ssh"))
        makes = {RSYNC: by_rsync, SQLITE3_RSYNC: by_sqlite3_rsync}
        for number in range(runs):
            for size in SIZES:
                latencies, ages_now = _ours(field, size, folder / f"ours-{number}-{size}")
                seen[str(size)] += latencies
                ages[OURS] += ages_now if size == max(SIZES) else []
                note(f"ephemeral: round {number + 1}: {size} nodes: p99 {_part(seen[str(size)], 0.99):.2f} s")
            seen[_AT_ONCE] += _ours(field, max(SIZES), folder / f"ours-{number}-at-once", "--at-once")[0]
            for peer, make in makes.items():
                if peer not in ages or number >= _PEER_ROUNDS:
                    continue
                try:
                    found, share = _peer(folder / f"peer-{number}-{peer.split()[0]}", make, server, number)
                except CannotMeasureError as error:
                    problems.append(f"ephemeral: {peer}: {error}")
                    del ages[peer]
                    continue
                ages[peer] += found
                note(f"ephemeral: round {number + 1}: {peer}: p50 {_part(ages[peer], 0.5):.2f} s, failed {share:.1f} %")
    samples: Samples = {}
    for name, values in seen.items():
        samples |= {(f"{word}_{name}", OURS): [value] for word, value in _words(values)}
    for name, values in ages.items():
        samples |= {(f"age_{word}", name): [value] for word, value in _words(values)}
    return samples


def _ours(field: SpotField, size: int, log: Path, *options: str) -> tuple[list[float], list[float]]:
    """Give the times from commit to receipt of so many nodes, and the ages of the newest safe game."""
    names = field.names[:size]
    committed = _play([field.database(name) for name in names], log, _SECONDS[size], log.name, *options)
    latencies, ages = list[float](), list[float]()
    for name in names:
        own = committed[name]
        safe = field.wait_for_receipts(name, list(own))
        latencies += [safe[game] - at for game, at in own.items()]
        ages += _ages(own, safe)
    return latencies, ages


def _peer(
    folder: Path, make: Callable[[peers.SshServer], Copy], server: peers.SshServer, number: int
) -> tuple[list[float], float]:
    """Give the ages of the newest safe game under a peer, and how many percent of its copies could not be read."""
    sources = [folder / f"spot-{one:02d}" / "data/games/selfplay.db" for one in range(max(SIZES))]
    for source in sources:
        source.parent.mkdir(parents=True)
    copying = Copying(make(server), sources, folder / "copies")
    try:
        committed = _play(sources, folder / "log", _PEER_SECONDS, f"peer-{number}")
    finally:
        copying.end()
    for cause, many in Counter(copying.causes).most_common(3):
        note(f"ephemeral: {many} copies: {cause}")
    check(bool(copying.safe), f"no copy could be read in {folder.name}")
    ages = [age for own in committed.values() for age in _ages(own, copying.safe)]
    return ages, 100.0 * len(copying.causes) / max(1, copying.made)


def _ages(committed: Mapping[str, float], safe: Mapping[str, float]) -> list[float]:
    """Give how old the newest safe game of a node was, ten times a second from the first commit to the last one."""
    found, first, last = [], min(committed.values()), max(committed.values())
    order = sorted(committed.items(), key=lambda one: one[1])
    at = first
    while at < last:
        newest = max((when for game, when in order if when <= at and safe.get(game, last + 1) <= at), default=first)
        found.append(at - newest)
        at += _SAMPLE_SECONDS
    return found


def _play(
    databases: Sequence[Path], log: Path, seconds: float, seed: str, *options: str, rate: float = RATE
) -> dict[str, dict[str, float]]:
    """Let games be finished in all of them, and give for each node when each game was committed."""
    log.mkdir(parents=True, exist_ok=True)
    places = {database.parents[2].name: f"{database}={log / database.parents[2].name}" for database in databases}
    peers.run([sys.executable, "-m", "bench.spot_writer", seed, str(rate), str(seconds), *options, *places.values()])
    return {
        name: {game: float(at) for game, at in (line.split() for line in (log / name).read_text().splitlines())}
        for name in places
    }


def _kills(field: SpotField) -> Samples:
    """Kill writer and agent of each node at a seeded moment, take the directory away, and start a new one; repeat."""
    chance, lost = random.Random(_SEED), list[int]()
    rounds = KILLS // len(field.names)
    for number in range(rounds):
        note(f"ephemeral: kills: round {number + 1} of {rounds}")
        lost += _kill_all(field, chance, number)
    counted = Counter(_HISTOGRAM[min(one, len(_HISTOGRAM) - 1)] for one in lost)
    samples: Samples = {(f"lost_{many}", OURS): [float(counted[many])] for many in _HISTOGRAM}
    note(f"ephemeral: lost by each kill: {json.dumps(sorted(lost))}")
    return samples | {("lost_mean", OURS): [statistics.mean(lost)], ("lost_most", OURS): [float(max(lost))]}


def _kill_all(field: SpotField, chance: random.Random, number: int) -> list[int]:
    logs = field.base / f"kills-{number}"
    logs.mkdir()
    places = [f"{field.database(name)}={logs / name}" for name in field.names]
    command = [sys.executable, "-m", "bench.spot_writer", f"kill-{number}", str(RATE), str(_KILL_TO + 2), "--apart"]
    moments = sorted((chance.uniform(_KILL_FROM, _KILL_TO), name) for name in field.names)
    with subprocess.Popen([*command, *places], stdout=subprocess.PIPE, text=True) as writers:
        assert writers.stdout is not None
        words = iter(writers.stdout.readline, "ready\n")
        writer = {name: int(pid) for name, pid in (line.split() for line in itertools.takewhile(bool, words))}
        began = time.monotonic()
        for at, name in moments:
            time.sleep(max(0.0, began + at - time.monotonic()))
            kill_process(writer[name])
            field.kill(name)
    held = field.held_ids()
    lost = [len(games_in(field.database(name)) - held) for name in field.names]
    for name in field.names:
        field.forget(name)
    field.start(field.names)
    return lost


def _commits(field: SpotField, name: str, folder: Path) -> Samples:
    """The writer's commits with the agent on and off, in turns."""
    found: dict[str, list[float]] = {OURS: [], OFF: []}
    for number in range(_COMMIT_ROUNDS):
        for contender in (OURS, OFF) if number % 2 else (OFF, OURS):
            if contender == OURS:
                field.start([name])
            log = folder / f"commits-{number}-{contender.replace(' ', '-')}"
            _play([field.database(name)], log, _COMMIT_SECONDS, log.name, rate=_COMMIT_RATE)
            if contender == OURS:
                field.stop(name)
            times = [1000.0 * float(line) for line in (log / f"{name}.commits").read_text().split()]
            found[contender].append(_part(times, 0.99))
        note(f"ephemeral: commits: round {number + 1}: {found[OURS][-1]:.2f} ms, off {found[OFF][-1]:.2f} ms")
    longer = [on - off for on, off in zip(found[OURS], found[OFF], strict=True)]
    return {("commit_p99", OURS): found[OURS], ("commit_p99", OFF): found[OFF], ("commit_longer", OURS): longer}


def _idle(field: SpotField, name: str) -> Samples:
    """What an agent needs that has nothing to do."""
    for number in range(_IDLE_DATABASES):
        config = CONFIGS[number % len(CONFIGS)]
        play(field.root(name) / f"data/games/idle_{number:02d}.db", f"idle-{number}", 2, config)
    field.start([name])
    time.sleep(_START_SECONDS)
    before, began = field.cpu_seconds(name), time.monotonic()
    time.sleep(_IDLE_SECONDS)
    used = field.cpu_seconds(name) - before
    memory = field.memory_bytes(name) / 1e6
    return {("idle_cpu", OURS): [100.0 * used / (time.monotonic() - began)], ("idle_memory", OURS): [memory]}


def _words(values: Sequence[float]) -> list[tuple[str, float]]:
    return [("p50", _part(values, 0.5)), ("p99", _part(values, 0.99)), ("max", max(values))]


def _part(values: Sequence[float], share: float) -> float:
    """Give the value below which this share of all lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


PART: Final = Part("ephemeral", LINES, measure)

if __name__ == "__main__":
    sys.exit(main((PART,), sys.argv[1:]))
