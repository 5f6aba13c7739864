"""Archive the owner's store: a verified copy of every database, and of every kept version of npz and models.

Databases are copied by SQLite's online backup, in one step, while others merge; files are copied by their content, so
what did not change since the last archive costs a look. It reads at the rate of BACKGROUND, waits while backpressure
holds that, and a file that cannot be archived is named while the others are. Nothing is ever deleted in the archive.
Source: domain facts, 10 (incident 2).
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ringrift_sync_dagster.core.bandwidth import BYTES_PER_MB, TransferPriority
from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.errors import ArchiveError, SyncError
from ringrift_sync_dagster.node import canonical
from ringrift_sync_dagster.node.patterns import CONFIGS
from ringrift_sync_dagster.node.reader import uri_path
from ringrift_sync_dagster.node.source import text
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.versions import VersionState, all_published, all_versions
from ringrift_sync_dagster.storage.archive import Archive, ArchivedFile, ArchiveDirectory, Paced, pace
from ringrift_sync_dagster.storage.layout import Layout
from ringrift_sync_dagster.sync.runtime import Runtime

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """Something to archive: a database, or a version that is named by its content.

    Args:
        path: Where it lies, relative to the root.
        data_type: Its data type.
        config: Its config; empty where it holds those of all.
        size_bytes: Its length now.
        sha256: Its content; empty for a database, which is copied to know.

    """

    path: str
    data_type: DataType
    config: str
    size_bytes: int
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Archived:
    """What a run did.

    Args:
        name: Of the archive; empty in a dry run.
        files: What is in it, or would be looked at.
        copied_bytes: How many bytes it added to the directory.
        failures: Which files are not in it, and why.
        sources: What there was to archive, and whether its bytes were kept already.

    """

    name: str
    files: tuple[ArchivedFile, ...]
    copied_bytes: int
    failures: tuple[tuple[str, SyncError], ...]
    sources: tuple[tuple[Source, bool], ...]


def archive(
    runtime: Runtime, directory: Path, *, configs: Sequence[str] | None = None, dry_run: bool = False
) -> Archived:
    """Write one archive of the owner's store into a directory.

    Args:
        runtime: What to work with.
        directory: The archive directory, outside the store.
        configs: Only these configs; the two databases of all configs come along anyway.
        dry_run: Only say what there is to archive.

    Raises:
        ArchiveError: The directory lies in the store, is used by another run, or its disk is full.
        LocalDiskError: It cannot be written.

    """
    store = ArchiveDirectory(checked_directory(directory, runtime.layout))
    chosen = frozenset(CONFIGS if configs is None else configs)
    sources = tuple(
        (one, bool(one.sha256) and store.has(one.sha256, one.size_bytes)) for one in _sources(runtime, chosen)
    )
    if dry_run:
        return Archived("", (), 0, (), sources)
    limit = runtime.settings.bandwidth_limit * BYTES_PER_MB * TransferPriority.BACKGROUND.multiplier
    files, failures, copied = [], [], 0
    with store.writing():
        paced = pace(limit)
        for source, _ in sources:
            try:
                runtime.bandwidth.wait_while_held(TransferPriority.BACKGROUND)
                file, added = _copied(store, runtime.layout.root, source, paced)
            except SyncError as error:
                store.require_room(0)  # a full disk ends the run: the rest would fail with the same words
                failures.append((source.path, error))
                continue
            files.append(file)
            copied += added
        name = store.new_name(datetime.fromtimestamp(clock.wall(), UTC).strftime("%Y%m%dT%H%M%SZ"))
        published = {
            f"{line.data_type}:{line.config}": line.sha256
            for line, _ in all_published(runtime.state)
            if line.config in chosen
        }
        store.finish(Archive(name, clock.wall(), runtime.intake.owner, tuple(files), published))
    _LOG.info("archive=%s files=%d copied_bytes=%d failures=%d", name, len(files), copied, len(failures))
    return Archived(name, tuple(files), copied, tuple(failures), sources)


def checked_directory(directory: Path, layout: Layout) -> Path:
    """Give the directory, absolute, where it is no part of the store.

    Raises:
        ArchiveError: It lies in the owner's root, or the root lies in it.

    """
    real, root = directory.expanduser().resolve(), layout.root.resolve()
    if real.is_relative_to(root) or root.is_relative_to(real):
        words = f"an archive must not lie in what it archives ({root}), nor around it; name a directory on another disk"
        raise ArchiveError(real, words)
    if real.exists() and not real.is_dir():
        raise ArchiveError(real, "it is no directory; name another one")
    return real


def _sources(runtime: Runtime, configs: frozenset[str]) -> Iterator[Source]:
    """Everything of the canonical store that is there."""
    layout = runtime.layout
    databases = [(DataType.GAMES, config, layout.canonical(config)) for config in CONFIGS if config in configs]
    databases += [(DataType.GAMES, config, layout.evaluation(config)) for config in CONFIGS if config in configs]
    databases += [(DataType.ELO, "", layout.elo), (DataType.REGISTRY, "", layout.registry)]
    for data_type, config, path in databases:
        if path.exists():
            yield Source(layout.relative(path), data_type, config, path.stat().st_size)
    for version in all_versions(runtime.state, VersionState.KEPT):
        if version.config in configs:
            kind = DataType(version.data_type)
            yield Source(version.path, kind, version.config, version.size_bytes, version.sha256)


def _copied(store: ArchiveDirectory, root: Path, source: Source, paced: Paced) -> tuple[ArchivedFile, int]:
    """Copy one thing; give how it is listed, and how many bytes that added."""
    path, kind = root / source.path, source.data_type.value
    if source.sha256:
        added = store.add_file(path, source.sha256, source.size_bytes, paced)
        return ArchivedFile(source.path, kind, source.config, source.sha256, source.size_bytes), added
    with store.snapshot(path, paced) as (copy, sha256, size):
        try:
            with opened_copy(copy) as conn:
                rows = count_rows(conn)
                store_id, generation = canonical.get(conn, "store_id") or "", canonical.get(conn, "generation") or ""
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise ArchiveError(path, f"SQLite cannot read a copy of it: {error}; it is not archived") from error
        games = rows.get("games", 0) if source.data_type is DataType.GAMES else None
        added = store.keep_snapshot(copy, sha256, size)
    return ArchivedFile(source.path, kind, source.config, sha256, size, games, rows, store_id, generation), added


@contextlib.contextmanager
def opened_copy(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a database that nobody writes, so that SQLite makes no file beside it."""
    uri = f"file:{uri_path(str(path))}?mode=ro&immutable=1"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as conn:
        conn.execute("PRAGMA trusted_schema=OFF")
        conn.text_factory = text
        yield conn


def count_rows(conn: sqlite3.Connection) -> dict[str, int]:
    """Count the rows of every table."""
    tables = conn.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY 1")
    names = [str(row[0]) for row in tables]
    return {name: int(conn.execute(f"SELECT COUNT(*) FROM {quoted(name)}").fetchone()[0]) for name in names}  # noqa: S608


def quoted(name: str) -> str:
    """Write a name of a table so that SQLite takes it for nothing else."""
    return '"' + name.replace('"', '""') + '"'
