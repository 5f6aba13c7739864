"""The file of the outbox: its tables, what opens it whatever it has become, and room for its last transactions."""

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
from ringrift_sync_dagster.storage.files import disk_errors

log = logging.getLogger(__name__)

RESERVE_BYTES: Final = 512 * 1024
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


def opened(path: Path) -> sqlite3.Connection:
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
