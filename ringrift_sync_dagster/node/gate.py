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


Stamp = Tuple[int, int, int]
"""Of one file: inode, size in bytes, modification time in ns since 1970."""
Glance = Tuple[Optional[Stamp], Optional[Stamp], Optional[Stamp], str]
"""Of one database: the main file, its log, its rollback journal, and the header of the log."""


def _stat(path: str) -> Optional[os.stat_result]:
    try:
        return os.stat(path)
    except (OSError, ValueError):
        return None


def _mark(found: Optional[Stamp]) -> str:
    return ABSENT if found is None else f"{found[0]:x}.{found[1]:x}.{found[2]:x}"


def _stamp(found: Optional[os.stat_result]) -> Optional[Stamp]:
    return None if found is None else (found.st_ino, found.st_size, found.st_mtime_ns)


def _sidecar(path: str) -> Optional[Stamp]:
    found = _stat(path)
    return _stamp(found) if found is not None and found.st_size else None


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


def glance(db_path: str, main: Optional[os.stat_result] = None) -> Glance:
    """Give what a change token is made of: equal glances have equal tokens, and are cheaper to compare.

    Args:
        db_path: Path of the main file; a missing file and a directory have a token too.
        main: The main file's stat, where the caller has it already.

    """
    wal = _sidecar(db_path + "-wal")
    header = ABSENT if wal is None else _wal_header(db_path)
    return _stamp(main or _stat(db_path)), wal, _sidecar(db_path + "-journal"), header


def told(seen: Glance) -> Tuple[str, int]:
    """Give the change token of a glance and the newest modification time of its files (ns since 1970)."""
    main, wal, journal, header = seen
    newest = max((part[2] for part in (main, wal, journal) if part is not None), default=0)
    return "|".join((_mark(main), _mark(wal), _mark(journal), header)), newest


def look(db_path: str, main: Optional[os.stat_result] = None) -> Tuple[str, int]:
    """Give the change token of a database and the newest modification time of its files; ``main`` as for a glance."""
    return told(glance(db_path, main))


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
    return _mark(_stamp(found))


def still(changed_ns: int, now: float) -> bool:
    """Tell whether a change lies more than 2 s back; ``now`` is in seconds since 1970.

    A time in the future does not: another machine's clock wrote it.
    """
    return now - changed_ns / 1e9 > SETTLED_SECONDS


def settled(db_path: str, now: float) -> bool:
    """Tell whether nothing was written to a database during the last 2 s by its files' clock; see ``still``."""
    return still(look(db_path)[1], now)
