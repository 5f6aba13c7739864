"""Files of this node: whole or absent, and one deploy at a time. The rules are those of ``storage.files``."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

_LOOK_SECONDS = 0.2


class RefusedError(Exception):
    """What was asked for cannot be done on this node; the message is for a person."""


def write_whole(path: Path, data: bytes, mode: int) -> None:
    """Replace a file durably: a reader finds the old bytes or the new ones, and a secret is never open to others."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    sync_directory(path.parent)


def switch_link(path: Path, target: str) -> None:
    """Point a symbolic link to another name in one step."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    part.symlink_to(target)
    part.replace(path)
    sync_directory(path.parent)


def read_text(path: Path) -> str | None:
    """Give the content of a small file; None when it is not there."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def sha256(path: Path) -> str | None:
    """Give the SHA-256 of a file in hexadecimal; None when it is not there."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None


def sync_directory(path: Path) -> None:
    """Return when the names in the directory are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def only_one(path: Path, seconds: float) -> Iterator[None]:
    """Hold a lock file while the body runs; the kernel lets go of it when we end, however we end.

    Raises:
        RefusedError: Another process holds it for longer than ``seconds``.

    """
    descriptor = _locked(path, seconds)
    try:
        yield
    finally:
        os.close(descriptor)


def _locked(path: Path, seconds: float) -> int:
    limit = time.monotonic() + seconds  # noqa: TID251 - this runs on the node, where settings.clock is not
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
        else:
            if _is_same(descriptor, path):
                return descriptor
            os.close(descriptor)  # whoever held it removed the directory meanwhile
        if time.monotonic() > limit:  # noqa: TID251 - as above
            raise RefusedError("another deploy works on this node now; try again when it has ended")
        time.sleep(_LOOK_SECONDS)


def _is_same(descriptor: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False
