"""When the ladder gives up a node from which nothing comes back: how much later than the deadline that it was given.

Of a dead node SYNs are dropped, for its agent and for SSH; a silent one takes connections and says nothing. On each the
ladder gets a few short deadlines, for a fetch and for a manifest, all at the same time. The figure is the worst of
them; below zero it gave up earlier.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Final

from bench.black_holes import dropping, silent
from bench.harness import CannotMeasureError, Contest, Part, Run, seconds_of
from bench.hosts import lay_out, settings_of
from bench.lines import OURS, Line, Reach, Result
from ringrift_sync_dagster.core.breaker import CircuitBreakerConfig
from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.errors import TransferError
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.sync.runtime import Runtime
from ringrift_sync_dagster.transports.base import Transport

DEADLINES: Final = (1.0, 2.0, 5.0)
NEVER: Final = CircuitBreakerConfig(failure_threshold=1_000_000)
"""Breakers that never open."""
_ADDRESSES: Final = {"dead-1": ("127.79.1.1", dropping), "silent-1": ("127.79.1.2", silent)}
_ARTIFACT: Final = Artifact("ab" * 32, 1_000_000, "games")

LINES: Final = (
    Line("ladder on a black-holed node: later than its deadline", "s", "over", reach=Reach("at most", "1")),
)


def measure(folder: Path, runs: int) -> Result:
    """Measure in a folder of its own."""
    contest = Contest("deadlines", runs, warm_up=0)
    with ExitStack() as stack:
        contest.enter(OURS, lambda: _ours(stack, folder / "home"))
        return contest.run()


def _ours(stack: ExitStack, home: Path) -> Run:
    hosts = {}
    for name, (address, black_hole) in _ADDRESSES.items():
        agent, ssh = (stack.enter_context(black_hole(address)) for _ in range(2))
        hosts[name] = {"ssh_host": address, "ssh_port": ssh, "agent_port": agent, "ringrift_path": "/nowhere"}
    lay_out(home, hosts)
    runtime = stack.enter_context(Runtime.open(settings_of(home, home / "state.db"), breakers=NEVER))
    tries = [(name, seconds, fetched) for name in hosts for seconds in DEADLINES for fetched in (True, False)]

    def run(number: int) -> Mapping[str, float]:
        dest = home / f"arrived-{number}"
        dest.mkdir()
        with ThreadPoolExecutor(len(tries)) as pool:
            return {"over": max(pool.map(lambda one: _seconds_over(runtime, dest, *one), tries))}

    return run


def _seconds_over(runtime: Runtime, dest: Path, name: str, seconds: float, fetched: bool) -> float:  # noqa: FBT001
    with closing(runtime.transport_to(runtime.inventory.get(name))) as transport:
        return seconds_of(lambda: _ask(transport, dest / f"{name}-{seconds}", seconds, fetched=fetched)) - seconds


def _ask(transport: Transport, dest: Path, seconds: float, *, fetched: bool) -> None:
    deadline = clock.Deadline.after(seconds)
    with suppress(TransferError):
        if fetched:
            transport.fetch(_ARTIFACT, dest, deadline=deadline)
        else:
            transport.manifest(None, deadline=deadline)
        raise CannotMeasureError("something answered where nothing is")


PART: Final = Part("deadlines", LINES, measure)
