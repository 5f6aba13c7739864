"""One games database read inside one transaction, and the copying of complete games out of it into pack-shaped tables.

The source is attached read-only to a scratch database that we own, so that rows travel by ``INSERT ... SELECT``
inside SQLite: bytes, numbers and NULLs arrive as they were. Columns are always named; what an old schema lacks comes
as the column's default.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from . import patterns, reader
from .digest import GameDigests, digests
from .errors import KitError
from .schema import CHILDREN, FINISHED, GAMES, MIN_MOVES, MOVES, SCHEMA_VERSION, Column, Table, pack_ddl

_LOOKUP = 400  # ids in one statement: below SQLite's smallest limit of 999 variables


class Row(NamedTuple):
    """What the selection needs of one row of ``games``."""

    rowid: int
    game_id: str
    config: Optional[str]
    finished: bool
    total_moves: int


def text(raw: bytes) -> str:
    """Decode any bytes: invalid UTF-8 survives as surrogates, which no id that we pack may hold."""
    return raw.decode("utf-8", "surrogateescape")


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def table_columns(conn: sqlite3.Connection, schema: str, table: str) -> Dict[str, str]:
    """Lower-case column name to the name as declared; empty when ``table`` is not a table."""
    kind = conn.execute(
        f"SELECT type FROM {schema}.sqlite_master WHERE name = ? COLLATE NOCASE AND type = 'table'", (table,)
    ).fetchone()
    if kind is None:
        return {}
    return {row[1].lower(): row[1] for row in conn.execute(f"PRAGMA {schema}.table_info({quoted(table)})")}


def _expression(column: Column, have: Dict[str, str]) -> str:
    """How to read ``column`` from a table that has the columns ``have``."""
    default = column.default if column.default is not None else "NULL"
    for name in (column.name, column.old_name):
        if name is not None and name in have:
            value = f"t.{quoted(have[name])}"
            return f"COALESCE({value}, {default})" if column.required else value
    return default


class Source:
    """A games database attached as ``src`` to a scratch database of the pack's shape, inside one read transaction."""

    def __init__(self, conn: sqlite3.Connection, path: str) -> None:
        self.conn = conn
        self.path = path
        self.tables: Dict[str, Dict[str, str]] = {
            table.name: table_columns(conn, "src", table.name) for table in (GAMES, *CHILDREN)
        }
        games = self.tables["games"]
        missing = [name for name in ("game_id", "board_type", "num_players", "game_status") if name not in games]
        if missing:
            what = "has no table games" if not games else f"lacks the columns {', '.join(missing)} of games"
            raise KitError("no_games_table", f"{path}: {what}; it is left alone", path)
        total = "total_moves" if "total_moves" in games else "0"
        self._select = (
            "SELECT rowid, game_id, board_type, num_players, LOWER(TRIM(game_status)),"
            f" COALESCE({total}, 0) FROM src.games"
        )

    def warnings(self) -> List[str]:
        """What a person should know of this database: a schema newer than ours gives only the columns that we know."""
        if "value" not in table_columns(self.conn, "src", "schema_metadata"):
            return []
        row = self.conn.execute("SELECT value FROM src.schema_metadata WHERE key = 'schema_version'").fetchone()
        version = str(row[0]) if row else ""
        if not version.isdigit() or int(version) <= SCHEMA_VERSION:
            return []
        return [
            f"schema {version} is newer than {SCHEMA_VERSION}: columns that this program does not know stay at home"
        ]

    def rows_after(self, rowid: int, limit: int) -> List[Row]:
        """The next ``limit`` rows of ``games`` in rowid order; rows whose id is no text hide none behind them."""
        return self._rows("WHERE rowid > ? AND typeof(game_id) = 'text' ORDER BY rowid LIMIT ?", (rowid, limit))

    def rows_of(self, ids: Sequence[str]) -> List[Row]:
        """The rows of these games, those that still exist."""
        found: List[Row] = []
        for start in range(0, len(ids), _LOOKUP):
            part = ids[start : start + _LOOKUP]
            found += self._rows(f"WHERE game_id IN ({', '.join('?' * len(part))})", part)
        return found

    def row_at(self, rowid: int) -> Optional[Row]:
        """The row at ``rowid``."""
        rows = self._rows("WHERE rowid = ?", (rowid,))
        return rows[0] if rows else None

    def _rows(self, where: str, values: Sequence[object]) -> List[Row]:
        rows = []
        for rowid, game_id, board, players, status, total in self.conn.execute(
            f"{self._select} {where}", tuple(values)
        ):
            if isinstance(game_id, str):
                moves = total if isinstance(total, int) else 0
                rows.append(Row(rowid, game_id, patterns.config_key(board, players), status in FINISHED, moves))
        return rows

    def move_counts(self, ids: Sequence[str]) -> Dict[str, int]:
        """Rows of ``game_moves`` per game, for games that have any."""
        if "game_id" not in self.tables["game_moves"]:
            return {}
        self._want(ids)
        return dict(
            self.conn.execute(
                "SELECT w.game_id, COUNT(*) FROM temp.wanted w CROSS JOIN src.game_moves t ON t.game_id = w.game_id"
                " GROUP BY w.game_id"
            ).fetchall()
        )

    def copy(self, ids: Sequence[str], include: Sequence[Table] = ()) -> None:
        """Copy these games with their child rows into the scratch database's tables."""
        self._want(ids)
        for table in (GAMES, *CHILDREN):
            have = self.tables[table.name]
            if not have or not (table.packed or table in include):
                continue
            names = ", ".join(table.names())
            values = ", ".join(_expression(column, have) for column in table.columns)
            self.conn.execute(
                f"INSERT OR IGNORE INTO main.{table.name} ({names}) SELECT {values}"
                f" FROM temp.wanted w CROSS JOIN src.{table.name} t ON t.game_id = w.game_id"
            )

    def drop(self, ids: Sequence[str]) -> None:
        """Take games out of the scratch database again."""
        for table in (GAMES, *CHILDREN):
            self.conn.executemany(f"DELETE FROM main.{table.name} WHERE game_id = ?", ((game_id,) for game_id in ids))

    def digest_one(self, game_id: str) -> Optional[GameDigests]:
        """Digest one game of the source without leaving it in the scratch database (where it must not be yet)."""
        self.copy([game_id])
        found = next(iter(list(digests(self.conn, only=[game_id]))), None)
        self.drop([game_id])
        return found

    def _want(self, ids: Sequence[str]) -> None:
        self.conn.execute("DELETE FROM temp.wanted")
        self.conn.executemany("INSERT OR IGNORE INTO temp.wanted VALUES (?)", ((game_id,) for game_id in ids))

    def scratch_bytes(self) -> int:
        """Size of the scratch database so far."""
        pages = self.conn.execute("PRAGMA main.page_count").fetchone()[0]
        return int(pages) * int(self.conn.execute("PRAGMA main.page_size").fetchone()[0])


def needed_moves(row: Row) -> int:
    """How many rows of ``game_moves`` make this game complete."""
    return max(MIN_MOVES, row.total_moves)


def printable(ids: Sequence[str]) -> Tuple[List[str], int]:
    """Ids that are valid text, and how many are not."""
    good = [game_id for game_id in ids if not any("\ud800" <= c <= "\udfff" for c in game_id)]
    return good, len(ids) - len(good)


@contextlib.contextmanager
def open_games(
    path: str, scratch: str, into: str = ":memory:", busy_seconds: float = reader.BUSY_SECONDS
) -> Iterator[Source]:
    """Attach the games database ``path`` to a new pack-shaped database ``into`` and hold one read transaction on it.

    Args:
        path: The database; it is never written, checkpointed or migrated.
        scratch: Folder for a recovered copy, when a dead writer left a hot journal.
        into: File to make, or ``:memory:``.
        busy_seconds: How long to wait for a writer that holds the whole database.

    Raises:
        KitError: ``no_games_table``, ``locked``, ``corrupt`` and the other codes of ``reader``.

    """
    with reader.resolve_source(path, scratch, busy_seconds) as readable, contextlib.closing(
        sqlite3.connect(
            "file:" + reader.uri_path(into) if into != ":memory:" else "file::memory:", uri=True, isolation_level=None
        )
    ) as conn:
        conn.text_factory = text
        for pragma in (
            "journal_mode=OFF",
            "synchronous=OFF",
            "temp_store=MEMORY",
            "trusted_schema=OFF",
            f"busy_timeout={round(1000 * busy_seconds)}",
        ):
            conn.execute(f"PRAGMA {pragma}")
        for statement in pack_ddl():
            conn.execute(statement)
        conn.execute("CREATE TEMP TABLE wanted (game_id TEXT PRIMARY KEY) WITHOUT ROWID")
        try:
            conn.execute("ATTACH DATABASE ? AS src", (reader.source_uri(readable),))
            conn.execute("BEGIN")
            yield Source(conn, path)
            conn.execute("COMMIT")
        except reader.SQLITE_ERRORS as error:
            raise reader.classified(error, path) from error


def inode(path: str) -> int:
    """The inode of a database file: another one means that the file was replaced."""
    return os.stat(path).st_ino


__all__ = ["MOVES", "Row", "Source", "inode", "needed_moves", "open_games", "printable", "table_columns"]
