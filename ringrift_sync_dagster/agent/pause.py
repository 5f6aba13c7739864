"""A pause of the event loop that a thread ends when it notices something: nothing else wakes up meanwhile.

An agent that rests costs what its wake-ups cost: after half a second of somebody else's work each one finds cold
caches. A timer of the loop, a thread of the pool, and the loop again would be three of them for each look.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Pause(Generic[T]):
    """Pauses, one after the other, of one coroutine.

    Args:
        name: Of the thread.
        seconds: How often to look; the first time after so long.
        notice: Looks, in the thread; what it gives ends the pause, unless it is None.

    """

    def __init__(self, name: str, seconds: float, notice: Callable[[], T | None]) -> None:
        self._seconds, self._notice = seconds, notice
        self._ended = threading.Event()
        self._threads = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def over(self) -> T | None:
        """Wait until something is noticed, and give it; None when the pauses are closed."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._wait)

    def close(self) -> None:
        """End the pause under way, and the thread. Idempotent."""
        self._ended.set()
        self._threads.shutdown(wait=False)

    def _wait(self) -> T | None:
        while not self._ended.wait(self._seconds):
            found = self._notice()
            if found is not None:
                return found
        return None
