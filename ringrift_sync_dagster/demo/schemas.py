"""Empty games databases as upstream's programs leave them: version 18 from its DDL, version 12 grown by migrations.

A database that was migrated has its columns in the order of the ``ALTER TABLE`` statements and lacks what later
versions added (parity, opponent, heuristic features, the triggers). Some old ones call a move's number ``move_index``.
Source: upstream's schema history; version 18 comes from ``node.schema``.
"""

from __future__ import annotations

import sqlite3
from enum import Enum
from pathlib import Path
from typing import Final

from ringrift_sync_dagster.node import schema

BUSY_MILLISECONDS: Final = 10_000  # upstream's own value


class Dialect(Enum):
    """Which history a games database has."""

    V18 = "v18"  # created at version 18: triggers are active
    V12 = "v12"  # created at version 1 and migrated to 12
    V12_MOVE_INDEX = "v12_move_index"  # the same, with the old name of move_number


_VERSION_1: Final = """
CREATE TABLE schema_metadata (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE games (
  game_id TEXT PRIMARY KEY, board_type TEXT NOT NULL, num_players INTEGER NOT NULL, rng_seed INTEGER,
  created_at TEXT NOT NULL, completed_at TEXT, game_status TEXT NOT NULL, winner INTEGER, termination_reason TEXT,
  total_moves INTEGER NOT NULL, total_turns INTEGER NOT NULL, duration_ms INTEGER, source TEXT,
  schema_version INTEGER NOT NULL
);
CREATE TABLE game_moves (
  game_id TEXT NOT NULL, {number} INTEGER NOT NULL, turn_number INTEGER NOT NULL, player INTEGER NOT NULL,
  phase TEXT NOT NULL, move_type TEXT NOT NULL, move_json TEXT NOT NULL, timestamp TEXT, think_time_ms INTEGER,
  PRIMARY KEY (game_id, {number}), FOREIGN KEY (game_id) REFERENCES games(game_id) ON DELETE CASCADE
);
CREATE TABLE game_players (
  game_id TEXT NOT NULL, player_number INTEGER NOT NULL, player_type TEXT NOT NULL, ai_type TEXT, ai_difficulty INTEGER,
  ai_profile_id TEXT, final_eliminated_rings INTEGER, final_territory_spaces INTEGER,
  PRIMARY KEY (game_id, player_number), FOREIGN KEY (game_id) REFERENCES games(game_id) ON DELETE CASCADE
);
CREATE TABLE game_initial_state (
  game_id TEXT PRIMARY KEY, initial_state_json TEXT NOT NULL, compressed INTEGER DEFAULT 0,
  FOREIGN KEY (game_id) REFERENCES games(game_id) ON DELETE CASCADE
);
CREATE TABLE game_state_snapshots (
  game_id TEXT NOT NULL, move_number INTEGER NOT NULL, state_json TEXT NOT NULL, compressed INTEGER DEFAULT 0,
  PRIMARY KEY (game_id, move_number), FOREIGN KEY (game_id) REFERENCES games(game_id) ON DELETE CASCADE
);
CREATE TABLE game_choices (
  game_id TEXT NOT NULL, move_number INTEGER NOT NULL, choice_type TEXT NOT NULL, player INTEGER NOT NULL,
  options_json TEXT NOT NULL, selected_option_json TEXT NOT NULL, ai_reasoning TEXT,
  PRIMARY KEY (game_id, move_number, choice_type),
  FOREIGN KEY (game_id) REFERENCES games(game_id) ON DELETE CASCADE
);
CREATE INDEX idx_games_board_type ON games(board_type);
CREATE INDEX idx_games_created_at ON games(created_at)
"""
_MIGRATIONS: Final = """
ALTER TABLE game_players ADD COLUMN final_rings_in_hand INTEGER;
ALTER TABLE games ADD COLUMN metadata_json TEXT;
ALTER TABLE game_state_snapshots ADD COLUMN state_hash TEXT;
ALTER TABLE game_moves ADD COLUMN engine_eval REAL;
ALTER TABLE game_moves ADD COLUMN engine_eval_type TEXT;
ALTER TABLE game_moves ADD COLUMN engine_depth INTEGER;
ALTER TABLE game_moves ADD COLUMN engine_pv TEXT;
ALTER TABLE game_moves ADD COLUMN engine_nodes INTEGER;
ALTER TABLE game_moves ADD COLUMN engine_time_ms INTEGER;
ALTER TABLE game_moves ADD COLUMN time_remaining_ms INTEGER;
ALTER TABLE games ADD COLUMN time_increment_ms INTEGER;
ALTER TABLE games ADD COLUMN initial_time_ms INTEGER;
ALTER TABLE games ADD COLUMN time_control_type TEXT DEFAULT 'none';
ALTER TABLE games ADD COLUMN quality_category TEXT;
ALTER TABLE games ADD COLUMN quality_score REAL;
ALTER TABLE game_moves ADD COLUMN move_probs TEXT;
ALTER TABLE game_moves ADD COLUMN search_stats_json TEXT;
ALTER TABLE games ADD COLUMN engine_mode TEXT;
CREATE INDEX idx_games_engine_mode ON games(engine_mode)
"""


def statements(dialect: Dialect) -> list[str]:
    """DDL of an empty database of this history, its version row included."""
    if dialect is Dialect.V18:
        return [*schema.games_ddl(), _version(schema.SCHEMA_VERSION)]
    number = "move_index" if dialect is Dialect.V12_MOVE_INDEX else "move_number"
    return [*_VERSION_1.format(number=number).split(";"), *_MIGRATIONS.split(";"), _version(12)]


def open_games_database(path: Path, dialect: Dialect) -> sqlite3.Connection:
    """Open a node's games database for writing as self-play does: WAL, ``busy_timeout``, explicit transactions.

    A file that does not exist yet is created with the tables of ``dialect``; an existing one is opened as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    conn = sqlite3.connect(path, isolation_level=None)
    conn.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")
    conn.execute("PRAGMA journal_mode = WAL")
    conn.execute("PRAGMA synchronous = NORMAL")
    conn.execute("PRAGMA foreign_keys = ON")
    if conn.execute("SELECT 1 FROM sqlite_master WHERE name = 'games'").fetchone() is None:
        conn.execute("BEGIN IMMEDIATE")
        for statement in statements(dialect):
            conn.execute(statement)
        conn.execute("COMMIT")
    return conn


def _version(number: int) -> str:
    return f"INSERT OR REPLACE INTO schema_metadata (key, value) VALUES ('schema_version', '{number}')"  # noqa: S608
