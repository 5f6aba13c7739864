"""A pause between two looks ends when something is seen, sooner by a hint of the kernel, and never depends on one."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from inotify_simple import INotify

from ringrift_sync_dagster.agent import hints, pause
from ringrift_sync_dagster.agent.hints import Hints
from ringrift_sync_dagster.agent.pause import Pause

_LONG = 60.0  # nothing in here lasts so long by itself


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Hints]:
    """Hints of writes in one directory."""
    found = Hints()
    found.watch([tmp_path])
    yield found
    found.close()
    found.release()


def test_a_write_is_told_and_silence_is_not(told: Hints, tmp_path: Path) -> None:
    (tmp_path / "games.db-wal").write_bytes(b"frame")

    assert told.wait(_LONG, 0.0)
    assert not told.wait(0.01, 0.0)


def test_a_write_by_whoever_holds_the_file_open_is_told(told: Hints, tmp_path: Path) -> None:
    with (tmp_path / "games.db-wal").open("ab", buffering=0) as log:
        assert told.wait(_LONG, 0.0)
        log.write(b"frame")
        assert told.wait(_LONG, 0.0)


def test_a_burst_is_one_hint_when_it_is_over(told: Hints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "_QUIET_SECONDS", 1.0)  # a busy machine is no pause of the writer
    monkeypatch.setattr(hints, "_MOST_BURST_SECONDS", _LONG)
    path = tmp_path / "games.db-wal"

    def write() -> None:
        with path.open("ab", buffering=0) as log:
            for _ in range(8):
                log.write(b"frame")
                time.sleep(0.01)

    writer = threading.Thread(target=write)
    writer.start()
    assert told.wait(_LONG, 0.0)
    assert path.read_bytes() == 8 * b"frame"
    writer.join()
    assert not told.wait(0.05, 0.0), "all of it was in the one hint"


def test_a_writer_that_never_pauses_is_told_all_the_same(
    told: Hints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hints, "_QUIET_SECONDS", 0.1)
    ends = threading.Event()

    def write() -> None:
        with (tmp_path / "games.db-wal").open("ab", buffering=0) as log:
            while not ends.wait(0.001):
                log.write(b"frame")

    writer = threading.Thread(target=write)
    writer.start()
    assert told.wait(_LONG, 0.0)
    ends.set()
    writer.join()


def test_what_is_watched_no_more_is_not_told_and_what_is_new_is(told: Hints, tmp_path: Path) -> None:
    other, gone = tmp_path / "other", tmp_path / "gone"
    other.mkdir()
    told.watch([other, gone, tmp_path / "never"])
    told.wait(0.0, 0.0)
    told.wait(0.0, 0.0)  # that the first watch ended is told as well

    (tmp_path / "x").touch()
    assert not told.wait(0.05, 0.0)
    (other / "x").touch()
    assert told.wait(_LONG, 0.0)


def test_a_directory_that_was_replaced_is_watched_again(told: Hints, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    told.watch([folder])
    folder.rmdir()
    folder.mkdir()
    told.watch([folder])
    while told.wait(0.05, 0.0):
        pass

    (folder / "x").touch()

    assert told.wait(_LONG, 0.0)


@pytest.mark.parametrize("broken", ["no descriptor", "no watch"])
def test_without_inotify_the_whole_time_is_waited(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_args: object, **_more: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(INotify, "__init__" if broken == "no descriptor" else "add_watch", refuse)
    found = Hints()
    found.watch([tmp_path])
    (tmp_path / "x").touch()

    assert not found.wait(0.05, 0.0)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    found.close()
    found.release()


def test_closing_ends_the_wait(told: Hints) -> None:
    waiting = threading.Thread(target=told.wait, args=(_LONG, _LONG))
    waiting.start()
    told.close()
    waiting.join(_LONG / 2)

    assert not waiting.is_alive()


def over(found: Pause[Any], **how: bool) -> Any:  # noqa: ANN401
    async def wait() -> Any:  # noqa: ANN401
        async with asyncio.timeout(_LONG / 2):
            return await found.over(**how)

    return asyncio.run(wait())


def test_a_pause_ends_with_what_is_noticed_and_wakes_nobody_before() -> None:
    looks = list[int]()

    def notice() -> str | None:
        looks.append(threading.get_ident())
        return "something" if len(looks) == 3 else None

    found = Pause("watch", 0.01, notice)
    assert over(found) == "something"
    found.close()
    assert len(looks) == 3
    assert threading.get_ident() not in looks


def test_a_hint_ends_a_pause_long_before_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pause, "_LEAST_SHARE", 0.0)
    found = Pause("watch", _LONG, lambda: "something")
    found.watch([tmp_path])
    (tmp_path / "x").touch()

    assert over(found) == "something"
    found.close()


def test_after_a_hint_that_led_to_nothing_the_next_look_waits_for_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[tuple[float, float]]()

    def wait(_self: Hints, seconds: float, least: float) -> bool:
        asked.append((seconds, least))
        return True

    monkeypatch.setattr(Hints, "wait", wait)
    found = Pause("watch", 0.5, lambda: "something")
    for fruitful in (True, True, False, False, True):
        over(found, fruitful=fruitful)
    found.close()

    assert asked == [(0.5, 0.25), (0.5, 0.25), (0.5, 0.5), (0.5, 0.5), (0.5, 0.25)]


def test_a_pause_whose_coroutine_is_cancelled_leaves_no_thread_and_no_descriptor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released = threading.Event()
    release = Hints.release

    def noted(self: Hints) -> None:
        release(self)
        released.set()

    async def wait() -> None:
        found: Pause[str] = Pause("pause-test", _LONG, lambda: None)
        try:
            async with asyncio.timeout(0.1):
                await found.over()
        finally:
            found.close()
            found.close()

    monkeypatch.setattr(Hints, "release", noted)
    with pytest.raises(TimeoutError):
        asyncio.run(wait())
    assert released.wait(_LONG / 2)
    limit = time.monotonic() + _LONG / 2
    while any(thread.name.startswith("pause-test") for thread in threading.enumerate()):
        assert time.monotonic() < limit
        time.sleep(0.01)
