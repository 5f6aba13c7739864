"""Unite a pack of records with a database: the owner's own, or the live one of a node beside its writer.

Both are one IMMEDIATE transaction around the same ``merge`` of the family. The owner's database also gets our marker,
the cursor and the change in it. A node's database gets rows and nothing else: no table of ours, no checkpoint
(``wal_autocheckpoint=0``), no other journal mode.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import uuid
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from . import canonical, packfile, reader, records
from .errors import KitError
from .faults import reached
from .records import Merged, Record
from .schema import STORE_TABLE, store_ddl
from .source import text

LIVE_BUSY_MS = 10_000
"""How long a writer on the node may keep us waiting; upstream's own programs wait as long for each other."""


_DUE = "due:"
"""Begins the key under which the marker has, for each config that ``settle`` must still look at, who brought it."""
_NAMED = 50  # things set aside that a change names


class Proved(NamedTuple):
    """A pack of records that was proved: which family and config it says it is of, and what it holds."""

    family: str
    config: str
    meta: Dict[str, str]
    records: List[Record]
    raw_bytes: int


class Note(NamedTuple):
    """What an owner writes beside the rows: the change's id and fields, the node, and the cursor of its database."""

    change_id: str
    node: str
    fields: Dict[str, Any]
    cursor: Optional[Tuple[str, Dict[str, Any]]]


@contextlib.contextmanager
def proved(pack: str, database: str, limit_bytes: int = packfile.RAW_LIMIT_BYTES) -> Iterator[Proved]:
    """Inflate the pack file into ``database``, which the caller removes, and read it.

    Raises:
        KitError: ``corrupt``: it is no sound pack of records.

    """
    raw_bytes = packfile.inflate(pack, database, limit_bytes)
    with records.open_pack(database) as conn:
        meta = packfile.read_meta(conn)
        found = records.read_pack(conn)
    if meta.get("kind") not in records.FAMILIES:
        raise KitError("corrupt", f"it says that it is of kind {meta.get('kind', '')!r:.60}")
    yield Proved(meta["kind"], meta.get("config", ""), meta, found, raw_bytes)


def into_own(
    path: str,
    pack: Proved,
    note: Note,
    set_aside: Callable[[Sequence[records.Refused]], None],
    before_commit: Callable[[], None] = lambda: None,
) -> Merged:
    """Unite with an owner's database, which is made when there is none.

    Args:
        path: The database; the caller holds its lease.
        pack: What to unite.
        note: What to write beside the rows.
        set_aside: Makes what does not enter durable; called before the commit.
        before_commit: Called last of all; what it raises takes the transaction back (a lease that was lost).

    Raises:
        KitError: The database is none of the family; nothing was merged.
        sqlite3.Error: The disk is full or the database locked for too long; nothing was merged.

    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    family = records.family(pack.family)
    with canonical.opened(path) as conn:
        with canonical.writing(conn):
            _prepare(conn, family)
            merged: Merged = family.merge(conn, pack.records, pack.config)
            reached("union.merged")
            set_aside(merged.refused)
            if merged.due:
                canonical.put(conn, _DUE + pack.config, note.node)
            if note.cursor is not None:
                canonical.write_cursor(conn, note.node, note.cursor[0], pack.config, note.cursor[1])
            if note.fields.get("artifact"):
                canonical.note_taken(conn, note.fields["artifact"])
            if merged.changed:
                generation = int(canonical.get(conn, "generation") or 0) + 1
                canonical.put(conn, "generation", generation)
                checks = {**note.fields.get("checks", {}), **merged.checks}
                asides = [[one.record.key, one.record.content[:12], one.reason] for one in merged.refused[:_NAMED]]
                told = {**note.fields, "set_aside": len(merged.refused), "counts": merged.counts, "checks": checks}
                told["asides"] = asides
                canonical.add_change(conn, note.change_id, {**told, "change_id": note.change_id})
            before_commit()
            reached("union.before_commit")
        reached("union.after_commit")
    return merged


def due(conn: sqlite3.Connection) -> Dict[str, str]:
    """The configs of an owner's database that are to be settled, each with the node that brought the last rows."""
    if canonical.get(conn, "schema") is None:
        return {}
    rows = conn.execute(f"SELECT key, value FROM {STORE_TABLE} WHERE key LIKE ?", (f"{_DUE}%",))
    return {str(key)[len(_DUE) :]: str(node) for key, node in rows}


def settle(
    path: str, family_name: str, config: str, note: Note, before_commit: Callable[[], None] = lambda: None
) -> None:
    """Write in an owner's database what follows from all rows of a config, once for many unions; nothing if not due."""
    family = records.family(family_name)
    with canonical.opened(path) as conn, canonical.writing(conn):
        if config not in due(conn):
            return
        checks = family.settle(conn, config)
        reached("union.settled")
        conn.execute(f"DELETE FROM {STORE_TABLE} WHERE key = ?", (_DUE + config,))
        canonical.put(conn, "generation", int(canonical.get(conn, "generation") or 0) + 1)
        told = {**note.fields, "set_aside": 0, "counts": {}, "checks": {**note.fields.get("checks", {}), **checks}}
        canonical.add_change(conn, note.change_id, {**told, "asides": [], "change_id": note.change_id})
        before_commit()


def into_live(path: str, pack: Proved, busy_ms: int = LIVE_BUSY_MS) -> Merged:
    """Unite with the live database of a node, beside whoever writes it; it must be there.

    Raises:
        KitError: ``locked`` where a writer held it for ``busy_ms``; the codes of ``reader``. Nothing was merged.

    """
    family = records.family(pack.family)
    uri = f"file:{reader.uri_path(path)}?mode=rw"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as conn:
            conn.text_factory = text
            for pragma in (f"busy_timeout={busy_ms}", "trusted_schema=OFF", "wal_autocheckpoint=0"):
                conn.execute(f"PRAGMA {pragma}")
            conn.execute("BEGIN IMMEDIATE")
            try:
                merged: Merged = family.merge(conn, pack.records, pack.config)
                reached("union.live_before_commit")
                conn.execute("COMMIT")
            except BaseException:
                if conn.in_transaction:
                    conn.execute("ROLLBACK")
                raise
    except sqlite3.Error as error:
        raise reader.classified(error, path) from error
    reached("union.live_after_commit")
    return merged


def _prepare(conn: sqlite3.Connection, family: Any) -> None:  # noqa: ANN401 - a module, see ``records.family``
    """Make or adopt an owner's database, inside the caller's transaction."""
    if canonical.get(conn, "schema") == "1":
        return
    family.prepare(conn)
    for statement in store_ddl():
        conn.execute(statement)
    first = {"store_id": uuid.uuid4().hex, "generation": "0", "schema": "1"}
    conn.executemany(f"INSERT OR IGNORE INTO {STORE_TABLE} VALUES (?, ?)", first.items())
