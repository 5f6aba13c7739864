"""Events come to everybody in their order, once each, and never without what they tell of."""

from __future__ import annotations

import threading
import time

import pytest

from ringrift_sync_dagster.state.events import events_since, publish
from ringrift_sync_dagster.state.store import StateStore


def test_an_event_comes_back_as_it_was_published(store: StateStore) -> None:
    first = publish(store, "CIRCUIT_OPENED", {"node": "vast-1", "open_seconds": 60.0, "tried": ["p2p_http", None]})
    second = publish(store, "CIRCUIT_CLOSED", {})
    events = events_since(store)
    assert [event.id for event in events] == [first, second]
    assert events[0].type == "CIRCUIT_OPENED"
    assert events[0].payload == {"node": "vast-1", "open_seconds": 60.0, "tried": ["p2p_http", None]}
    assert events[0].at > 1.6e9


def test_who_asks_with_the_last_id_sees_only_what_is_new(store: StateStore) -> None:
    ids = [publish(store, kind, {}) for kind in ("A", "B", "A", "C")]
    assert [event.id for event in events_since(store, ids[1])] == ids[2:]
    assert [event.id for event in events_since(store, types=["A", "C"])] == [ids[0], ids[2], ids[3]]
    assert events_since(store, types=[]) == []
    assert [event.id for event in events_since(store, ids[0], ["A"], limit=1)] == [ids[2]]
    assert events_since(store, ids[-1]) == []


def test_an_event_of_a_transaction_that_is_rolled_back_never_was(store: StateStore) -> None:
    def fail() -> None:
        with store.begin() as connection:
            publish(connection, "A", {})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert events_since(store) == []
    publish(store, "B", {})
    assert [event.type for event in events_since(store)] == ["B"]


def test_a_reader_misses_none_of_several_writers(store: StateStore) -> None:
    writers = [threading.Thread(target=lambda: [publish(store, "A", {}) for _ in range(10)]) for _ in range(4)]
    for writer in writers:
        writer.start()
    seen: list[int] = []
    while any(writer.is_alive() for writer in writers):
        seen += [event.id for event in events_since(store, seen[-1] if seen else 0)]
        time.sleep(0.002)
    seen += [event.id for event in events_since(store, seen[-1] if seen else 0)]
    assert len(seen) == len(set(seen)) == 40
    assert seen == sorted(seen)
