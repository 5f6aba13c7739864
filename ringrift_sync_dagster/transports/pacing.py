"""The pacer of one transfer: a bucket of bytes that several threads draw from, at a rate that may change at any time.

The arithmetic is ``core.bandwidth.TokenBucket``; here is the waiting, which ends within 50 ms when the rate changes,
the deadline passes or the transfer is cancelled.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from ringrift_sync_dagster.core.bandwidth import TokenBucket
from ringrift_sync_dagster.settings.clock import Deadline, monotonic

_LOOK_SECONDS: Final = 0.04  # an event of another thread cannot wake the condition, so it is looked at this often
_PIECES_PER_SECOND: Final = 50  # then any second holds the rate within 2 %, whatever else it holds
_SMALLEST_PIECE_BYTES: Final = 1024


class BucketPacer:
    """Keeps a transfer at its rate; implements ``base.Pacer``, safe in several threads.

    Args:
        bytes_per_second: The rate at first; above 0.
        now: The clock, in seconds; another one only in tests.

    Raises:
        ValueError: The rate is not above 0.

    """

    def __init__(self, bytes_per_second: float, now: Callable[[], float] = monotonic) -> None:
        self._now = now
        self._bucket = TokenBucket(bytes_per_second, now())
        self._changed = threading.Condition()
        self._moved = 0
        self._begun = False

    @property
    def rate(self) -> float:
        """Bytes per second that the transfer may move now."""
        with self._changed:
            return self._bucket.rate

    @property
    def moved(self) -> int:
        """Bytes that were taken so far."""
        with self._changed:
            return self._moved

    def set_rate(self, bytes_per_second: float) -> None:
        """Go on at another rate; whoever waits is woken and waits as long as the new rate says.

        Raises:
            ValueError: The rate is not above 0.

        """
        with self._changed:
            self._bucket.set_rate(bytes_per_second, self._now())
            self._changed.notify_all()

    def take(self, count: int, *, deadline: Deadline, cancel: threading.Event | None = None) -> None:
        """Return when ``count`` bytes may move, or when the deadline or the cancel event ends the waiting.

        The caller looks at both before it moves anything; then nothing was taken.
        """
        with self._changed:
            if not self._begun:  # connecting earns nothing: else the first second would have too much
                self._bucket, self._begun = TokenBucket(self._bucket.rate, self._now()), True
            while not deadline.expired and (cancel is None or not cancel.is_set()):
                seconds = self._bucket.take(count, self._now())
                if seconds <= 0:
                    self._moved += count
                    return
                self._changed.wait(deadline.at_most(min(seconds, _LOOK_SECONDS)))


def piece_bytes(rate: float, most: int) -> int:
    """Give how many bytes to move at once, so that the rate holds in every second: at most ``most``.

    Args:
        rate: Bytes per second.
        most: What is moved at once without a limit.

    """
    return int(min(most, max(_SMALLEST_PIECE_BYTES, rate / _PIECES_PER_SECOND)))
