"""The bus of events: subscribers in any process get what was published in any other one, in its order.

The bus is the table ``events``; one thread of a process looks every half second whether there is more, and at once when
something was published through the router here. A subscriber with a name keeps its place in the table, one place for
each type, and gets everything at least once, also what was published while its program was down; without a name it gets
what is published from now on. A handler that raises holds up its own subscriber only: it is called again after 0.5, 1
and 2 s, then the event is logged and passed over. Source: the guide, "Event Integration"; domain facts, 8.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from ringrift_sync_dagster.core.events import DataEventType
from ringrift_sync_dagster.errors import StateError
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.settings import load_settings
from ringrift_sync_dagster.state import events
from ringrift_sync_dagster.state.events import Event
from ringrift_sync_dagster.state.payloads import event_type as checked_type
from ringrift_sync_dagster.state.store import StateStore

__all__ = ["DataEventType", "Event", "EventRouter", "get_event_bus", "get_router"]

POLL_SECONDS: Final = 0.5
RETRY_SECONDS: Final = (0.5, 1.0, 2.0)
"""How long after each failure a handler is called again; after the last one the event is passed over."""
HANDLER_SECONDS: Final = 60.0
"""How long an async handler may take; one that is not async cannot be stopped."""
KEEP_SECONDS: Final = 30.0
"""How often the place of a subscriber is written that had nothing to do: what it has passed may then be pruned."""
TELL_SECONDS: Final = 3600.0
"""How often a subscriber is written that does not move, so that it counts as seen."""
_BATCH: Final = 100
_CLOSE_SECONDS: Final = 5.0
_AFTER_TROUBLE_SECONDS: Final = 5.0

_LOG: Final = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[Event], Awaitable[Any] | Any]


@dataclass(slots=True)
class _Subscriber:
    """One reader: what it does for each type, and the last event of each type that it is done with."""

    name: str | None
    handlers: dict[str, Handler] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)
    failures: int = 0
    again_at: float = 0.0
    kept: dict[str, int] = field(default_factory=dict)
    keep_at: float = 0.0
    tell_at: float = 0.0

    def behind(self, kinds: Collection[str], event_id: int) -> list[int]:
        """The places before this event, of these types."""
        return [place for kind in kinds if (place := self.places.get(kind, event_id)) < event_id]

    def is_next(self, event: Event) -> bool:
        """Whether it is to get this event now."""
        return not self.again_at and bool(self.behind([event.type], event.id))

    def is_to_keep(self, now: float, *, at_once: bool) -> bool:
        """Whether its places are to be written: it moved on, or nobody has heard of it for an hour."""
        return now >= self.tell_at or (self.places != self.kept and (at_once or now >= self.keep_at))

    def key(self, kind: str) -> str:
        """Its name in the table of places."""
        return f"{self.name}|{kind}"


class EventRouter:
    """Publishes events and hands them to handlers; safe in several threads.

    Args:
        store: The shared database; ``close`` closes it.
        poll_seconds: How often to look for events of other processes.
        retry_seconds: How long after each failure a handler is called again.

    """

    def __init__(
        self,
        store: StateStore,
        *,
        poll_seconds: float = POLL_SECONDS,
        retry_seconds: tuple[float, ...] = RETRY_SECONDS,
    ) -> None:
        self._store = store
        self._poll_seconds = poll_seconds
        self._retry_seconds = retry_seconds
        self._changed = threading.Condition()
        self._published = 0
        self._closing = False
        self._subscribers: list[_Subscriber] = []
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def subscribe(self, event_type: DataEventType | str, handler: Handler, *, subscriber: str | None = None) -> None:
        """Call ``handler(event)`` for each event of a type, one at a time, from a thread of the router.

        Args:
            event_type: Which type.
            handler: A function, or an async one. It may be called twice for one event.
            subscriber: A name under which the place is kept over restarts. A new name begins now. Programs that run at
                the same time under one name get each event in each of them.

        Raises:
            EventError: There is no such type.
            ValueError: Another handler has the name and type already, or the name cannot be one.
            StateError: The state database cannot be used.

        """
        kind = checked_type(event_type).value
        with self._changed:
            mine = self._subscriber(subscriber)
            if mine.handlers.get(kind, handler) is not handler:
                raise ValueError(f"subscriber {subscriber!r} has a handler for {kind} already; take another name")
            if kind not in mine.handlers:
                mine.places[kind] = self._place(mine, kind)
                mine.handlers[kind] = handler
            if mine not in self._subscribers:
                self._subscribers.append(mine)
            self._closing = False
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._deliver, name="events", daemon=True)
                self._thread.start()

    def unsubscribe(self, event_type: DataEventType | str, handler: Handler, *, subscriber: str | None = None) -> bool:
        """Call this handler no more for this type; False when it was not subscribed. A kept place stays."""
        kind = checked_type(event_type).value
        with self._changed:
            for one in self._subscribers:
                if one.name == subscriber and one.handlers.get(kind) is handler:
                    del one.handlers[kind], one.places[kind]
                    self._subscribers = [other for other in self._subscribers if other.handlers]
                    return True
        return False

    def publish(self, event_type: DataEventType | str, payload: Mapping[str, Any]) -> int:
        """Write an event for all processes, and wake the subscribers of this one; give its id.

        Raises:
            EventError: There is no such type, or the payload is not what the type says; it names the field.
            StateError: The state database cannot be written.

        """
        event_id = events.publish(self._store, checked_type(event_type).value, payload)
        with self._changed:
            self._published += 1
            self._changed.notify_all()
        return event_id

    def wait_for(
        self,
        event_type: DataEventType | str,
        timeout: float,
        *,
        where: Callable[[Event], bool] | None = None,
        after_id: int | None = None,
    ) -> Event | None:
        """Wait for an event of a type; None when none came within ``timeout`` seconds.

        Args:
            event_type: Which type.
            timeout: How long to wait at most, in seconds.
            where: Says which one is meant; the first one when None.
            after_id: The last event that is known; None: only what is published from now on counts.

        """
        kind = checked_type(event_type).value
        last = events.last_id(self._store) if after_id is None else after_id
        deadline = clock.Deadline.after(timeout)
        while True:
            with self._changed:
                published = self._published
            batch = events.events_since(self._store, last, [kind], _BATCH)
            for event in batch:
                if where is None or where(event):
                    return event
                last = event.id
            if len(batch) == _BATCH:
                continue
            if deadline.expired:
                return None
            self._sleep(published, deadline.at_most(self._poll_seconds))

    def close(self) -> None:
        """End the thread, write the places, and close the database. Idempotent; handlers are forgotten."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_CLOSE_SECONDS)
        with self._changed:
            self._subscribers, self._thread = [], None
        self._store.close()

    def _subscriber(self, name: str | None) -> _Subscriber:
        if name is None:
            return _Subscriber(None)
        if not name or "|" in name or name.startswith(events.OTHER_IDS):
            raise ValueError(f"{name!r} cannot name a subscriber: it is empty, has '|' or begins with 'id:'")
        return next((one for one in self._subscribers if one.name == name), _Subscriber(name))

    def _place(self, mine: _Subscriber, kind: str) -> int:
        """Where a subscriber goes on with a type; a new name is written at once, so that a crash loses nothing."""
        now = events.last_id(self._store)
        if mine.name is None:
            return now
        key = mine.key(kind)
        place = events.places(self._store, [key]).get(key, now)
        events.advance(self._store, {key: place})
        return place

    def _sleep(self, published: int, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._published != published or self._closing, seconds)

    def _deliver(self) -> None:
        """Run the thread."""
        while True:
            with self._changed:
                published, closing = self._published, self._closing
                # What is subscribed meanwhile waits for the next round: its events may not be among those read now.
                wanted = [(one, frozenset(one.handlers)) for one in self._subscribers]
            if closing:
                break
            pause = self._poll_seconds
            try:
                if self._round(wanted):
                    continue
            except StateError as error:
                _LOG.warning("events cannot be read; they are asked for again error=%s", error)
                pause = _AFTER_TROUBLE_SECONDS
            self._sleep(published, pause)
        self._end([one for one, _ in wanted])

    def _round(self, wanted: Sequence[tuple[_Subscriber, frozenset[str]]]) -> bool:
        """Hand out what is new; say whether there is more to read."""
        newest = events.last_id(self._store)
        now = clock.monotonic()
        ready = [(one, kinds) for one, kinds in wanted if one.again_at <= now]
        behind = [place for one, kinds in ready for place in one.behind(kinds, newest)]
        if not behind:
            self._keep([one for one, _ in wanted], now)
            return False
        types = {kind for _, kinds in ready for kind in kinds}
        batch = [event for event in events.events_since(self._store, min(behind), types, _BATCH) if event.id <= newest]
        full = len(batch) == _BATCH
        reached = batch[-1].id if full else newest
        for one, _ in ready:
            one.again_at = 0.0
        for event in batch:
            for one, kinds in ready:
                if (
                    event.type in kinds
                    and not self._closing
                    and not one.again_at
                    and one.behind([event.type], event.id)
                ):
                    self._hand(one, event)
        with self._changed:
            for one, kinds in ready:
                if not one.again_at and not self._closing:
                    one.places |= {kind: max(one.places[kind], reached) for kind in kinds if kind in one.places}
        self._keep([one for one, _ in ready], now, at_once=bool(batch))
        return full

    def _hand(self, one: _Subscriber, event: Event) -> None:
        handler = one.handlers.get(event.type)
        if handler is None:
            return
        try:
            self._call(handler, event)
        except Exception as error:  # noqa: BLE001 - whatever one handler does, the others are called
            tries = len(self._retry_seconds)
            if one.failures < tries:
                one.again_at = clock.monotonic() + self._retry_seconds[one.failures]
                one.failures += 1
                _LOG.warning(
                    "handler failed, it is called again event=%d type=%s subscriber=%s error=%r",
                    event.id, event.type, one.name, error,
                )  # fmt: skip
                return
            _LOG.error(
                "handler failed %d times, the event is passed over event=%d type=%s subscriber=%s",
                tries + 1, event.id, event.type, one.name, exc_info=error,
            )  # fmt: skip
        one.failures, one.again_at = 0, 0.0
        with self._changed:
            if event.type in one.places:
                one.places[event.type] = event.id

    def _call(self, handler: Handler, event: Event) -> None:
        result = handler(event)
        if inspect.isawaitable(result):
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
            self._loop.run_until_complete(_within(result))

    def _keep(self, subscribers: list[_Subscriber], now: float, *, at_once: bool = False) -> None:
        """Write the places of named subscribers that moved on; where nothing came, once in a while."""
        due = [one for one in subscribers if one.name is not None and one.is_to_keep(now, at_once=at_once)]
        if not due:
            return
        kept = [(one, one.places.copy()) for one in due]
        events.advance(self._store, {one.key(kind): place for one, places in kept for kind, place in places.items()})
        for one, places in kept:
            one.kept, one.keep_at, one.tell_at = places, now + KEEP_SECONDS, now + TELL_SECONDS

    def _end(self, subscribers: list[_Subscriber]) -> None:
        try:
            self._keep(subscribers, clock.monotonic(), at_once=True)
        except StateError as error:
            _LOG.warning("places are not written; some events come again error=%s", error)
        if self._loop is not None:
            self._loop.close()
            self._loop = None


async def _within(result: Awaitable[Any]) -> None:
    async with asyncio.timeout(HANDLER_SECONDS):
        await result


@functools.lru_cache(maxsize=1)
def _shared() -> EventRouter:
    router = EventRouter(StateStore.open(load_settings().state_url))
    atexit.register(router.close)
    return router


_LOCK: Final = threading.Lock()


def get_router() -> EventRouter:
    """Give the router of this program, over the state database of its settings when it is first asked for.

    Raises:
        ConfigError: The settings are wrong.
        StateError: The state database cannot be used.

    """
    with _LOCK:  # the first callers may be several threads
        return _shared()


def get_event_bus() -> EventRouter:
    """Give the bus of events of this program: its router, by the guide's other name."""
    return get_router()
