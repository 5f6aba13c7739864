"""Games from a node's live database into the canonical store, beside programs that make a copy of the whole database.

Each round 200 games finish on the node; then each contender brings its own copy, which had everything before, up to
date. Ours is a whole pass: asking the node, packing, fetching through a counting relay, verifying, merging, receipts,
every commit synced. The peers copy a file and by themselves sync nothing; their bytes run through such a relay too.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import data, peers
from bench.harness import Contest, Part, Run, check, note, seconds_of
from bench.lines import OURS, Line, Reach, Result
from bench.relay import CountingRelay
from ringrift_sync_dagster.demo.cluster import PORT, EmbeddedCluster
from ringrift_sync_dagster.settings.settings import load_settings
from ringrift_sync_dagster.sync.collect import collect
from ringrift_sync_dagster.sync.runtime import Runtime

DATABASE_BYTES: Final = 520 * data.MB
NEW_GAMES: Final = 200
NODE: Final = "vast-900001"
RSYNC: Final = "rsync over SSH"
RSYNC_Z: Final = "rsync -z over SSH"
RSYNC_SYNCED: Final = "rsync over SSH, fsync"
SQLITE3_RSYNC: Final = "sqlite3_rsync over SSH"

_BYTES, _TIME = "200 new games: bytes on the wire", "200 new games: time"
LINES: Final = (
    Line(_BYTES, "MB", "bytes", RSYNC, Reach("at most", "1/30")),
    Line(_BYTES, "MB", "bytes", RSYNC_Z),
    Line(_BYTES, "MB", "bytes", SQLITE3_RSYNC, Reach("below", "1")),
    Line(_TIME, "s", "seconds", RSYNC, Reach("at most", "1/8")),
    Line(_TIME, "s", "seconds", RSYNC_SYNCED),
    Line(_TIME, "s", "seconds", SQLITE3_RSYNC),
)


def measure(folder: Path, runs: int) -> Result:
    """Measure in a folder of its own."""
    with ExitStack() as stack:
        cluster = stack.enter_context(EmbeddedCluster(folder / "cluster", nodes=(NODE,)))
        source = cluster.node_root(NODE) / "data" / "games" / f"selfplay_{data.CONFIG}.db"
        note(f"end_to_end: playing {DATABASE_BYTES // data.MB} MB of games")
        games = _Games(source, data.play_until(source, "base", DATABASE_BYTES))
        contest = Contest("end_to_end", runs)
        contest.enter(OURS, lambda: _ours(stack, cluster, games))
        contest.enter(RSYNC, lambda: _rsync(stack, folder / "rsync", games, "-t"))
        contest.enter(RSYNC_SYNCED, lambda: _rsync(stack, folder / "rsync-synced", games, "-t", synced=True))
        contest.enter(RSYNC_Z, lambda: _rsync(stack, folder / "rsync-z", games, "-tz"))
        contest.enter(SQLITE3_RSYNC, lambda: _sqlite3_rsync(stack, folder / "sqlite3_rsync", games))
        return contest.run(games.play)


@dataclass(slots=True)
class _Games:
    """The node's database and how many games are in it."""

    source: Path
    count: int

    def play(self, number: int) -> None:
        """Let the next games finish."""
        data.play(self.source, f"round-{number}", NEW_GAMES)
        self.count += NEW_GAMES

    def check_copy(self, copy: Path) -> None:
        """Refuse a copy in which games are missing; it is opened so that no file appears beside it."""
        with closing(sqlite3.connect(f"file:{copy}?immutable=1", uri=True)) as conn:
            found = conn.execute("SELECT COUNT(*) FROM games").fetchone()[0]
        check(found == self.count, f"{copy.name} has {found} of {self.count} games")


def _ours(stack: ExitStack, cluster: EmbeddedCluster, games: _Games) -> Run:
    target = (cluster.address(NODE), PORT)
    relay = stack.enter_context(CountingRelay((cluster.relay_address(NODE), PORT), target))
    hosts = cluster.base / "hosts-through-relay"
    cluster.write_hosts_through_relay(hosts, NODE)
    settings = load_settings(
        home=cluster.base, hosts=hosts, root=cluster.root, state_url=cluster.state_url,
        token_file=cluster.environment["RINGRIFT_SYNC_TOKEN_FILE"],
    )  # fmt: skip
    runtime = stack.enter_context(Runtime.open(settings))

    def one_pass() -> None:
        collect(runtime, nodes=[NODE], trigger="bench").raise_if_failed()

    def run(_: int) -> Mapping[str, float]:
        values = _counted(relay, one_pass)
        found = runtime.intake.store.games(data.CONFIG)
        check(found == games.count, f"the canonical store has {found} of {games.count} games")
        return values

    note("end_to_end: ours: the first pass")
    note(f"end_to_end: ours: the first pass took {seconds_of(one_pass):.1f} s for {games.count} games")
    return run


def _rsync(stack: ExitStack, folder: Path, games: _Games, options: str, *, synced: bool = False) -> Run:
    rsync, copy = peers.program("rsync"), _first_copy(folder, games)
    server = stack.enter_context(peers.ssh_server(folder / "ssh"))
    relay = stack.enter_context(CountingRelay((server.address, 0), (server.address, server.port)))
    command = [rsync, options, "-e", server.client(relay.port), server.remote(games.source), str(copy)]
    return _copying(relay, command, copy, games, synced=synced)


def _sqlite3_rsync(stack: ExitStack, folder: Path, games: _Games) -> Run:
    program, copy = peers.sqlite3_rsync(), _first_copy(folder, games)
    server = stack.enter_context(peers.ssh_server(folder / "ssh"))
    relay = stack.enter_context(CountingRelay((server.address, 0), (server.address, server.port)))
    command = [program, server.remote(games.source), str(copy), "--ssh", server.client(relay.port), "--exe", program]
    return _copying(relay, command, copy, games)


def _copying(relay: CountingRelay, command: list[str], copy: Path, games: _Games, *, synced: bool = False) -> Run:
    def work() -> None:
        peers.run(command)
        if synced:
            peers.fsync(copy)

    def run(_: int) -> Mapping[str, float]:
        values = _counted(relay, work)
        games.check_copy(copy)
        return values

    return run


def _first_copy(folder: Path, games: _Games) -> Path:
    """Give a copy of the database as it is before the first round."""
    folder.mkdir()
    return Path(shutil.copyfile(games.source, folder / "copy.db"))


def _counted(relay: CountingRelay, work: Callable[[], object]) -> Mapping[str, float]:
    relay.take()
    seconds = seconds_of(work)
    return {"bytes": relay.take() / data.MB, "seconds": seconds}


PART: Final = Part("end_to_end", LINES, measure)
