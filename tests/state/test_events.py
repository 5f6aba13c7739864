"""Events come to everybody in their order, once each, and never without what they tell of."""

from __future__ import annotations

import threading
import time

import pytest

from ringrift_sync_dagster.errors import EventError
from ringrift_sync_dagster.state.events import (
    OTHER_IDS,
    advance,
    events_since,
    last_failures,
    last_id,
    newest_events,
    places,
    prune,
    publish,
)
from ringrift_sync_dagster.state.store import StateStore

A, B, C = "HOST_ONLINE", "HOST_OFFLINE", "TRAINING_STARTED"
TOLD = {"node": "vast-1"}
DAY = 86400.0


def test_an_event_comes_back_as_it_was_published(store: StateStore) -> None:
    first = publish(store, "CIRCUIT_OPENED", {"node": "vast-1", "transport": "rsync", "open_seconds": 60.0})
    second = publish(store, A, {"node": "vast-1", "tried": ["p2p_http", None]})
    events = events_since(store)
    assert [event.id for event in events] == [first, second]
    assert events[0].type == "CIRCUIT_OPENED"
    assert events[0].payload == {
        "version": 1,
        "publisher": "",
        "node": "vast-1",
        "transport": "rsync",
        "failures": 0,
        "open_seconds": 60.0,
        "error": "",
    }
    assert events[1].payload["details"] == {"tried": ["p2p_http", None]}
    assert events[0].at > 1.6e9


def test_what_does_not_fit_its_type_is_not_published(store: StateStore) -> None:
    with pytest.raises(EventError, match="event CIRCUIT_CLOSED: field transport: it is missing"):
        publish(store, "CIRCUIT_CLOSED", {"node": "vast-1"})
    assert events_since(store) == []


def test_who_asks_with_the_last_id_sees_only_what_is_new(store: StateStore) -> None:
    ids = [publish(store, kind, TOLD) for kind in (A, B, A, C)]
    assert [event.id for event in events_since(store, ids[1])] == ids[2:]
    assert [event.id for event in events_since(store, types=[A, C])] == [ids[0], ids[2], ids[3]]
    assert events_since(store, types=[]) == []
    assert [event.id for event in events_since(store, ids[0], [A], limit=1)] == [ids[2]]
    assert events_since(store, ids[-1]) == []
    assert [event.id for event in newest_events(store, [A, B], 2)] == [ids[1], ids[2]]
    assert last_id(store) == ids[-1]


def test_an_event_of_a_transaction_that_is_rolled_back_never_was(store: StateStore) -> None:
    def fail() -> None:
        with store.begin() as connection:
            publish(connection, A, TOLD)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert events_since(store) == []
    publish(store, B, TOLD)
    assert [event.type for event in events_since(store)] == [B]


def test_a_reader_misses_none_of_several_writers(store: StateStore) -> None:
    writers = [threading.Thread(target=lambda: [publish(store, A, TOLD) for _ in range(10)]) for _ in range(4)]
    for writer in writers:
        writer.start()
    seen: list[int] = []
    while any(writer.is_alive() for writer in writers):
        seen += [event.id for event in events_since(store, seen[-1] if seen else 0)]
        time.sleep(0.002)
    seen += [event.id for event in events_since(store, seen[-1] if seen else 0)]
    assert len(seen) == len(set(seen)) == 40
    assert seen == sorted(seen)


def test_a_place_is_kept_and_never_goes_back(store: StateStore) -> None:
    assert places(store, ["one", "two"]) == {}
    advance(store, {"one": 5, "two": 1})
    advance(store, {"one": 3, "two": 2})
    assert places(store, ["one", "two", "three"]) == {"one": 5, "two": 2}


def test_pruning_spares_what_a_subscriber_of_the_last_seven_days_has_not_read(store: StateStore) -> None:
    now = time.time()
    ids = [publish(store, A, TOLD) for _ in range(6)]
    advance(store, {"gone": ids[0]}, at=now - 8 * DAY)
    advance(store, {"slow": ids[2]}, at=now - 6 * DAY)
    advance(store, {"quick": ids[4], f"{OTHER_IDS}changes": 1}, at=now)

    assert prune(store, now - DAY, now=now) == 0
    assert prune(store, now + DAY, now=now) == 3
    assert [event.id for event in events_since(store)] == ids[3:]
    assert places(store, ["gone"]) == {"gone": ids[0]}
    assert prune(store, now + DAY, keep_cursors=False, now=now + 7.5 * DAY) == 3
    assert places(store, ["gone", "slow", "quick", f"{OTHER_IDS}changes"]) == {f"{OTHER_IDS}changes": 1}


def test_the_last_failure_of_each_node_is_known(store: StateStore) -> None:
    for node, error in (("vast-1", "StallError"), ("vast-2", "NodeDownError"), ("vast-1", "ChecksumError")):
        publish(store, "DATA_SYNC_FAILED", {"node": node, "error": error})
    assert last_failures(store, 0.0) == {"vast-1": "ChecksumError", "vast-2": "NodeDownError"}
    assert last_failures(store, time.time() + 1) == {}
