"""The file of known host keys: what is added to it stands on a line of its own, whole and durable."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ringrift_sync_dagster.errors import LocalDiskError
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.storage.files import disk_errors, fsync_dir

_LOCK_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 0.02


def add_known_host(file: Path, line: str) -> None:
    """Append one line, durably and whole, whatever the file ends with and whoever else adds one now.

    Args:
        file: The file; made with its folders, for this user alone, when there is none.
        line: Host, type and key, without the line's end.

    Raises:
        LocalDiskError: It cannot be written.

    """
    with disk_errors(file, "write"):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_new = not file.exists()
        _append(file, line.encode("ascii") + b"\n")
    if is_new:
        fsync_dir(file.parent)


def end_last_line(file: Path) -> None:
    """End the file's last line where that was not done: OpenSSH would write the next key on the same line.

    Raises:
        LocalDiskError: It cannot be written.

    """
    with disk_errors(file, "write"):
        if file.exists() and _is_open(file.read_bytes()):
            _append(file, b"")


def _append(file: Path, data: bytes) -> None:
    descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with _locked(descriptor, file):
            last = os.pread(descriptor, 1, max(0, os.fstat(descriptor).st_size - 1))
            whole = (b"\n" if _is_open(last) else b"") + data
            if os.write(descriptor, whole) != len(whole):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_open(end: bytes) -> bool:
    return not end.endswith(b"\n") and end != b""


@contextlib.contextmanager
def _locked(descriptor: int, file: Path) -> Iterator[None]:
    """Hold the file's lock; it ends with the descriptor."""
    limit = Deadline(_LOCK_SECONDS)
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if limit.expired:
                message = f"{file} has been locked by another process for {_LOCK_SECONDS:.0f} s; end that one"
                raise LocalDiskError("", "", message) from None
            threading.Event().wait(_LOOK_SECONDS)
    yield
