"""Clocks: deadlines count on a clock that nobody sets, and a boot has one name."""

import subprocess
import sys

import pytest

from ringrift_sync_dagster.errors import DeadlineExceededError
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.clock import Deadline


class Ticks:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


def test_a_deadline_counts_down_to_zero_and_not_below() -> None:
    ticks = Ticks()
    deadline = Deadline(10, now=ticks)
    assert (deadline.remaining(), deadline.expired) == (10, False)
    ticks.at += 9.5
    assert (deadline.remaining(), deadline.expired) == (0.5, False)
    ticks.at += 5
    assert (deadline.remaining(), deadline.expired) == (0, True)


def test_a_step_gets_its_own_limit_or_what_is_left() -> None:
    ticks = Ticks()
    deadline = Deadline(10, now=ticks)
    assert deadline.at_most(4) == 4
    ticks.at += 7
    assert deadline.at_most(4) == 3


def test_an_expired_deadline_names_the_node_the_transport_and_the_work() -> None:
    ticks = Ticks()
    deadline = Deadline(2, now=ticks)
    deadline.check("vast-1", "p2p_http", "the scan")
    ticks.at += 2
    with pytest.raises(DeadlineExceededError, match=r"vast-1 over p2p_http: the scan was not done within 2\.0 s"):
        deadline.check("vast-1", "p2p_http", "the scan")


def test_a_deadline_without_time_is_over_at_once() -> None:
    assert Deadline.after(0).expired
    assert not Deadline.after(60).expired


def test_times_as_text_are_utc_and_sort_like_the_times() -> None:
    times = [0.0, 1.5, 1_700_000_000.0, 1_700_000_000.001, 1_700_000_001.9999]
    texts = [clock.utc_iso(at) for at in times]
    assert texts[1:3] == ["1970-01-01T00:00:01.500Z", "2023-11-14T22:13:20.000Z"]
    assert texts == sorted(texts)
    assert len({len(text) for text in [*texts, clock.utc_iso()]}) == 1


def test_another_process_of_this_machine_sees_the_same_boot_and_boot_time() -> None:
    code = "from ringrift_sync_dagster.settings import clock; print(clock.boot_id(), clock.boottime())"
    before = clock.boottime()
    other_id, other_time = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert other_id == clock.boot_id() != ""
    assert before < float(other_time) < clock.boottime()


def test_the_clocks_go_forward() -> None:
    assert clock.monotonic() <= clock.monotonic()
    assert clock.wall() > 1_600_000_000
