"""The rhythm of a strategy: work at marks of the clock, so many seconds apart, for a while.

Marks are multiples of the interval on the wall clock, so that the loops of two processes that follow each other keep
one rhythm. Work that takes longer than the interval lets marks pass; it is never done twice for one mark.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from ringrift_sync_dagster.settings import clock

MINUTE: Final = 60.0


@dataclass(frozen=True, slots=True)
class Cadence:
    """When to work.

    Args:
        interval: Seconds between two marks; above 0.
        wall: Gives seconds since 1970; another one only in tests.
        sleep: Waits for so many seconds; as above.
        monotonic: Gives seconds that never go back; as above.

    Raises:
        ValueError: The interval is not above 0.

    """

    interval: float
    wall: Callable[[], float] = clock.wall
    sleep: Callable[[float], object] = time.sleep
    monotonic: Callable[[], float] = clock.monotonic

    def __post_init__(self) -> None:
        if not self.interval > 0:
            raise ValueError(f"an interval is more than 0 seconds, not {self.interval:g}")

    def number(self, mark: float) -> int:
        """Say which multiple of the interval a mark is; marks are compared by it, since their seconds are rounded."""
        return round(mark / self.interval)

    def marks(self, seconds: float) -> Iterator[float]:
        """Give a mark at once, and then one whenever its time has come, for ``seconds`` from now.

        The first one is the last mark that has passed; after work that took too long the marks that passed meanwhile
        are left out. A sleep that ends a little before its mark by this clock gives no mark twice, and a clock that
        somebody sets back makes the loop wait no longer than two intervals.
        """
        ends, until = self.wall() + seconds, self.monotonic() + seconds
        number = self._passed()
        while True:
            yield number * self.interval
            passed = self._passed()
            number = passed + 1 if passed < number - 1 else max(number + 1, passed)
            now, mark = self.wall(), number * self.interval
            if mark >= ends or now >= ends or self.monotonic() >= until:
                return
            if mark > now:
                self.sleep(mark - now)

    def _passed(self) -> int:
        """Which mark has passed last."""
        return math.floor(self.wall() / self.interval)

    def is_due(self, last: float | None) -> bool:
        """Say whether a whole interval has passed since the last work began; half a second is forgiven to the clock.

        Work that began in the future shows that somebody set the clock back: then it is time.
        """
        passed = None if last is None else self.wall() - last
        return passed is None or passed < 0 or passed >= self.interval - 0.5
