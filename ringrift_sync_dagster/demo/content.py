"""What a game *is*, written down by the demo's own code: the verdict must not ask the product about the product.

The fingerprint is the SHA-256 of a canonical JSON of the game's identity: board, players, seed, start, winner, ending,
every move (number, player, text), the players' rows and the initial state. The id is not part of it: a game whose id
was taken lives on under another one. It is computed when the game is played, and again from any database found later.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

Value: TypeAlias = str | int | float | bytes | None
Row: TypeAlias = dict[str, Value]
Rows: TypeAlias = dict[str, list[Row]]
"""Rows by table; the games table has one."""

IDENTITY: Final = {
    "games": ("board_type", "num_players", "rng_seed", "created_at", "winner", "termination_reason"),
    "game_moves": ("move_number", "player", "move_json"),
    "game_players": (
        "player_number",
        "player_type",
        "ai_type",
        "ai_difficulty",
        "ai_profile_id",
        "final_eliminated_rings",
        "final_territory_spaces",
        "final_rings_in_hand",
    ),
    "game_initial_state": ("initial_state_json", "compressed"),
}
_ORDER: Final = {"game_moves": "move_number", "game_players": "player_number"}


def fingerprint(rows: Rows) -> str:
    """Give the fingerprint of a game from its rows; rows of tables outside ``IDENTITY`` do not matter."""
    picked = [
        [[_plain(row.get(column)) for column in columns] for row in rows.get(table, [])]
        for table, columns in IDENTITY.items()
    ]
    return hashlib.sha256(json.dumps(picked, separators=(",", ":")).encode()).hexdigest()


def read_games(conn: sqlite3.Connection, ids: Sequence[str] | None = None) -> Iterator[tuple[str, Rows]]:
    """Read the identity rows of games from any games database, in order of their ids; without ``ids`` of all games."""
    everything = conn.execute("SELECT game_id FROM games ORDER BY game_id")
    wanted = [row[0] for row in everything] if ids is None else sorted(ids)
    queries = [(table, columns, _query(conn, table, columns)) for table, columns in IDENTITY.items()]
    for game_id in wanted:
        rows = {
            table: [dict(zip(columns, row, strict=True)) for row in conn.execute(query, (game_id,))]
            for table, columns, query in queries
        }
        if rows["games"]:
            yield game_id, rows


def _query(conn: sqlite3.Connection, table: str, columns: Sequence[str]) -> str:
    """SELECT of one game's rows under the names of version 18, whatever the database calls them."""
    present = {row[1] for row in conn.execute(f"PRAGMA table_info({table})")}
    old = "move_number" not in present
    named = ", ".join(f"move_index AS {name}" if old and name == "move_number" else name for name in columns)
    order = f" ORDER BY {_ORDER[table]}" if table in _ORDER else ""
    return f"SELECT {named} FROM {table} WHERE game_id = ?{order}"  # noqa: S608 - names come from the table above


def _plain(value: Value) -> str | int | float | None:
    """One value as JSON has it; a whole number is an integer, however the column stored it."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
