"""A pause of the event loop that a thread ends when it notices something: nothing else wakes up meanwhile.

An agent that rests costs what its wake-ups cost: after half a second of somebody else's work each one finds cold
caches. A timer of the loop, a thread of the pool, and the loop again would be three of them for each look.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Generic, TypeVar

from ringrift_sync_dagster.agent.hints import Hints

T = TypeVar("T")

_LEAST_SHARE: Final = 0.5  # of the time between two looks: sooner than this no hint brings one


class Pause(Generic[T]):
    """Pauses, one after the other, of one coroutine.

    A look comes after ``seconds``, or sooner by a hint. What is written without a pause hints without a pause: after a
    hint that led to nothing, the next look waits for its time.

    Args:
        name: Of the thread.
        seconds: How often to look at least; the first time after so long.
        notice: Looks, in the thread; what it gives ends the pause, unless it is None.

    """

    def __init__(self, name: str, seconds: float, notice: Callable[[], T | None]) -> None:
        self._seconds, self._notice = seconds, notice
        self._hints, self._ended, self._was_hinted = Hints(), threading.Event(), False
        self._threads = ThreadPoolExecutor(1, thread_name_prefix=name)

    def watch(self, folders: Iterable[Path]) -> None:
        """Take hints from these directories."""
        self._hints.watch(folders)

    async def over(self, *, fruitful: bool = True) -> T | None:
        """Wait until something is noticed, and give it; None when the pauses are closed.

        Args:
            fruitful: What was noticed last led to something.

        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._wait, fruitful)

    def close(self) -> None:
        """End the pause under way, and the thread. Idempotent."""
        if not self._ended.is_set():
            self._ended.set()
            self._hints.close()
            self._threads.submit(self._hints.release)
            self._threads.shutdown(wait=False)

    def _wait(self, fruitful: bool) -> T | None:  # noqa: FBT001 - called by an executor
        while not self._ended.is_set():
            waits_for_its_time = self._was_hinted and not fruitful
            self._was_hinted = self._hints.wait(
                self._seconds, self._seconds * (1.0 if waits_for_its_time else _LEAST_SHARE)
            )
            if self._ended.is_set():
                break
            found, fruitful = self._notice(), False
            if found is not None:
                return found
        return None
