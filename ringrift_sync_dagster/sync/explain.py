"""Why a node gets what it gets: the chain of decisions about it, a line each, with what would change it.

Everything is read from the inventory and the state database; with ``probe`` the node is asked too, over each of its
rungs, for its disk, and whether it shares that with the owner.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from ringrift_sync_dagster.core.breaker import CircuitState
from ringrift_sync_dagster.core.flow import FLOWS
from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.core.room import Disk
from ringrift_sync_dagster.core.routing import Facts, used
from ringrift_sync_dagster.errors import TransferError
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.state import ticks
from ringrift_sync_dagster.state.breakers import breaker_rows
from ringrift_sync_dagster.state.measures import all_measures, sharing
from ringrift_sync_dagster.state.nodes import node_row
from ringrift_sync_dagster.state.schema import backpressure
from ringrift_sync_dagster.sync.node_facts import load_facts
from ringrift_sync_dagster.sync.router import Route, SyncRouter
from ringrift_sync_dagster.sync.runtime import Runtime
from ringrift_sync_dagster.sync.shared_storage import probe_storage
from ringrift_sync_dagster.sync.strategies import ephemeral_evidence, resolve
from ringrift_sync_dagster.sync.transferring import disk_of_node

_UNKNOWN: Final = "not measured"


@dataclass(frozen=True, slots=True)
class Decision:
    """One line of the chain.

    Args:
        about: What it decides, such as ``target of npz``.
        verdict: In a word or number.
        why: By which evidence.
        fix: The command or key that would change it; empty where nothing need be changed.

    """

    about: str
    verdict: str
    why: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is decided about a node.

    Args:
        node: The node.
        decisions: The chain, in the order in which it is gone through.
        targets: The node as a target of each data type, with every part of its score.
        sources: The node as a source for its owner.

    """

    node: str
    decisions: tuple[Decision, ...]
    targets: tuple[Route, ...]
    sources: tuple[Route, ...]


def explain(
    runtime: Runtime, name: str, data_types: Sequence[DataType] = tuple(DataType), *, probe: bool = False
) -> Explanation:
    """Give the chain of decisions about a node.

    Args:
        runtime: What to work with.
        name: The node.
        data_types: Those that are told of.
        probe: True: ask the node; within about two minutes although it is silent.

    Raises:
        ConfigError: The inventory has no node of this name.
        StateError: The state database cannot be read.

    """
    node = runtime.inventory.get(name)
    asked = tuple(_asked(runtime, node)) if probe else ()
    router = SyncRouter(runtime)
    (facts,) = load_facts(runtime, [node]).values()
    targets = tuple(_as_target(router, node, data_type) for data_type in data_types)
    sources = tuple(router.judge_source(data_type, node) for data_type in data_types) if not facts.is_owner else ()
    decisions = (
        *_standing(runtime, node),
        *asked,
        *_measured(runtime, facts),
        *_left_alone(runtime, node, facts),
        *_strategies(runtime, node, data_types),
        *(line for route in targets for line in _routed("target", route)),
        *(line for route in sources for line in _routed("source", route)),
    )
    return Explanation(name, decisions, targets, sources)


def _standing(runtime: Runtime, node: Node) -> Iterator[Decision]:
    keys = f"its keys in {runtime.settings.hosts}"
    told = ", ".join(f"{key} {value}" for key, value in (("role", node.role), ("provider", node.provider)) if value)
    yield Decision("inventory", f"status {node.status}", told or "neither role nor provider is written", keys)
    owner = runtime.intake.owner
    if node.name == owner:
        yield Decision("owner", "yes", "it owns the canonical store: data comes to it, and is brought from it")
    yield Decision(
        "ephemeral", "yes" if node.is_ephemeral else "no", ephemeral_evidence(node), f"is_ephemeral of {node.name}"
    )
    row = node_row(runtime.state, node.name)
    if row is None or row.last_seen_at is None:
        why = f"last error: {row.last_error}" if row is not None and row.last_error else "nobody asked it yet"
        yield Decision("answers", "never", why, f"`ringrift-sync sync --node {node.name}`")
        return
    ago = f"{max(0.0, clock.wall() - row.last_seen_at):.0f} s ago over {row.transport or 'no rung'}"
    why = f"last answer {ago}" + (f"; last error: {row.last_error}" if row.status == "down" else "")
    yield Decision("answers", row.status, why, f"`ringrift-sync sync --node {node.name}` asks it again")


def _asked(runtime: Runtime, node: Node) -> Iterator[Decision]:
    """What the node itself says; its disk and storage are remembered."""
    if node.name != runtime.intake.owner:
        found = SyncRouter(runtime).get_node_capabilities(node.name)
        for rung, detail in found.details.items():
            yield Decision(f"asked over {rung}", "told", detail)
        if not (found.p2p_available or found.ssh_available):
            yield Decision("asked", "silent", "no rung answers", "see docs/runbook.md, A node brings nothing")
            return
        transport = runtime.transport_to(node)
        try:
            disk_of_node(runtime, transport, node.name)
        except TransferError as error:
            yield Decision("asked for its disk", "failed", str(error))
        finally:
            transport.close()
    before = sharing(all_measures(runtime.state).values()).get(node.name, ())  # they may have shared it, and do no more
    others = [runtime.inventory.nodes[name] for name in before if name in runtime.inventory.nodes]
    probed = probe_storage(runtime, [node, *(one for one in others if one.active)])
    for name, why in probed.failed.items():
        yield Decision("asked for its storage", "failed", f"{name}: {why}")


def _measured(runtime: Runtime, facts: Facts) -> Iterator[Decision]:
    rate, rtt = facts.bytes_per_second, facts.rtt_seconds
    yield Decision("throughput", _UNKNOWN if rate is None else f"{rate / 1e6:.1f} MB/s", "moving average of transfers")
    yield Decision("success", _UNKNOWN if facts.success is None else f"{facts.success:.0%}", "moving average")
    yield Decision("round trip", _UNKNOWN if rtt is None else f"{rtt * 1000:.0f} ms", "moving average of surveys")
    fix = f"`ringrift-sync explain {facts.node} --probe` looks"
    yield Decision("disk", _disk(facts.disk), "when it was looked at last, by a push or a probe", fix)
    known = all_measures(runtime.state).get(facts.node)
    alone = "with no node that was probed" if known is not None and known.storage else _UNKNOWN
    shared = ", ".join(sorted(facts.shares_with)) or alone
    yield Decision("shares its disk", shared, "a mark of one was read back by the other", fix)
    yield Decision("trains now", "yes" if facts.trains_now else "no", "TRAINING_STARTED without an end, within 6 h")


def _disk(disk: Disk | None) -> str:
    return _UNKNOWN if disk is None else f"{used(disk):.0%} used, {disk.free_bytes / 1e9:.1f} GB free"


def _left_alone(runtime: Runtime, node: Node, facts: Facts) -> Iterator[Decision]:
    """Breakers, exclusion and backpressure."""
    reset = f"`ringrift-sync breakers reset {node.name}`"
    rows = [row for row in breaker_rows(runtime.state) if row.node == node.name and row.failures]
    if not rows:
        yield Decision("breakers", CircuitState.CLOSED.value, "no rung failed")
    for row in rows:
        left = f"another {row.seconds_left:.0f} s, " if row.state is CircuitState.OPEN else ""
        why = f"{left}{row.failures} failures in a row, the last: {row.last_error}"
        yield Decision(f"breaker of {row.transport}", row.state.value, why, reset)
    if facts.excluded_seconds > 0:
        left = f"another {facts.excluded_seconds:.0f} s"
        yield Decision("excluded as a target", left, facts.excluded_because, reset)
    else:
        yield Decision("excluded as a target", "no", "it answered when it was asked, or did not fail three times")
    yield _backpressure(runtime)


def _backpressure(runtime: Runtime) -> Decision:
    with runtime.state.read() as connection:
        moment = ticks.moment(connection)
        row = connection.execute(sa.select(backpressure).where(backpressure.c.owner == runtime.intake.owner)).first()
    if row is None:
        return Decision("backpressure", "no", "nobody measured any")
    left = moment.left(row.until, row.epoch)
    if not row.active or left <= 0:
        return Decision("backpressure", "no", f"pressure {row.pressure:.2f} at the last look")
    why = f"pressure {row.pressure:.2f}, for another {left:.0f} s at most; what is urgent goes on"
    return Decision("backpressure", "yes", why, "`ringrift-sync backpressure release`")


def _strategies(runtime: Runtime, node: Node, data_types: Sequence[DataType]) -> Iterator[Decision]:
    for data_type in data_types:
        found = resolve(node, data_type)
        audience = FLOWS[data_type].audience.value.replace("_", " ")
        fix = f"is_ephemeral of {node.name}; the daemon's own: RINGRIFT_SYNC_STRATEGY ({runtime.settings.strategy})"
        yield Decision(f"strategy for {data_type}", found.strategy.value, f"{found.why}; goes down to {audience}", fix)


def _as_target(router: SyncRouter, node: Node, data_type: DataType) -> Route:
    (found,) = (route for route in router.judge_targets(data_type, nodes=[node]))
    return found


def _routed(use: str, route: Route) -> Iterator[Decision]:
    about = f"{use} of {route.data_type}"
    parts = ", ".join(str(part) for part in route.parts) or "no part"
    told = f"score {route.score:.1f}: {parts}; quality {route.quality:.2f}"
    if not route.refusals:
        yield Decision(about, "yes", told)
    for refusal in route.refusals:
        yield Decision(about, f"no ({refusal.rule})", refusal.why, refusal.fix)
