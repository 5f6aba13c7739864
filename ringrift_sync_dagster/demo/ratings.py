"""Elo databases as upstream's programs wrote them: made-up matches, in each of the three column dialects."""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

START: Final = 1_770_000_000.0
NEW: Final = 30
STRONG: Final = 2400
_DECIDED: Final = 0.9  # of the matches; the rest are draws


class MatchDialect(StrEnum):
    """How a program called the two participants."""

    PARTICIPANT = "participant"  # participant_a / participant_b, winner
    MODEL = "model"  # model_a / model_b, winner
    MODEL_ID = "model_id"  # model_a_id / model_b_id, winner_id

    @property
    def pair(self) -> tuple[str, str]:
        """The two columns of the participants."""
        if self is MatchDialect.MODEL_ID:
            return "model_a_id", "model_b_id"
        return f"{self.value}_a", f"{self.value}_b"

    @property
    def winner(self) -> str:
        """The column of the winner."""
        return "winner_id" if self is MatchDialect.MODEL_ID else "winner"


@dataclass(frozen=True, slots=True)
class PlayedMatch:
    """One match.

    Args:
        game_id: Its id; empty when nobody gave it one.
        board: The board, as it is written in the row.
        players: How many players, as it is written in the row.
        participants: Who played.
        ranks: The rank of each, 0 the best, equal ones shared.
        timestamp: When, in seconds since 1970.

    """

    game_id: str
    board: str
    players: int
    participants: tuple[str, ...]
    ranks: tuple[int, ...]
    timestamp: float


def make_matches(seed: str, config: str, count: int, *, models: int = 6, start: int = 0) -> list[PlayedMatch]:
    """Make up matches of one config, in the order in which they were played; the same seed gives the same ones.

    ``models`` of three kinds play, a match each minute, the first one ``start`` minutes after ``START``.
    """
    chance = random.Random(f"{seed}/{config}")
    board, _, players = config.rpartition("_")
    number = int(players[:-1])
    names = [f"{kind}_{config}:d{level}" for kind in ("candidate", "canonical", "gumbel") for level in range(models)]
    found = []
    for turn in range(count):
        who = tuple(chance.sample(names, number))
        ranks = tuple(chance.sample(range(number), number)) if chance.random() < _DECIDED else (0,) * number
        at = START + (start + turn) * 60 + chance.randrange(0, 240) / 4
        found.append(PlayedMatch(f"{seed}-{config}-{turn}", board, number, who, ranks, at))
    return found


def write_matches(
    path: Path,
    matches: Iterable[PlayedMatch],
    dialect: MatchDialect = MatchDialect.PARTICIPANT,
    *,
    journal: str = "WAL",
) -> Path:
    """Append matches to an elo database, which is made when there is none; ratings are left as upstream's default."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute(f"PRAGMA journal_mode={journal}")
        for statement in statements(dialect):
            conn.execute(statement)
        conn.execute("BEGIN IMMEDIATE")
        for match in matches:
            insert(conn, match, dialect)
        conn.execute("COMMIT")
    return path


def insert(conn: sqlite3.Connection, match: PlayedMatch, dialect: MatchDialect) -> None:
    """Write one match as a program of that dialect does."""
    best = min(match.ranks)
    winner = match.participants[match.ranks.index(best)] if match.ranks.count(best) == 1 else None
    row: dict[str, object] = {
        "participant_ids": json.dumps(match.participants), "rankings": json.dumps(match.ranks),
        dialect.winner: winner, "board_type": match.board, "num_players": match.players,
        "timestamp": match.timestamp, "game_id": match.game_id or None, "game_length": 40,
        **dict(zip(dialect.pair, match.participants, strict=False)),
    }  # fmt: skip
    if dialect is MatchDialect.MODEL_ID:  # the oldest one knew two players only
        del row["participant_ids"], row["rankings"]
    listed, marks = ", ".join(row), ", ".join("?" * len(row))
    conn.execute(f"INSERT INTO match_history ({listed}) VALUES ({marks})", list(row.values()))  # noqa: S608 - our own names


def statements(dialect: MatchDialect) -> Sequence[str]:
    """The tables of a dialect."""
    one, other = dialect.pair
    several = "" if dialect is MatchDialect.MODEL_ID else "participant_ids TEXT, rankings TEXT, "
    return (
        """CREATE TABLE IF NOT EXISTS participants (participant_id TEXT PRIMARY KEY,
        participant_type TEXT DEFAULT 'model', created_at REAL, last_seen REAL)""",
        """CREATE TABLE IF NOT EXISTS elo_ratings (participant_id TEXT, board_type TEXT, num_players INTEGER,
        rating REAL DEFAULT 1500, games_played INTEGER DEFAULT 0, wins INTEGER DEFAULT 0, losses INTEGER DEFAULT 0,
        draws INTEGER DEFAULT 0, rating_deviation REAL DEFAULT 350, last_update REAL,
        PRIMARY KEY (participant_id, board_type, num_players))""",
        f"""CREATE TABLE IF NOT EXISTS match_history (id INTEGER PRIMARY KEY AUTOINCREMENT, {one} TEXT, {other} TEXT,
        {several}{dialect.winner} TEXT, board_type TEXT NOT NULL, num_players INTEGER NOT NULL, game_length INTEGER,
        timestamp REAL NOT NULL, tournament_id TEXT, game_id TEXT, elo_before TEXT, elo_after TEXT)""",
    )


def ratings_by_hand(matches: Iterable[PlayedMatch]) -> dict[str, tuple[float, int]]:
    """Compute ratings and numbers of games of one config from the formula, independently of the kit.

    A match is in order of (timestamp, game id). Whoever judges the kit's ratings uses this.
    """
    rating: dict[str, float] = {}
    games: dict[str, int] = {}
    for match in sorted(matches, key=lambda one: (one.timestamp, f"g:{one.game_id}")):
        before = {name: (rating.get(name, 1500.0), games.get(name, 0)) for name in match.participants}
        for name, rank in zip(match.participants, match.ranks, strict=True):
            own, count = before[name]
            k = 40 if count < NEW else 16 if own >= STRONG else 32
            change = 0.0
            for rival, other_rank in zip(match.participants, match.ranks, strict=True):
                if rival != name:
                    score = 1.0 if rank < other_rank else 0.5 if rank == other_rank else 0.0
                    chance = 1 / (1 + 10 ** ((before[rival][0] - own) / 400))
                    change += k / (len(match.participants) - 1) * (score - chance)
            rating[name], games[name] = own + change, count + 1
    return {name: (value, games[name]) for name, value in rating.items()}
