"""Steps on single files that must be on the disk before the next one: hash, seal, replace, look, remove."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import List, Optional

from . import packfile
from .errors import KitError
from .landing import sync_directory

_READ_ONLY = 0o444
_MAX_BYTES = 4 << 20
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def digest_of(path: str) -> str:
    """Hash a regular file that stands still.

    Raises:
        KitError: ``unreadable`` where it is none, ``changed`` where it did not.

    """
    descriptor = os.open(path, _OPEN)
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise KitError("unreadable", f"{os.path.basename(path)} is no regular file; move it away")
        digest = packfile.file_sha256(f"/dev/fd/{descriptor}")
        if identity(os.fstat(descriptor)) != identity(before):
            raise KitError("changed", f"{os.path.basename(path)} changed while it was read; ask again later")
        return digest
    finally:
        os.close(descriptor)


def settle_read_only(path: str) -> None:
    """Let everybody read the file and nobody write it; its bytes are on the disk on return."""
    descriptor = os.open(path, _OPEN)
    try:
        os.fchmod(descriptor, _READ_ONLY)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path: str, data: bytes) -> None:
    """Replace a small file durably."""
    part = f"{path}.part"
    unlink(part)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(part, path)
    sync_directory(os.path.dirname(path))


def content(path: str) -> bytes:
    """Give the bytes of a small file; none where there is no such file."""
    try:
        with open(path, "rb") as stream:
            return stream.read(_MAX_BYTES)
    except FileNotFoundError:
        return b""


def identity(found: os.stat_result) -> List[int]:
    """Give what stays the same while nobody writes to a file."""
    return [found.st_ino, found.st_size, found.st_mtime_ns]


def lstat(path: str) -> Optional[os.stat_result]:
    """Look at a name without following it; None where nothing has it."""
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def unlink(path: str) -> None:
    """Remove a name. Idempotent."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
