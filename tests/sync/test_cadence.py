"""Marks of the clock: one rhythm for processes that follow each other, and no mark twice."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringrift_sync_dagster.sync.cadence import Cadence


@dataclass
class Clock:
    """A clock that moves when somebody sleeps or works."""

    now: float
    slept: list[float] = field(default_factory=list)
    set_back: float = 0.0
    early: float = 0.0

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now + self.set_back

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += max(seconds - self.early, 0.0)

    def every(self, interval: float) -> Cadence:
        return Cadence(interval, self.wall, self.sleep, self.monotonic)


def test_marks_are_multiples_of_the_interval_whenever_the_loop_begins() -> None:
    clock = Clock(1003.2)

    assert list(clock.every(5).marks(17)) == [1000, 1005, 1010, 1015, 1020]
    assert clock.slept == pytest.approx([1.8, 5, 5, 5])


def test_work_that_takes_too_long_lets_marks_pass_and_does_none_twice() -> None:
    clock = Clock(1000.0)
    seen = []

    for mark in clock.every(5).marks(30):
        seen.append(mark)
        clock.now += 12 if mark == 1005 else 1

    assert seen == [1000, 1005, 1015, 1020, 1025]


@settings(derandomize=True, deadline=None)
@given(start=st.floats(0, 4e9), interval=st.sampled_from([0.05, 0.1, 0.2, 0.7, 5.0, 60.0]), early=st.floats(0, 1e-3))
def test_no_mark_comes_twice_for_any_clock_and_a_sleep_that_ends_early(
    start: float, interval: float, early: float
) -> None:
    clock = Clock(start)
    clock.early = early
    cadence = clock.every(interval)
    marks = list(itertools.islice(cadence.marks(1000 * interval), 20))
    numbers = [cadence.number(mark) for mark in marks]
    follower = next(cadence.marks(0))

    assert numbers == list(range(numbers[0], numbers[0] + 20))
    assert marks == [number * interval for number in numbers], "two processes give a mark the same seconds"
    assert numbers[-1] - cadence.number(follower) in {0, 1}


def test_no_time_means_once() -> None:
    clock = Clock(1000.0)

    assert list(clock.every(60).marks(0)) == [960]
    assert clock.slept == []


def test_a_clock_that_is_set_back_costs_at_most_two_intervals() -> None:
    clock = Clock(100_000.0)
    marks = clock.every(5).marks(20)
    next(marks)
    clock.now -= 50_000
    clock.set_back = 50_000

    rest = list(marks)

    assert clock.slept == [5] * len(rest)
    assert len(rest) in {3, 4}


def test_an_interval_has_passed_or_not() -> None:
    cadence = Clock(1000.0).every(300)

    assert [cadence.is_due(last) for last in (None, 700.0, 700.4, 701.0, 9999.0)] == [True, True, True, False, True]


@pytest.mark.parametrize("interval", [0.0, -1.0, float("nan")])
def test_an_interval_is_more_than_nothing(interval: float) -> None:
    with pytest.raises(ValueError, match="more than 0"):
        Cadence(interval)
