"""A file that leaves this machine whole, by an operator's order: a database as a snapshot, any other as it lies.

A snapshot is made by SQLite's online backup in one step from a read-only connection: it holds every transaction that
was committed before it began, and the database is neither checkpointed nor changed in any other way. It lies in the
scratch folder under a name that the caller chose, until the caller discards it or a day is over.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import stat
from typing import Any, Dict, Optional, Tuple

from . import gate, reader
from .errors import KitError, from_os_error
from .patterns import DATABASE_SUFFIXES

KEEP_SECONDS = 24 * 3600.0
SIDECARS = ("-wal", "-shm", "-journal")
SIDECAR = "this is a part of a database, and would be replayed into another one: copy the database"
_MAGIC = b"SQLite format 3\0"
_CHUNK_BYTES = 1 << 20
_SPARE_BYTES = 64 << 20
_BUSY = (5, 6)  # SQLITE_BUSY, SQLITE_LOCKED
_BUSY_TRIES = 20
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe must not hold us up
_SIDECAR_NAMES = tuple(suffix + side for suffix in DATABASE_SUFFIXES for side in SIDECARS)


def freeze(path: str, token: str, scratch: str, now: float) -> Dict[str, Any]:
    """Give what is to be carried of a file: ``path``, ``sha256``, ``bytes``, ``mode``, and if it is a ``snapshot``.

    Args:
        path: The file; ``~`` and symbolic links are followed.
        token: What the snapshot is named by, for ``discard``.
        scratch: The kit's own folder.
        now: The wall clock of this machine, seconds.

    Raises:
        KitError: ``missing``, ``unreadable``, ``changed`` where a file that is no database did not stand still,
            ``no_space``, and the codes of ``reader``; ``corrupt`` where SQLite's check finds the snapshot damaged;
            ``bad_arguments`` where it is a part of a database.

    """
    real = os.path.realpath(os.path.expanduser(path))
    refuse_sidecar(real)
    if is_database(real):
        mode = os.stat(real).st_mode
        return {**snapshot_of(real, token, scratch, now), "mode": mode}
    digest, found = digest_still(real)
    return {"path": real, "sha256": digest, "bytes": found.st_size, "mode": found.st_mode, "snapshot": False}


def discard(token: str, scratch: str) -> None:
    """Remove the snapshot of this name. Idempotent."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_place(token, scratch))


def is_database(path: str) -> bool:
    """Tell whether a file is an SQLite database: by its first bytes, or by its name and what lies beside it.

    Nobody in this process may have a connection to it: the file is opened and closed.
    """
    if path.lower().endswith(DATABASE_SUFFIXES) and any(_length(path + suffix) for suffix in SIDECARS):
        return True
    try:
        descriptor = os.open(path, _READ)
    except OSError:
        return False
    try:
        return stat.S_ISREG(os.fstat(descriptor).st_mode) and os.read(descriptor, len(_MAGIC)) == _MAGIC
    finally:
        os.close(descriptor)


def is_sidecar_name(name: str) -> bool:
    """Tell whether SQLite would take a file of this name for a part of a database, by the name alone."""
    return name.lower().endswith(_SIDECAR_NAMES)


def refuse_sidecar(path: str) -> None:
    """Refuse a log, a journal or an index of a database: SQLite replays it into whatever database lies beside it.

    Raises:
        KitError: ``bad_arguments``.

    """
    side = next((side for side in SIDECARS if path.endswith(side)), "")
    if is_sidecar_name(path) or (side and is_database(path[: -len(side)])):
        raise KitError("bad_arguments", SIDECAR, path)


def digest_still(path: str) -> Tuple[str, os.stat_result]:
    """Stream the SHA-256 of a file that stands still meanwhile.

    Raises:
        KitError: ``changed`` where it did not; ``missing`` and ``unreadable``.

    """
    try:
        descriptor = os.open(path, _READ)
    except OSError as error:
        raise from_os_error(error, path) from error
    try:
        before, digest = os.fstat(descriptor), hashlib.sha256()
        if not stat.S_ISREG(before.st_mode):
            raise KitError("unreadable", "this is no regular file", path)
        for chunk in iter(lambda: os.read(descriptor, _CHUNK_BYTES), b""):
            digest.update(chunk)
        after = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if gate.file_token(before) != gate.file_token(after):
        raise KitError("changed", "the file changed while it was read; ask again later", path)
    return digest.hexdigest(), before


def snapshot_of(path: str, token: str, scratch: str, now: float) -> Dict[str, Any]:
    """Make a checked snapshot of a database; the file itself is opened by SQLite only.

    Arguments and errors as for ``freeze``; nobody else's snapshot has this token.
    """
    copy = _place(token, scratch)
    os.makedirs(os.path.dirname(copy), exist_ok=True)
    _remove_old(os.path.dirname(copy), now)
    os.close(os.open(copy, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    try:
        with reader.open_source(path, scratch) as conn:
            _require_room(conn, copy, path)
            _back_up(conn, copy, path)
        _check(copy, path)
        digest, found = digest_still(copy)
    except BaseException:
        discard(token, scratch)
        raise
    return {"path": copy, "sha256": digest, "bytes": found.st_size, "snapshot": True}


def _back_up(conn: sqlite3.Connection, copy: str, path: str) -> None:
    """Copy all pages in one step: a backup in several would begin anew with every commit of a writer."""
    tries = []

    def look(status: int, _remaining: int, _total: int) -> None:
        if status in _BUSY:
            tries.append(status)
        if len(tries) >= _BUSY_TRIES:
            raise KitError("locked", "a writer holds the whole database; ask again later", path)

    with contextlib.closing(sqlite3.connect(copy, isolation_level=None)) as target:
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "mmap_size=0"):
            target.execute(f"PRAGMA {pragma}")
        conn.backup(target, pages=-1, progress=look)


def _check(copy: str, path: str) -> None:
    """Let SQLite look at the structure of the snapshot: a damaged database must not replace a sound one elsewhere."""
    # immutable: a snapshot of a WAL database says WAL in its header, and reading it must not make files beside it.
    uri = f"file:{reader.uri_path(copy)}?mode=ro&immutable=1"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as conn:
            for pragma in ("trusted_schema=OFF", "ignore_check_constraints=ON", "cell_size_check=ON", "mmap_size=0"):
                conn.execute(f"PRAGMA {pragma}")
            told = str(conn.execute("PRAGMA quick_check(1)").fetchone()[0])
    except reader.SQLITE_ERRORS as error:
        raise KitError("corrupt", f"SQLite cannot check a snapshot of it: {error}", path) from error
    if told != "ok":
        raise KitError("corrupt", f"SQLite finds it damaged: {told}", path)


def _require_room(conn: sqlite3.Connection, copy: str, path: str) -> None:
    pages, size = (int(conn.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("page_count", "page_size"))
    disk = os.statvfs(os.path.dirname(copy))
    free = disk.f_bavail * disk.f_frsize
    if free < pages * size + _SPARE_BYTES:
        raise KitError("no_space", f"a snapshot needs {pages * size} bytes of scratch, {free} are free", path)


def _remove_old(folder: str, now: float) -> None:
    """Remove snapshots that nobody discarded: their callers were killed."""
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            path = os.path.join(folder, name)
            if name.startswith("snapshot-") and now - os.stat(path).st_mtime > KEEP_SECONDS:
                os.unlink(path)


def _place(token: str, scratch: str) -> str:
    return os.path.join(scratch, "tmp", f"snapshot-{token}.db")


def _length(path: str) -> Optional[int]:
    try:
        return os.stat(path).st_size
    except OSError:
        return None
