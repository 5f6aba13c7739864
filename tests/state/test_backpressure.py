"""One transition, one event, whoever looks; and whoever releases, from wherever."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from ringrift_sync_dagster.core.events import DataEventType
from ringrift_sync_dagster.core.pressure import MAX_PAUSE_SECONDS, REST_SECONDS
from ringrift_sync_dagster.state.backpressure import current, is_active, look, release, wait_until_released
from ringrift_sync_dagster.state.events import Event, events_since, publish
from ringrift_sync_dagster.state.schema import backpressure
from ringrift_sync_dagster.state.store import StateStore

HUB = "hub-1"
HIGH = {"queue": 100.0, "memory": 95.0, "disk": 90.0, "transfers": 40.0}
MIDDLE = {"queue": 25.0, "memory": 60.0, "disk": 60.0, "transfers": 16.0}  # between the two levels
LOW = {"queue": 0.0, "memory": 10.0, "disk": 10.0, "transfers": 0.0}
RELEASED = DataEventType.BACKPRESSURE_RELEASED.value


def told(store: StateStore) -> list[Event]:
    return [event for event in events_since(store) if event.type.startswith("BACKPRESSURE_")]


def let_pass(store: StateStore, seconds: float) -> None:
    """Move what was noted into the past, instead of waiting."""
    with store.begin() as connection:
        connection.execute(sa.update(backpressure).values(until=backpressure.c.until - seconds))


def test_it_begins_holds_in_between_and_ends_with_one_event_each(store: StateStore) -> None:
    assert not is_active(store, HUB)
    assert look(store, HUB, HIGH).active
    assert look(store, HUB, HIGH).active
    assert look(store, HUB, MIDDLE).active
    let_pass(store, 100)
    assert not look(store, HUB, LOW).active
    assert not look(store, HUB, MIDDLE).active
    assert not is_active(store, HUB)

    activated, released = told(store)
    assert activated.type == DataEventType.BACKPRESSURE_ACTIVATED.value
    assert activated.payload["owner"] == HUB
    assert activated.payload["signals"] == HIGH
    assert activated.payload["pressure"] == pytest.approx(1.0)
    assert (released.type, released.payload["source"]) == (RELEASED, "measured")
    assert 100 <= released.payload["paused_seconds"] < 102
    assert look(store, HUB, HIGH).active  # after a measured release it may begin again at once


def test_of_many_that_look_at_once_one_alone_tells(store: StateStore) -> None:
    begin = threading.Barrier(8)

    def looks(_: int) -> bool:
        begin.wait()
        return all(look(store, HUB, HIGH).active for _ in range(3))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(looks, range(8)))
    assert [event.type for event in told(store)] == [DataEventType.BACKPRESSURE_ACTIVATED.value]


def test_the_longest_pause_ends_it_even_while_nobody_looks_and_then_it_rests(store: StateStore) -> None:
    look(store, HUB, HIGH)
    let_pass(store, MAX_PAUSE_SECONDS)
    assert not is_active(store, HUB)
    assert wait_until_released(store, HUB, 0)

    assert not look(store, HUB, HIGH).active
    assert not look(store, HUB, HIGH).active
    assert told(store)[-1].payload["source"] == "longest_pause"
    assert told(store)[-1].payload["paused_seconds"] == MAX_PAUSE_SECONDS
    let_pass(store, REST_SECONDS)
    assert look(store, HUB, HIGH).active
    assert len(told(store)) == 3


def test_a_number_of_an_earlier_boot_holds_nothing(sqlite_store: StateStore) -> None:
    look(sqlite_store, HUB, HIGH)
    with sqlite_store.begin() as connection:
        connection.execute(sa.update(backpressure).values(epoch="another boot"))
    assert not is_active(sqlite_store, HUB)


@pytest.mark.parametrize("payload", [{"source": "manual"}, {"source": "manual", "owner": HUB}])
def test_an_event_that_a_person_publishes_releases_it(store: StateStore, payload: dict[str, str]) -> None:
    look(store, HUB, HIGH)
    publish(store, RELEASED, payload)

    assert not is_active(store, HUB)
    assert current(store, HUB).source == "manual"
    found = look(store, HUB, HIGH)
    assert (found.active, found.source) == (False, "manual")
    assert 0 < found.left_seconds <= REST_SECONDS
    assert not look(store, HUB, HIGH).active
    assert len(told(store)) == 2  # the person's event is the one of this transition
    let_pass(store, REST_SECONDS)
    assert look(store, HUB, HIGH).active
    assert is_active(store, HUB)  # an event of before does not release what began after it


def test_an_event_for_another_owner_releases_nothing(store: StateStore) -> None:
    look(store, HUB, HIGH)
    publish(store, RELEASED, {"source": "manual", "owner": "hub-2"})
    assert is_active(store, HUB)
    assert not is_active(store, "hub-2")


def test_a_release_by_hand_is_told_once_with_its_reason(store: StateStore) -> None:
    assert not release(store, HUB)
    look(store, HUB, HIGH)
    assert release(store, HUB, "manual", "the models must go now")
    assert not release(store, HUB)
    assert not look(store, HUB, HIGH).active
    activated, released = told(store)
    assert activated.id < released.id
    assert (released.payload["source"], released.payload["reason"]) == ("manual", "the models must go now")


def test_who_waits_goes_on_within_a_moment_of_the_release(store: StateStore) -> None:
    look(store, HUB, HIGH)
    assert not wait_until_released(store, HUB, 0.1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait_until_released, store, HUB, 30.0)
        time.sleep(0.1)
        began = time.monotonic()
        publish(store, RELEASED, {"source": "manual"})
        assert waiting.result()
        assert time.monotonic() - began < 2.0
