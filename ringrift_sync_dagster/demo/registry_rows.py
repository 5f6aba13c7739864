"""Model registries as upstream's program wrote them, with made-up models, versions and stage transitions."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

DDL: Final = (
    """CREATE TABLE IF NOT EXISTS models (model_id TEXT PRIMARY KEY, name TEXT NOT NULL, description TEXT,
    model_type TEXT, created_at TEXT, updated_at TEXT)""",
    """CREATE TABLE IF NOT EXISTS versions (id INTEGER PRIMARY KEY AUTOINCREMENT, model_id TEXT NOT NULL,
    version INTEGER NOT NULL, stage TEXT DEFAULT 'development', file_path TEXT, file_hash TEXT,
    file_size_bytes INTEGER, metrics_json TEXT, training_config_json TEXT, created_at TEXT, updated_at TEXT,
    UNIQUE (model_id, version))""",
    "CREATE TABLE IF NOT EXISTS tags (id INTEGER PRIMARY KEY AUTOINCREMENT, model_id TEXT, version INTEGER, tag TEXT)",
    """CREATE TABLE IF NOT EXISTS stage_transitions (id INTEGER PRIMARY KEY AUTOINCREMENT, model_id TEXT NOT NULL,
    version INTEGER NOT NULL, from_stage TEXT, to_stage TEXT NOT NULL, reason TEXT, transitioned_by TEXT,
    transitioned_at TEXT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS comparisons (id INTEGER PRIMARY KEY AUTOINCREMENT, model_a TEXT, model_b TEXT,
    win_rate REAL, compared_at TEXT)""",
    """CREATE TABLE IF NOT EXISTS validations (id INTEGER PRIMARY KEY AUTOINCREMENT, model_id TEXT, version INTEGER,
    status TEXT, work_id TEXT, baselines TEXT, games_per_matchup INTEGER DEFAULT 50, created_at TEXT)""",
)


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """One version of a model, with the stages that it went through.

    Args:
        model: Id of the model.
        version: Its number.
        content: What its file holds; the hash is made of it.
        stages: (stage, when as ISO text), in the order in which they are written.
        trained_on: The config that its training config names; empty when it names none.

    """

    model: str
    version: int
    content: str = "bytes"
    stages: tuple[tuple[str, str], ...] = ()
    trained_on: str = ""

    @property
    def file_hash(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.content.encode()).hexdigest()

    @property
    def stage(self) -> str:
        """Where its last transition by time led; development without any."""
        return max(((at, stage) for stage, at in self.stages), default=("", "development"))[1]


def write_registry(path: Path, versions: Iterable[RegisteredVersion]) -> Path:
    """Append versions to a registry, which is made when there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("PRAGMA journal_mode=WAL")
        for statement in DDL:
            conn.execute(statement)
        conn.execute("BEGIN IMMEDIATE")
        for version in versions:
            insert(conn, version)
        conn.execute("COMMIT")
    return path


def insert(conn: sqlite3.Connection, version: RegisteredVersion) -> None:
    """Write one version as upstream's program does."""
    conn.execute(
        "INSERT OR IGNORE INTO models (model_id, name, model_type, created_at)"
        " VALUES (?, ?, 'policy_value', '2026-01-01')",
        (version.model, version.model),
    )
    board, _, players = version.trained_on.rpartition("_")
    trained = json.dumps({"board_type": board, "num_players": int(players[:-1])}) if version.trained_on else None
    conn.execute(
        "INSERT INTO versions (model_id, version, file_path, file_hash, file_size_bytes, training_config_json,"
        " created_at) VALUES (?, ?, ?, ?, ?, ?, '2026-01-02')",
        (
            version.model, version.version, f"models/{version.model}.pth", version.file_hash, len(version.content),
            trained,
        ),
    )  # fmt: skip
    before = "development"
    for stage, at in version.stages:
        conn.execute(
            "INSERT INTO stage_transitions (model_id, version, from_stage, to_stage, reason, transitioned_by,"
            " transitioned_at) VALUES (?, ?, ?, ?, 'gauntlet', 'controller', ?)",
            (version.model, version.version, before, stage, at),
        )
        before = stage
    conn.execute(
        "UPDATE versions SET stage = ? WHERE model_id = ? AND version = ?", (before, version.model, version.version)
    )
    conn.execute(
        "INSERT INTO validations (model_id, version, status, work_id, baselines) VALUES (?, ?, 'passed', ?, 'random')",
        (version.model, version.version, f"w-{version.model}-{version.version}"),
    )
