"""The bus: everybody gets everything in order, over processes and restarts, whatever other handlers do."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ringrift_sync_dagster
from ringrift_sync_dagster.errors import EventError
from ringrift_sync_dagster.state.events import Event, places, publish
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.sync.event_router import DataEventType, EventRouter

ON, OFF = DataEventType.HOST_ONLINE, DataEventType.HOST_OFFLINE
TOLD = {"node": "vast-1"}
ROOT = Path(__file__).resolve().parents[2]
FAST = (0.01, 0.01)

Make = Callable[[], EventRouter]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Make routers over one database, each as a process of its own would have it."""
    made: list[EventRouter] = []

    def router() -> EventRouter:
        made.append(EventRouter(StateStore.open(url(tmp_path)), poll_seconds=0.05, retry_seconds=FAST))
        return made[-1]

    yield router
    for one in made:
        one.close()


def url(folder: Path) -> str:
    return f"sqlite:///{folder}/state.db"


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not come true in time"
        time.sleep(0.005)


def test_a_handler_gets_what_is_published_from_now_on_in_its_order(make: Make) -> None:
    router, other = make(), make()
    router.publish(ON, TOLD)
    got: list[Event] = []
    router.subscribe(ON, got.append)
    ids = [(router if number % 2 else other).publish(ON, {**TOLD, "number": number}) for number in range(6)]
    router.publish(OFF, TOLD)
    until(lambda: len(got) == 6)
    time.sleep(0.15)

    assert [event.id for event in got] == ids
    assert [event.payload["details"]["number"] for event in got] == list(range(6))
    assert {event.type for event in got} == {"HOST_ONLINE"}


def test_what_is_published_here_comes_at_once_and_from_elsewhere_within_one_look(tmp_path: Path) -> None:
    store = StateStore.open(url(tmp_path))
    router = EventRouter(store, poll_seconds=5.0)
    got = threading.Event()
    router.subscribe(ON, lambda _: got.set())
    time.sleep(0.1)
    began = time.monotonic()
    router.publish(ON, TOLD)
    assert got.wait(3)
    assert time.monotonic() - began < 2
    router.close()


def test_an_async_handler_is_awaited(make: Make) -> None:
    router = make()
    got: list[int] = []

    async def handler(event: Event) -> None:
        await asyncio.sleep(0.01)
        got.append(event.id)

    router.subscribe(ON, handler)
    ids = [router.publish(ON, TOLD) for _ in range(3)]
    until(lambda: got == ids)


def test_a_handler_that_raises_stops_no_other_and_is_passed_over_after_its_tries(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    router = make()
    calls: list[int] = []
    got: list[int] = []

    def bad(event: Event) -> None:
        calls.append(event.id)
        if event.id == ids[0]:
            raise ZeroDivisionError

    ids: list[int] = []
    with caplog.at_level(logging.WARNING, "ringrift_sync_dagster"):
        router.subscribe(ON, bad, subscriber="bad")
        router.subscribe(ON, lambda event: got.append(event.id), subscriber="good")
        with router._changed:
            ids += [router.publish(ON, TOLD) for _ in range(2)]
        until(lambda: len(calls) == len(FAST) + 2)
        until(lambda: places(router._store, ["bad|HOST_ONLINE"])["bad|HOST_ONLINE"] == ids[1])

    assert calls == [ids[0]] * (len(FAST) + 1) + [ids[1]]
    assert got == ids
    assert "failed 3 times, the event is passed over" in caplog.text


def test_a_named_subscriber_gets_what_came_while_its_program_was_down(make: Make) -> None:
    first, publisher = make(), make()
    publisher.publish(ON, TOLD)
    first.subscribe(ON, lambda _: None, subscriber="recorder")
    first.subscribe(OFF, lambda _: None, subscriber="recorder")
    first.close()
    missed = [publisher.publish(kind, TOLD) for kind in (ON, OFF, ON)]
    got: list[int] = []
    again = make()
    again.subscribe(ON, lambda event: got.append(event.id), subscriber="recorder")
    until(lambda: got == [missed[0], missed[2]])
    again.subscribe(OFF, lambda event: got.append(event.id), subscriber="recorder")
    until(lambda: got == [missed[0], missed[2], missed[1]])
    again.close()

    third = make()
    late: list[int] = []
    third.subscribe(ON, lambda event: late.append(event.id), subscriber="recorder")
    last = third.publish(ON, TOLD)
    until(lambda: late == [last])


def test_a_handler_that_dies_with_its_process_gets_the_event_again(tmp_path: Path) -> None:
    program = """
import os, sys, time
from ringrift_sync_dagster import DataEventType, get_router
router = get_router()
def handler(event):
    os.write(1, b"%d\\n" % event.id)  # in one piece, beside the other thread
    if sys.argv[1] == "die":
        os._exit(9)
router.subscribe(DataEventType.HOST_ONLINE, handler, subscriber="fragile")
os.write(1, b"ready\\n")
time.sleep(60)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RINGRIFT_SYNC_STATE_URL": url(tmp_path)}
    said: list[list[str]] = []
    event_id = 0
    with StateStore.open(url(tmp_path)) as store:
        for end in ("die", "live"):
            command = [sys.executable, "-c", program, end]
            with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                lines = [process.stdout.readline().strip()]
                if end == "die":
                    event_id = publish(store, ON, TOLD)
                lines.append(process.stdout.readline().strip())
                process.kill()
            said.append(lines)
    assert said[0] == ["ready", str(event_id)]
    assert sorted(said[1]) == sorted(["ready", str(event_id)])


def test_wait_for_gives_the_event_that_is_meant_or_nothing(make: Make) -> None:
    router, other = make(), make()
    before = other.publish(OFF, {"node": "vast-2"})
    timer = threading.Timer(0.1, lambda: [other.publish(OFF, {"node": name}) for name in ("vast-3", "vast-1")])
    timer.start()
    found = router.wait_for(OFF, 10, where=lambda event: event.payload["node"] == "vast-1", after_id=before)
    timer.join()

    assert found is not None
    assert found.payload["node"] == "vast-1"
    assert router.wait_for(OFF, 0.1) is None
    known = router.wait_for(OFF, 0, after_id=0)
    assert known is not None
    assert known.id == before


def test_a_handler_may_publish_wait_and_unsubscribe(make: Make) -> None:
    router = make()
    found: list[Event | None] = []

    def handler(event: Event) -> None:
        assert router.unsubscribe(ON, handler)
        router.publish(OFF, TOLD)
        found.append(router.wait_for(OFF, 5, after_id=event.id))

    router.subscribe(ON, handler)
    router.publish(ON, TOLD)
    router.publish(ON, TOLD)
    until(lambda: len(found) == 1)
    assert found[0] is not None
    assert not router.unsubscribe(ON, handler)


def test_one_name_has_one_handler_for_a_type(make: Make) -> None:
    router = make()
    router.subscribe(ON, print, subscriber="recorder")
    router.subscribe(ON, print, subscriber="recorder")
    with pytest.raises(ValueError, match="'recorder' has a handler for HOST_ONLINE already"):
        router.subscribe(ON, repr, subscriber="recorder")
    with pytest.raises(ValueError, match="cannot name a subscriber"):
        router.subscribe(ON, print, subscriber="a|b")
    with pytest.raises(EventError, match="there is no such type"):
        router.subscribe("SOMETHING", print)


def test_a_program_has_one_router_and_bus_and_its_thread_keeps_no_program_alive(tmp_path: Path) -> None:
    program = (
        "from ringrift_sync_dagster import DataEventType, get_event_bus, get_router\n"
        "assert get_router() is get_event_bus()\n"
        "get_router().subscribe(DataEventType.DATA_SYNC_COMPLETED, print, subscriber='x')\n"
        "get_event_bus().publish(DataEventType.BACKPRESSURE_RELEASED, {'source': 'manual'})\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RINGRIFT_SYNC_STATE_URL": url(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], env=environment, capture_output=True, text=True, timeout=30,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert {"DataEventType", "get_event_bus", "get_router"} <= set(ringrift_sync_dagster.__all__)
