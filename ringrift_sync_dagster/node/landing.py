"""A file that arrives whole, by an operator's order: where its bytes collect, and how it gets its name.

Bytes collect beside the destination in ``.<name>.<first 12 digits of the SHA-256>.part``: keyed by content, so that
what goes on there is never another file. What had the name before stays until the whole file is verified and on the
disk. A database that anybody uses is never replaced; an unused one is replaced together with what its last user left
beside it, because SQLite would replay an old log into the new file.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from typing import Any, Dict, Iterator, Optional

from . import recovery
from .errors import KitError
from .patterns import DATABASE_SUFFIXES
from .snapshot import KEEP_SECONDS, SIDECARS, digest_still, is_database, refuse_sidecar

_NAME_BYTES = 200  # a name has 255 at most
_CREATE = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_PRIVATE = 0o600  # until it has its name: it may be a secret
_MOST = 0o644


def place(path: str, name: str, sha256: str, size: int, now: float) -> Dict[str, Any]:
    """Say where a file will lie, and make the place for its bytes.

    Args:
        path: The destination; a slash at its end or a folder of that name means: into it, as ``name``.
        name: The source's name.
        sha256: SHA-256 of what will arrive.
        size: Its length.
        now: The wall clock of this machine, seconds.

    Returns:
        ``final`` and ``part``, absolute; ``bytes``, how much is there; ``complete``, True where the file lies there
        already; ``used`` and ``free`` bytes of the disk.

    Raises:
        KitError: ``locked`` where a database there is in use; ``unreadable`` where something that is no regular file
            has the name; ``no_space``; ``bad_arguments`` where the name is that of a part of a database.

    """
    final = _final(path, name)
    refuse_sidecar(final)
    require_replaceable(final, database=_counts_as_database(final))
    part = part_of(final, sha256)
    _remove_old_parts(part, now)
    numbers = room(os.path.dirname(final))
    complete = _size(final) == size and digest_still(final)[0] == sha256
    missing = 0 if complete else size - min(size, _size(part) or 0)
    if missing > numbers["free"]:
        raise KitError("no_space", f"{missing} more bytes do not fit on the disk of {final}")
    there = 0 if complete else _begin(part, size)
    return {"final": final, "part": part, "bytes": there, "complete": complete, **numbers}


def install(part: str, final: str, sha256: str, size: int) -> None:
    """Give a file that has arrived its name, durably; it has the mode of what it replaces, else its own (``mode_for``).

    Args:
        part: Where it lies, in the folder of ``final``.
        final: Its name.
        sha256: What it must be; empty where that was verified before.
        size: Its length.

    Raises:
        KitError: ``checksum`` where it is another file: it was removed; ``short`` where some of it is missing;
            ``locked`` where a database of that name came into use meanwhile: what arrived stays; ``bad_arguments``
            as for ``place``.

    """
    refuse_sidecar(final)
    there = _size(part) or 0
    if there < size:
        raise KitError("short", f"{there} of {size} bytes have arrived")
    if there > size or (sha256 and digest_still(part)[0] != sha256):
        os.unlink(part)
        raise KitError("checksum", "what arrived is another file; it was removed")
    database = _counts_as_database(final) or is_database(part)
    require_replaceable(final, database=database)
    settle(part, mode_for(_stat(final), os.lstat(part).st_mode))
    if database:
        for suffix in SIDECARS:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(final + suffix)
    os.replace(part, final)
    sync_directory(os.path.dirname(final))


def withdraw(part: str) -> None:
    """Remove a part to which nothing came, because the transfer was not admitted. Idempotent."""
    if part.endswith(".part") and _size(part) == 0:
        os.unlink(part)


def mode_for(before: Optional[os.stat_result], source: int) -> int:
    """Give the permissions of a file that arrives: those of what it replaces, else those of its source.

    Of the latter nobody but the owner may write it, nobody runs it, and its owner can always replace it.
    """
    return source & _MOST | _PRIVATE if before is None else stat.S_IMODE(before.st_mode)


def part_of(final: str, sha256: str) -> str:
    """Give the name under which the bytes of a file collect."""
    folder, name = os.path.split(final)
    short = os.fsencode(name)[:_NAME_BYTES].decode("utf-8", "ignore")
    return os.path.join(folder, f".{short}.{sha256[:12]}.part")


def in_use(path: str) -> str:
    """Say who uses a database, or did until it died; empty where nobody does.

    No thread of this process may have a connection to it.
    """
    for suffix in ("-wal", "-journal"):  # not -shm: whoever read a database read-only leaves one with nothing in it
        length = _size(path + suffix)
        if length:
            return f"{os.path.basename(path)}{suffix} beside it holds {length} bytes of whoever uses it, or did last"
    user = opened_by(path)
    if user:
        return user
    return "another process holds SQLite's lock on it" if recovery.held_by_another_process(path) else ""


def sync_directory(folder: str) -> None:
    """Return when the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def room(folder: str) -> Dict[str, int]:
    """Give ``used`` and ``free`` bytes of the disk that a folder lies on."""
    disk = os.statvfs(folder)
    return {"used": (disk.f_blocks - disk.f_bfree) * disk.f_frsize, "free": disk.f_bavail * disk.f_frsize}


def settle(path: str, mode: int) -> None:
    """Return when the bytes of a file are on the disk; it has these permissions then."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_replaceable(final: str, *, database: bool) -> None:
    """Refuse to replace what a rename would cut off, and a database that anybody uses.

    Args:
        final: The name.
        database: True: a database is there, or is to come.

    Raises:
        KitError: ``unreadable``: a folder, a symbolic link or a device has the name; ``locked``: it is in use.

    """
    found = _stat(final)
    if found is not None and not stat.S_ISREG(found.st_mode):
        kind = "symbolic link" if stat.S_ISLNK(found.st_mode) else "folder or device"
        raise KitError(
            "unreadable", f"a {kind} has the name {os.path.basename(final)}; nothing was replaced: move it away"
        )
    why = in_use(final) if database else ""
    if why:
        name = os.path.basename(final)
        raise KitError("locked", f"{name} is a database in use, and was left as it is: {why}")


def _final(path: str, name: str) -> str:
    expanded = os.path.expanduser(path)
    if expanded.endswith("/") or os.path.isdir(expanded):
        folder, last = os.path.abspath(expanded), name
    else:
        folder, last = os.path.split(os.path.abspath(expanded))
    os.makedirs(folder, exist_ok=True)
    return os.path.join(os.path.realpath(folder), last)


def _counts_as_database(final: str) -> bool:
    return final.lower().endswith(DATABASE_SUFFIXES) or is_database(final)


def _begin(part: str, size: int) -> int:
    """Make the part if it is missing; give how much is there. A longer one is of no use."""
    descriptor = os.open(part, _CREATE, _PRIVATE)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise KitError("unreadable", f"{part} is no regular file; move it away")
        if found.st_size <= size:
            return found.st_size
        os.ftruncate(descriptor, 0)
        return 0
    finally:
        os.close(descriptor)


def opened_by(path: str) -> str:
    """Name a process that has the file open; empty where none is seen: those of other users are not."""
    wanted = _stat(path)
    if wanted is None:
        return ""
    for pid in _processes():
        folder = f"/proc/{pid}/fd"
        with contextlib.suppress(OSError):
            for number in os.listdir(folder):
                found = _target(os.path.join(folder, number))
                if found is not None and os.path.samestat(found, wanted):
                    return f"process {pid} ({_command(pid)}) has it open"
    return ""


def _processes() -> Iterator[str]:
    with contextlib.suppress(OSError):
        yield from (name for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid())


def _command(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/comm", "rb") as stream:
            return stream.read(64).decode("utf-8", "replace").strip()
    except OSError:
        return "it has ended since"


def _remove_old_parts(part: str, now: float) -> None:
    """Remove what arrived of earlier content, for this destination, when nobody went on with it for a day."""
    folder, own = os.path.split(part)
    stem = own[: -len("0123456789ab.part")]
    left = re.compile(re.escape(stem) + r"[0-9a-f]{12}(\.part)?", re.DOTALL)  # without .part: whole, and not installed
    for name in os.listdir(folder):
        if not own.startswith(name) and left.fullmatch(name):
            with contextlib.suppress(FileNotFoundError):
                path = os.path.join(folder, name)
                if now - os.stat(path).st_mtime > KEEP_SECONDS:
                    os.unlink(path)


def _target(path: str) -> Optional[os.stat_result]:
    try:
        return os.stat(path)
    except OSError:
        return None


def _stat(path: str) -> Optional[os.stat_result]:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _size(path: str) -> Optional[int]:
    found = _stat(path)
    return None if found is None or not stat.S_ISREG(found.st_mode) else found.st_size
