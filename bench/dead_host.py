"""One dead host among 40: how many seconds passes lose on it, with the guide's breakers and without any.

A pass is ``collect`` over all nodes and configs. 39 nodes answer that they have nothing new; SYNs to the 40th are
dropped, for its agent and for SSH. What counts are the seconds in which a thread asks the dead host. With breakers 40
passes run, one right after the other, on a state database that knows nothing yet. Without (breakers that never open)
each pass loses the same; so only 3 run, and their mean stands for each of the 40. Both go on at the same time, each
with its own state, because what they do is wait.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench.black_holes import dropping
from bench.deadlines import NEVER
from bench.harness import CannotMeasureError, Part, check, note, seconds_of
from bench.hosts import lay_out, settings_of
from bench.lines import OURS, Line, Reach, Result, Samples
from bench.live_nodes import live_nodes
from ringrift_sync_dagster.core.breaker import CircuitBreakerConfig
from ringrift_sync_dagster.core.escalation import Rung
from ringrift_sync_dagster.errors import SyncError
from ringrift_sync_dagster.settings.clock import Deadline, monotonic
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.sync.collect import collect
from ringrift_sync_dagster.sync.ladder import BREAKERS, Ladder
from ringrift_sync_dagster.sync.runtime import OWNER, Runtime
from ringrift_sync_dagster.transports.base import Probe, Transport
from ringrift_sync_dagster.transports.escalating import EscalatingTransport

PASSES: Final = 40
PASSES_WITHOUT: Final = 3
WITHOUT: Final = "without breakers"
_LIVE: Final = {f"127.79.0.{number}": f"live-{number}" for number in range(1, 40)}
_DEAD, _DEAD_ADDRESS = "dead-1", "127.79.1.1"

LINES: Final = (
    Line(f"one dead host of 40, {PASSES} passes: seconds lost on it", "s", "lost", WITHOUT, Reach("at most", "0.1")),
    Line("one dead host of 40: seconds of the longest pass", "s", "longest", WITHOUT),
    Line("one dead host of 40: seconds of the median pass", "s", "median", WITHOUT),
)


def measure(folder: Path, runs: int) -> Result:
    """Measure in a folder of its own."""
    samples: Samples = defaultdict(list)
    try:
        with ExitStack() as stack:
            hosts = _hosts(stack)
            for number in range(runs):
                for key, value in _once(hosts, folder / f"round-{number}").items():
                    samples[key].append(value)
                    note(f"dead_host: round {number + 1}: {key[1]}: {key[0]}={value:.4g}")
    except (CannotMeasureError, SyncError, OSError) as error:
        return Result(samples, (f"dead_host: {' '.join(str(error).split())[:300]}",))
    return Result(samples)


def _hosts(stack: ExitStack) -> Mapping[str, Mapping[str, object]]:
    """Start the live nodes and the dead one; give them as the inventory has them."""
    port = stack.enter_context(live_nodes(_LIVE))
    agent, ssh = (stack.enter_context(dropping(_DEAD_ADDRESS)) for _ in range(2))
    places = {name: (address, port, port) for address, name in _LIVE.items()}
    places[_DEAD] = (_DEAD_ADDRESS, agent, ssh)
    return {
        name: {"ssh_host": address, "agent_port": agent_port, "ssh_port": ssh_port, "ringrift_path": "/nowhere"}
        for name, (address, agent_port, ssh_port) in places.items()
    }


def _once(hosts: Mapping[str, Mapping[str, object]], folder: Path) -> dict[tuple[str, str], float]:
    contenders = {OURS: (BREAKERS, PASSES), WITHOUT: (NEVER, PASSES_WITHOUT)}
    found = {}
    with ThreadPoolExecutor(len(contenders)) as pool:
        running = {
            contender: pool.submit(_passes, hosts, folder / contender, breakers, count)
            for contender, (breakers, count) in contenders.items()
        }
        for contender, future in running.items():
            lost, seconds = future.result()
            found["lost", contender] = lost / len(seconds) * PASSES
            found["longest", contender] = max(seconds)
            found["median", contender] = statistics.median(seconds)
    return found


def _passes(
    hosts: Mapping[str, Mapping[str, object]], home: Path, breakers: CircuitBreakerConfig, count: int
) -> tuple[float, list[float]]:
    """Run passes over the 40 nodes; give the seconds lost on the dead one, and how long each pass was."""
    lay_out(home, hosts)
    with Runtime.open(settings_of(home, home / "state.db")) as opened:
        ladder = _TimedLadder(opened.settings, opened.inventory, opened.state, OWNER, breakers=breakers)
        runtime = replace(opened, ladder=ladder)
        seconds = [seconds_of(lambda: _pass(runtime)) for _ in range(count)]
    return ladder.lost_seconds, seconds


def _pass(runtime: Runtime) -> None:
    report = collect(runtime, trigger="bench")
    failed = {outcome.partition.node for outcome in report.outcomes if outcome.failure}
    check(failed == {_DEAD}, f"not the dead node alone failed, but {sorted(failed)}")


class _TimedLadder(Ladder):
    """The ladder, and the seconds in which the dead host was asked."""

    lost_seconds = 0.0

    def to(self, node: Node) -> Transport:
        """The way to a node."""
        if node.name != _DEAD:
            return super().to(node)
        return _TimedWay(node, self._makers(node), self._state, self.breakers, self._lost)

    def _lost(self, seconds: float) -> None:
        self.lost_seconds += seconds


class _TimedWay(EscalatingTransport):
    """The way to the dead host, of which a pass uses the probe alone."""

    def __init__(
        self,
        node: Node,
        makers: Mapping[Rung, Callable[[], Transport]],
        state: StateStore,
        config: CircuitBreakerConfig,
        lost: Callable[[float], None],
    ) -> None:
        super().__init__(node, makers, state, config=config)
        self._lost = lost

    def probe(self, deadline: Deadline) -> Probe:
        """Say whether the node answers, and tell how long that took."""
        started = monotonic()
        try:
            return super().probe(deadline)
        finally:
            self._lost(monotonic() - started)


PART: Final = Part("dead_host", LINES, measure)
