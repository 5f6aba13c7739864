"""Read a database whose writer died: copy it with its journal or log, prove that neither changed, recover the copy.

Two cases exist: a hot rollback journal, which a read-only connection may not roll back, and a WAL database in a
folder that we cannot write, where the shared memory file cannot be made. The proof has three parts: no process
holds a lock of SQLite's, this process itself has no connection to it (closing any descriptor would drop that
connection's locks), and the change token is the same before and after.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sqlite3
import struct
import sys
import tempfile
import threading
import urllib.parse
from typing import Dict, Iterator, Set, Tuple

from . import gate
from .errors import KitError, from_os_error

# SQLite's file format: pending, reserved and shared bytes of the main file; the WAL locks and "dead man switch" of
# -shm.
_MAIN_LOCKS = (0x40000000, 512)
_SHM_LOCKS = (120, 9)
# struct flock: (format, order of type, whence, start, length, pid).
_FLOCK = "@qqihh" if sys.platform == "darwin" else "@hhqqi"
_CHUNK_BYTES = 1 << 20
_PREFIX = "recovered-"

_Key = Tuple[int, int]


class _InUse:
    """Which databases this process reads now, and which it copies; the two exclude each other."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._readers: Dict[_Key, int] = {}
        self._copied: Set[_Key] = set()

    @contextlib.contextmanager
    def reading(self, key: _Key) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: key not in self._copied)
            self._readers[key] = self._readers.get(key, 0) + 1
        try:
            yield
        finally:
            with self._changed:
                self._readers[key] -= 1
                if not self._readers[key]:
                    del self._readers[key]

    @contextlib.contextmanager
    def copying(self, key: _Key, path: str) -> Iterator[None]:
        with self._changed:
            if key in self._readers or key in self._copied:
                raise KitError("locked", "this process reads the database already; ask again later", path)
            self._copied.add(key)
        try:
            yield
        finally:
            with self._changed:
                self._copied.discard(key)
                self._changed.notify_all()


_IN_USE = _InUse()


def _key(path: str) -> _Key:
    try:
        found = os.stat(path)
    except OSError as error:
        raise from_os_error(error, path) from error
    return (found.st_dev, found.st_ino)


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Say that this process has a connection to the database while the context lasts; waits for a copy being made."""
    with _IN_USE.reading(_key(path)):
        yield


def _range_held(path: str, start: int, length: int) -> bool:
    """Tell whether another process holds a lock in this range; opens and closes the file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # We cannot look, so we must not assume.
    try:
        wanted = (start, length, 0, fcntl.F_WRLCK, os.SEEK_SET)
        order = wanted if sys.platform == "darwin" else (fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
        answer = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack(_FLOCK, *order)))
        return bool(answer[3 if sys.platform == "darwin" else 0] != fcntl.F_UNLCK)
    finally:
        os.close(descriptor)


def held_by_another_process(path: str) -> bool:
    """Tell whether another process has the database open in a way that SQLite's locks show.

    Must not be called while this process has a connection to it.
    """
    return _range_held(path, *_MAIN_LOCKS) or _range_held(path + "-shm", *_SHM_LOCKS)


def _require_alone(path: str) -> None:
    if held_by_another_process(path):
        raise KitError("locked", "a writer left work behind and another process holds the database", path)


def _remove_leftovers(folder: str) -> None:
    """Remove the copies of processes that were killed; their names tell the process."""
    for name in os.listdir(folder):
        owner = name[len(_PREFIX) :].split("-")[0]
        if not name.startswith(_PREFIX) or not owner.isdigit():
            continue
        try:
            os.kill(int(owner), 0)
        except ProcessLookupError:
            shutil.rmtree(os.path.join(folder, name), ignore_errors=True)
        except OSError:
            continue


def _copy(source: str, target: str) -> None:
    with open(source, "rb") as reader, open(target, "xb") as writer:
        shutil.copyfileobj(reader, writer, _CHUNK_BYTES)


def _require_space(path: str, folder: str) -> None:
    """Ask for twice the size: recovering writes the log's pages into the copy."""
    needed = sum(2 * os.stat(name).st_size for name in (path, path + "-wal", path + "-journal") if os.path.exists(name))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise KitError("no_space", f"a recovered copy needs {needed} bytes of scratch, {free} are free", path)


def _copy_unchanged(path: str, copy: str) -> None:
    """Copy the database with what its writer left, and prove that it stood still meanwhile."""
    with _IN_USE.copying(_key(path), path):
        _require_alone(path)
        before = gate.change_token(path)
        _copy(path, copy)
        for suffix in ("-wal", "-journal"):
            if os.path.exists(path + suffix):
                _copy(path + suffix, copy + suffix)
        _require_alone(path)
        if gate.change_token(path) != before:
            raise KitError("changed", "the database changed while a copy of it was made; ask again later", path)


def _recover(copy: str) -> None:
    """Let SQLite roll back the journal, or bring the log into the copy."""
    uri = "file:" + urllib.parse.quote(os.fsencode(copy)) + "?mode=rw"
    with contextlib.closing(sqlite3.connect(uri, isolation_level=None, uri=True)) as conn:
        for pragma in ("trusted_schema=OFF", "synchronous=OFF", "mmap_size=0"):
            conn.execute(f"PRAGMA {pragma}")
        conn.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()


def _prepare(path: str, folder: str, kept: contextlib.ExitStack) -> str:
    os.makedirs(folder, exist_ok=True)
    _remove_leftovers(folder)
    _require_space(path, folder)
    own = kept.enter_context(tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-", dir=folder))
    copy = os.path.join(os.path.realpath(own), "copy.db")
    _copy_unchanged(path, copy)
    try:
        _recover(copy)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise KitError("corrupt", f"the database cannot be recovered: {error}", path) from error
    return copy


@contextlib.contextmanager
def recovered_copy(path: str, scratch: str) -> Iterator[str]:
    """Give the path of a recovered copy, removed at the end; the database itself is only read.

    Raises:
        KitError: ``locked``, ``changed``, ``no_space``, ``unreadable``, or ``corrupt`` where it cannot be recovered.

    """
    with contextlib.ExitStack() as kept:
        try:
            copy = _prepare(path, os.path.join(scratch, "tmp"), kept)
        except OSError as error:
            raise from_os_error(error, path) from error
        yield copy
