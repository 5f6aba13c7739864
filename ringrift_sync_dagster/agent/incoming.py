"""Where pushed bytes land: ``<incoming>/<node>/<sha256>``, with ``.part`` behind the name until all is verified.

How much has arrived is the length of the ``.part`` and nothing else, so it survives any crash; whether the bytes are
the right ones is decided once, at the end, by the SHA-256. Two nodes can never collide (architecture.md, 1 "incoming").
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringrift_sync_dagster.core.model import SHA256, checked_node_name
from ringrift_sync_dagster.errors import LocalDiskError
from ringrift_sync_dagster.node.faults import reached
from ringrift_sync_dagster.storage.files import WRITE_BYTES, confined, disk_errors, install, make_dirs, sha256_file

_PART_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def disk_is_full(error: LocalDiskError) -> bool:
    """Say whether the cause is a lack of space, which passes, and not a broken or forbidden disk."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in _FULL


@dataclass(frozen=True, slots=True)
class Place:
    """The two names of one pushed artifact.

    Args:
        final: Its name when it is whole and verified.
        path: The same, relative to the incoming directory, for receipts.

    """

    final: Path
    path: str

    @property
    def part(self) -> Path:
        """Its name until then."""
        return self.final.with_name(f"{self.final.name}.part")

    def received(self) -> int:
        """Give how many bytes have arrived.

        Raises:
            LocalDiskError: The directory cannot be read.

        """
        with disk_errors(self.part, "look at"):
            try:
                return self.part.stat(follow_symlinks=False).st_size
            except FileNotFoundError:
                return 0

    def remove(self) -> None:
        """Remove the whole file and its note; a part is left to whoever sends it. Idempotent.

        Raises:
            LocalDiskError: The disk refuses.

        """
        with disk_errors(self.final, "remove"):
            for path in (self.final, self.final.with_name(f"{self.final.name}.verified")):
                path.unlink(missing_ok=True)


class Incoming:
    """The incoming directory; every method blocks on the disk and belongs into a thread.

    Args:
        directory: The directory; made when something arrives.

    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def place(self, node: str, sha256: str) -> Place:
        """Say where an artifact of a node belongs; touches nothing.

        Raises:
            ValueError: The node's name or the digest is not usable, or the node's directory leads elsewhere.

        """
        if not SHA256.fullmatch(sha256):
            raise ValueError(f"{sha256!r} is not a SHA-256 in lower-case hexadecimal")
        path = f"{checked_node_name(node)}/{sha256}"
        return Place(confined(self._directory, path), path)

    def free_bytes(self) -> int:
        """Give the space that is left for us on the disk.

        Raises:
            LocalDiskError: The directory cannot be made or read.

        """
        make_dirs(self._directory)
        with disk_errors(self._directory, "look at"):
            return shutil.disk_usage(self._directory).free


class Part:
    """One ``.part``, open for one request; methods are called from one thread at a time.

    Args:
        place: Which one.
        start: Where the request begins to write; what lies behind is cut off.

    Raises:
        LocalDiskError: It cannot be opened, or is not a regular file.

    """

    def __init__(self, place: Place, start: int) -> None:
        make_dirs(place.final.parent)
        self._place = place
        self._end = start
        # With the first byte in hand the digest grows along; otherwise the file is read once more at the end.
        self._digest = hashlib.sha256() if start == 0 else None
        with disk_errors(place.part, "open"):
            self._descriptor = os.open(place.part, _PART_FLAGS, 0o644)
            try:
                os.ftruncate(self._descriptor, start)
            except OSError:
                self.close()
                raise

    @property
    def end(self) -> int:
        """How many bytes of the artifact are in the file."""
        return self._end

    def write(self, chunks: Sequence[bytes]) -> None:
        """Append.

        Raises:
            LocalDiskError: The disk is full or refuses.

        """
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                with disk_errors(self._place.part, "write"):
                    written = os.pwrite(self._descriptor, view[:WRITE_BYTES], self._end)
                if self._digest is not None:
                    self._digest.update(view[:written])
                self._end += written
                view = view[written:]

    def is_artifact(self) -> bool:
        """Say whether the whole file has the SHA-256 that names it.

        Raises:
            LocalDiskError: It cannot be read back.

        """
        with disk_errors(self._place.part, "verify"):
            reached("incoming.verify")
        digest = sha256_file(self._place.part) if self._digest is None else self._digest.hexdigest()
        return digest == self._place.final.name

    def install(self) -> None:
        """Give the file its final name, durably.

        Raises:
            LocalDiskError: The disk refuses.

        """
        install(self._place.part, self._place.final)

    def drop(self) -> None:
        """Remove the file: its bytes are not the artifact."""
        with disk_errors(self._place.part, "remove"):
            self._place.part.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
