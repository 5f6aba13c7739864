"""The pacer: a rate that holds, that may change at any time, and waiting that ends when there is a reason."""

from __future__ import annotations

import threading
import time

import pytest

from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.transports.pacing import BucketPacer, piece_bytes
from tests.marks import first_of

MB = 1_000_000
LATE_SECONDS = 0.05  # a busy machine wakes us up a little later, once at the end
SOON_SECONDS = 0.15  # 50 ms that are promised, and what a busy machine adds


def pump(pacer: BucketPacer, count: int, piece: int) -> float:
    """Take so many bytes in pieces; give the seconds."""
    started = time.monotonic()
    for _ in range(count // piece):
        pacer.take(piece, deadline=Deadline(30))
    return time.monotonic() - started


@pytest.mark.parametrize("rate, piece", first_of((2 * MB, 40_000), (20 * MB, 1 << 18), (200_000, 4_000)))
def test_in_the_long_run_the_rate_is_right_within_one_percent(rate: int, piece: int) -> None:
    pacer = BucketPacer(rate)
    count = rate * 2 // piece * piece
    seconds = pump(pacer, count, piece)
    # The first piece moves at once: the debt that it makes is what the next one waits for.
    ideal = (count - piece) / rate
    assert ideal * 0.99 <= seconds <= ideal * 1.01 + LATE_SECONDS
    assert pacer.moved == count


def test_the_first_bytes_do_not_wait() -> None:
    pacer = BucketPacer(10.0)
    started = time.monotonic()
    pacer.take(1000, deadline=Deadline(5))
    assert time.monotonic() - started < 0.05


def test_who_was_away_catches_up_with_one_burst_at_most() -> None:
    pacer = BucketPacer(100_000)
    pacer.take(1, deadline=Deadline(5))
    time.sleep(1.5)
    started = time.monotonic()
    while time.monotonic() - started < 0.05:
        pacer.take(4096, deadline=Deadline(5))
    assert pacer.moved <= 65536 + 3 * 4096 + 100_000 * 0.1


def test_several_threads_share_one_rate() -> None:
    pacer = BucketPacer(2 * MB)
    started = time.monotonic()
    threads = [threading.Thread(target=pump, args=(pacer, MB, 20_000)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert time.monotonic() - started == pytest.approx(4 * MB / (2 * MB), rel=0.03)
    assert pacer.moved == 4 * MB


def waiting(pacer: BucketPacer, deadline: Deadline, cancel: threading.Event | None = None) -> threading.Thread:
    """A thread that waits for a byte behind a debt of minutes."""
    pacer.take(MB, deadline=Deadline(5))
    thread = threading.Thread(target=pacer.take, args=(1,), kwargs={"deadline": deadline, "cancel": cancel})
    thread.start()
    time.sleep(0.1)
    assert thread.is_alive()
    return thread


def test_another_rate_counts_at_once_for_who_waits() -> None:
    pacer = BucketPacer(1000.0)
    thread = waiting(pacer, Deadline(30))
    pacer.set_rate(1e12)
    thread.join(SOON_SECONDS)
    assert not thread.is_alive()
    assert (pacer.rate, pacer.moved) == (1e12, MB + 1)


def test_a_cancel_ends_the_waiting_and_nothing_is_taken() -> None:
    pacer, cancel = BucketPacer(1000.0), threading.Event()
    thread = waiting(pacer, Deadline(30), cancel)
    cancel.set()
    thread.join(SOON_SECONDS)
    assert not thread.is_alive()
    assert pacer.moved == MB


def test_a_deadline_ends_the_waiting_and_nothing_is_taken() -> None:
    pacer = BucketPacer(1000.0)
    pacer.take(MB, deadline=Deadline(5))
    started = time.monotonic()
    pacer.take(1, deadline=Deadline(0.2))
    assert 0.2 <= time.monotonic() - started < 0.2 + SOON_SECONDS
    assert pacer.moved == MB


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_rate_that_is_not_above_0_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        BucketPacer(rate)
    with pytest.raises(ValueError, match="above 0"):
        BucketPacer(1.0).set_rate(rate)


@pytest.mark.parametrize("rate, most, piece", [(50 * MB, 1 << 20, MB), (100 * MB, 1 << 18, 1 << 18), (1, 9999, 1024)])
def test_a_piece_is_a_fiftieth_of_a_second(rate: float, most: int, piece: int) -> None:
    assert piece_bytes(rate, most) == piece
