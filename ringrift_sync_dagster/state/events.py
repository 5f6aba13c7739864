"""Events: what happened, for anybody in any process who asks what is new since the last one that he has seen.

An id counts up and is never used again, and ids become visible in their order: who asks with the last id that he has
seen misses none. A payload is checked before it is written (``payloads``), and stored in one shape whatever dialect it
came in. A subscriber that must miss nothing keeps its place here (``advance``), and ``prune`` spares what it has not
read. Source: architecture.md, 7 (events); domain facts, 8.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from ringrift_sync_dagster.core.events import DataEventType
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.payloads import Payload, read_payload
from ringrift_sync_dagster.state.schema import event_cursors, events
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.upsert import insert_new, insert_row

SEEN_SECONDS: Final = 7 * 86400.0
"""A subscriber that was not seen for this long holds nothing back any more."""
OTHER_IDS: Final = "id:"
"""How the name of a place begins that counts ids of another table than ``events``."""

_LOOK_BACK: Final = 10_000
_ADVISORY_LOCK: Final = 0x52524556
_KEY: Final = ("subscriber",)


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
        EventError: There is no such type, or the payload is not what the type says; it names the field.
        StateError: The database cannot be written.

    """
    read = read_payload(type, payload)
    if isinstance(target, StateStore):
        with target.begin() as connection:
            return _insert(connection, type, read)
    return _insert(target, type, read)


def _insert(connection: sa.Connection, kind: str, payload: Payload) -> int:
    if connection.dialect.name == "postgresql":
        # Ids are given out before the commit; without the lock a smaller one could become visible later.
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
    values = {"at": clock.wall(), "type": str(kind), "payload": payload.model_dump(mode="json")}
    return insert_row(connection, events, values)


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


def newest_events(store: StateStore, types: Collection[str] | None = None, limit: int = 20) -> list[Event]:
    """Give the last ``limit`` events (of these types), oldest first."""
    statement = sa.select(events).order_by(events.c.id.desc()).limit(limit)
    if types is not None:
        statement = statement.where(events.c.type.in_(types))
    with store.read() as connection:
        return [Event(**row) for row in connection.execute(statement).mappings()][::-1]


def last_failures(store: StateStore, after_at: float) -> dict[str, str]:
    """Give the error of the last DATA_SYNC_FAILED of each node that was told after this time, in seconds since 1970.

    Only the newest 10,000 events are looked at: passes ask this every few seconds while a node is down.
    """
    failed = (events.c.type == DataEventType.DATA_SYNC_FAILED.value) & (events.c.at >= after_at)
    with store.read() as connection:
        failed &= events.c.id > last_id(connection) - _LOOK_BACK
        payloads = connection.execute(sa.select(events.c.payload).where(failed).order_by(events.c.id)).scalars()
        return {str(payload.get("node", "")): str(payload.get("error", "")) for payload in payloads}


def last_id(source: StateStore | sa.Connection) -> int:
    """Give the id of the newest event; 0 when there is none."""
    if isinstance(source, StateStore):
        with source.read() as connection:
            return last_id(connection)
    return int(source.execute(sa.select(sa.func.max(events.c.id))).scalar() or 0)


def places(source: StateStore | sa.Connection, subscribers: Collection[str]) -> dict[str, int]:
    """Give the last event that each of these subscribers has dealt with; who has no place yet is left out."""
    if isinstance(source, StateStore):
        with source.read() as connection:
            return places(connection, subscribers)
    statement = sa.select(event_cursors).where(event_cursors.c.subscriber.in_(sorted(subscribers)))
    return {row.subscriber: int(row.event_id) for row in source.execute(statement)}


def advance(store: StateStore, reached: Mapping[str, int], *, at: float | None = None) -> None:
    """Write how far subscribers have come, and that they are there; a place never goes back.

    Args:
        store: The shared database.
        reached: The last event that each has dealt with.
        at: When they were seen; now when None.

    """
    now = clock.wall() if at is None else at
    with store.begin() as connection:
        for name, event_id in sorted(reached.items()):
            insert_new(connection, event_cursors, [{"subscriber": name, "event_id": event_id, "at": now}], _KEY)
            mine = event_cursors.c.subscriber == name
            further = sa.case((event_cursors.c.event_id < event_id, event_id), else_=event_cursors.c.event_id)
            connection.execute(sa.update(event_cursors).where(mine).values(event_id=further, at=now))


def prune(store: StateStore, before_at: float, *, keep_cursors: bool = True, now: float | None = None) -> int:
    """Delete events that are older, but none that a subscriber seen in the last 7 days has not yet read.

    Args:
        store: The shared database.
        before_at: Delete what happened before this, in seconds since 1970.
        keep_cursors: False: places of subscribers that were not seen for 7 days are deleted too.
        now: The present, in seconds since 1970; the clock's when None.

    Returns:
        How many events were deleted.

    """
    seen_after = (clock.wall() if now is None else now) - SEEN_SECONDS
    ours = ~event_cursors.c.subscriber.startswith(OTHER_IDS, autoescape=True)
    alive = event_cursors.c.at >= seen_after
    with store.begin() as connection:
        if not keep_cursors:
            connection.execute(sa.delete(event_cursors).where(ours & ~alive))
        least = connection.execute(sa.select(sa.func.min(event_cursors.c.event_id)).where(ours & alive)).scalar()
        old = events.c.at < before_at
        if least is not None:
            old &= events.c.id <= least
        return connection.execute(sa.delete(events).where(old)).rowcount
