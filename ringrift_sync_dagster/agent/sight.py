"""Which games databases a node has, and which of them changed: told by ``stat`` alone, none is opened for it.

What there is comes from the kit's scan; a directory or a database that changed asks for the next one. What was seen
may be looked at from any thread, because entries are replaced as a whole; taking in a scan is for the event loop.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from ringrift_sync_dagster.node import gate
from ringrift_sync_dagster.node.errors import KitError
from ringrift_sync_dagster.node.roots import Roots
from ringrift_sync_dagster.settings import clock

_SCAN_SHARE: Final = 10.0  # a scan that something asks for takes at most this part of the time, one in so many, ...
_IDLE_SCAN_SHARE: Final = 100.0  # ... and one that nothing asks for, this part
_IDLE_SCAN_SECONDS: Final = 20.0  # for disks that do not tell that a directory changed, and links that lead elsewhere
_ALL_FOLDERS_SCAN_SECONDS: Final = 5.0  # where there are more directories than are looked at
_NEW_CONFIG_SECONDS: Final = 0.5  # a database that changed may hold its first game of another config
_PLACES: Final = ("", "data", "data/games", "data/selfplay")
_MOST_FOLDERS: Final = 1000
_LASTING: Final = frozenset({"not_a_database", "corrupt"})
_EMPTY: Final = "no_games_table"


log = logging.getLogger(__name__)


class Unread(NamedTuple):
    """A database that may hold games that are nowhere else and were not read.

    Args:
        path: Its name.
        why: What is in the way; empty where it only waits for its turn.
        since: Since when, on the monotonic clock; None for what nobody can read until a person does something.

    """

    path: str
    why: str
    since: float | None


class Due(NamedTuple):
    """A database to read: its name, its change token now, and whether it stands still."""

    path: str
    token: str
    is_still: bool


@dataclass(slots=True)
class Watched:
    """One database: what was seen of it, and up to where it was read.

    Args:
        absolute: Where it lies.
        configs: Whose games it holds, as far as is known.
        fault: The lasting fault that the scan found with it; empty for none.
        trouble: Why it could not be read the last time; empty where it could.
        seen: Its change token when it was scanned last.
        token: Its change token when it was read last.
        sure: It had stood still then, so that the same token means that nothing was written.
        cursors: Where to go on, for each config; kept here while a read brought no game.
        failures: How often it could not be read, one after the other.
        not_before: When to try again.
        unread_since: Since when it holds something that was not read, on the monotonic clock; None where it does not.

    """

    absolute: str
    configs: tuple[str, ...] = ()
    fault: str = ""
    trouble: str = ""
    seen: str = ""
    token: str = ""
    sure: bool = False
    cursors: dict[str, Mapping[str, Any] | None] = field(default_factory=dict)
    failures: int = 0
    not_before: float = 0.0
    unread_since: float | None = None
    _glance: gate.Glance | None = field(default=None, init=False)
    _looked: tuple[str, int] = field(default=("", 0), init=False)

    def look(self) -> tuple[str, int]:
        """Give the change token and the newest modification time; of an idle database next to nothing is computed."""
        glance = gate.glance(self.absolute)
        if glance != self._glance:
            self._glance, self._looked = glance, gate.told(glance)
        return self._looked

    @property
    def may_be_read(self) -> bool:
        """Whether a read could give something now: its last one did not just fail."""
        return bool(self.configs) and not self.fault and clock.monotonic() >= self.not_before

    def due(self, token: str, newest_ns: int, now: float) -> bool:
        """Whether to read it: it changed, or may have changed behind the same token and has stood still since."""
        return self.may_be_read and (token != self.token or (not self.sure and gate.still(newest_ns, now)))

    def note_unread(self, token: str) -> None:
        """Note since when it holds something that was not read: it has changed since the last read, or the last scan.

        One whose scan named no config holds no finished game as of that scan.
        """
        known = self.token if self.configs or self.fault or self.trouble else self.seen
        if token == known:
            self.unread_since = None
        elif self.unread_since is None:
            self.unread_since = clock.monotonic()


class Sight:
    """What is known of the databases of a node.

    Args:
        roots: The node's roots.
        seconds: The least time between two scans.

    """

    def __init__(self, roots: Sequence[str], seconds: float) -> None:
        self._roots, self._seconds = Roots(roots), seconds
        self._folders: dict[Path, int] = {}
        self._scan_wanted = True
        self._told: dict[str, str] = {}
        self._scanned_at = self._scan_took = 0.0
        self.watched: dict[str, Watched] = {}
        """By the name that the kit gives a database."""
        self.refused: dict[str, str] = {}
        """Databases that no read could give, such as a link out of the roots, with what is wrong with them."""

    def name_of(self, path: str) -> str:
        """Give the name of a watched database by any path of this machine, or by its name; empty for any other."""
        watched = self.watched
        if path in watched:
            return path
        real = self._roots.real(path)
        found = next((name for name, one in watched.items() if one.absolute == real), "")
        return found or next((name for name, one in watched.items() if os.path.realpath(one.absolute) == real), "")

    def look(self, only: str = "") -> list[Due]:
        """Look at directories and databases, and give the databases to read.

        Args:
            only: The one database to give, whether it changed or not.

        """
        if any(_changed_at(folder) != known for folder, known in self._folders.items()):
            self._scan_wanted = True
        due, now = [], clock.wall()
        for path, watched in self.watched.items():
            if only and path != only:
                continue
            token, newest_ns = watched.look()
            watched.note_unread(token)
            if token != watched.seen and clock.monotonic() - self._scanned_at > _NEW_CONFIG_SECONDS:
                self._scan_wanted = True
            if (only and watched.may_be_read) or watched.due(token, newest_ns, now):
                due.append(Due(path, token, gate.still(newest_ns, now)))
        return due

    def unread(self) -> list[Unread]:
        """Give the databases whose newest content was not read, those that nobody can read last."""
        waiting = [
            Unread(path, watched.fault or watched.trouble, None if watched.fault else watched.unread_since)
            for path, watched in self.watched.items()
            if watched.unread_since is not None
        ]
        refused = [Unread(path, why, None) for path, why in self.refused.items()]
        return sorted([*waiting, *refused], key=lambda one: (one.since is None, one.since or 0.0, one.path))

    def forget_pauses(self) -> None:
        """Let the next look try each database that could not be read."""
        for watched in self.watched.values():
            watched.not_before = 0.0

    def read_anew(self) -> None:
        """Forget up to where each database was read."""
        for watched in self.watched.values():
            watched.token, watched.cursors = "", {}

    @property
    def scan_is_due(self) -> bool:
        """Whether it is time to ask the kit again which databases there are."""
        if not self._scanned_at:
            return True
        idle = _IDLE_SCAN_SECONDS if len(self._folders) < _MOST_FOLDERS else _ALL_FOLDERS_SCAN_SECONDS
        share, least = (_SCAN_SHARE, self._seconds) if self._scan_wanted else (_IDLE_SCAN_SHARE, idle)
        return clock.monotonic() - self._scanned_at >= max(least, share * self._scan_took)

    @property
    def folders(self) -> list[Path]:
        """The directories that are looked at."""
        return list(self._folders)

    def begin_scan(self) -> dict[Path, int]:
        """Give the directories as they are before a scan: what comes into them meanwhile is seen the next time."""
        folders = self._all_folders()
        self._scan_wanted = False
        return folders

    def end_scan(self, started: float) -> None:
        """Note what a scan took that began then, on the monotonic clock."""
        # The first one starts a process and reads everything anew: what it took says nothing of the next one, and games
        # of a database that appears soon after the start must not wait ten times as long.
        self._scan_took = clock.monotonic() - started if self._scanned_at else 0.0
        self._scanned_at = clock.monotonic()

    def take_in(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Watch the games databases of a scan; what is known of one stays, and what is wrong is logged once."""
        found, refused = dict[str, Watched](), dict[str, str]()
        for entry in entries:
            path, error = str(entry["path"]), entry["error"]
            if error is not None and entry["data_type"] == "games" and error["code"] != _EMPTY:
                refused[path] = str(error["message"])
            if "unfinished" not in entry or (error is None and not entry["collectable"]):
                continue
            with contextlib.suppress(KitError):
                one = self.watched.get(path) or Watched(self._roots.resolve(path))
                named = [entry["config"]] if entry["config"] else []
                configs = tuple(dict.fromkeys([*one.configs, *named, *entry["games"]]))
                if configs != one.configs:
                    one.token = ""  # it may have been read already, for the configs that were known then
                one.configs, one.seen = configs, str(entry["token"])
                self._note_error(one, error)
                found[path] = one
        self._tell(refused)
        self.watched = found
        self.refused = {path: why for path, why in refused.items() if path not in found}

    def _note_error(self, one: Watched, error: Mapping[str, str] | None) -> None:
        """Take over what a scan found wrong; a read finds out by itself when something temporary is over."""
        lasting = error is not None and error["code"] in {*_LASTING, _EMPTY}
        one.fault = str(error["message"]) if error is not None and lasting else ""
        if error is not None and error["code"] == _EMPTY:
            one.token = one.seen  # there is nothing to read in it
        elif error is not None and not lasting and not one.configs:
            one.trouble = str(error["message"])
            # Only a scan can say whose games it holds, and a writer that holds the whole database lets go of it soon.
            self._scan_wanted = self._scan_wanted or error["code"] == "locked"
        elif error is None and not one.failures:
            one.trouble = ""

    def _tell(self, refused: Mapping[str, str]) -> None:
        for path, why in refused.items():
            if self._told.get(path) != why:
                log.warning("games cannot be read path=%s cause=%s", path, why)
        self._told = dict(refused)

    def watch_folders(self, before: Mapping[Path, int]) -> None:
        """Look at the directories that there are after a scan, and at those of before it as they were then."""
        self._folders = {**self._all_folders(), **before}

    def _all_folders(self) -> dict[Path, int]:
        """The directories in which a database could appear, with the times of their last changes."""
        folders = {Path(root, place) for root in self._roots.paths for place in _PLACES}
        for watched in self.watched.values():
            folder = Path(watched.absolute).parent
            while folder not in folders and self._roots.contains(str(folder)):
                folders.add(folder)
                folder = folder.parent
        for folder in [Path(root, place) for root in self._roots.paths for place in _PLACES[2:]]:
            for inner in _tree(folder):
                if len(folders) >= _MOST_FOLDERS:
                    break
                folders.add(inner)
        return {folder: _changed_at(folder) for folder in folders}


def _tree(top: Path) -> Iterator[Path]:
    """Give the directories below one, as far as they can be read; links are not followed."""
    waiting = [top]
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                    yield (folder := Path(entry.path))
                    waiting.append(folder)


def _changed_at(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0
