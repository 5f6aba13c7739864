"""What the next pass would move, in which order, how many bytes and how long: the plan of a pass, which moves nothing.

A plan is a pure function of the difference between nodes and their owner and of what was measured before: how fast each
node was, and how many bytes a game of a config takes. Urgent things come first: promoted models, then what exists on a
node alone, then the rest; within a class the node that waits longest. What nobody can know without asking is counted
with what such things took before, and shown as about so much. Source: the guide, SyncPlanner.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Final

import sqlalchemy as sa

from ringrift_sync_dagster.core.bandwidth import TransferPriority, data_type_priority
from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.state.forecasts import Forecast
from ringrift_sync_dagster.state.forecasts import recent as recent_forecasts
from ringrift_sync_dagster.state.schema import changes, transfers
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.transfers import TransferState
from ringrift_sync_dagster.sync.difference import Difference, Missing

USUAL_GAME_BYTES: Final = 5_000.0
"""Of a packed game, where none of its config came yet."""
USUAL_ROWS_BYTES: Final = 20_000.0
"""Of a pack of rows, or of whatever else has no size before it is made."""
USUAL_RATE: Final = 5e6
"""Bytes per second of a node of which nothing came yet."""
_RECENT: Final = 2_000
"""Transfers and changes that the averages are taken over, at most."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What earlier transfers took.

    Args:
        rates: Bytes per second of each node, over its recent transfers.
        game_bytes: Bytes on the wire of a new game, by config.
        usual_bytes: Bytes on the wire of what has no size before it is made, by data type and way.
        overheads: Seconds that a transfer takes beside its bytes, by data type and way.
        errors: How far the last forecasts were off, as the median of |predicted - actual| / actual, of bytes and of
            seconds; None where there are none.

    """

    rates: Mapping[str, float] = field(default_factory=dict)
    game_bytes: Mapping[str, float] = field(default_factory=dict)
    usual_bytes: Mapping[tuple[str, str], float] = field(default_factory=dict)
    overheads: Mapping[tuple[str, str], float] = field(default_factory=dict)
    errors: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class PlannedTransfer:
    """One line of a plan.

    Args:
        missing: What is to move, and why.
        priority: How important it is.
        size_bytes: About how many bytes will travel.
        seconds: About how long that takes, alone.

    """

    missing: Missing
    priority: TransferPriority
    size_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class SyncPlan:
    """What a pass would move, in order.

    Args:
        transfers: The lines.
        unknown_nodes: Nodes that never told their files: a pass asks them, and nobody knows what comes.

    """

    transfers: tuple[PlannedTransfer, ...]
    unknown_nodes: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        """About how many bytes will travel."""
        return sum(one.size_bytes for one in self.transfers)

    def seconds(self, at_once: int) -> float:
        """About how long the pass takes with so many transfers at once: that of the busiest node, or their share."""
        by_node: dict[str, float] = {}
        for one in self.transfers:
            by_node[one.missing.node] = by_node.get(one.missing.node, 0.0) + one.seconds
        return max(max(by_node.values(), default=0.0), sum(by_node.values()) / max(1, at_once))


def plan(differences: Iterable[Difference], measured: Measured) -> SyncPlan:
    """Give the plan of a pass over these nodes."""
    found = list(differences)
    lines = [_planned(missing, measured) for one in found for missing in one.missing]
    asked = {one.node: one.known.manifest_at or 0.0 for one in found if one.known is not None}
    order = {data_type: rank for rank, data_type in enumerate(DataType)}
    lines.sort(
        key=lambda line: (
            -line.priority.multiplier, line.missing.way == "down", asked.get(line.missing.node, 0.0),
            line.missing.node, order[line.missing.data_type], line.missing.config, line.missing.what,
        )
    )  # fmt: skip
    return SyncPlan(
        tuple(lines), tuple(sorted(one.node for one in found if one.known is None or one.known.manifest_at is None))
    )


def _planned(missing: Missing, measured: Measured) -> PlannedTransfer:
    promoted = missing.data_type is DataType.MODELS and missing.way == "down"
    priority = data_type_priority(missing.data_type, missing.way, promoted=promoted)
    size = _predicted_bytes(missing, measured)
    overhead = measured.overheads.get((missing.data_type, missing.way), 0.0)
    seconds = size / measured.rates.get(missing.node, USUAL_RATE) + overhead
    return PlannedTransfer(missing, priority, round(size), seconds)


def _predicted_bytes(missing: Missing, measured: Measured) -> float:
    if missing.data_type is DataType.GAMES:
        return (missing.count or 1) * measured.game_bytes.get(missing.config, USUAL_GAME_BYTES)
    if missing.data_type in {DataType.NPZ, DataType.MODELS} and missing.size_bytes is not None:
        return float(missing.size_bytes)
    return measured.usual_bytes.get((missing.data_type, missing.way), USUAL_ROWS_BYTES)


def measured_before(state: StateStore) -> Measured:
    """Give what recent transfers and merges took.

    Raises:
        StateError: The state database cannot be read.

    """
    recent = (
        sa.select(transfers.c.node, transfers.c.size_bytes, transfers.c.resumed_from, transfers.c.seconds)
        .where(transfers.c.state == TransferState.DONE.value, transfers.c.seconds > 0)
        .order_by(transfers.c.id.desc())
        .limit(_RECENT)
        .subquery()
    )
    rates = sa.select(
        recent.c.node, sa.func.sum(recent.c.size_bytes - recent.c.resumed_from) / sa.func.sum(recent.c.seconds)
    ).group_by(recent.c.node)
    merges = (
        sa.select(changes.c.config, changes.c.size_bytes, changes.c.games_new)
        .where(changes.c.data_type == DataType.GAMES.value, changes.c.games_new > 0, changes.c.size_bytes > 0)
        .order_by(changes.c.id.desc())
        .limit(_RECENT)
        .subquery()
    )
    games = sa.select(
        merges.c.config, sa.func.sum(merges.c.size_bytes) * 1.0 / sa.func.sum(merges.c.games_new)
    ).group_by(merges.c.config)
    with state.read() as connection:
        by_node = {node: float(rate) for node, rate in connection.execute(rates) if rate}
        by_config = {config: float(size) for config, size in connection.execute(games) if size}
    return learned(Measured(by_node, by_config), recent_forecasts(state))


def learned(measured: Measured, forecasts: Iterable[Forecast]) -> Measured:
    """Give the measurements with what earlier forecasts teach: usual sizes, overheads, and how far they were off."""
    moved = [one for one in forecasts if one.actual_bytes > 0]
    sizes: dict[tuple[str, str], list[float]] = {}
    overheads: dict[tuple[str, str], list[float]] = {}
    for one in moved:
        key = (one.data_type, one.direction)
        rate = measured.rates.get(one.node, USUAL_RATE)
        sizes.setdefault(key, []).append(one.actual_bytes)
        overheads.setdefault(key, []).append(max(0.0, one.actual_seconds - one.actual_bytes / rate))
    errors = None
    if judged := [one for one in moved if one.predicted_bytes and one.actual_seconds > 0]:
        errors = (
            median(abs(one.predicted_bytes - one.actual_bytes) / one.actual_bytes for one in judged),
            median(abs(one.predicted_seconds - one.actual_seconds) / one.actual_seconds for one in judged),
        )
    return replace(
        measured, errors=errors, usual_bytes={key: median(found) for key, found in sizes.items()},
        overheads={key: median(found) for key, found in overheads.items()},
    )  # fmt: skip
