"""The clocks of this machine; every other module asks here or takes the time as an argument.

Wall time is for people. Deadlines use ``monotonic``. Leases use ``boottime`` together with ``boot_id``: it goes on
while the machine sleeps, nobody can set it, and a number of an earlier boot is recognised as such. No clock of another
machine orders anything. Source: architecture.md, 1 rule 10.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Final

from ringrift_sync_dagster.errors import DeadlineExceededError

_LINUX_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
# macOS has no CLOCK_BOOTTIME; its CLOCK_MONOTONIC is the one that goes on during sleep (clock_gettime(3)).
_BOOT_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def wall() -> float:
    """Give the wall time in seconds since 1970, UTC; for display and for tokens only."""
    return time.time()


def utc_iso(at: float | None = None) -> str:
    """Write a wall time as text, such as ``2026-03-01T12:00:00.000Z``; all are as long, so that they sort as text.

    Args:
        at: Seconds since 1970; now when None.

    """
    moment = datetime.fromtimestamp(wall() if at is None else at, tz=UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def monotonic() -> float:
    """Give seconds that never go back; only differences within one process mean anything."""
    return time.monotonic()


def boottime() -> float:
    """Give seconds since the machine started, sleep included; the same for all its processes."""
    return time.clock_gettime(_BOOT_CLOCK)


@lru_cache(maxsize=1)
def boot_id() -> str:
    """Name this boot of the machine: another value after each restart, the same for all its processes.

    Raises:
        OSError: The system tells no such name (neither Linux nor macOS).

    """
    if _LINUX_BOOT_ID.exists():
        return _LINUX_BOOT_ID.read_text(encoding="ascii").strip()
    return _macos_boot_id()


def _macos_boot_id() -> str:
    buffer = ctypes.create_string_buffer(64)
    size = ctypes.c_size_t(len(buffer))
    sysctl = getattr(ctypes.CDLL(None), "sysctlbyname", None)
    if sysctl is None or sysctl(b"kern.bootsessionuuid", buffer, ctypes.byref(size), None, 0) != 0:
        raise OSError("this system does not name its boots; keep the state database in PostgreSQL here")
    return buffer.value.decode("ascii")


class Deadline:
    """A moment after which a piece of work stops; one of them is handed down through all its steps.

    Args:
        seconds: How long from now; 0 or less is already over.
        now: The clock to ask, in seconds; another one only in tests.

    """

    __slots__ = ("_ends_at", "_now", "seconds")

    def __init__(self, seconds: float, now: Callable[[], float] = monotonic) -> None:
        self.seconds = seconds
        self._now = now
        self._ends_at = now() + seconds

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """Give a deadline that many seconds from now."""
        return cls(seconds)

    @property
    def expired(self) -> bool:
        """True once no time is left."""
        return self.remaining() <= 0

    def remaining(self) -> float:
        """Give the seconds left; never below 0."""
        return max(0.0, self._ends_at - self._now())

    def at_most(self, seconds: float) -> float:
        """Give the seconds left, or ``seconds`` if that is less; for a step that has a limit of its own."""
        return min(self.remaining(), seconds)

    def check(self, node: str = "", transport: str = "", what: str = "the work") -> None:
        """Do nothing while time is left.

        Raises:
            DeadlineExceededError: No time is left.

        """
        if self.expired:
            message = f"{what} was not done within {self.seconds:.1f} s; what is there is kept for the next try"
            raise DeadlineExceededError(node, transport, message)
