"""The artifacts that this node can serve: packs in its scratch, and files under its roots that the kit has hashed.

    <scratch>/artifacts/<sha256>        a pack, written by the kit; its name is its content
    <scratch>/artifacts/<sha256>.json   of a pack: what it was made for; of a registered file: its ``path`` and state
    <incoming>/<node>/<sha256>          what another node brought here: served too, for a coordinator that lost its own

A request works on one open descriptor. A registered file must still be the inode, size and mtime that the kit hashed;
whatever is served must keep its size and mtime while it is read. SQLite's own files are never opened here, not even to
look: closing any descriptor of a database drops SQLite's locks of the whole process (architecture.md, 4).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from ringrift_sync_dagster.core.blocks import BLOCK_BYTES
from ringrift_sync_dagster.core.model import SHA256, is_node_name
from ringrift_sync_dagster.node.errors import KitError
from ringrift_sync_dagster.node.roots import Roots

_SIDECAR_MAX_BYTES: Final = 4 << 20
_READ_BYTES: Final = 1 << 20
_SQLITE_NAMES: Final = (".db", ".db3", ".sqlite", ".sqlite3", "-wal", "-shm", "-journal")
_CACHE_PROBES: Final = 3
# The time of the last access would be written by the event loop that sends the file, and wait for the disk's journal.
_NO_ACCESS_TIME: Final = getattr(os, "O_NOATIME", 0)
# O_NONBLOCK: a FIFO under a registered name must not hold the thread that opens it.
_OPEN_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class ArtifactMissingError(Exception):
    """There is no such artifact here."""


class ArtifactChangedError(Exception):
    """The file behind the artifact is no longer the one that was hashed; it must be ordered again."""


@dataclass(frozen=True, slots=True)
class State:
    """What a file must keep while it is served.

    Args:
        inode: Inode number.
        size_bytes: Length.
        mtime_ns: Time of the last change of content, as the file system tells it.

    """

    inode: int
    size_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> State:
        """Take the state out of a stat result."""
        return cls(status.st_ino, status.st_size, status.st_mtime_ns)


class OpenArtifact:
    """One artifact, open for one request; close it, or use it as a context manager.

    Args:
        sha256: Its name.
        file: The open descriptor; its position is never used.
        state: What the file was when it was opened.

    """

    def __init__(self, sha256: str, file: io.FileIO, state: State) -> None:
        self.sha256 = sha256
        self.file = file
        self.state = state

    @property
    def size_bytes(self) -> int:
        """Length in bytes."""
        return self.state.size_bytes

    def check(self) -> None:
        """Do nothing while the file is what it was when it was opened.

        Raises:
            ArtifactChangedError: Its size or mtime is another one.

        """
        if State.of(os.fstat(self.file.fileno())) != self.state:
            raise ArtifactChangedError(f"the file of artifact {self.sha256} changed while it was read")

    def read(self, offset: int, count: int) -> bytes:
        """Read a part; safe in several threads at once.

        Raises:
            ArtifactChangedError: The file is shorter than it was, or otherwise changed.

        """
        data = os.pread(self.file.fileno(), count, offset)
        self.check()
        if len(data) != count:
            raise ArtifactChangedError(f"the file of artifact {self.sha256} got shorter while it was read")
        return data

    def is_cached(self, offset: int, count: int) -> bool:
        """Say whether a part can be sent without waiting for the disk, as far as three looks tell; never blocks."""
        without_waiting = getattr(os, "RWF_NOWAIT", 0)
        if not without_waiting:
            return True
        try:
            for number in range(_CACHE_PROBES):
                at = offset + (count - 1) * number // (_CACHE_PROBES - 1)
                if os.preadv(self.file.fileno(), [bytearray(1)], at, without_waiting) == 0:
                    return True  # the file got shorter: sending it will tell
        except BlockingIOError:
            return False
        except OSError:  # a file system that does not know the question
            return True
        return True

    def bring_in(self, offset: int, count: int) -> None:
        """Read a part from the disk into the system's cache; blocks."""
        buffer, end = bytearray(_READ_BYTES), offset + count
        while offset < end and (got := os.preadv(self.file.fileno(), [buffer], offset)):
            offset += got

    def block_list(self) -> list[str]:
        """Give the SHA-256 of each block of 4 MiB.

        Raises:
            ArtifactChangedError: The file changed meanwhile.

        """
        return [self._block(start) for start in range(0, self.size_bytes, BLOCK_BYTES)]

    def _block(self, start: int) -> str:
        digest = hashlib.sha256()
        end = min(start + BLOCK_BYTES, self.size_bytes)
        for offset in range(start, end, _READ_BYTES):
            digest.update(self.read(offset, min(_READ_BYTES, end - offset)))
        return digest.hexdigest()

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Catalogue:
    """The artifacts of one node; every method blocks on the disk and belongs into a thread.

    Args:
        directory: ``<scratch>/artifacts``.
        roots: The node's roots; nothing outside them is served.
        incoming: Where artifacts of other nodes lie, whole and verified; None: nothing of others is served.

    """

    def __init__(self, directory: Path, roots: Roots, incoming: Path | None = None) -> None:
        self._directory = directory
        self._roots = roots
        self._incoming = incoming

    def open(self, sha256: str) -> OpenArtifact:
        """Open an artifact for reading.

        Raises:
            ArtifactMissingError: There is none of that name, or it leads out of the roots.
            ArtifactChangedError: The registered file is no longer what was hashed.

        """
        if not SHA256.fullmatch(sha256):
            raise ArtifactMissingError(f"{sha256!r} is not a SHA-256 in lower-case hexadecimal")
        with contextlib.suppress(FileNotFoundError):
            return _open(sha256, self._directory / sha256, None)
        try:
            return self._open_registered(sha256)
        except (ArtifactMissingError, ArtifactChangedError):
            held = self._open_held(sha256)
            if held is None:
                raise
            return held

    def forget(self, sha256: str) -> None:
        """Delete the pack and its note, or the note of a registered file (never that file itself). Idempotent."""
        if SHA256.fullmatch(sha256):
            for name in (sha256, f"{sha256}.json"):
                (self._directory / name).unlink(missing_ok=True)

    def _open_held(self, sha256: str) -> OpenArtifact | None:
        """Open what another node brought here, under its final name: only then are all bytes there and verified."""
        folders = [] if self._incoming is None else self._incoming.glob("*/")
        for folder in folders:
            if is_node_name(folder.name) and not folder.is_symlink():
                with contextlib.suppress(FileNotFoundError, ArtifactMissingError):
                    return _open(sha256, folder / sha256, None)
        return None

    def _open_registered(self, sha256: str) -> OpenArtifact:
        note = self._note(sha256)
        path, state = note.get("path"), _noted_state(note)
        if note.get("kind") != "file" or not isinstance(path, str) or state is None:
            raise ArtifactMissingError(f"artifact {sha256} is not here any more; order it again")
        try:
            real = self._roots.resolve(path)
            opened = _open(sha256, Path(real), state)
        except (KitError, FileNotFoundError) as error:
            raise ArtifactMissingError(f"artifact {sha256}: {path} cannot be served: {error}") from error
        if not self._still_names(path, real, state):
            opened.close()
            raise ArtifactChangedError(f"artifact {sha256}: {path} is another file now")
        return opened

    def _still_names(self, path: str, real: str, state: State) -> bool:
        """Look again, now that the file is open: a directory on the way may have become a symbolic link."""
        try:
            return self._roots.resolve(path) == real and State.of(Path(real).stat()) == state
        except (KitError, OSError):
            return False

    def _note(self, sha256: str) -> dict[str, Any]:
        try:
            with (self._directory / f"{sha256}.json").open("rb") as stream:
                note = json.loads(stream.read(_SIDECAR_MAX_BYTES))
        except (OSError, ValueError, RecursionError):
            return {}
        return note if isinstance(note, dict) else {}


def _open(sha256: str, path: Path, expected: State | None) -> OpenArtifact:
    """Open a regular file that is no database; with ``expected`` it must be in that state.

    Raises:
        FileNotFoundError: There is no such file.
        ArtifactMissingError: It is no regular file, a symbolic link, a database, or not readable.
        ArtifactChangedError: It is in another state.

    """
    if path.name.endswith(_SQLITE_NAMES):
        raise ArtifactMissingError(f"{path.name} is part of a database: its rows leave as packs, never as a file")
    try:
        file = io.FileIO(_descriptor(path), "r")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ArtifactMissingError(f"artifact {sha256} cannot be read: {error.strerror}") from error
    status = os.fstat(file.fileno())
    state = State.of(status)
    if not stat.S_ISREG(status.st_mode):
        file.close()
        raise ArtifactMissingError(f"artifact {sha256} is not a regular file")
    if expected is not None and state != expected:
        file.close()
        raise ArtifactChangedError(f"artifact {sha256}: {path.name} changed since it was hashed; order it again")
    return OpenArtifact(sha256, file, state)


def _descriptor(path: Path) -> int:
    try:
        return os.open(path, _OPEN_FLAGS | _NO_ACCESS_TIME)
    except PermissionError:  # only a file's owner may leave its access time as it is
        return os.open(path, _OPEN_FLAGS)


def _noted_state(note: dict[str, Any]) -> State | None:
    values = [value for key in ("inode", "bytes", "mtime_ns") if isinstance(value := note.get(key), int)]
    return State(*values) if len(values) == len(State.__slots__) else None
