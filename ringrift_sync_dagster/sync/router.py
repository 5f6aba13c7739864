"""What is known of a node from breakers and probes: whether it may be used now, and over which transports.

Names: sync guide, "Slow Transfers" and "Transfer Failures" (``get_node_status``, ``get_node_capabilities``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ringrift_sync_dagster.core.breaker import CircuitState
from ringrift_sync_dagster.core.escalation import LADDER, Rung
from ringrift_sync_dagster.errors import RungUnusableError, UnreachableError
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.state import backpressure, breakers
from ringrift_sync_dagster.state.nodes import node_row
from ringrift_sync_dagster.sync.runtime import Runtime

PROBE_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node as the shared state knows it; nobody is asked.

    Args:
        name: The node.
        circuit_state: OPEN when every usable rung is open, HALF_OPEN when the best one may be probed, else CLOSED.
        rungs: State of the breaker of each usable rung.
        status: ``up``, ``down``, or empty when it was never reached.
        transport: The rung that reached it last.
        last_seen_at: When it last answered, in seconds since 1970; None when never.
        last_error: What went wrong last.

    """

    name: str
    circuit_state: CircuitState
    rungs: Mapping[str, CircuitState]
    status: str = ""
    transport: str = ""
    last_seen_at: float | None = None
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class NodeCapabilities:
    """How a node can be reached at this moment.

    Args:
        name: The node.
        p2p_available: Its agent answers, directly or through SSH.
        ssh_available: A login works and its shell runs our commands; rsync may still be missing.
        details: For each rung, what answered, or why nothing did.

    """

    name: str
    p2p_available: bool
    ssh_available: bool
    details: Mapping[str, str]


class SyncRouter:
    """Answers questions about nodes; safe in several threads.

    Args:
        runtime: What a sync works with.

    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def get_node_status(self, node: str) -> NodeStatus:
        """Give what the shared state knows of a node.

        Raises:
            ConfigError: The inventory has no node of this name.
            StateError: The state database cannot be read.

        """
        host, state = self._runtime.inventory.get(node), self._runtime.state
        names = [rung.value for rung in self._runtime.ladder.rungs_of(host)]
        rungs = {name: breakers.circuit_state(state, node, [name]) for name in names}
        circuit, row = breakers.circuit_state(state, node, names), node_row(state, node)
        if row is None:
            return NodeStatus(node, circuit, MappingProxyType(rungs))
        return NodeStatus(
            node, circuit, MappingProxyType(rungs), row.status, row.transport, row.last_seen_at, row.last_error
        )

    def is_under_backpressure(self) -> bool:
        """Say whether transfers that can wait are held now, because the coordinator is overloaded.

        Raises:
            StateError: The state database cannot be read.

        """
        return backpressure.is_active(self._runtime.state, self._runtime.intake.owner)

    def get_node_capabilities(self, node: str) -> NodeCapabilities:
        """Ask the node over each of its rungs; within 15 s for each.

        Raises:
            ConfigError: The inventory has no node of this name.

        """
        host = self._runtime.inventory.get(node)
        details: dict[str, str] = {}
        available: set[Rung] = set()
        silent: set[str] = set()
        for rung, transport in self._runtime.ladder.each(host).items():
            if LADDER[rung].endpoint in silent:
                details[rung.value] = f"not asked: nothing answers for {LADDER[rung].endpoint}"
                continue
            try:
                found = transport.probe(Deadline.after(PROBE_SECONDS))
            finally:
                transport.close()
            details[rung.value] = found.detail
            if found.reachable:
                available.add(rung)
            elif not isinstance(found.cause, RungUnusableError) or isinstance(found.cause, UnreachableError):
                silent.add(LADDER[rung].endpoint)
        ssh = bool(available & {Rung.RSYNC, Rung.BASE64})
        return NodeCapabilities(node, Rung.P2P in available, ssh, MappingProxyType(details))
