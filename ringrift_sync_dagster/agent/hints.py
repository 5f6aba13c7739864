"""Hints of the kernel (inotify) that something was written in some directories: a look then comes sooner.

Never more than hints: network disks give none, the kernel's queue overflows, a write through a mapping is not told, and
none of them says that a game is over. Whoever waits for them looks all the same when the time is up.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from inotify_simple import INotify, flags

from ringrift_sync_dagster.settings import clock

log = logging.getLogger(__name__)

_QUIET_SECONDS: Final = 0.03  # a game is written in several commits: this long without one ends the burst ...
_MOST_BURST_SECONDS: Final = 0.2  # ... and whoever never pauses is looked at after this
_WRITTEN: Final = flags.MODIFY | flags.CREATE | flags.MOVED_TO | flags.ONLYDIR
_BYTES: Final = 1 << 16


class Hints:
    """Waits for hints, in one thread; may be told what to watch, and closed, from any.

    Where the kernel gives none (too many watches, another system), ``wait`` waits for its whole time.
    """

    def __init__(self) -> None:
        self._closing, self._lock = threading.Event(), threading.Lock()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._wake, select.POLLIN)
        self._watches = frozenset[int]()
        self._notify: INotify | None = None
        try:
            self._notify = INotify(nonblocking=True)
            self._poll.register(self._notify, select.POLLIN)
        except OSError as error:
            log.warning("the kernel tells nothing of writes; games are seen at the next look cause=%s", error)

    def watch(self, folders: Iterable[Path]) -> None:
        """Be told of writes in these directories from now on, and in no others; one that is not there is left out."""
        with self._lock:
            if self._notify is None or self._closing.is_set():
                return
            watches = set[int]()
            for folder in folders:
                try:
                    watches.add(self._notify.add_watch(folder, _WRITTEN))
                except (FileNotFoundError, NotADirectoryError, PermissionError):
                    continue
                except OSError as error:  # fs.inotify.max_user_watches
                    log.warning("the kernel tells nothing of writes in %s and others cause=%s", folder, error)
                    break
            for watch in self._watches - watches:
                with contextlib.suppress(OSError):  # its directory is gone, and the watch with it
                    self._notify.rm_watch(watch)
            self._watches = frozenset(watches)

    def wait(self, seconds: float, least: float) -> bool:
        """Wait until a burst of writes is over; say whether there was one.

        Args:
            seconds: At most so long.
            least: At least so long.

        """
        began = clock.monotonic()
        self._poll.poll(1000.0 * seconds)
        if not self._take():
            return False
        if not self._closing.wait(max(0.0, least - (clock.monotonic() - began))):
            limit = min(began + seconds, clock.monotonic() + _MOST_BURST_SECONDS)
            self._take()
            while clock.monotonic() < limit and not self._closing.wait(_QUIET_SECONDS) and self._take():
                pass
        return not self._closing.is_set()

    def close(self) -> None:
        """End the wait under way. Idempotent."""
        with self._lock:
            if not self._closing.is_set():
                self._closing.set()
                os.eventfd_write(self._wake, 1)

    def release(self) -> None:
        """Give the descriptors back, once, after ``close`` and when the wait has ended."""
        with self._lock:
            if self._notify is not None:
                self._notify.close()
                self._notify = None
            os.close(self._wake)

    def _take(self) -> bool:
        """Take the hints that are there; say whether there were any."""
        with contextlib.suppress(BlockingIOError):
            return self._notify is not None and bool(os.read(self._notify.fileno(), _BYTES))
        return False
