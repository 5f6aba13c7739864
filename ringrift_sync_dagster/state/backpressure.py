"""Whether an owner's transfers are held now, for all processes: one row for each owner, and one event per transition.

Whoever looks brings what was measured; the row decides with it, and the event is written in the same transaction, so
that of several processes one alone publishes. A BACKPRESSURE_RELEASED event that a person publishes, from any process,
releases as well: an event newer than the activation counts, and nobody need listen for it. A pause that has lasted its
longest is over even while nobody looks. Its end is counted as in ``ticks``; wall times are for display.
Source: sync guide, "Backpressure Issues"; architecture.md, 1 rules 5, 6, 8 and 10.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import sqlalchemy as sa

from ringrift_sync_dagster.core.events import DataEventType
from ringrift_sync_dagster.core.pressure import MAX_PAUSE_SECONDS, REST_SECONDS, Standing, Turn, pressure, turn
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state import ticks
from ringrift_sync_dagster.state.events import publish
from ringrift_sync_dagster.state.schema import backpressure, events
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.upsert import insert_new

# Where the row keeps the id of the event of its activation: beside the signals, whose names have no underscore.
_EVENT: Final = "activated_event"
_ACTIVATED: Final = DataEventType.BACKPRESSURE_ACTIVATED.value
_RELEASED: Final = DataEventType.BACKPRESSURE_RELEASED.value
_LOOK_SECONDS: Final = 0.25


@dataclass(frozen=True, slots=True)
class Backpressure:
    """How an owner stands.

    Args:
        owner: The owner.
        active: True: transfers are held.
        pressure: 0 to 1, at the last look.
        signals: What was measured then, by name.
        since_at: When it was activated or released last, in seconds since 1970; None when it never was active.
        source: What did it: ``measured``, ``longest_pause``, ``manual``, or who else says so.
        left_seconds: Active: until it ends at the latest. Not active: until it may begin again.
        looked_at: When somebody looked last; None when nobody ever did.

    """

    owner: str
    active: bool = False
    pressure: float = 0.0
    signals: Mapping[str, float] = field(default_factory=dict)
    since_at: float | None = None
    source: str = ""
    left_seconds: float = 0.0
    looked_at: float | None = None


def look(store: StateStore, owner: str, signals: Mapping[str, float]) -> Backpressure:
    """Take what was measured, and activate or release with it; any number of processes may look at the same time.

    Args:
        store: The shared database.
        owner: Whose transfers.
        signals: What was measured, by the names of ``core.pressure.SIGNALS``.

    Raises:
        ValueError: There is no such signal.
        StateError: The database cannot be written.

    """
    level = pressure(signals)
    values: dict[str, Any] = {"pressure": level, "looked_at": clock.wall()}
    with store.begin() as connection:
        row, moment = _locked(connection, owner), ticks.moment(connection)
        active, left, event_id = row.active, moment.left(row.until, row.epoch), int(row.signals.get(_EVENT, 0))
        told = _released_by(connection, row) if active else None
        if told is not None:  # that event is the one of this transition
            values |= _transition(Turn(active=False, source=_source(told), left_seconds=REST_SECONDS), moment)
            active, left = False, REST_SECONDS
        made = turn(Standing(active, left), level)
        if made is not None:
            about = {"owner": owner, "pressure": level, "signals": dict(signals), "source": made.source}
            paused = MAX_PAUSE_SECONDS - left if active else 0.0
            if made.active:
                event_id = publish(connection, _ACTIVATED, about | {"longest_seconds": MAX_PAUSE_SECONDS})
            else:
                event_id = publish(connection, _RELEASED, about | {"paused_seconds": round(paused, 3)})
            values |= _transition(made, moment)
        values["signals"] = {**signals, _EVENT: event_id}
        connection.execute(sa.update(backpressure).where(backpressure.c.owner == owner).values(values))
        return _of(_row(connection, owner), moment)


def release(store: StateStore, owner: str, source: str = "manual", reason: str = "") -> bool:
    """Let everything go on now, and let none begin for 300 s; False when nothing was held.

    Args:
        store: The shared database.
        owner: Whose transfers.
        source: Who releases it.
        reason: Why; part of the event.

    Raises:
        StateError: The database cannot be written.

    """
    with store.begin() as connection:
        row = _locked(connection, owner)
        moment = ticks.moment(connection)
        left = moment.left(row.until, row.epoch)
        if not row.active or left <= 0 or _released_by(connection, row) is not None:
            return False
        signals = {name: value for name, value in row.signals.items() if name != _EVENT}
        about = {"owner": owner, "pressure": row.pressure, "signals": signals, "source": source, "reason": reason}
        publish(connection, _RELEASED, about | {"paused_seconds": round(MAX_PAUSE_SECONDS - left, 3)})
        values = _transition(Turn(active=False, source=source, left_seconds=REST_SECONDS), moment)
        connection.execute(sa.update(backpressure).where(backpressure.c.owner == owner).values(values))
        return True


def current(store: StateStore, owner: str) -> Backpressure:
    """Give how an owner stands, without measuring anything.

    Raises:
        StateError: The database cannot be read.

    """
    with store.read() as connection:
        row = _row(connection, owner)
        if row is None:
            return Backpressure(owner)
        found = _of(row, ticks.moment(connection))
        event = _released_by(connection, row) if found.active else None
    if event is None:
        return found
    return replace(found, active=False, since_at=event.at, source=_source(event), left_seconds=REST_SECONDS)


def is_active(store: StateStore, owner: str) -> bool:
    """Say whether transfers of an owner are held now.

    Raises:
        StateError: The database cannot be read.

    """
    return current(store, owner).active


def wait_until_released(store: StateStore, owner: str, timeout: float) -> bool:
    """Wait while transfers are held; True when they are not, False when the time is over and they still are.

    Args:
        store: The shared database.
        owner: Whose transfers.
        timeout: Seconds to wait at most; a pause never lasts longer than 900.

    Raises:
        StateError: The database cannot be read.

    """
    deadline = clock.Deadline.after(timeout)
    while is_active(store, owner):
        if deadline.expired:
            return False
        threading.Event().wait(deadline.at_most(_LOOK_SECONDS))
    return True


def _locked(connection: sa.Connection, owner: str) -> sa.Row[Any]:
    """Give the owner's row, made when it is new; nobody else changes it before this transaction ends."""
    new = {"owner": owner, "active": False, "signals": {}, "looked_at": 0.0}
    insert_new(connection, backpressure, [new], ("owner",))
    return connection.execute(sa.select(backpressure).where(backpressure.c.owner == owner).with_for_update()).one()


def _row(connection: sa.Connection, owner: str) -> Any:  # noqa: ANN401 - a row of SQLAlchemy
    return connection.execute(sa.select(backpressure).where(backpressure.c.owner == owner)).one_or_none()


def _released_by(connection: sa.Connection, row: sa.Row[Any]) -> Any:  # noqa: ANN401 - a row of SQLAlchemy
    """Give the event by which somebody released what this row holds; None when nobody did."""
    newer = events.c.id > int(row.signals.get(_EVENT, 0))
    chosen = newer & (events.c.type == _RELEASED)
    for event in connection.execute(sa.select(events).where(chosen).order_by(events.c.id)):
        if event.payload.get("owner") in {None, "", row.owner}:  # one that names nobody is for all
            return event
    return None


def _transition(made: Turn, moment: ticks.Moment) -> dict[str, Any]:
    """Give what a transition changes in the row."""
    until = moment.seconds + made.left_seconds
    return {
        "active": made.active,
        "source": made.source,
        "since_at": clock.wall(),
        "until": until,
        "epoch": moment.epoch,
    }


def _source(event: sa.Row[Any]) -> str:
    return str(event.payload.get("source") or "event")


def _of(row: Any, moment: ticks.Moment) -> Backpressure:  # noqa: ANN401 - a row of SQLAlchemy
    left = moment.left(row.until, row.epoch)
    return Backpressure(
        row.owner, row.active and left > 0, row.pressure,
        {name: float(value) for name, value in row.signals.items() if name != _EVENT},
        row.since_at, row.source, left, row.looked_at or None,
    )  # fmt: skip
