"""Files that are whole or absent: what a name shows after a crash or a power cut is the old bytes or the new ones.

The rule everywhere: write beside the final name, fsync the file, rename, fsync the directory. A file that was renamed
without its fsync came back empty after a power cut (field_notes.md, 5). Failures of our own disk leave this file as
``LocalDiskError`` only. Nobody may open, hash or copy a database here while this process has a SQLite connection to
it: closing the descriptor would drop SQLite's locks (architecture.md, 4).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from ringrift_sync_dagster.errors import LocalDiskError, TransferCancelledError
from ringrift_sync_dagster.node.faults import reached

CHUNK_BYTES: Final = 1 << 20
"""How much is read at a time; memory use does not depend on the size of the file."""

WRITE_BYTES: Final = 128 << 10
"""How much one write hands over: writes of 1 MiB into new pages took 4 to 10 times as long (Linux 6.18, ext4 with large
folios: 0.5 to 1.4 s for 512 MB, and 0.12 s in pieces of 16 KiB to 256 KiB)."""

WRITEBACK_BYTES: Final = 16 << 20
"""After so many bytes of a growing file the kernel is told to begin writing them, so that the fsync finds little."""

_SYNC_FILE_RANGE_WRITE: Final = 2
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)

_ADVICE: Final = {
    errno.ENOSPC: "the disk is full; free space and start again: what has arrived is kept",
    errno.EDQUOT: "the quota of this user is used up; free space and start again: what has arrived is kept",
    errno.EACCES: "this user may not do that; give the directory to the user who runs the sync",
    errno.EPERM: "this user may not do that; give the directory to the user who runs the sync",
    errno.EROFS: "the file system is read-only; mount it for writing, and look into the kernel log for disk errors",
    errno.EIO: "the disk reports an input or output error; look into the kernel log before you go on",
    errno.ENOENT: "it is not there; something else removed it, and the next try fetches or makes it again",
    errno.EXDEV: "the two names lie on different file systems; keep the incoming directory on the disk of its target",
}


@contextlib.contextmanager
def disk_errors(path: Path, action: str) -> Iterator[None]:
    """Translate the operating system's errors of the body.

    Args:
        path: The file or directory that the body works on.
        action: What the body does, as in "cannot <action> <path>".

    Raises:
        LocalDiskError: The body raised OSError; names the path and says what to do.

    """
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "look at the disk of this machine")
        reason = error.strerror or str(error)
        raise LocalDiskError("", "", f"cannot {action} {path}: {reason}; {advice}") from error


def begin_writeback(descriptor: int, offset: int, count: int) -> None:
    """Ask the kernel to begin writing a range of a file to the disk; returns at once and promises nothing.

    With 512 MB it took 0.2 s off the fsync at the end. Where the system cannot do it, nothing happens.
    """
    if _sync_file_range is not None:
        _sync_file_range(descriptor, ctypes.c_int64(offset), ctypes.c_int64(count), _SYNC_FILE_RANGE_WRITE)


def fsync_file(path: Path) -> None:
    """Return when the bytes of the file are on the disk.

    Raises:
        LocalDiskError: The file is missing, or the disk refuses.

    """
    with disk_errors(path, "sync"):
        _fsync(path, os.O_RDONLY)


def fsync_dir(path: Path) -> None:
    """Return when the names in the directory (created, renamed, removed) are on the disk.

    Raises:
        LocalDiskError: The directory is missing, or the disk refuses.

    """
    with disk_errors(path, "sync the directory"):
        _fsync(path, os.O_RDONLY | os.O_DIRECTORY)


def make_dirs(path: Path) -> Path:
    """Create the directory and its missing parents durably; give it back. Idempotent.

    Raises:
        LocalDiskError: A name on the way is a file, or the disk refuses.

    """
    if path.is_dir():
        return path
    make_dirs(path.parent)
    with disk_errors(path, "create the directory"):
        path.mkdir(exist_ok=True)
    fsync_dir(path.parent)
    return path


def install(part: Path, final: Path, *, root: Path | None = None) -> None:
    """Give a finished file its final name, durably: fsync the file, rename, fsync the directory.

    What ``final`` named before stays whole until the rename; a reader that has it open keeps the old bytes.

    Args:
        part: The finished file, on the same file system as ``final``.
        final: The name it gets; its directory exists.
        root: The tree that ``final`` belongs to; by default the directory of ``final``.

    Raises:
        LocalDiskError: ``final`` is a directory or a symbolic link that points out of the tree (the file behind such a
            link was put elsewhere on purpose, and a rename would silently cut it off), or the disk refuses. ``part``
            is still there.

    """
    _refuse_target(final, final.parent if root is None else root)
    fsync_file(part)
    reached("install.synced")
    with disk_errors(final, "install"):
        part.rename(final)
    reached("install.renamed")
    fsync_dir(final.parent)
    reached("install.durable")


def atomic_write_bytes(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace the file with these bytes, durably; after a crash it has the old content or the new one.

    Args:
        path: The file; its directory exists.
        data: The whole new content.
        mode: Permissions of the new file, from its first moment on (a secret is never readable in between).

    Raises:
        LocalDiskError: As for ``install``; nothing is left behind.

    """
    with new_part(path, mode) as (part, stream):
        with disk_errors(path, "write"), stream:
            stream.write(data)
        install(part, path)


def atomic_write_text(path: Path, data: str, mode: int = 0o644) -> None:
    """Do as ``atomic_write_bytes`` with text in UTF-8."""
    atomic_write_bytes(path, data.encode(), mode)


@contextlib.contextmanager
def new_part(path: Path, mode: int = 0o644) -> Iterator[tuple[Path, BinaryIO]]:
    """Open a new file beside ``path`` with a name that nobody else has; it is removed unless the body renames it.

    Raises:
        LocalDiskError: The directory is missing or not writable.

    """
    part = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.part")
    with disk_errors(part, "create"):
        stream = os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb")
    try:
        with disk_errors(part, "create"):
            os.fchmod(stream.fileno(), mode)  # the process's umask must not decide who may read
        yield part, stream
    finally:
        with contextlib.suppress(OSError):
            stream.close()
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def sha256_file(path: Path, cancel: threading.Event | None = None) -> str:
    """Give the SHA-256 of the file's bytes in lower-case hexadecimal.

    Args:
        path: The file; read in steps of 1 MiB.
        cancel: When set by another thread, the reading stops.

    Raises:
        LocalDiskError: The file cannot be read.
        TransferCancelledError: ``cancel`` was set.

    """
    digest = hashlib.sha256()
    with disk_errors(path, "read"), path.open("rb", buffering=0) as stream:
        for chunk in iter(lambda: stream.read(CHUNK_BYTES), b""):
            check_cancel(cancel, path)
            digest.update(chunk)
    return digest.hexdigest()


def check_cancel(cancel: threading.Event | None, path: Path) -> None:
    """Raise TransferCancelledError when the event is set; ``path`` is the file at hand."""
    if cancel is not None and cancel.is_set():
        raise TransferCancelledError("", "", f"reading {path} was stopped because we were asked to stop")


def confined(root: Path, relative: str) -> Path:
    """Give the path of ``relative`` under ``root``, for names that came from outside.

    The file need not exist. Symbolic links inside the tree are followed, and must stay inside.

    Raises:
        ValueError: The name is empty, absolute, holds NUL or ``..``, or leads out of the tree through a link.

    """
    parts = relative.split("/")
    if not relative or "\0" in relative or relative.startswith("/") or ".." in parts:
        raise ValueError(f"{relative!r} is not a path inside {root}: use a relative path without '..'")
    path = root / relative
    if not path.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"{relative!r} leads out of {root} through a symbolic link")
    return path


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refuse_target(final: Path, tree: Path) -> None:
    with disk_errors(final, "look at"):
        try:
            mode = final.lstat().st_mode
        except FileNotFoundError:
            return
    if stat.S_ISDIR(mode):
        raise LocalDiskError("", "", f"cannot install {final}: a directory has that name; move it away")
    if stat.S_ISLNK(mode) and not final.resolve().is_relative_to(tree.resolve()):
        target = final.readlink()
        raise LocalDiskError(
            "", "", f"cannot install {final}: it is a symbolic link to {target}, outside {tree}; remove the link first"
        )
