"""An archive directory: bytes kept once, by their content, and dated lists of what lay where; nothing is ever replaced.

    <directory>/objects/<2 digits>/<sha256>      the bytes, read-only
    <directory>/<UTC stamp>-<n>/manifest.json    one archive: every file of then, named by its content
    <directory>/tmp/                             what is being copied; the next run removes what a killed one left
    <directory>/lock                             held by whoever archives
    <directory>/checked.json                     what the newest check of an archive found

Objects come first and the manifest last, so an archive that can be seen is whole, and one that was cut short costs
nothing but the objects, which the next run finds there. No name is ever written twice, and nothing deletes an object:
what was lost or cleaned up in the store stays here (incident 2).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from ringrift_sync_dagster.core.model import SHA256
from ringrift_sync_dagster.core.room import DiskLimits, disk_refusal
from ringrift_sync_dagster.errors import ArchiveError, LocalDiskError
from ringrift_sync_dagster.node.errors import KitError
from ringrift_sync_dagster.node.faults import reached
from ringrift_sync_dagster.node.snapshot import snapshot_of
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.storage.files import (
    CHUNK_BYTES,
    atomic_write_text,
    disk_errors,
    fsync_dir,
    fsync_file,
    make_dirs,
)
from ringrift_sync_dagster.storage.room import disk_of

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
CHECKED: Final = "checked.json"
_NAME: Final = re.compile(r"\d{8}T\d{6}Z-\d{1,6}")
_READ_ONLY: Final = 0o444

Paced = Callable[[int], None]
"""Is told each number of bytes that were read, and waits as long as they should have taken."""


@dataclass(frozen=True, slots=True)
class ArchivedFile:
    """One file of an archive.

    Args:
        path: Where it lay, relative to the owner's root.
        data_type: One of the five data types.
        config: Its config; empty where it holds those of all.
        sha256: Its content: for a database that of the snapshot.
        size_bytes: Its length.
        games: Number of games; None where it is no games database.
        rows: Rows of each table; empty where it is no database.
        store_id: Which canonical store this is; empty where it is none.
        generation: Its state, as the store counts it.

    """

    path: str
    data_type: str
    config: str
    sha256: str
    size_bytes: int
    games: int | None = None
    rows: Mapping[str, int] = field(default_factory=dict)
    store_id: str = ""
    generation: str = ""


@dataclass(frozen=True, slots=True)
class Archive:
    """What lay where at one time.

    Args:
        name: Of its directory.
        at: When, in seconds since 1970.
        owner: Whose store it was.
        files: Every file.
        published: Digest of the published version, by ``<data type>:<config>``.

    """

    name: str
    at: float
    owner: str
    files: tuple[ArchivedFile, ...]
    published: Mapping[str, str] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Length of all files; what several archives share is counted in each."""
        return sum(one.size_bytes for one in self.files)


@dataclass(frozen=True, slots=True)
class ArchiveDirectory:
    """One archive directory; reading needs no lock, writing is for one process at a time.

    Args:
        path: The directory; made by the first run.

    """

    path: Path

    def names(self) -> list[str]:
        """Give the names of all whole archives, oldest first.

        Raises:
            LocalDiskError: The directory cannot be read.

        """
        if not self.path.is_dir():
            return []
        with disk_errors(self.path, "list"):
            found = [entry.name for entry in self.path.iterdir() if (entry / MANIFEST).is_file()]
        return sorted((name for name in found if _NAME.fullmatch(name)), key=_order)

    def read(self, name: str) -> Archive:
        """Give an archive by its name.

        Raises:
            ArchiveError: There is none of that name, or its manifest is not one of this program.

        """
        path = self.path / name / MANIFEST
        if not _NAME.fullmatch(name) or not path.is_file():
            known = ", ".join(self.names()[-3:]) or "none"
            raise ArchiveError(self.path, f"there is no archive {name!r} in it; the newest are: {known}")
        try:
            value = json.loads(path.read_bytes())
            if value["format"] != FORMAT:
                raise ArchiveError(path, f"it has format {value['format']!r}, this program reads {FORMAT}; upgrade it")
            files = tuple(ArchivedFile(**one) for one in value["files"])
            if not all(SHA256.fullmatch(one.sha256) and _is_inside(one.path) for one in files):
                raise ArchiveError(path, "a file in it has an impossible name or digest; use another archive")
            return Archive(name, float(value["at"]), str(value["owner"]), files, dict(value["published"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArchiveError(path, f"the manifest cannot be read ({error!r}); use another archive") from error

    def object(self, sha256: str) -> Path:
        """Where the bytes of a content lie."""
        return self.path / "objects" / sha256[:2] / sha256

    def has(self, sha256: str, size_bytes: int) -> bool:
        """Say whether these bytes are kept already, by name and length; ``restore-check`` looks closer."""
        try:
            return self.object(sha256).stat().st_size == size_bytes
        except OSError:
            return False

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Be the one who archives here; what a killed run left half copied is removed first.

        Raises:
            ArchiveError: Another process archives into it now.
            LocalDiskError: The directory cannot be made or written.

        """
        make_dirs(self.path / "objects")
        lock = self.path / "lock"
        with disk_errors(lock, "open"):
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ArchiveError(self.path, "another process archives into it now; try again later") from error
            shutil.rmtree(self.path / "tmp", ignore_errors=True)
            make_dirs(self.path / "tmp")
            yield
        finally:
            os.close(descriptor)

    def require_room(self, size_bytes: int) -> None:
        """Do nothing where so many bytes more fit, and the disk keeps its reserve.

        Raises:
            ArchiveError: They do not.

        """
        refusal = disk_refusal(disk_of(self.path), DiskLimits(), reserved_bytes=size_bytes, rescue=True)
        if refusal:
            raise ArchiveError(self.path, f"the disk is full: {refusal}; earlier archives are whole")

    def add_file(self, source: Path, sha256: str, size_bytes: int, paced: Paced) -> int:
        """Keep the bytes of a file that is named by its content; give how many were copied: 0 when they were kept.

        Raises:
            ArchiveError: The file is not what it is named, or the disk is full.
            LocalDiskError: It cannot be read, or the directory cannot be written.

        """
        if self.has(sha256, size_bytes):
            return 0
        self.require_room(size_bytes)
        digest, copied = hashlib.sha256(), 0
        part = self.path / "tmp" / f"{sha256}.part"
        with disk_errors(source, "read"), source.open("rb") as stream, part.open("wb") as target:
            for chunk in iter(lambda: stream.read(CHUNK_BYTES), b""):
                target.write(chunk)
                digest.update(chunk)
                copied += len(chunk)
                paced(len(chunk))
        if digest.hexdigest() != sha256:
            part.unlink()
            raise ArchiveError(source, "it is not what it was verified to be; run `ringrift-sync verify --deep`")
        self._keep(part, sha256)
        return copied

    @contextlib.contextmanager
    def snapshot(self, source: Path, paced: Paced) -> Iterator[tuple[Path, str, int]]:
        """Copy a live database in one step of SQLite's online backup; give the checked copy, its digest and length.

        ``keep_snapshot`` in the body makes it an object; else it goes away.

        Raises:
            ArchiveError: The database cannot be copied, SQLite finds the copy damaged, or the disk is full.

        """
        with disk_errors(source, "look at"):
            self.require_room(source.stat().st_size)
        try:
            made = snapshot_of(
                str(source), f"archive-{os.getpid()}-{os.urandom(4).hex()}", str(self.path), clock.wall()
            )
        except KitError as error:
            raise ArchiveError(source, f"{error.message} ({error.code}); it is not archived") from error
        copy = Path(made["path"])
        try:
            paced(int(made["bytes"]))
            yield copy, str(made["sha256"]), int(made["bytes"])
        finally:
            copy.unlink(missing_ok=True)

    def keep_snapshot(self, copy: Path, sha256: str, size_bytes: int) -> int:
        """Make a snapshot an object; give how many bytes that added: 0 when they were kept."""
        if self.has(sha256, size_bytes):
            return 0
        self._keep(copy, sha256)
        return size_bytes

    def finish(self, archive: Archive) -> None:
        """Write the manifest, which makes the archive one.

        Raises:
            LocalDiskError: The disk refuses; there is no archive then.

        """
        value = {"format": FORMAT, **{key: part for key, part in asdict(archive).items() if key != "name"}}
        folder = make_dirs(self.path / archive.name)
        reached("archive.folder")
        atomic_write_text(folder / MANIFEST, json.dumps(value, indent=1, sort_keys=True) + "\n", _READ_ONLY)
        reached("archive.finished")

    def note_check(self, name: str, troubles: int) -> None:
        """Remember the newest check, for whoever asks how archives stand; a read-only directory remembers nothing."""
        value = {"archive": name, "at": clock.wall(), "troubles": troubles}
        with contextlib.suppress(LocalDiskError):
            atomic_write_text(self.path / CHECKED, json.dumps(value) + "\n")

    def last_check(self) -> tuple[str, float, int] | None:
        """Give the newest check: the archive, when, and how much was missing or different; None: there was none."""
        try:
            value = json.loads((self.path / CHECKED).read_bytes())
            return str(value["archive"]), float(value["at"]), int(value["troubles"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def new_name(self, stamp: str) -> str:
        """Give a name that no directory has: the stamp and the smallest free number."""
        return next(name for number in range(1, 1_000_000) if not (self.path / (name := f"{stamp}-{number}")).exists())

    def _keep(self, part: Path, sha256: str) -> None:
        """Give finished bytes their name, durably."""
        final = self.object(sha256)
        make_dirs(final.parent)
        with disk_errors(part, "make read-only"):
            part.chmod(_READ_ONLY)
        fsync_file(part)
        reached("archive.copied")
        with disk_errors(final, "install"):
            part.replace(final)  # of one content, and only where a shorter or no file was
        fsync_dir(final.parent)
        reached("archive.kept")


def pace(bytes_per_second: float) -> Paced:
    """Give what keeps a reader at a rate, over all that it is told of."""
    started, told, never = clock.monotonic(), 0, threading.Event()

    def wait(count: int) -> None:
        nonlocal told
        told += count
        ahead = told / bytes_per_second - (clock.monotonic() - started)
        if ahead > 0:
            never.wait(ahead)

    return wait


def _order(name: str) -> tuple[str, int]:
    stamp, _, number = name.partition("-")
    return stamp, int(number)


def _is_inside(path: str) -> bool:
    return bool(path) and not path.startswith("/") and ".." not in path.split("/") and "\0" not in path
