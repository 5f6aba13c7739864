"""A canonical database: making or adopting it, its marker (store id, generation, number of games), cursors and changes.

These rows live in the same file as the games, so that a store that is lost or restored forgets exactly what it no
longer holds.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import uuid
from typing import Any, Collection, Dict, Iterator, List, Optional, Sequence, Set, Tuple

from .errors import KitError
from .reader import uri_path
from .schema import SCHEMA_VERSION, STORE_TABLE, TABLES, games_ddl, store_ddl
from .source import table_columns, text

BUSY_MS = 30_000
CACHE_KIB = 64 << 10
"""Page cache of a merge: random ids touch pages everywhere, and SQLite's own 2 MB are read and spilled again and again.

200 games into 540 MB took 0.12 s until the commit, 0.06 s with this (measured).
"""
WAL_PAGES = (64 << 20) // 4096
"""Length of the log at which a commit copies it into the database: more than a usual merge writes (16 MB).

Closing the last connection does that too; at SQLite's own 4 MB each merge did it twice (measured: 0.22 s, now 0.16 s).
"""


@contextlib.contextmanager
def opened(path: str, *, create: bool = True) -> Iterator[sqlite3.Connection]:
    """Open a canonical database for reading and writing, in autocommit, with its durability set.

    A commit is on disk when it returns (``synchronous=FULL``). A new file is made in WAL mode, so that training reads
    while we write.
    """
    new = not os.path.exists(path)
    mode = "rwc" if create else "rw"
    with contextlib.closing(
        sqlite3.connect(f"file:{uri_path(path)}?mode={mode}", uri=True, isolation_level=None)
    ) as conn:
        conn.text_factory = text
        if new:
            conn.execute("PRAGMA journal_mode=WAL")
        for pragma in (
            f"busy_timeout={BUSY_MS}",
            "synchronous=FULL",
            "foreign_keys=ON",
            "trusted_schema=OFF",
            "temp_store=MEMORY",
            f"cache_size=-{CACHE_KIB}",
            f"wal_autocheckpoint={WAL_PAGES}",
        ):
            conn.execute(f"PRAGMA {pragma}")
        yield conn


@contextlib.contextmanager
def writing(conn: sqlite3.Connection) -> Iterator[None]:
    """One IMMEDIATE transaction: all of it or nothing.

    Foreign keys are checked at its end, since moves go in before their game.
    """
    conn.execute("BEGIN IMMEDIATE")
    try:
        conn.execute("PRAGMA defer_foreign_keys=ON")
        yield
        conn.execute("COMMIT")
    except BaseException:
        if conn.in_transaction:
            conn.execute("ROLLBACK")
        raise


def prepare(conn: sqlite3.Connection) -> None:
    """Bring the database to version 18 with our marker, inside the caller's transaction; a ready one is only looked at.

    A canonical database that upstream's program made is adopted: missing tables, columns, triggers and indices are
    added, rows stay.
    """
    if get(conn, "schema") == str(SCHEMA_VERSION):
        return
    for table in TABLES:
        have = table_columns(conn, "main", table.name)
        if "move_index" in have and "move_number" not in have:
            raise KitError(
                "old_dialect", "this canonical database calls the column move_index; rename it to move_number first"
            )
        for column in table.columns:
            if have and column.name not in have:
                default = column.default if column.default is not None else "''" if column.required else "NULL"
                required = " NOT NULL" if column.required else ""
                conn.execute(
                    f"ALTER TABLE {table.name} ADD COLUMN {column.name} {column.kind}{required} DEFAULT {default}"
                )
    for statement in games_ddl() + store_ddl():
        conn.execute(statement)
    conn.execute("INSERT OR IGNORE INTO schema_metadata VALUES ('schema_version', ?)", (str(SCHEMA_VERSION),))
    conn.execute(
        "UPDATE schema_metadata SET value = ? WHERE key = 'schema_version' AND CAST(value AS INTEGER) < ?",
        (str(SCHEMA_VERSION), SCHEMA_VERSION),
    )
    games = conn.execute("SELECT COUNT(*) FROM games").fetchone()[0]
    first = {"store_id": uuid.uuid4().hex, "generation": "0", "games": str(games), "schema": str(SCHEMA_VERSION)}
    conn.executemany(f"INSERT OR IGNORE INTO {STORE_TABLE} VALUES (?, ?)", first.items())


def get(conn: sqlite3.Connection, key: str) -> Optional[str]:
    """A value of the marker, or None, also where there is no marker."""
    if not table_columns(conn, "main", STORE_TABLE):
        return None
    row = conn.execute(f"SELECT value FROM {STORE_TABLE} WHERE key = ?", (key,)).fetchone()
    return str(row[0]) if row else None


def put(conn: sqlite3.Connection, key: str, value: object) -> None:
    """Set a value of the marker."""
    conn.execute(
        f"INSERT INTO {STORE_TABLE} VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (key, str(value)),
    )


def count(conn: sqlite3.Connection) -> int:
    """Number of games, as kept by each merge in its own transaction."""
    return int(get(conn, "games") or 0)


def read_cursor(conn: sqlite3.Connection, node: str, path: str, config: str) -> Optional[Dict[str, Any]]:
    """How far this store has read a node's database, or None."""
    if get(conn, "schema") is None:
        return None
    row = conn.execute(
        "SELECT cursor FROM ringrift_cursors WHERE node = ? AND path = ? AND config = ?", (node, path, config)
    ).fetchone()
    return dict(json.loads(row[0])) if row else None


def read_cursors(
    conn: sqlite3.Connection, config: str, nodes: Optional[Collection[str]] = None
) -> Dict[Tuple[str, str], Dict[str, Any]]:
    """How far this store has read each database with games of a config (of all nodes where None), by (node, path)."""
    if get(conn, "schema") is None:
        return {}
    statement = "SELECT node, path, cursor FROM ringrift_cursors WHERE config = ?"
    if nodes is not None:
        statement += " AND node IN ({})".format(", ".join("?" * len(nodes)))
    rows = conn.execute(statement, (config, *(nodes or ())))
    return {(node, path): dict(json.loads(cursor)) for node, path, cursor in rows}


def write_cursor(conn: sqlite3.Connection, node: str, path: str, config: str, cursor: Dict[str, Any]) -> None:
    """Remember how far this store has read, inside the caller's transaction."""
    conn.execute(
        "INSERT INTO ringrift_cursors VALUES (?, ?, ?, ?)"
        " ON CONFLICT (node, path, config) DO UPDATE SET cursor = excluded.cursor",
        (node, path, config, json.dumps(cursor, sort_keys=True)),
    )


def add_change(conn: sqlite3.Connection, change_id: str, summary: Dict[str, Any]) -> None:
    """Write down what this transaction does, for the state database to copy after the commit."""
    conn.execute(
        "INSERT INTO ringrift_changes (change_id, summary) VALUES (?, ?)",
        (change_id, json.dumps(summary, sort_keys=True)),
    )


def unsent_changes(conn: sqlite3.Connection) -> List[Tuple[int, Dict[str, Any]]]:
    """Changes that are not yet known to be in the state database, oldest first."""
    if get(conn, "schema") is None:
        return []
    return [
        (seq, json.loads(summary))
        for seq, summary in conn.execute("SELECT seq, summary FROM ringrift_changes WHERE sent = 0 ORDER BY seq")
    ]


def mark_sent(conn: sqlite3.Connection, up_to: int) -> None:
    """The state database holds all changes up to ``up_to``; older ones than the last thousand are forgotten."""
    with writing(conn):
        conn.execute("UPDATE ringrift_changes SET sent = 1 WHERE sent = 0 AND seq <= ?", (up_to,))
        conn.execute("DELETE FROM ringrift_changes WHERE sent = 1 AND seq <= ? - 1000", (up_to,))


_TAKEN_DDL = "CREATE TABLE IF NOT EXISTS ringrift_taken (artifact TEXT PRIMARY KEY) WITHOUT ROWID"
"""The artifacts that were merged into this very database, whether or not they held anything new."""


def note_taken(conn: sqlite3.Connection, artifact: str) -> None:
    """Remember that an artifact was merged, inside the transaction that merges it: the two are lost together."""
    conn.execute(_TAKEN_DDL)
    conn.execute("INSERT OR IGNORE INTO ringrift_taken VALUES (?)", (artifact,))


def taken(conn: sqlite3.Connection, artifacts: Sequence[str]) -> Set[str]:
    """Of these artifacts, those that were merged into this database."""
    if not table_columns(conn, "main", "ringrift_taken"):
        return set()
    query = "SELECT 1 FROM ringrift_taken WHERE artifact = ?"
    return {one for one in artifacts if conn.execute(query, (one,)).fetchone()}


def known_identities(conn: sqlite3.Connection, ids: List[str]) -> Dict[str, List[str]]:
    """Identity digests this store holds under each original id.

    They are those of the game with that id itself, and of the games that entered as ``{id}~{digest12}``.
    """
    known: Dict[str, List[str]] = {}
    if get(conn, "schema") is None:
        return known
    for game_id in ids:
        rows = conn.execute(
            "SELECT identity FROM ringrift_provenance WHERE game_id = ?1 AND origin_id IS NULL"
            " UNION SELECT identity FROM ringrift_provenance WHERE origin_id = ?1",
            (game_id,),
        )
        known[game_id] = [row[0] for row in rows]
    return known


_LOOKED_DDL = (
    "CREATE TABLE IF NOT EXISTS ringrift_looked (node TEXT NOT NULL, game_id TEXT NOT NULL, annotation TEXT NOT NULL,"
    " PRIMARY KEY (node, game_id)) WITHOUT ROWID"
)
"""What a node's annotation of a game was when it was merged and still differed from ours: it is not asked for again."""


def differing(conn: sqlite3.Connection, node: str, told: Dict[str, str]) -> List[str]:
    """Of games told as id to annotation digest, those that this store has with another annotation, and has not met."""
    have_looked = bool(table_columns(conn, "main", "ringrift_looked"))
    found = []
    for game_id, annotation in told.items():
        row = conn.execute(
            "SELECT annotation FROM ringrift_provenance WHERE game_id = ?1 OR origin_id = ?1 ORDER BY game_id LIMIT 1",
            (game_id,),
        ).fetchone()
        if row is None or row[0] == annotation:
            continue
        seen = (
            have_looked
            and conn.execute(
                "SELECT 1 FROM ringrift_looked WHERE node = ? AND game_id = ? AND annotation = ?",
                (node, game_id, annotation),
            ).fetchone()
        )
        if not seen:
            found.append(game_id)
    return found


def looked(conn: sqlite3.Connection, node: str, told: Dict[str, str]) -> None:
    """Remember annotations that were merged, inside the caller's transaction."""
    conn.execute(_LOOKED_DDL)
    conn.executemany(
        "INSERT INTO ringrift_looked VALUES (?, ?, ?)"
        " ON CONFLICT (node, game_id) DO UPDATE SET annotation = excluded.annotation",
        [(node, game_id, annotation) for game_id, annotation in told.items()],
    )
