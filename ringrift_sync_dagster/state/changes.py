"""Changes: one row for each merge or install that changed something; what Dagster's record is made from.

Whoever merges writes the change, with an id made from the content, so that the same change written again (after a
crash, by another path) is one row. One function elsewhere drains the pending ones into Dagster, at least once: a row is
marked after Dagster has it, never before. Source: architecture.md, 7 (record).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

import sqlalchemy as sa

from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.schema import changes
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.upsert import insert_new

_CHUNK: Final = 500
"""Ids per statement; SQLite allows 32,766 variables, and statements stay small in logs."""


@dataclass(frozen=True, slots=True)
class Change:
    """One merge or install that changed the store of its owner.

    Args:
        change_id: The same for the same change, whoever writes it and however often.
        at: When, in seconds since 1970.
        data_type: One of the five data types.
        direction: ``up`` (collected from the node) or ``down`` (brought to it).
        config: The config of the partition.
        node: The node of the partition; the origin, not a relay.
        artifact: SHA-256 of what was merged or installed; empty when there is none.
        source_path: The file on the node.
        games_new: Games that were not there before.
        games_same: Games that were there already.
        games_revised: Games replaced by a longer version.
        games_renamed: Games that entered under another id.
        games_annotated: Games whose annotation grew.
        set_aside: Things put into quarantine.
        size_bytes: Bytes moved.
        seconds: How long it took, from the first byte to the commit.
        transport: What carried the bytes; empty when nothing moved.
        canonical_games: Games of the config after the merge; None when it is not about games.
        lag_seconds: Age of the oldest new thing when it became durable; None when unknown.
        checks: Results of the checks on what was written, by name; JSON values.
        counts: Other numbers than those of games, by name: whole numbers that add up, such as ``matches_new``.
        trigger: What started it, such as ``cli`` or ``schedule``.
        id: Counts up in this database; 0 before it was added.
        recorded_at: When Dagster had it; None while pending.
        recorded_by: Who told Dagster, such as a run id.

    """

    change_id: str
    at: float
    data_type: str
    direction: str
    config: str
    node: str
    artifact: str = ""
    source_path: str = ""
    games_new: int = 0
    games_same: int = 0
    games_revised: int = 0
    games_renamed: int = 0
    games_annotated: int = 0
    set_aside: int = 0
    size_bytes: int = 0
    seconds: float = 0.0
    transport: str = ""
    canonical_games: int | None = None
    lag_seconds: float | None = None
    checks: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    trigger: str = ""
    id: int = 0
    recorded_at: float | None = None
    recorded_by: str = ""


@dataclass(frozen=True, slots=True)
class PendingGroup:
    """The pending changes of one partition and data type; they become one event in Dagster.

    Args:
        data_type: One of the five data types.
        config: The config of the partition.
        node: The node of the partition.
        changes: At least one, oldest first.

    """

    data_type: str
    config: str
    node: str
    changes: tuple[Change, ...]

    @property
    def change_ids(self) -> tuple[str, ...]:
        """What to pass to ``mark_recorded`` once Dagster has the event."""
        return tuple(change.change_id for change in self.changes)


def add_changes(store: StateStore, new: Iterable[Change]) -> int:
    """Write the changes in one transaction; give how many were not known yet. Idempotent by ``change_id``."""
    found = list(new)
    if not found:
        return 0
    with store.begin() as connection:
        return insert_changes(connection, found)


def insert_changes(connection: sa.Connection, new: Iterable[Change]) -> int:
    """Do as ``add_changes`` inside the caller's transaction."""
    return insert_new(connection, changes, [_row(change) for change in new], ("change_id",))


def pending(store: StateStore, limit: int = 1000) -> list[Change]:
    """Give changes that Dagster does not have yet, oldest first."""
    return _changes(store, sa.select(changes).where(_pending()).order_by(changes.c.id).limit(limit))


def pending_groups(store: StateStore, limit: int = 1000) -> list[PendingGroup]:
    """Give the pending changes (at most ``limit``) by data type, config and node."""
    groups: dict[tuple[str, str, str], list[Change]] = {}
    for change in pending(store, limit):
        groups.setdefault((change.data_type, change.config, change.node), []).append(change)
    return [PendingGroup(*key, tuple(found)) for key, found in sorted(groups.items())]


def mark_recorded(store: StateStore, change_ids: Sequence[str], by: str) -> int:
    """Record that Dagster has these changes; give how many were pending until now. Idempotent: the first one stays."""
    marked = 0
    with store.begin() as connection:
        for start in range(0, len(change_ids), _CHUNK):
            these = changes.c.change_id.in_(change_ids[start : start + _CHUNK])
            statement = sa.update(changes).where(these & _pending())
            marked += connection.execute(statement.values(recorded_at=clock.wall(), recorded_by=by)).rowcount
    return marked


def recent_changes(store: StateStore, limit: int = 100) -> list[Change]:
    """Give the newest changes first."""
    return _changes(store, sa.select(changes).order_by(changes.c.id.desc()).limit(limit))


def _pending() -> sa.ColumnElement[bool]:
    return changes.c.recorded_at.is_(None)


def _row(change: Change) -> dict[str, Any]:
    row = {column.name: getattr(change, column.name) for column in fields(change) if column.name != "id"}
    return {**row, "checks": dict(change.checks), "counts": dict(change.counts)}


def _changes(store: StateStore, statement: sa.Select[Any]) -> list[Change]:
    with store.read() as connection:
        return [Change(**row) for row in connection.execute(statement).mappings()]
