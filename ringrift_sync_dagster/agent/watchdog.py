"""Says when the agent's event loop stood still: how long, and what it did meanwhile.

Everything that an agent answers goes through one event loop. When something blocks it, callers see silence and nothing
in the log says why. A thread asks the loop to turn once a second; a stall is told while it lasts, with the loop's
stack, and once more when it is over. When the thread itself came late, the whole process stood still, and its CPU time
tells one that computed inside a single call from one that the machine did not run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Final

from ringrift_sync_dagster.agent.metrics import Metrics
from ringrift_sync_dagster.settings import clock

log = logging.getLogger(__name__)

STALL_SECONDS: Final = 2.0
_LOOK_SECONDS: Final = 1.0  # each look wakes the loop, and an agent that rests is to cost next to nothing
_QUIET_SECONDS: Final = 10.0  # one stack in so long at most; what is left out is counted
_MOST_FRAMES: Final = 12
_IDLE_SHARE: Final = 0.5  # of a pause of the whole process: with less CPU time than this it did not run


class Watchdog:
    """Watches one event loop from a thread of its own.

    Args:
        loop: The loop; ``start`` is called in it.
        metrics: Counts the stalls.

    """

    def __init__(self, loop: asyncio.AbstractEventLoop, metrics: Metrics) -> None:
        self._loop = loop
        self._metrics = metrics
        self._done = threading.Event()
        self._asked = self._answered = clock.monotonic()
        self._loop_thread = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._quiet_until = 0.0
        self._left_out = 0

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer."""
        self._done.set()

    def _answer(self) -> None:
        self._answered = clock.monotonic()

    def _ask(self) -> bool:
        """Ask the loop to turn, unless it has not answered yet; False where it is closed."""
        if self._answered < self._asked:
            return True
        self._asked = clock.monotonic()
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._answer)
            return True
        return False

    def _watch(self) -> None:
        stalled_since: float | None = None
        looked, used = clock.monotonic(), time.process_time()
        while self._ask() and not self._done.wait(_LOOK_SECONDS):
            now, used_now, answered = clock.monotonic(), time.process_time(), self._answered
            if stalled_since is not None and answered > stalled_since:
                self._over(answered - stalled_since)
                stalled_since = None
            if now - looked >= STALL_SECONDS:
                self._stood_still(now - looked, used_now - used)
            elif stalled_since is None and answered < self._asked and now - self._asked >= STALL_SECONDS:
                stalled_since = self._asked
                self._stalls(now - self._asked, now)
            looked, used = now, used_now

    def _stalls(self, seconds: float, now: float) -> None:
        self._metrics.loop_stalls.inc()
        if now < self._quiet_until:
            self._left_out += 1
            return
        self._quiet_until = now + _QUIET_SECONDS
        more = f"; {self._left_out} more since the last such line" if self._left_out else ""
        self._left_out = 0
        log.warning("the event loop has not turned for %.1f s%s; it is at:\n%s", seconds, more, self._where())

    def _over(self, seconds: float) -> None:
        log.warning("the event loop turns again; it stood still for %.1f s", seconds)

    def _stood_still(self, seconds: float, used: float) -> None:
        self._metrics.loop_stalls.inc()
        if used < seconds * _IDLE_SHARE:
            cause = "it was stopped, or the machine slept or had no processor or memory for it"
        else:
            cause = "a single call computed for so long"
        log.warning(
            "the whole process stood still for %.1f s and used %.1f s of CPU time: %s; now the loop is at:\n%s",
            *(seconds, used, cause, self._where()),
        )

    def _where(self) -> str:
        """The stack of the loop's thread, the innermost frames last."""
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - documented, for such a use
        if frame is None:
            return "(its thread has ended)"
        lines = traceback.format_list(traceback.extract_stack(frame, limit=_MOST_FRAMES))
        return "".join(lines).rstrip()


@contextlib.contextmanager
def watching(metrics: Metrics) -> Iterator[None]:
    """Watch the running event loop while the body runs."""
    watchdog = Watchdog(asyncio.get_running_loop(), metrics)
    watchdog.start()
    try:
        yield
    finally:
        watchdog.stop()
