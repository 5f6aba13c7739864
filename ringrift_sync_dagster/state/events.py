"""Events: what happened, for anybody in any process who asks what is new since the last one that he has seen.

An id counts up and is never used again, and ids become visible in their order: who asks with the last id that he has
seen misses none. Source: architecture.md, 7 (events).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.schema import events
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.upsert import insert_row

_ADVISORY_LOCK: Final = 0x52524556


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    Args:
        id: Counts up in this database.
        at: When, in seconds since 1970; for display.
        type: What, such as ``CIRCUIT_OPENED``.
        payload: The rest; JSON values.

    """

    id: int
    at: float
    type: str
    payload: Mapping[str, Any]


def publish(target: StateStore | sa.Connection, type: str, payload: Mapping[str, Any]) -> int:  # noqa: A002 - its name in the table
    """Write an event; give its id.

    Args:
        target: The shared database; or a connection of it in a write transaction, which the event then belongs to.
        type: What happened.
        payload: JSON values.

    Raises:
        StateError: The database cannot be written.

    """
    if isinstance(target, StateStore):
        with target.begin() as connection:
            return publish(connection, type, payload)
    if target.dialect.name == "postgresql":
        # Ids are given out before the commit; without the lock a smaller one could become visible later.
        target.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
    return insert_row(target, events, {"at": clock.wall(), "type": type, "payload": dict(payload)})


def events_since(
    store: StateStore, after_id: int = 0, types: Collection[str] | None = None, limit: int = 1000
) -> list[Event]:
    """Give events with a larger id, oldest first; ask again with the last id until the list is empty.

    Args:
        store: The shared database.
        after_id: The last id that is known; 0 for all.
        types: Only these; all when None.
        limit: How many at most.

    """
    statement = sa.select(events).where(events.c.id > after_id).order_by(events.c.id).limit(limit)
    if types is not None:
        statement = statement.where(events.c.type.in_(types))
    with store.read() as connection:
        return [Event(**row) for row in connection.execute(statement).mappings()]
