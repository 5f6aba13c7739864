"""The file of the outbox: its tables, what opens it whatever has become of it, and room for its last transactions."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ringrift_sync_dagster.errors import LocalDiskError
from ringrift_sync_dagster.storage.files import disk_errors, fsync_dir, fsync_file, make_dirs

log = logging.getLogger(__name__)

RESERVE_BYTES: Final = 512 * 1024
_OPEN, _WRITTEN, _PLACED = range(3)  # how far ``renew`` is
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS entries (
    sha256 TEXT PRIMARY KEY, config TEXT NOT NULL, path TEXT NOT NULL, size_bytes INTEGER NOT NULL,
    games INTEGER NOT NULL, created REAL NOT NULL, tries INTEGER NOT NULL DEFAULT 0, error TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS games (
    path TEXT NOT NULL, game_id TEXT NOT NULL, sha256 TEXT NOT NULL, identity TEXT NOT NULL,
    PRIMARY KEY (path, game_id, sha256)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS games_by_pack ON games (sha256);
CREATE TABLE IF NOT EXISTS copies (
    sha256 TEXT NOT NULL, node TEXT NOT NULL, durable INTEGER NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (sha256, node)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cursors (
    path TEXT NOT NULL, config TEXT NOT NULL, cursor TEXT NOT NULL, PRIMARY KEY (path, config)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS saved (
    serial INTEGER PRIMARY KEY, path TEXT NOT NULL, game_id TEXT NOT NULL, identity TEXT NOT NULL, at REAL NOT NULL,
    UNIQUE (path, game_id));
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


class Reserve:
    """Room on the disk that is given up when the disk is full, so that what is durable can still be noted.

    Args:
        path: The file that takes it.

    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.make()

    def make(self) -> None:
        """Take the room, where the disk has so much to spare; without it all goes on. Idempotent."""
        with contextlib.suppress(OSError):
            if self._path.exists() or shutil.disk_usage(self._path.parent).free < 2 * RESERVE_BYTES:
                return
            with self._path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)

    def release(self) -> None:
        """Give it up. Idempotent."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


class OutboxFile:
    """The open database of an outbox; not for several threads at once.

    Args:
        path: Its name.

    Raises:
        LocalDiskError: The disk refuses.

    """

    def __init__(self, path: Path) -> None:
        self._path, self._part = path, path.with_name(f"{path.name}.part")
        self._is_ended = self._is_whole = False
        self._step = _OPEN
        self.conn = _opened(path)
        """What is open; another one after ``renew``."""
        self._identity = _identity(path)

    def close(self) -> None:
        """Close it for good. Idempotent."""
        self._is_ended = True
        self.conn.close()

    def is_there(self) -> bool:
        """Say whether its name still leads to what is open: somebody may have removed or replaced the file."""
        return self._is_ended or (self._step == _OPEN and _identity(self._path) == self._identity)

    def renew(self) -> bool:
        """Give what is open its name again, and go on there; say whether its rows could be read still.

        Where they could not, what goes on is empty. A file that has the name meanwhile is set aside.

        Raises:
            LocalDiskError: The disk refuses; nothing is lost by that, and the next call goes on.

        """
        make_dirs(self._path.parent)
        if self._step == _OPEN:
            self._is_whole = self._write_part()
            self.conn.close()  # Before the file has its name: SQLite removes the log of the name, whosever it is.
            self._step = _WRITTEN
        if self._step == _WRITTEN:
            with disk_errors(self._path, "make anew"):
                if self._path.exists():
                    self._path.replace(self._path.with_name(f"{self._path.name}.foreign"))
                for suffix in ("-wal", "-shm"):
                    self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
                if self._is_whole:
                    self._part.replace(self._path)
            self._step = _PLACED
        fsync_dir(self._path.parent)
        self.conn, self._step = _opened(self._path), _OPEN
        self._identity = _identity(self._path)
        return self._is_whole

    def _write_part(self) -> bool:
        """Write all rows to another file, durably; False where they cannot be read any more."""
        with contextlib.closing(sqlite3.connect(":memory:")) as rows:
            try:
                self.conn.backup(rows)
            except sqlite3.Error as error:
                log.warning("the rows of the outbox cannot be read any more file=%s cause=%s", self._path, error)
                return False
            self._part.unlink(missing_ok=True)
            with contextlib.closing(sqlite3.connect(self._part)) as target:
                rows.backup(target)
        fsync_file(self._part)
        return True


def _identity(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


def _opened(path: Path) -> sqlite3.Connection:
    """Open the database; one that is no database any more is set aside: all games are then read and sent again.

    Raises:
        LocalDiskError: The disk refuses.

    """
    try:
        return _connected(path)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise LocalDiskError("", "", f"the outbox cannot be opened: {path}: {error}") from error
        with disk_errors(path, "set aside"):
            path.replace(path.with_name(f"{path.name}.damaged"))
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
        log.warning("the outbox was damaged and is set aside; all games are read again file=%s cause=%s", path, error)
        return _connected(path)


def _connected(path: Path) -> sqlite3.Connection:
    conn = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10.0)
    try:
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            conn.execute(f"PRAGMA {pragma}").fetchall()
        conn.executescript(_TABLES)
    except sqlite3.Error:
        conn.close()
        raise
    return conn


@contextlib.contextmanager
def translated(folder: Path) -> Iterator[None]:
    """Let an error of SQLite out as one of the disk that ``folder`` lies on."""
    try:
        yield
    except sqlite3.Error as error:
        raise LocalDiskError("", "", f"the outbox beside {folder} refuses: {error}; look at the disk") from error


def forget(conn: sqlite3.Connection, sha256: str) -> None:
    """Remove all rows of an entry."""
    for table in ("copies", "games", "entries"):
        conn.execute(f"DELETE FROM {table} WHERE sha256 = ?", (sha256,))  # noqa: S608 - names of ours


def forget_and_read_again(conn: sqlite3.Connection, sha256: str) -> None:
    """Remove all rows of an entry, and the cursor of its database."""
    conn.execute(
        "DELETE FROM cursors WHERE (path, config) IN (SELECT path, config FROM entries WHERE sha256 = ?)", (sha256,)
    )
    forget(conn, sha256)
