"""Bandwidth that processes share: does the sum of their rates keep the host's budget, and each one its share of it?

Every transfer is a process of its own with a turn, a row and a pacer, as in a pass, over the rung that it is told; the
agent and the sshd of one node serve the same file. What is counted is what crosses the wire: each transfer goes
through a counting relay, for 10 seconds that begin 2 seconds after the last one has begun to move. Four of equal
priority over p2p, rsync, base64 and p2p have the limit of the host as their budget; five of the guide's priorities have
twice that, and each one m / sum(m) of it. As a program of its own (``python -m bench.sharing HOME RUNG PRIORITY``) it
is one of the transfers.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bench import data, peers
from bench.agents import NAME, agent
from bench.harness import CannotMeasureError, Contest, Part, check, note
from bench.hosts import lay_out, settings_of
from bench.lines import OURS, Line, Reach, Result
from bench.relay import CountingRelay
from bench.workers import tell, wait_for_the_others, workers
from ringrift_sync_dagster.core.bandwidth import TransferPriority, budget
from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.errors import TransferCancelledError
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.admission import TransferRequest
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.sync.runtime import Runtime

LIMIT_MB_PER_S: Final = 20.0
FILE_BYTES: Final = 384 << 20
WARM_SECONDS: Final = 2.0
WINDOW_SECONDS: Final = 10.0
BUDGET: Final = "the budget B"
_FILE: Final = "models/canonical_hex8_2p.pth"
_MOVING_BYTES: Final = 1 << 20  # more than a login and the kit take
_MOVING_SECONDS: Final = 20.0
_LONGEST_SECONDS: Final = 120.0
_LOOK_SECONDS: Final = 0.02

Job = tuple[str, TransferPriority]
MIXED: Final[tuple[Job, ...]] = tuple((rung, TransferPriority.NORMAL) for rung in ("p2p", "rsync", "base64", "p2p"))
FIVE: Final[tuple[Job, ...]] = tuple(zip(("p2p", "rsync", "base64", "p2p", "rsync"), TransferPriority, strict=True))

_SUM: Final = "4 processes, mixed transports: sum of rates over 10 s"
_FIVE: Final = "five priorities, mixed transports"
LINES: Final = (
    Line(_SUM, "MB/s", "sum", BUDGET),
    Line(f"{_SUM}, off the budget", "%", "off", reach=Reach("at most", "10")),
    Line(f"{_FIVE}: sum of rates over 10 s", "MB/s", "five_sum", BUDGET),
    Line(f"{_FIVE}: share that is furthest off m / sum(m)", "%", "unfair", reach=Reach("at most", "10")),
)


def measure(folder: Path, runs: int) -> Result:
    """Measure in a folder of its own."""
    note("bandwidth: writing the file")
    data.random_file(folder / "node" / _FILE, FILE_BYTES)
    contest = Contest("bandwidth", runs, warm_up=0)
    budgets = {"sum": _budget_of(MIXED), "five_sum": _budget_of(FIVE)}
    with ExitStack() as stack:
        contest.enter(BUDGET, lambda: lambda _: budgets)
        contest.enter(OURS, lambda: _Node(stack, folder).run)
        return contest.run()


class _Node:
    """One machine: an agent and an sshd that serve the same file."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._folder, self._root = folder, folder / "node"
        self._ssh = stack.enter_context(peers.ssh_server(folder / "ssh"))
        self._agent = stack.enter_context(agent(folder / "agent", self._root, address=self._ssh.address))
        with self._agent.transport() as transport:
            found = transport.call("hash", {"path": _FILE}, deadline=clock.Deadline.after(_LONGEST_SECONDS))
        self._artifact = {"sha256": found["artifact"], "size_bytes": found["bytes"]}

    def run(self, number: int) -> Mapping[str, float]:
        """Measure both cases once."""
        mixed = self._rates(self._folder / f"{number}-mixed", MIXED)
        five = self._rates(self._folder / f"{number}-five", FIVE)
        weights = [priority.multiplier for _, priority in FIVE]
        fair = [weight / sum(weights) for weight in weights]
        unfair = [abs(rate / sum(five) / share - 1) for rate, share in zip(five, fair, strict=True)]
        return {
            "sum": sum(mixed), "off": 100 * abs(sum(mixed) / _budget_of(MIXED) - 1), "five_sum": sum(five),
            "unfair": 100 * max(unfair),
        }  # fmt: skip

    def _rates(self, folder: Path, jobs: Sequence[Job]) -> list[float]:
        """Let the transfers run at the same time; give the rate of each on the wire, in MB/s."""
        folder.mkdir()
        StateStore.open(f"sqlite:///{folder}/state.db").close()
        with ExitStack() as stack:
            relays = [stack.enter_context(self._relay(rung)) for rung, _ in jobs]
            homes = [self._home(folder / str(number), relay) for number, relay in enumerate(relays)]
            lists = [(str(home), rung, priority.value) for home, (rung, priority) in zip(homes, jobs, strict=True)]
            running = stack.enter_context(workers(folder, "bench.sharing", lists))
            running.begin()
            _wait_until_all_move(relays)
            time.sleep(WARM_SECONDS)
            _take(relays)
            started = time.perf_counter()
            time.sleep(WINDOW_SECONDS)
            counts, seconds = _take(relays), time.perf_counter() - started
            ends = running.end()
        shutil.rmtree(folder)
        check(not any(end["whole"] for end in ends), "a transfer had the whole file before the time was over")
        rates = [count / seconds / data.MB for count in counts]
        names = (f"{rung} {priority}={rate:.2f}" for (rung, priority), rate in zip(jobs, rates, strict=True))
        note(f"bandwidth: {', '.join(names)} MB/s")
        return rates

    def _relay(self, rung: str) -> CountingRelay:
        address = self._ssh.address
        return CountingRelay((address, 0), (address, self._agent.node.agent_port if rung == "p2p" else self._ssh.port))

    def _home(self, home: Path, relay: CountingRelay) -> Path:
        """Lay out what one process finds: the inventory with its own way to the node, and a token."""
        host = {
            "ssh_host": self._ssh.address, "ssh_port": relay.port, "agent_port": relay.port,
            "ssh_user": getpass.getuser(), "ssh_key": str(self._ssh.folder / "client_key"),
            "ssh_host_key_checking": "accept-new", "ringrift_path": str(self._root), "bandwidth_mbps": LIMIT_MB_PER_S,
        }  # fmt: skip
        lay_out(home, {NAME: host}, self._agent.token)
        (home / "artifact.json").write_text(json.dumps(self._artifact), encoding="ascii")
        return home


def _budget_of(jobs: Sequence[Job]) -> float:
    return budget(LIMIT_MB_PER_S, [priority.multiplier for _, priority in jobs], hard=False)


def _take(relays: Sequence[CountingRelay]) -> list[int]:
    return [relay.take() for relay in relays]


def _wait_until_all_move(relays: Sequence[CountingRelay]) -> None:
    moved, limit = [0] * len(relays), time.monotonic() + _MOVING_SECONDS
    while min(moved) < _MOVING_BYTES:
        if time.monotonic() > limit:
            raise CannotMeasureError(f"not all transfers began to move within {_MOVING_SECONDS:.0f} s: {moved}")
        time.sleep(_LOOK_SECONDS)
        moved = [before + more for before, more in zip(moved, _take(relays), strict=True)]


def _transfer(home: Path, rung: str, priority: str) -> None:
    """One process: fetch over one rung until told to end; tell whether the file was whole by then."""
    artifact = Artifact(**json.loads((home / "artifact.json").read_text(encoding="ascii")), kind="models")
    with Runtime.open(settings_of(home, home.parent / "state.db"), transport=rung) as runtime:
        transport = runtime.transport_to(runtime.inventory.get(NAME))
        with contextlib.closing(transport):
            probe = transport.probe(clock.Deadline.after(_LONGEST_SECONDS))
            assert probe.reachable, probe.detail
            ended = wait_for_the_others()
            wanted = TransferRequest(artifact.sha256, NAME, "fetch", artifact.size_bytes, TransferPriority(priority))
            try:
                with runtime.bandwidth.transfer(wanted, cancel=ended) as running:
                    transport.fetch(
                        artifact, home / "arrived", deadline=clock.Deadline.after(_LONGEST_SECONDS),
                        progress=running.progress, cancel=ended, pacer=running.pacer,
                    )  # fmt: skip
            except TransferCancelledError:
                tell({"whole": False})
            else:
                tell({"whole": True})


PART: Final = Part("bandwidth", LINES, measure)

if __name__ == "__main__":
    _transfer(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
