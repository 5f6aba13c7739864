"""The file of a pack: sealing it (compress, hash, rename) and opening one that came from elsewhere.

A node's own pack need not outlive a power cut: its rows are still in the database that it was made of. So nothing is
flushed to the disk here: each flush commits the file system's journal, for which the writer of the database may have to
wait. Whoever takes a pack, this kit too, proves it by its name.

A pack is a zlib stream of a small SQLite database. One that arrives is hostile until checked: inflation is bounded,
the schema must be the kit's own to the letter (so no foreign trigger, view or index exists), and SQLite's own check
must pass.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import zlib
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from . import reader
from .cursor import Cursor, parse
from .errors import KitError
from .schema import pack_ddl
from .source import text

CHUNK_BYTES = 1 << 20
RAW_LIMIT_BYTES = 512 << 20
"""No pack may inflate to more; a sealed one is far smaller (see ``pack.MAX_BYTES``)."""
_HEADER_BYTES = 100
_PAGE_BYTES = 4096
LEVEL = 3  # zlib: half the time of level 6 for an eighth more bytes (measured on packs of 200 games)


class Sealed(NamedTuple):
    """A finished artifact: SHA-256 hex of its bytes, its size and the size it inflates to, in bytes."""

    sha256: str
    size_bytes: int
    raw_bytes: int


def seal(database: str, folder: str) -> Sealed:
    """Compress ``database`` into ``folder`` under its SHA-256; not yet durable.

    ``database`` is left for the caller to remove.
    """
    part = database + ".seal"
    digest = hashlib.sha256()
    size = raw = 0
    with open(database, "rb") as source, open(part, "wb") as target:
        packer = zlib.compressobj(LEVEL)
        while True:
            chunk = source.read(CHUNK_BYTES)
            raw += len(chunk)
            out = packer.compress(chunk) if chunk else packer.flush()
            digest.update(out)
            size += len(out)
            target.write(out)
            if not chunk:
                break
    os.chmod(part, 0o644)
    os.replace(part, os.path.join(folder, digest.hexdigest()))
    return Sealed(digest.hexdigest(), size, raw)


def sync_directory(folder: str) -> None:
    """Make a rename in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: str, value: Dict[str, Any]) -> None:
    """Replace a small JSON file so that a reader sees the old or the new one; after a power cut perhaps neither."""
    part = f"{path}.{os.getpid()}.part"
    with open(part, "w", encoding="utf-8") as handle:
        json.dump(value, handle)
    os.replace(part, path)


def file_sha256(path: str) -> str:
    """Hex SHA-256 of a file's bytes, in bounded memory."""
    digest = hashlib.sha256()
    with open(path, "rb") as source:
        for chunk in iter(lambda: source.read(CHUNK_BYTES), b""):
            digest.update(chunk)
    return digest.hexdigest()


def inflate(artifact: str, database: str, limit_bytes: int = RAW_LIMIT_BYTES) -> int:
    """Inflate a pack into ``database`` in bounded memory and return its size.

    Raises:
        KitError: ``corrupt`` when it is no zlib stream, ends early, has bytes behind its end or inflates past
            ``limit_bytes``.

    """
    inflater = zlib.decompressobj()
    written = 0
    try:
        with open(artifact, "rb") as source, open(database, "wb") as target:
            while not inflater.eof:
                pending = inflater.unconsumed_tail or source.read(CHUNK_BYTES)
                out = inflater.decompress(pending, CHUNK_BYTES)
                if not pending and not out:
                    break
                written += len(out)
                if written > limit_bytes:
                    raise KitError("corrupt", f"it inflates to more than {limit_bytes} bytes", artifact)
                target.write(out)
            if not inflater.eof or inflater.unused_data or source.read(1):
                raise KitError("corrupt", "it is cut short or has bytes behind its end", artifact)
    except zlib.error as error:
        raise KitError("corrupt", f"it is no zlib stream: {error}", artifact) from error
    return written


def _objects(conn: sqlite3.Connection) -> List[Tuple[Any, ...]]:
    """Every object of the schema, as (type, name, table, sql), in a fixed order whatever a forger wrote there."""
    return sorted(conn.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall(), key=repr)


def _objects_of(ddl: Sequence[str]) -> List[Tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(":memory:")) as conn:
        for statement in ddl:
            conn.execute(statement)
        return _objects(conn)


@contextlib.contextmanager
def open_pack(database: str, ddl: Optional[Sequence[str]] = None) -> Iterator[sqlite3.Connection]:
    """Open an inflated pack read-only after proving that it is one.

    Args:
        database: The inflated pack.
        ddl: The statements that make such a pack; by default those of a pack of games.

    Raises:
        KitError: ``corrupt``: not a database, damaged, with a schema that is not the kit's own, or of a form (with a
            write-ahead log, in another text encoding) that could not be attached where it is merged.

    """
    _prove_header(database)
    try:
        with contextlib.closing(sqlite3.connect(f"file:{reader.uri_path(database)}?mode=ro", uri=True)) as conn:
            conn.text_factory = text
            for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "query_only=ON", "mmap_size=0"):
                conn.execute(f"PRAGMA {pragma}")
            if _objects(conn) != _objects_of(pack_ddl() if ddl is None else ddl):
                raise KitError("corrupt", "its schema is not that of a pack", database)
            verdict = conn.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                raise KitError("corrupt", f"it is damaged: {verdict}", database)
            yield conn
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise KitError("corrupt", f"it is not a readable pack: {error}", database) from error


def _prove_header(database: str) -> None:
    """Look at the first bytes before SQLite does; the file is ours alone, so that opening it drops nobody's locks."""
    with open(database, "rb") as file:
        header = file.read(_HEADER_BYTES)
    if header[:16] != b"SQLite format 3\0" or header[18:20] != b"\1\1" or header[56:60] != b"\0\0\0\1":
        raise KitError("corrupt", "it is not a database as packs are", database)


def holds_records(artifact: str) -> bool:
    """Tell whether a pack says that it holds records, and not games, by the first page of its database.

    Nothing is proved by that; a file that is no pack at all holds none.
    """
    try:
        with open(artifact, "rb") as source:
            return b"CREATE TABLE pack_records" in zlib.decompressobj().decompress(
                source.read(CHUNK_BYTES), _PAGE_BYTES
            )
    except (OSError, zlib.error):
        return False


def read_meta(conn: sqlite3.Connection) -> Dict[str, str]:
    """The pack's own description: config, path, cursor (JSON), kind (``games`` or ``aside``), versions; valid text."""
    return {_valid(str(key)): _valid(str(value)) for key, value in conn.execute("SELECT key, value FROM pack_meta")}


def _valid(value: str) -> str:
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


class Declared(NamedTuple):
    """What a pack says of its reader: the path of the database, where it began (None: at the beginning), and ended."""

    path: str
    after: Optional[Cursor]
    cursor: Cursor


def declared(meta: Dict[str, str]) -> Optional[Declared]:
    """How far the reader of this pack was before and behind it; None when the pack says nothing sound."""
    try:
        cursor, after = parse(json.loads(meta.get("cursor") or "null")), parse(json.loads(meta["after"]))
    except (KeyError, ValueError, RecursionError, KitError):
        return None
    path = meta.get("path", "")
    return Declared(path, after, cursor) if path and cursor is not None else None
