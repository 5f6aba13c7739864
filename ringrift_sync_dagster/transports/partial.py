"""The receiving end of every transport: the ``.part`` beside a destination, hashed as it grows, installed when whole.

How much has arrived is the length of the ``.part``, so a killed process loses nothing that was written. One process at
a time: the file is locked, and the lock ends with the process. SHA-256 runs in a thread of its own, because hashing and
receiving in one thread halved the speed (field_notes.md, 2c). ``.part`` is opened without following a symbolic link.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import queue
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.errors import LocalDiskError, TransferUnderWayError
from ringrift_sync_dagster.storage.files import (
    CHUNK_BYTES,
    WRITE_BYTES,
    WRITEBACK_BYTES,
    begin_writeback,
    disk_errors,
    install,
    sha256_file,
)

_QUEUED_CHUNKS: Final = 8
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def part_path(dest: Path) -> Path:
    """Give the name under which an artifact collects."""
    return dest.with_name(f"{dest.name}.part")


def already_there(dest: Path, artifact: Artifact) -> bool:
    """Say whether the artifact already lies at its place, whole.

    Raises:
        LocalDiskError: A directory, or something else that is no file, has the name.

    """
    with disk_errors(dest, "look at"):
        try:
            status = dest.stat(follow_symlinks=False)
        except FileNotFoundError:
            return False
    if stat.S_ISDIR(status.st_mode):
        raise LocalDiskError("", "", f"cannot install {dest}: a directory has that name; move it away")
    if not stat.S_ISREG(status.st_mode) or status.st_size != artifact.size_bytes:
        return False
    return sha256_file(dest) == artifact.sha256


class Hasher:
    """SHA-256 of a file that grows, in a thread of its own: of chunks that are handed over, or of the file's new end.

    Args:
        descriptor: The file.
        prefix_bytes: How much of it is there already.

    """

    def __init__(self, descriptor: int, prefix_bytes: int) -> None:
        self._descriptor = descriptor
        self._length = prefix_bytes
        self._position = 0
        self._buffer = memoryview(b"")
        self._digest = hashlib.sha256()
        self._chunks: queue.Queue[bytes | None] = queue.Queue(_QUEUED_CHUNKS)
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="sha256", daemon=True)
        self._thread.start()

    def update(self, chunk: bytes) -> None:
        """Hand over the next bytes; waits while the hashing is behind."""
        self._chunks.put(chunk)

    def reach(self, length: int) -> None:
        """Read on from the file up to this length. Returns at once, however far the hashing is behind."""
        self._length = length
        with contextlib.suppress(queue.Full):
            self._chunks.put_nowait(b"")

    def finish(self) -> str:
        """Wait for the rest; give the digest.

        Raises:
            OSError: What is in the file could not be read.

        """
        self._chunks.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._digest.hexdigest()

    def _run(self) -> None:
        handed: bytes | None = b""
        while handed is not None:
            self._digest.update(handed)
            self._position += len(handed)
            self._read_on()
            handed = self._chunks.get()
        self._read_on()

    def _read_on(self) -> None:
        """Hash what lies in the file behind the last byte that was hashed."""
        if self._position >= self._length or self._error is not None:
            return
        self._buffer = self._buffer or memoryview(bytearray(CHUNK_BYTES))
        try:
            while wanted := min(CHUNK_BYTES, self._length - self._position):
                count = os.preadv(self._descriptor, [self._buffer[:wanted]], self._position)
                if not count:
                    return  # it was cut: its digest will tell
                self._digest.update(self._buffer[:count])
                self._position += count
        except OSError as error:
            self._error = error


class PartFile:
    """One ``.part`` in the hands of this process; made by ``open_part``.

    Args:
        descriptor: The open and locked file.
        dest: The final name.
        artifact: What is to arrive.

    """

    def __init__(self, descriptor: int, dest: Path, artifact: Artifact) -> None:
        self._descriptor = descriptor
        self._dest = dest
        self._part = part_path(dest)
        self._artifact = artifact
        self._received = 0
        self._hasher: Hasher | None = None

    @property
    def path(self) -> Path:
        """Its name until it is installed."""
        return self._part

    @property
    def received(self) -> int:
        """How many bytes are there."""
        return self._received

    def resume(self) -> int:
        """Begin or go on; give the offset of the next byte. A part that is longer than the artifact is emptied."""
        with disk_errors(self._part, "look at"):
            size = os.fstat(self._descriptor).st_size
        if size > self._artifact.size_bytes:
            return self.restart()
        self._begin(size)
        return size

    def restart(self) -> int:
        """Drop what is there and begin at 0."""
        self.stop()
        with disk_errors(self._part, "empty"):
            os.ftruncate(self._descriptor, 0)
        self._begin(0)
        return 0

    def write(self, chunk: bytes) -> None:
        """Append.

        Raises:
            LocalDiskError: The disk is full or refuses.

        """
        view, before = memoryview(chunk), self._received
        while view:
            with disk_errors(self._part, "write"):
                written = os.pwrite(self._descriptor, view[:WRITE_BYTES], self._received)
            self._received += written
            view = view[written:]
        self._write_back(before, self._received)
        if self._hasher is not None:
            self._hasher.update(chunk)

    def grown(self) -> int:
        """Take in what another program has appended since the last call; give how many bytes are there now.

        That program must only append; ``resume`` begins anew where it may have done more.

        Raises:
            LocalDiskError: The disk refuses.

        """
        with disk_errors(self._part, "look at"):
            size = os.fstat(self._descriptor).st_size
        if size > self._received and self._hasher is not None:
            self._write_back(self._received, size)
            self._hasher.reach(size)
        self._received = max(self._received, size)
        return self._received

    def install(self) -> bool:
        """Compare the SHA-256 and give the file its final name, durably; False, and an empty part, if it is another.

        Raises:
            LocalDiskError: The disk refuses, or something that must not be replaced has the final name.

        """
        with disk_errors(self._part, "read"):
            digest = "" if self._hasher is None else self._hasher.finish()
        self._hasher = None
        if digest != self._artifact.sha256:
            self.restart()
            return False
        install(self._part, self._dest)
        return True

    def drop(self) -> None:
        """Remove the file: nothing of it is worth keeping."""
        self.stop()
        with disk_errors(self._part, "remove"):
            self._part.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove the file if nothing has arrived: a try that failed at once leaves no trace."""
        with contextlib.suppress(OSError):
            mine = os.fstat(self._descriptor)
            if mine.st_size == 0 and os.path.samestat(mine, self._part.stat(follow_symlinks=False)):
                self._part.unlink()

    def stop(self) -> None:
        """Stop hashing; what was written stays. Idempotent."""
        if self._hasher is not None:
            hasher, self._hasher = self._hasher, None
            with disk_errors(self._part, "read"):
                hasher.finish()

    def _write_back(self, before: int, now: int) -> None:
        begun, full = before // WRITEBACK_BYTES, now // WRITEBACK_BYTES
        if full > begun:
            begin_writeback(self._descriptor, begun * WRITEBACK_BYTES, (full - begun) * WRITEBACK_BYTES)

    def _begin(self, size: int) -> None:
        self._received = size
        self._hasher = Hasher(self._descriptor, size)


@contextmanager
def open_part(dest: Path, artifact: Artifact, node: str, transport: str) -> Iterator[PartFile]:
    """Open and lock the ``.part`` of a destination while the body runs.

    Raises:
        LocalDiskError: It cannot be opened, is a symbolic link, or no regular file.
        TransferUnderWayError: Another process fetches to the same place now.

    """
    part = part_path(dest)
    with disk_errors(part, "open"):
        descriptor = os.open(part, _FLAGS, 0o644)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise LocalDiskError(node, transport, f"{part} is not a regular file; move it away")
        _lock(descriptor, part, node, transport)
        file = PartFile(descriptor, dest, artifact)
        try:
            yield file
        finally:
            file.stop()
            file.tidy()
    finally:
        os.close(descriptor)


def _lock(descriptor: int, part: Path, node: str, transport: str) -> None:
    message = f"another process fetches {part.name[:-5]} to the same place; wait for it"
    busy = TransferUnderWayError(node, transport, message)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise busy from None
    try:
        same = os.path.samestat(os.fstat(descriptor), part.stat(follow_symlinks=False))
    except FileNotFoundError:
        same = False
    if not same:  # the other process installed or dropped it between our open and our lock
        raise busy
