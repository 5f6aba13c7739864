"""What holds up the event loop is told with its place, and writing the log is none of it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from ringrift_sync_dagster.agent import watchdog
from ringrift_sync_dagster.agent.aside import logging_aside
from ringrift_sync_dagster.agent.metrics import Metrics
from ringrift_sync_dagster.agent.watchdog import watching
from tests.agent.agents import wait_until
from tests.agent.conftest import StartAgent

log = logging.getLogger(__name__)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watchdog for which half a second is long, and which calls a process idle only when it did nothing at all."""
    monkeypatch.setattr(watchdog, "STALL_SECONDS", 0.5)
    monkeypatch.setattr(watchdog, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(watchdog, "_IDLE_SHARE", 0.02)


def stalls(metrics: Metrics) -> float:
    return float(metrics.registry.get_sample_value("ringrift_agent_loop_stalls_total") or 0)


async def blocked(metrics: Metrics) -> None:
    with watching(metrics):
        for seconds in (1.5, 0.9):
            time.sleep(seconds)  # noqa: ASYNC251 - what nobody may do in a loop
            await asyncio.sleep(0.2)


@pytest.mark.usefixtures("impatient")
def test_a_loop_that_is_blocked_is_told_with_its_place_and_its_time(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    asyncio.run(blocked(metrics))

    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    where = [line for line in lines if "has not turned for" in line]
    over = [line for line in lines if "turns again" in line]
    assert len(where) == 1, lines  # the second stall comes too soon for another stack
    assert "time.sleep(seconds)" in where[0]
    assert len(where[0].splitlines()) < 40
    assert over
    assert stalls(metrics) >= 2


@pytest.mark.usefixtures("impatient")
def test_a_call_that_holds_the_interpreter_is_told_from_a_machine_that_stood_still(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def computes() -> None:
        with watching(Metrics()):
            await asyncio.sleep(0.1)
            sum(range(80_000_000))
            await asyncio.sleep(0.2)

    asyncio.run(computes())
    assert "a single call computed for so long" in caplog.text


def test_a_loop_that_turns_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def waits() -> None:
        with watching(Metrics()):
            await asyncio.sleep(0.5)

    asyncio.run(waits())
    assert not caplog.records
    assert not [thread for thread in threading.enumerate() if thread.name == "watchdog" and not _ends(thread)]


def test_a_process_that_was_stopped_says_so_when_it_goes_on(start_agent: StartAgent) -> None:
    agent = start_agent()
    os.kill(agent.pid, signal.SIGSTOP)
    time.sleep(watchdog.STALL_SECONDS + 0.7)
    os.kill(agent.pid, signal.SIGCONT)

    wait_until(lambda: "the whole process stood still for" in agent.log.read_text())
    assert "it was stopped, or the machine slept" in agent.log.read_text()
    assert "ringrift_agent_loop_stalls_total 1.0" in agent.request("GET", "/metrics").text


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The end of a pipe that nobody reads yet; the root logger writes into the other one."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler(stream)])
        yield reading
    os.close(reading)


def test_a_log_that_nobody_reads_holds_nobody_up_and_what_was_dropped_is_counted(pipe: int) -> None:
    with logging_aside():
        began = time.monotonic()
        for number in range(5000):
            log.warning("line %d %s", number, "x" * 100)
        assert time.monotonic() - began < 5
        text = os.read(pipe, 1 << 16).decode()
        assert text.startswith("line 0 xxx")
        while "log lines were dropped" not in text:
            text += os.read(pipe, 1 << 16).decode()
            log.warning("one more")
        reader = threading.Thread(target=_drain, args=(pipe,), daemon=True)
        reader.start()
    assert isinstance(logging.getLogger().handlers[0], logging.StreamHandler)


def test_a_traceback_reaches_the_log_too(pipe: int) -> None:
    with logging_aside():
        try:
            int("the cause")
        except ValueError:
            log.exception("it failed node=%s", "n")
    text = ""
    while "invalid literal" not in text:
        text += os.read(pipe, 1 << 16).decode()
    assert text.startswith("it failed node=n\nTraceback")
    assert text.count("ValueError: invalid literal") == 1


def _drain(pipe: int) -> None:
    while os.read(pipe, 1 << 16):
        pass


def _ends(thread: threading.Thread) -> bool:
    thread.join(1)
    return not thread.is_alive()
