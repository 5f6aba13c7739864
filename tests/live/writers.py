"""Self-play in a process of its own: writes games as upstream does, under a load and with one kind of disturbance.

Run as ``python -m tests.live.writers '<plan as JSON>'``. It plays until something arrives on stdin or stdin ends, so it
never outlives the test, and at most ``PLAY_SECONDS``. Its ledger is an append-only file: ``playing id content`` before
the commit that finishes a game, ``finished id content`` after it, ``did what`` for each disturbance. The content is the
demo's own fingerprint, not the kit's: whoever reads the ledger knows what the database must hold without asking it.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import select
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from ringrift_sync_dagster.demo.games import Game, make_game
from ringrift_sync_dagster.demo.schemas import Dialect, statements

ROOT: Final = Path(__file__).resolve().parents[2]
CONFIG: Final = "hex8_2p"
JOURNALS: Final = ("DELETE", "TRUNCATE", "PERSIST", "MEMORY", "WAL", "OFF")
LOADS: Final = ("constant", "burst", "wave")
PLAY_SECONDS: Final = 60.0
MAX_GAMES: Final = 20_000
_OPEN_GAMES: Final = 3
_MOVES_PER_COMMIT: Final = 4
_BETWEEN_DISTURBANCES: Final = 5  # finished games
_RETRY_SECONDS: Final = 10.0
_AT_END: Final = ("completed_at", "winner", "termination_reason", "duration_ms", "quality_score", "quality_category")
_CHECKPOINTS: Final = ("PASSIVE", "FULL", "RESTART", "TRUNCATE")
_ADDED_COLUMNS: Final = (
    "games ADD COLUMN parity_status TEXT DEFAULT 'pending'",
    "games ADD COLUMN opponent_type TEXT",
    "game_moves ADD COLUMN heuristic_features BLOB",
    "games ADD COLUMN invented_here TEXT DEFAULT 'x'",
    "game_players ADD COLUMN invented_too INTEGER",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What one writer does.

    Args:
        database: The games database; it is made when there is none.
        ledger: The ledger's file.
        journal: Journal mode.
        page_size: Bytes per page of a new database.
        load: constant, burst or wave.
        disturbance: A key of ``DISTURBANCES``.
        seed: Source of all chance.
        moves: Length of the shortest game.
        pause_seconds: Mean pause between two commits.
        synchronous: What commits wait for on the disk; a killed process loses nothing by OFF.
        autocheckpoint: Pages in the WAL that make a commit checkpoint.
        patience_ms: How long a checkpoint waits for readers.
        hold_after: After so many finished games checkpoint, and wait for a line on stdin; and so on.
        die_in_commit: After so many finished games, write a part of the next transaction to the disk and die.

    """

    database: str
    ledger: str
    journal: str = "WAL"
    page_size: int = 4096
    load: str = "constant"
    disturbance: str = "none"
    seed: str = "live"
    moves: int = 6
    pause_seconds: float = 0.0004
    synchronous: str = "OFF"
    autocheckpoint: int = 1000
    patience_ms: int = 10_000
    hold_after: int = 0
    die_in_commit: int = 0


class Database:
    """One connection that writes games, whatever columns the database has at the moment."""

    def __init__(self, plan: Plan, dialect: Dialect) -> None:
        self.plan, self.path = plan, plan.database
        self.seconds: list[float] = []
        self.open(dialect)

    def open(self, dialect: Dialect = Dialect.V18) -> None:
        self.conn = sqlite3.connect(self.path, isolation_level=None)
        self.columns: dict[str, list[str]] = {}
        self.conn.execute(f"PRAGMA page_size = {self.plan.page_size}")
        self.conn.execute("PRAGMA busy_timeout = 10000")
        self.set_journal(self.plan.journal)
        self.conn.execute(f"PRAGMA synchronous = {self.plan.synchronous}")
        self.conn.execute(f"PRAGMA wal_autocheckpoint = {self.plan.autocheckpoint}")
        self.conn.execute("PRAGMA foreign_keys = ON")
        if self.conn.execute("SELECT 1 FROM sqlite_master WHERE name = 'games'").fetchone() is None:
            with self.transaction():
                for statement in statements(dialect):
                    self.conn.execute(statement)

    def set_journal(self, mode: str) -> None:
        """Set the journal mode; leaving or entering WAL needs a moment without readers."""
        patiently(lambda: self.conn.execute(f"PRAGMA journal_mode = {mode}").fetchone()[0] == mode.lower())

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        started = time.perf_counter()
        self.conn.execute("BEGIN IMMEDIATE")
        yield
        self.conn.execute("COMMIT")
        self.seconds.append(time.perf_counter() - started)

    def begin(self, game: Game, verb: str = "INSERT") -> None:
        """Insert the game as active, with its players and initial state; ``INSERT OR REPLACE`` drops an earlier one."""
        opened = dict.fromkeys(_AT_END) | {"game_status": "active", "total_moves": 0, "total_turns": 0}
        self._insert("games", [row | opened for row in game.rows["games"]], verb)
        for table in ("game_players", "game_initial_state"):
            self._insert(table, game.rows[table])

    def play(self, game: Game, first: int, count: int) -> None:
        numbers = range(first + 1, first + count + 1)
        self._insert("game_moves", [row for row in game.moves if row["move_number"] in numbers])

    def finish(self, game: Game) -> None:
        row = game.rows["games"][0]
        names = [n for n in ("game_status", "total_moves", "total_turns", *_AT_END) if n in self._names("games")]
        changes = ", ".join(f"{name} = :{name}" for name in names)
        self.conn.execute(f"UPDATE games SET {changes} WHERE game_id = :game_id", row)

    def remove(self, game_id: str) -> None:
        self.conn.execute("DELETE FROM games WHERE game_id = ?", (game_id,))

    def _insert(self, table: str, rows: Sequence[dict[str, object]] | Sequence[object], verb: str = "INSERT") -> None:
        names = self._names(table)
        marks = ", ".join(f":{name}" for name in names)
        complete = [dict.fromkeys(names) | row for row in rows]  # type: ignore[operator]
        self.conn.executemany(f"{verb} INTO {table} ({', '.join(names)}) VALUES ({marks})", complete)

    def _names(self, table: str) -> list[str]:
        if table not in self.columns:
            self.columns[table] = [row[1] for row in self.conn.execute(f"PRAGMA table_info({table})")]
        return self.columns[table]


def patiently(attempt: Callable[[], bool]) -> None:
    """Try again while readers are in the way."""
    limit = time.monotonic() + _RETRY_SECONDS
    while True:
        with contextlib.suppress(sqlite3.OperationalError):
            if attempt():
                return
        if time.monotonic() > limit:
            raise TimeoutError("the readers never left a moment")
        time.sleep(0.002)


class Player:
    """Plays several games at a time, so that they do not finish in the order in which they began."""

    def __init__(self, plan: Plan, ledger: TextIO) -> None:
        self.plan, self.ledger = plan, ledger
        self.rng = random.Random(f"{plan.seed}/player")
        self.games: dict[str, tuple[int, int]] = {}  # key and length of what was finished, by id
        self.table: list[tuple[Game, int]] = []
        self.finished = self.begun = self.done = 0
        self.database = Database(plan, Dialect.V12 if plan.disturbance == "schema" else Dialect.V18)

    def note(self, *words: object) -> None:
        self.ledger.write(" ".join(map(str, words)) + "\n")
        self.ledger.flush()

    def make(self, number: int, length: int) -> Game:
        return make_game(f"{self.plan.seed}/{number}", CONFIG, length=length)

    def step(self) -> None:
        """One commit: begin a game, or play on in the one whose turn it is."""
        if len(self.table) < _OPEN_GAMES:
            length = self.plan.moves + self.rng.randrange(6)
            game, self.begun = self.make(self.begun, length), self.begun + 1
            with self.database.transaction():
                self.database.begin(game)
            self.games[game.game_id] = (self.begun - 1, length)
            self.table.append((game, 0))
            return
        game, played = self.table.pop(self.rng.randrange(_OPEN_GAMES))
        hasty = self.games[game.game_id][0] % 3 == 2
        if len(game.moves) - played > (_MOVES_PER_COMMIT if hasty else 0):
            with self.database.transaction():
                self.database.play(game, played, _MOVES_PER_COMMIT)
                if hasty:  # said to be over before its last moves are there
                    self.database.finish(game)
            self.table.append((game, played + _MOVES_PER_COMMIT))
        else:
            self.finish(game, played)

    def finish(self, game: Game, played: int) -> None:
        """The commit that makes a game complete."""
        self.note("playing", game.game_id, game.fingerprint)
        with self.database.transaction():
            self.database.play(game, played, len(game.moves))
            self.database.finish(game)
        self.note("finished", game.game_id, game.fingerprint)
        self.finished += 1
        if self.finished % _BETWEEN_DISTURBANCES == 0:
            DISTURBANCES[self.plan.disturbance](self)
            self.done += 1
            if not self.plan.hold_after:
                self.note("did", self.plan.disturbance)
        if self.plan.die_in_commit and self.finished >= self.plan.die_in_commit:
            self.die_in_commit()
        if self.plan.hold_after and self.finished % self.plan.hold_after == 0:
            self.database.conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            self.note("did", "hold")
            sys.stdin.readline()

    def store(self, game: Game) -> None:
        """Write a finished game in one transaction over the one that has its id, as upstream's ``store_game``."""
        self.note("playing", game.game_id, game.fingerprint)
        with self.database.transaction():
            self.database.begin(game, "INSERT OR REPLACE")
            self.database.play(game, 0, len(game.moves))
            self.database.finish(game)
        self.note("finished", game.game_id, game.fingerprint)

    def clear_table(self) -> None:
        """Finish what is on the table but for one game, which nobody will ever finish."""
        for game, played in self.table[:-1]:
            self.finish(game, played)

    def die_in_commit(self) -> None:
        """Fill a tiny cache, so that a part of the transaction reaches the disk, and die before the rest."""
        self.database.conn.execute("PRAGMA cache_size = 4")
        self.database.conn.execute("BEGIN IMMEDIATE")
        for number in range(20):
            game = self.make(-1 - number, 30)
            self.database.begin(game)
            self.database.play(game, 0, 30)
            self.database.finish(game)
        self.database.conn.execute("UPDATE games SET winner = 99")
        self.database.conn.execute("DELETE FROM game_moves WHERE move_number % 2")
        os.kill(os.getpid(), signal.SIGKILL)


def _nothing(player: Player) -> None:
    """Only games."""


def _checkpoint(player: Player) -> None:
    mode = _CHECKPOINTS[player.done % len(_CHECKPOINTS)]
    player.database.conn.execute(f"PRAGMA busy_timeout = {player.plan.patience_ms}")
    player.database.conn.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
    player.database.conn.execute("PRAGMA busy_timeout = 10000")


def _vacuum(player: Player) -> None:
    player.database.conn.execute("VACUUM")


def _schema(player: Player) -> None:
    """What a newer program does to the database of an older one, and then columns that nobody knows."""
    if player.done < len(_ADDED_COLUMNS):
        player.database.conn.execute(f"ALTER TABLE {_ADDED_COLUMNS[player.done]}")
        player.database.columns.clear()


def _rowids(player: Player) -> None:
    """Use a rowid again, REPLACE a game by a longer revision of itself and another one by itself."""
    gone = make_game(f"{player.plan.seed}/gone/{player.done}", CONFIG, length=6)
    with player.database.transaction():
        player.database.begin(gone)
    time.sleep(0.03)  # time for a reader to take this row for its anchor
    with player.database.transaction():
        player.database.remove(gone.game_id)
    over = sorted(player.games.keys() - {game.game_id for game, _ in player.table})
    for game_id, more in zip(player.rng.sample(over, 2), (3, 0), strict=True):
        number, length = player.games[game_id]
        player.games[game_id] = (number, length + more)
        player.store(player.make(number, length + more))


def _replace(player: Player) -> None:
    """Put a compact copy in the place of the file, as a careful program does: alone, without sidecars, by rename."""
    database = player.database
    database.set_journal("DELETE")
    copy = f"{database.path}.compact"
    database.conn.execute("VACUUM INTO ?", (copy,))
    database.conn.close()
    Path(copy).replace(database.path)
    database.open()


DISTURBANCES: Final[dict[str, Callable[[Player], None]]] = {
    "none": _nothing,
    "checkpoint": _checkpoint,
    "vacuum": _vacuum,
    "schema": _schema,
    "rowids": _rowids,
    "replaced": _replace,
}


def _pause(plan: Plan, commits: int) -> float:
    """Seconds to wait after so many commits."""
    if plan.load == "burst":
        return 0.0 if commits % 40 else 40 * plan.pause_seconds
    if plan.load == "wave":
        return plan.pause_seconds * (1 + math.sin(commits / 10))
    return plan.pause_seconds


def play(plan: Plan) -> dict[str, object]:
    """Play until told to stop; give the seconds of each commit."""
    limit = time.monotonic() + PLAY_SECONDS
    with Path(plan.ledger).open("a", encoding="utf-8") as ledger:
        player = Player(plan, ledger)
        commits = 0
        while not select.select([sys.stdin], [], [], _pause(plan, commits))[0]:
            player.step()
            commits += 1
            if time.monotonic() > limit or player.begun > MAX_GAMES:
                raise TimeoutError("nobody told this writer to stop")
        player.clear_table()
        verdict = player.database.conn.execute("PRAGMA integrity_check").fetchone()[0]
        player.database.conn.close()
    return {"integrity": verdict, "seconds": player.database.seconds}


if __name__ == "__main__":
    print(json.dumps(play(Plan(**json.loads(sys.argv[1])))))
