"""The sending end of a push: one open file, given out in pieces, watched for change, deadline and cancel on the way."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.errors import SourceChangedError, TransferCancelledError
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.storage.files import disk_errors
from ringrift_sync_dagster.transports.base import Pacer, Progress
from ringrift_sync_dagster.transports.pacing import piece_bytes

# The socket's timeout covers the sending of one piece: small pieces keep a slow link apart from a dead one.
_PIECE_BYTES: Final = 256 * 1024
_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


class FileBody:
    """The body of a PUT, as ``requests`` takes it: its length is known, so it is not sent in chunked encoding.

    Args:
        source: The file; opened once.
        artifact: What the file must be.
        node: The receiver, for messages.
        transport: The transport, for messages.
        deadline: No piece is given out after it.
        progress: Told how many bytes have been handed over, the resumed ones included.
        cancel: Looked at before every piece.
        pacer: Asked before every piece, which is smaller then.

    Raises:
        LocalDiskError: The file cannot be opened.
        SourceChangedError: Its length is not the artifact's.

    """

    def __init__(
        self,
        source: Path,
        artifact: Artifact,
        node: str,
        transport: str,
        deadline: Deadline,
        progress: Progress | None,
        cancel: threading.Event | None,
        pacer: Pacer | None = None,
    ) -> None:
        self._source = source
        self._artifact = artifact
        self._place = (node, transport)
        self._deadline = deadline
        self._progress = progress
        self._cancel = cancel
        self._pacer = pacer
        self._start = 0
        self.moved = 0
        with disk_errors(source, "open"):
            self._descriptor = os.open(source, _FLAGS)
        self._opened = os.fstat(self._descriptor)
        if not stat.S_ISREG(self._opened.st_mode) or self._opened.st_size != artifact.size_bytes:
            os.close(self._descriptor)
            raise self._changed(f"it should be a file of {artifact.size_bytes} bytes")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def begin(self, start: int) -> Self:
        """Give out from this offset next time."""
        self._start = start
        return self

    def __len__(self) -> int:
        return self._artifact.size_bytes - self._start

    def __bool__(self) -> bool:
        return True  # requests would take an empty body for none, and wait with the length

    def __iter__(self) -> Iterator[bytes]:
        offset = self._start
        while offset < self._artifact.size_bytes:
            size = self._paced(self._artifact.size_bytes - offset)
            self._check()
            with disk_errors(self._source, "read"):
                piece = os.pread(self._descriptor, size, offset)
            if not piece or self._status() != (self._opened.st_size, self._opened.st_mtime_ns):
                raise self._changed("it changed while it was sent")
            yield piece
            offset += len(piece)
            self.moved += len(piece)
            if self._progress is not None:
                self._progress(offset)

    def _paced(self, left: int) -> int:
        """Wait until the next piece may go; give its length."""
        if self._pacer is None:
            return min(left, _PIECE_BYTES)
        size = min(left, piece_bytes(self._pacer.rate, _PIECE_BYTES))
        self._pacer.take(size, deadline=self._deadline, cancel=self._cancel)
        return size

    def _status(self) -> tuple[int, int]:
        found = os.fstat(self._descriptor)
        return found.st_size, found.st_mtime_ns

    def _check(self) -> None:
        if self._cancel is not None and self._cancel.is_set():
            message = f"pushing {self._source.name} was stopped because we were asked to"
            raise TransferCancelledError(*self._place, message)
        self._deadline.check(*self._place, f"pushing {self._source.name}")

    def _changed(self, what: str) -> SourceChangedError:
        message = f"artifact {self._artifact.sha256[:12]}: {self._source} is not what was hashed: {what}"
        return SourceChangedError(*self._place, message)
