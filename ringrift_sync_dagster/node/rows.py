"""The node's side of records: pack the rows that an asker lacks, list what is there, apply what was brought.

Reading is as for games: read-only, beside the writer. ``apply`` is the one thing that writes into a database of the
node's own: one short transaction, rows only.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from typing import Any, Dict, NamedTuple, Optional

from . import gate, packfile, reader, records, union
from .errors import KitError
from .pack import folders
from .source import inode

MAX_ROWS = records.MAX_RECORDS


class Wanted(NamedTuple):
    """What the asker wants: the database by its name, the family, the config (empty: rows of none), from where on."""

    path: str
    kind: str
    config: str
    cursor: Optional[Dict[str, Any]]
    limit: int


class Arrived(NamedTuple):
    """A pack that was pushed to this node: in whose name, and its SHA-256."""

    node: str
    artifact: str


def pack_rows(absolute: str, scratch: str, wanted: Wanted, now: float) -> Dict[str, Any]:
    """Pack the records of a config behind the cursor.

    Returns:
        ``artifact`` (None when there is nothing), ``bytes``, ``raw_bytes``, ``rows``, ``cursor``, ``more`` and
        ``warnings``.

    Raises:
        KitError: The codes of ``reader``; ``no_games_table`` where the tables are not there.

    """
    token = gate.change_token(absolute) if gate.settled(absolute, now) else ""
    number = inode(absolute)
    with reader.open_source(absolute, scratch) as conn:
        conn.execute("BEGIN")
        found = records.family(wanted.kind).read(conn, wanted.config, wanted.cursor, number, wanted.limit)
    cursor = None if found.cursor is None else {**found.cursor, "token": "" if found.more else token}
    meta = {
        "kind": wanted.kind, "config": wanted.config, "path": wanted.path,
        "cursor": json.dumps(cursor, sort_keys=True) if cursor else "",
    }  # fmt: skip
    sealed = records.write_pack(found.records, meta, scratch, now)
    return {**sealed, "cursor": cursor, "more": found.more, "warnings": found.warnings}


def list_names(absolute: str, scratch: str, kind: str, config: str) -> Dict[str, Any]:
    """Give the ``names`` of the records that are there, sorted, and the change token from before they were read."""
    token = gate.change_token(absolute)
    with reader.open_source(absolute, scratch) as conn:
        conn.execute("BEGIN")
        names = records.names_of(records.family(kind).all_records(conn, config))
    return {"names": names, "token": token}


def apply(absolute: str, scratch: str, pack: Arrived, kind: str, config: str) -> Dict[str, Any]:
    """Unite a pack that was pushed here with the node's live database, then let the pack go. Idempotent.

    Returns:
        ``counts`` by name, ``refused`` (how many records did not enter) and ``changed``.

    Raises:
        KitError: ``missing``: the pack is not here; ``corrupt``: it is no sound pack of this kind and config;
            ``locked``: a writer held the database. Nothing was applied.

    """
    path = os.path.join(scratch, "incoming", pack.node, pack.artifact)
    if not os.path.isfile(path):
        raise KitError("missing", "the pack is not here; push it again", pack.artifact)
    if packfile.file_sha256(path) != pack.artifact:
        os.unlink(path)
        raise KitError("corrupt", "what is here under its name is another file; it was removed", pack.artifact)
    _, temporary = folders(scratch)
    handle, database = tempfile.mkstemp(prefix=f"{os.getpid()}-", suffix=".apply.tmp", dir=temporary)
    os.close(handle)
    try:
        with union.proved(path, database) as found:
            if (found.family, found.config) != (kind, config):
                raise KitError(
                    "corrupt", f"the pack is of {found.family} and config {found.config!r:.40}", pack.artifact
                )
            merged = union.into_live(absolute, found)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(database)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    return {"counts": merged.counts, "refused": len(merged.refused), "changed": merged.changed}
