"""What an examination finds: one line for each thing that was looked at, and the fix where it is not well."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ringrift_sync_dagster.core.room import DiskLimits
from ringrift_sync_dagster.core.sqlite_versions import has_wal_reset_bug
from ringrift_sync_dagster.errors import SyncError

FULL: Final = 0.02
"""Part of a disk below which nothing is taken any more."""
SCARCE: Final = 0.10
"""Part of a disk below which it is time to free some."""


class Level(StrEnum):
    """How bad a finding is; only an error makes an examination fail."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Args:
        where: The coordinator or the node.
        check: What was looked at.
        level: How bad it is.
        detail: What was found, on one line.
        fix: The command to run or the key to change; empty where all is well.

    """

    where: str
    check: str
    level: Level
    detail: str
    fix: str = ""


@dataclass(slots=True)
class Findings:
    """Findings of one place, as they come; only one thread adds to them.

    Args:
        where: The coordinator or the node.
        found: What was found so far.

    """

    where: str
    found: list[Finding]

    def ok(self, check: str, detail: str) -> None:
        """Add what is well."""
        self.found.append(Finding(self.where, check, Level.OK, detail))

    def warning(self, check: str, detail: str, fix: str) -> None:
        """Add what works and should be looked at."""
        self.found.append(Finding(self.where, check, Level.WARNING, " ".join(detail.split()), fix))

    def error(self, check: str, detail: str, fix: str) -> None:
        """Add what does not work."""
        self.found.append(Finding(self.where, check, Level.ERROR, " ".join(detail.split()), fix))

    @contextmanager
    def guarded(self, check: str, fix: str) -> Iterator[None]:
        """Turn an error of the body into a finding, so that the next thing is looked at all the same."""
        try:
            yield
        except (SyncError, OSError, ValueError) as error:
            self.error(check, f"{type(error).__name__}: {error}", fix)


def sqlite_finding(found: Findings, version: str, where: str) -> None:
    """Judge a version of SQLite."""
    try:
        affected = has_wal_reset_bug(version)
    except ValueError:
        found.warning("sqlite", f"{where} tells of a SQLite of version {version!r}", "look at it: sqlite3 --version")
        return
    if not affected:
        found.ok("sqlite", f"{where} has SQLite {version}, without the WAL-reset bug")
        return
    found.warning(
        "sqlite",
        f"{where} has SQLite {version}, with the WAL-reset bug: two that write at once may, rarely, lose commits",
        "use a Python whose SQLite is 3.51.3 or newer (or 3.50.7, 3.44.6); `ringrift-sync verify --deep` finds damage",
    )


def disk_finding(found: Findings, path: str, free: int, total: int, limits: DiskLimits) -> None:
    """Judge the room of a disk."""
    part = free / total if total else 1.0
    words = f"{free / 1e9:.1f} GB of {total / 1e9:.1f} GB are free on the disk of {path}"
    used = 100.0 * (1.0 - part)
    if part < FULL:
        found.error("disk", words, f"free some space: df -h {path}; `ringrift-sync gc --dry-run` names what can go")
    elif limits.max_usage_percent is not None and used > limits.max_usage_percent:
        limit = f"max_disk_usage_percent is {limits.max_usage_percent:g}"
        found.error("disk", f"{words}, and {limit}", "free some space, or raise sync_routing.max_disk_usage_percent")
    elif part < SCARCE:
        found.warning("disk", words, f"free some space soon: df -h {path}")
    else:
        found.ok("disk", words)
