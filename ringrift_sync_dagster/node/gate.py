"""The cheap gate: has a database changed since we last looked, told by stat and the WAL header alone.

Neither the main file nor ``-shm`` is ever opened here: closing any descriptor of them drops the locks that SQLite
holds for the whole process. An empty sidecar counts as none, because a reader of a WAL database leaves an empty
``-wal`` behind.
"""

from __future__ import annotations

import os
from typing import Optional, Tuple

SETTLED_SECONDS = 2.0  # The coarsest time stamp of a file system in use (FAT) ticks every 2 s.
_WAL_HEADER_BYTES = 32
ABSENT = "-"
UNSETTLED = "~"
"""Begins the token of a database that was read while it may have been written."""


def _stat(path: str) -> Optional[os.stat_result]:
    try:
        return os.stat(path)
    except (OSError, ValueError):
        return None


def _sidecars(db_path: str) -> Tuple[Optional[os.stat_result], Optional[os.stat_result]]:
    wal, journal = _stat(db_path + "-wal"), _stat(db_path + "-journal")
    wal = wal if wal is not None and wal.st_size else None
    return wal, journal if journal is not None and journal.st_size else None


def _mark(found: Optional[os.stat_result]) -> str:
    return ABSENT if found is None else f"{found.st_ino:x}.{found.st_size:x}.{found.st_mtime_ns:x}"


def _wal_header(db_path: str) -> str:
    """Read the header, whose salts change whenever the log starts again at the front without changing its size."""
    try:
        descriptor = os.open(db_path + "-wal", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ABSENT
    try:
        return os.read(descriptor, _WAL_HEADER_BYTES).hex() or ABSENT
    except OSError:
        return ABSENT
    finally:
        os.close(descriptor)


def look(db_path: str, main: Optional[os.stat_result] = None) -> Tuple[str, int]:
    """Give the change token of a database and the newest modification time of its files (ns since 1970).

    Args:
        db_path: Path of the main file; a missing file and a directory have a token too.
        main: The main file's stat, where the caller has it already.

    """
    found = main or _stat(db_path)
    wal, journal = _sidecars(db_path)
    header = ABSENT if wal is None else _wal_header(db_path)
    newest = max((part.st_mtime_ns for part in (found, wal, journal) if part is not None), default=0)
    return "|".join((_mark(found), _mark(wal), _mark(journal), header)), newest


def change_token(db_path: str) -> str:
    """Give text that differs whenever the database's files differ by inode, size, time or WAL header.

    Equal tokens mean "unchanged" only for a database that was ``settled`` when the first of them was taken.
    """
    return look(db_path)[0]


def token_of_read(db_path: str, now: float) -> str:
    """Give what a reader remembers to have read: the change token, marked where a write could still hide behind it.

    A marked one equals no token of the file, so that it is read again; that it changes shows that reading goes on.
    """
    token = change_token(db_path)
    return token if settled(db_path, now) else UNSETTLED + token


def file_token(found: os.stat_result) -> str:
    """Give the token of a file that is no database."""
    return _mark(found)


def still(changed_ns: int, now: float) -> bool:
    """Tell whether a change lies more than 2 s back; ``now`` is in seconds since 1970.

    A time in the future does not: another machine's clock wrote it.
    """
    return now - changed_ns / 1e9 > SETTLED_SECONDS


def settled(db_path: str, now: float) -> bool:
    """Tell whether nothing was written to a database during the last 2 s by its files' clock; see ``still``."""
    return still(look(db_path)[1], now)
