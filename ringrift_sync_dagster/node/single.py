"""A pack with one game, as bytes: what quarantine keeps of a game that does not enter the canonical store."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
import zlib

from . import KIT_VERSION
from .digest import digests
from .packfile import LEVEL
from .schema import CHILDREN, GAMES, SCHEMA_VERSION, pack_ddl
from .source import text


def single_pack(conn: sqlite3.Connection, schema: str, stored_id: str, game_id: str, config: str) -> bytes:
    """Copy the rows of ``stored_id`` in ``schema`` into a pack of their own.

    There the game has the id ``game_id`` that it came with.
    """
    handle, path = tempfile.mkstemp(suffix=".single.tmp")
    os.close(handle)
    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as single:
            single.text_factory = text
            single.execute("PRAGMA journal_mode=OFF")
            single.execute("PRAGMA synchronous=OFF")
            for statement in pack_ddl():
                single.execute(statement)
            _copy(conn, schema, stored_id, game_id, single)
            single.executemany("INSERT INTO pack_games VALUES (?, ?, ?, ?)", list(digests(single)))
            meta = {
                "config": config,
                "kind": "aside",
                "schema_version": str(SCHEMA_VERSION),
                "kit_version": KIT_VERSION,
            }
            single.executemany("INSERT INTO pack_meta VALUES (?, ?)", sorted(meta.items()))
        with open(path, "rb") as packed:
            return zlib.compress(packed.read(), LEVEL)
    finally:
        os.unlink(path)


def _copy(conn: sqlite3.Connection, schema: str, stored_id: str, game_id: str, single: sqlite3.Connection) -> None:
    """Copy rows through Python; text goes as bytes, so that what is not UTF-8 arrives as it was."""
    for table in (GAMES, *CHILDREN):
        rest = [name for name in table.names() if name != "game_id"]
        rows = conn.execute(f"SELECT {', '.join(rest)} FROM {schema}.{table.name} WHERE game_id = ?", (stored_id,))
        for row in rows.fetchall():
            marks = ", ".join("CAST(? AS TEXT)" if isinstance(value, str) else "?" for value in row)
            values = [value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value for value in row]
            single.execute(
                f"INSERT INTO {table.name} (game_id, {', '.join(rest)}) VALUES (?, {marks})", (game_id, *values)
            )
