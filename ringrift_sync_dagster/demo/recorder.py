"""Writes games into one games database the way upstream's self-play does.

A game is inserted as ``active``, its moves follow in small transactions, and one last UPDATE says that it is over
(there the triggers of version 18 count the moves). Columns that the database lacks are left out.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ringrift_sync_dagster.demo.content import Row
from ringrift_sync_dagster.demo.games import Game
from ringrift_sync_dagster.demo.schemas import Dialect, open_games_database

MOVES_PER_COMMIT: Final = 6
_BEFORE_MOVES: Final = ("game_players", "game_initial_state")
_OPEN_VALUES: Final[Row] = {"game_status": "active", "total_moves": 0, "total_turns": 0}
_KNOWN_AT_END: Final = (
    "completed_at",
    "winner",
    "termination_reason",
    "duration_ms",
    "quality_score",
    "quality_category",
)


class Recorder:
    """One connection to one games database; used by one process."""

    def __init__(self, path: Path, dialect: Dialect) -> None:
        self._conn = open_games_database(path, dialect)
        self._columns: dict[str, dict[str, str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._conn.close()

    def begin(self, game: Game) -> None:
        """Insert the game as active, with its players and initial state."""
        with self._transaction():
            self._begin(game)

    def play(self, game: Game, first: int, count: int) -> None:
        """Insert moves ``first`` to ``first + count - 1`` (counted from 0) and what belongs to them."""
        with self._transaction():
            self._play(game, first, count)

    def finish(self, game: Game) -> None:
        """Say that the game is over."""
        with self._transaction():
            self._finish(game)

    def record_all(self, games: list[Game]) -> None:
        """Write many finished games in one transaction."""
        with self._transaction():
            for game in games:
                self._begin(game)
                self._play(game, 0, len(game.moves))
                self._finish(game)

    def _begin(self, game: Game) -> None:
        unknown: Row = dict.fromkeys(_KNOWN_AT_END)
        self._insert("games", [row | _OPEN_VALUES | unknown for row in game.rows["games"]])
        for table in _BEFORE_MOVES:
            self._insert(table, game.rows[table])

    def _play(self, game: Game, first: int, count: int) -> None:
        numbers = range(first + 1, first + count + 1)
        for table, rows in game.rows.items():
            if table not in ("games", *_BEFORE_MOVES):
                self._insert(table, [row for row in rows if row["move_number"] in numbers])

    def _finish(self, game: Game) -> None:
        row = game.rows["games"][0]
        names = [name for name in (*_OPEN_VALUES, *_KNOWN_AT_END) if name in self._names("games")]
        changes = ", ".join(f"{name} = :{name}" for name in names)
        self._conn.execute(f"UPDATE games SET {changes} WHERE game_id = :game_id", row)  # noqa: S608 - our own names

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._conn.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._conn.execute("ROLLBACK")
            raise
        self._conn.execute("COMMIT")

    def _insert(self, table: str, rows: list[Row]) -> None:
        names = self._names(table)
        if not rows or not names:
            return
        wanted = [name for name in names if name in rows[0]] if table != "game_moves" else list(names)
        columns, marks = ", ".join(names[name] for name in wanted), ", ".join(f":{name}" for name in wanted)
        complete = [dict.fromkeys(wanted) | row for row in rows]
        self._conn.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", complete)  # noqa: S608 - our own names

    def _names(self, table: str) -> dict[str, str]:
        """Name at version 18 to the name in this database; empty when it has no such table."""
        if table not in self._columns:
            found = [row[1] for row in self._conn.execute(f"PRAGMA table_info({table})")]
            self._columns[table] = {("move_number" if name == "move_index" else name): name for name in found}
        return self._columns[table]


def is_finished(conn: sqlite3.Connection, game_id: str) -> bool:
    """Tell whether the database has the game, and has it as over."""
    row = conn.execute("SELECT game_status FROM games WHERE game_id = ?", (game_id,)).fetchone()
    return row is not None and row[0] == "completed"
