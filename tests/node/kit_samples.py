"""Real games databases for the tests of the node kit, and writers that die in the middle of their work."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from ringrift_sync_dagster.node.schema import games_ddl

Game = tuple[str, object, object, str]  # id, board, players, status


def make_database(path: Path, games: Iterable[Game] = (), *, wal: bool = False) -> Path:
    """Make a database of version 18, or add games with six moves each to one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as conn:
        if wal:
            conn.execute("PRAGMA journal_mode=WAL")
        conn.execute("PRAGMA synchronous=OFF")
        conn.execute("BEGIN")
        for statement in games_ddl():
            conn.execute(statement)
        add_games(conn, games)
        conn.execute("COMMIT")
    return path


def add_games(conn: sqlite3.Connection, games: Iterable[Game]) -> None:
    """Add games as upstream's writer does: active first, then the moves, then the final status."""
    for game_id, board, players, status in games:
        conn.execute(
            "INSERT INTO games (game_id, board_type, num_players, game_status, total_moves, total_turns, created_at,"
            " schema_version) VALUES (?, ?, ?, 'active', 6, 6, '2026-01-01', 18)",
            (game_id, board, players),
        )
        conn.executemany(
            "INSERT INTO game_moves (game_id, move_number, move_json) VALUES (?, ?, '{}')",
            [(game_id, number) for number in range(6)],
        )
        conn.execute("UPDATE games SET game_status = ? WHERE game_id = ?", (status, game_id))


def count(conn: sqlite3.Connection) -> int:
    """Count the rows of ``games``."""
    return int(conn.execute("SELECT COUNT(*) FROM games").fetchone()[0])


def kill_writer(path: Path, *steps: str) -> None:
    """Run statements in another process that then dies as by ``kill -9``."""
    program = (
        "import os, signal, sqlite3, sys\n"
        "conn = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "for step in sys.argv[2:]: conn.execute(step).fetchall()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path), *steps], check=False)
    assert done.returncode == -signal.SIGKILL


def leave_hot_journal(path: Path) -> None:
    """Let a writer die after a part of its transaction reached the main file."""
    kill_writer(
        path,
        "PRAGMA cache_size=2",
        "BEGIN IMMEDIATE",
        "CREATE TABLE ballast (text)",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)"
        " INSERT INTO ballast SELECT hex(randomblob(2000)) FROM n",
        "DELETE FROM games",
    )
    assert path.with_name(path.name + "-journal").stat().st_size > 512


def leave_log(path: Path, game_id: str) -> None:
    """Let a writer die after a commit that only the WAL holds."""
    kill_writer(
        path,
        "PRAGMA wal_autocheckpoint=0",
        "INSERT INTO games (game_id, board_type, num_players, game_status, created_at, total_moves, total_turns,"
        f" schema_version) VALUES ('{game_id}', 'hex8', 2, 'active', '2026-01-01', 0, 0, 18)",
    )
    assert path.with_name(path.name + "-wal").stat().st_size > 32


class Holder:
    """Another process with a connection to a database, which holds what its statements took until the end."""

    def __init__(self, path: Path, *steps: str) -> None:
        program = (
            "import sqlite3, sys\n"
            "conn = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
            "for step in sys.argv[2:]: conn.execute(step).fetchall()\n"
            "print('ready', flush=True)\n"
            "sys.stdin.read()\n"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", program, str(path), *steps], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=10)
