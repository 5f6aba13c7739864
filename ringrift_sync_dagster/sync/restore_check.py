"""Prove that an archive can be restored: bring its files back to scratch, look into each, and audit it by the store.

A backup that was never restored is a hope. One archive is chosen by chance; its bytes must hash to their names, its
databases open, be found whole by SQLite and hold the rows that were counted, and every row that is looked up must be
in the store of now (see ``audit``). Files are restored one at a time, so scratch needs room for the largest only.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ringrift_sync_dagster.errors import ArchiveError, LocalDiskError, SyncError
from ringrift_sync_dagster.node import canonical
from ringrift_sync_dagster.storage.archive import Archive, ArchivedFile, ArchiveDirectory
from ringrift_sync_dagster.storage.files import CHUNK_BYTES, confined, disk_errors, install, make_dirs
from ringrift_sync_dagster.storage.room import disk_of
from ringrift_sync_dagster.sync.archive import checked_directory, count_rows, opened_copy
from ringrift_sync_dagster.sync.audit import Audit, audit_games, audit_rows
from ringrift_sync_dagster.sync.runtime import Runtime

_SPARE_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing of an archive that is missing or different.

    Args:
        path: The file, as the archive names it.
        message: What is wrong with it.

    """

    path: str
    message: str


@dataclass(slots=True)
class RestoreChecked:
    """What a check found.

    Args:
        archive: The name of the archive.
        files: How many files were restored.
        bytes: How long they are.
        databases: How many of them are databases.
        rows: How many of their rows were looked up in the store.
        equal: Of these, the ones that are there as they were.
        renamed: Games that are there under another id.
        revised: Games in whose place a longer revision is.
        hashed: Games whose rows were hashed anew on both sides.
        troubles: What is missing or different; nothing where the archive is good.

    """

    archive: str
    files: int = 0
    bytes: int = 0
    databases: int = 0
    rows: int = 0
    equal: int = 0
    renamed: int = 0
    revised: int = 0
    hashed: int = 0
    troubles: list[Trouble] = field(default_factory=list)

    def add(self, path: str, audit: Audit) -> None:
        """Count an audit, and take over what it found."""
        for name in ("rows", "equal", "renamed", "revised", "hashed"):
            setattr(self, name, getattr(self, name) + getattr(audit, name))
        self.troubles += [Trouble(path, words) for words in audit.problems()]


def restore_check(
    runtime: Runtime, directory: Path, *, name: str = "", seed: int | None = None, out: Path | None = None
) -> RestoreChecked:
    """Restore an archive, look into all of it, and say what is missing or different.

    Args:
        runtime: What to work with.
        directory: The archive directory.
        name: The archive; empty: one by chance.
        seed: Decides which archive and which rows; None: another one each time.
        out: Leave the restored files in this new folder, under the paths that they had.

    Raises:
        ArchiveError: There is no such archive, or ``out`` exists.
        LocalDiskError: There is no room to restore a file, or the disk refuses.

    """
    store = ArchiveDirectory(checked_directory(directory, runtime.layout))
    names = store.names()
    if not names:
        raise ArchiveError(store.path, "there is no archive in it; make one with `ringrift-sync archive`")
    chance = random.Random(seed)  # noqa: S311 - a sample, not a secret
    archive = store.read(name or chance.choice(names))
    if out is not None and out.exists():
        raise ArchiveError(out, "it exists; name a new folder for the restored files")
    checked = RestoreChecked(archive.name)
    for file in archive.files:
        try:
            with _restored(runtime, store, file, out) as path:
                _check(runtime, archive, file, path, checked, chance)
        except LocalDiskError:
            raise
        except (SyncError, sqlite3.Error, LookupError, UnicodeDecodeError) as error:
            checked.troubles.append(Trouble(file.path, f"{archive.name}: {error}"))
    store.note_check(archive.name, len(checked.troubles))
    return checked


@contextlib.contextmanager
def _restored(runtime: Runtime, store: ArchiveDirectory, file: ArchivedFile, out: Path | None) -> Iterator[Path]:
    """Copy one object back, verified; it goes away after the body unless it is to stay.

    Raises:
        ArchiveError: The object is not there, or not what it is named.
        LocalDiskError: There is no room for it.

    """
    kept = store.object(file.sha256)
    if not kept.is_file():
        raise ArchiveError(kept, "its bytes are not in the archive any more")
    final = None if out is None else confined(make_dirs(out), file.path)
    folder = make_dirs(runtime.layout.scratch / "tmp" if final is None else final.parent)
    if disk_of(folder).free_bytes < file.size_bytes + _SPARE_BYTES:
        raise LocalDiskError("", "", f"{folder}: no room to restore {file.path} ({file.size_bytes} bytes); free some")
    part = folder / f"{os.getpid()}-{os.urandom(6).hex()}.merge.tmp"  # removed by any pass when this process was killed
    try:
        found = _copy(kept, part)
        if found != file.sha256:
            raise ArchiveError(kept, f"its bytes rotted: they hash to {found[:12]} instead of {file.sha256[:12]}")
        yield part
        if final is not None:
            install(part, final)
    finally:
        part.unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> str:
    digest = hashlib.sha256()
    with disk_errors(source, "restore"), source.open("rb") as stream, target.open("wb") as restored:
        for chunk in iter(lambda: stream.read(CHUNK_BYTES), b""):
            restored.write(chunk)
            digest.update(chunk)
    return digest.hexdigest()


def _check(
    runtime: Runtime, archive: Archive, file: ArchivedFile, path: Path, checked: RestoreChecked, chance: random.Random
) -> None:
    """Look into one restored file."""
    checked.files += 1
    checked.bytes += file.size_bytes
    if path.stat().st_size != file.size_bytes:
        checked.troubles.append(Trouble(file.path, f"{archive.name}: it has not the {file.size_bytes} bytes it had"))
    if not file.rows:
        return
    checked.databases += 1
    with opened_copy(path) as then, _now(runtime.layout.root / file.path) as now:
        said = str(then.execute("PRAGMA quick_check(1)").fetchone()[0])
        if said != "ok":
            raise ArchiveError(file.path, f"SQLite says of the restored database: {said}")
        rows = count_rows(then)
        if rows != file.rows:
            changed = sorted(name for name in {*rows, *file.rows} if rows.get(name) != file.rows.get(name))
            checked.troubles.append(
                Trouble(file.path, f"{archive.name}: rows of {', '.join(changed)} are not as counted")
            )
        games = file.games is not None
        checked.add(
            file.path, audit_games(then, now, chance) if games else audit_rows(then, now, file.data_type, chance)
        )


@contextlib.contextmanager
def _now(path: Path) -> Iterator[sqlite3.Connection | None]:
    """Open the store's database of now in one reading transaction; None where it is not there."""
    if not path.exists():
        yield None
        return
    with canonical.opened(str(path), create=False) as conn:
        conn.execute("BEGIN")
        yield conn
