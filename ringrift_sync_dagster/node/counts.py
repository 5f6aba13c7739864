"""What a games database holds, told without reading a game: games per config, unfinished ones, marker, version.

The count groups by the columns of upstream's index ``idx_games_config``, so that a large database costs one pass
over that index. Whether a finished game is complete is found out when it is packed, not here.
"""

from __future__ import annotations

import sqlite3
from typing import Dict, NamedTuple, Optional, Set, Tuple

from . import patterns
from .errors import KitError
from .schema import FINISHED, STORE_TABLE

_NEEDED = ("game_id", "board_type", "num_players", "game_status")


class Contents(NamedTuple):
    """Counts of rows of ``games``; ``unknown_config`` are finished games of no config, which no pack can carry."""

    games: Dict[str, int]
    unfinished: int
    unknown_config: int
    marker: Optional[str]
    schema_version: Optional[int]


def _columns(conn: sqlite3.Connection, table: str) -> Set[str]:
    """Give the column names of a real table; a view or a virtual table of that name counts as absent."""
    row = conn.execute("SELECT type, sql FROM sqlite_master WHERE name = ? COLLATE NOCASE", (table,)).fetchone()
    if row is None or row[0] != "table" or str(row[1]).upper().startswith("CREATE VIRTUAL"):
        return set()
    return {str(column[1]).lower() for column in conn.execute(f"PRAGMA table_info({table})")}


def _value(conn: sqlite3.Connection, table: str, key: str) -> Optional[str]:
    """Look a key up in one of the two key-value tables."""
    if not {"key", "value"} <= _columns(conn, table):
        return None
    row = conn.execute(f"SELECT value FROM {table} WHERE key = ?", (key,)).fetchone()
    return None if row is None or row[0] is None else str(row[0])


def store_id(conn: sqlite3.Connection) -> Optional[str]:
    """Give the id of the canonical store that wrote this database; None where it is nobody's copy."""
    return _value(conn, STORE_TABLE, "store_id")


def schema_version(conn: sqlite3.Connection) -> Optional[int]:
    """Give the version that the database says it has."""
    value = _value(conn, "schema_metadata", "schema_version")
    return int(value) if value is not None and value.strip().isdecimal() else None


def read_contents(conn: sqlite3.Connection) -> Contents:
    """Count the games of a database.

    Raises:
        KitError: ``no_games_table`` where there is none, it lacks a needed column, or no moves are kept.
        sqlite3.DatabaseError: As SQLite tells it.

    """
    have = _columns(conn, "games")
    missing = [name for name in _NEEDED if name not in have]
    if missing:
        what = f"the table games lacks {', '.join(missing)}" if have else "there is no table games (yet)"
        raise KitError("no_games_table", what)
    if not _columns(conn, "game_moves"):
        raise KitError("no_games_table", "there is no table game_moves: games without moves train nothing")
    games, unfinished, unknown = _count(conn)
    return Contents(games, unfinished, unknown, store_id(conn), schema_version(conn))


def _count(conn: sqlite3.Connection) -> Tuple[Dict[str, int], int, int]:
    """Give finished games per config, unfinished games, and finished games of no config."""
    games: Dict[str, int] = {}
    unfinished = unknown = 0
    rows = conn.execute(
        "SELECT board_type, num_players, game_status, COUNT(*) FROM games GROUP BY board_type, num_players, game_status"
    )
    for board, players, status, count in rows:
        config = patterns.config_key(board, players)
        if str(status).strip().lower() not in FINISHED:
            unfinished += count
        elif config is None:
            unknown += count
        else:
            games[config] = games.get(config, 0) + count
    return games, unfinished, unknown
