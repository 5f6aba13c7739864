"""What is known of all nodes at one moment, for whoever orders them: a few queries, however many nodes there are.

Nobody is asked. Roles come from the inventory, everything else from what earlier passes measured.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Final

from ringrift_sync_dagster.core.breaker import CircuitState, node_state
from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.core.room import disk_refusal
from ringrift_sync_dagster.core.routing import Facts
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.inventory import Inventory
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.state import exclusions, measures, placements
from ringrift_sync_dagster.state.breakers import BreakerRow, breaker_rows
from ringrift_sync_dagster.state.nodes import DOWN, UP, node_rows
from ringrift_sync_dagster.state.training import training_now
from ringrift_sync_dagster.sync.runtime import Runtime

_EXCLUDING: Final = (("sync_routing", "excluded_hosts"), ("auto_sync", "exclude_hosts"))
_ANSWERED: Final = {UP: True, DOWN: False}


def load_facts(
    runtime: Runtime, nodes: Iterable[Node], *, named_first: Collection[str] = (), config: str = ""
) -> dict[str, Facts]:
    """Give what is known of each node, by name.

    Args:
        runtime: What to work with.
        nodes: The nodes.
        named_first: Those that the caller wants before all others.
        config: When a node was brought something last counts for this config; for any when empty.

    Raises:
        StateError: The state database cannot be read.

    """
    state, inventory = runtime.state, runtime.inventory
    measures.update_averages(state)
    measured = measures.all_measures(state)
    shared = measures.sharing(measured.values())
    excluded, trains_now = exclusions.current(state), training_now(state)
    status = {row.name: row.status for row in node_rows(state)}
    brought = _brought_ago(placements.brought_at(state, config))
    circuits = defaultdict[str, dict[str, BreakerRow]](dict)
    for row in breaker_rows(state):
        circuits[row.node][row.transport] = row
    priority = _listed(inventory, "sync_routing", "priority_hosts")
    found: dict[str, Facts] = {}
    for node in nodes:
        known, exclusion = measured.get(node.name, measures.Measures(node.name)), excluded.get(node.name)
        circuit, left = circuit_of(runtime, node, circuits.get(node.name, {}))
        found[node.name] = Facts(
            node.name, status=node.status, active=node.active, is_owner=node.name == runtime.intake.owner,
            is_coordinator=node.is_coordinator, skip_receive=node.skip_sync_receive,
            listed_out=_listed_out(inventory, node.name), ephemeral=node.is_ephemeral, trains=node.trains,
            plays=node.plays, has_gpu=bool(node.extra.get("gpu")), trains_now=node.name in trains_now,
            named_first=node.name in named_first, is_priority=any(fnmatchcase(node.name, one) for one in priority),
            answered=_ANSWERED.get(status.get(node.name, "")), circuit=circuit, circuit_seconds=left,
            excluded_seconds=exclusion.seconds_left if exclusion else 0.0,
            excluded_because=exclusion.reason if exclusion else "", bytes_per_second=known.bytes_per_second,
            success=known.success, rtt_seconds=known.rtt_seconds, disk=known.disk,
            brought_ago=brought.get(node.name, {}), shares_with=shared.get(node.name, frozenset()),
        )  # fmt: skip
    return found


def circuit_of(runtime: Runtime, node: Node, rows: Mapping[str, BreakerRow]) -> tuple[CircuitState, float]:
    """Give a node's state over its usable rungs, and how long it stays open; ``rows`` are its breakers by rung."""
    if not rows:
        return CircuitState.CLOSED, 0.0
    rungs = [rung.value for rung in runtime.ladder.rungs_of(node)]
    state = node_state([rows[rung].state if rung in rows else CircuitState.CLOSED for rung in rungs])
    left = [rows[rung].seconds_left for rung in rungs if rung in rows]
    return state, min(left, default=0.0) if state is CircuitState.OPEN else 0.0


def full_nodes(runtime: Runtime) -> frozenset[str]:
    """Give the nodes whose disk took no more by the inventory's limits when it was looked at last."""
    limits = runtime.bandwidth.disk_limits
    measured = measures.all_measures(runtime.state).values()
    return frozenset(
        one.node for one in measured if one.disk is not None and disk_refusal(one.disk, limits, reserved_bytes=0)
    )  # fmt: skip


def _brought_ago(at: Mapping[tuple[str, str], float]) -> dict[str, dict[DataType, float]]:
    known, now = {kind.value: kind for kind in DataType}, clock.wall()
    found = defaultdict[str, dict[DataType, float]](dict)
    for (node, data_type), when in at.items():
        if data_type in known:  # the others are books of our own
            found[node][known[data_type]] = max(0.0, now - when)
    return found


def _listed_out(inventory: Inventory, name: str) -> str:
    for section, key in _EXCLUDING:
        if any(fnmatchcase(name, pattern) for pattern in _listed(inventory, section, key)):
            return f"{section}.{key}"
    return ""


def _listed(inventory: Inventory, section: str, key: str) -> list[str]:
    values = inventory.sections.get(section)
    names = values.get(key) if isinstance(values, Mapping) else None
    return [str(name) for name in names] if isinstance(names, list) else []
