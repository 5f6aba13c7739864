"""The rows of ``match_history`` as records, in any of the three column dialects, and what is no match.

A row that mixes player counts or lacks a participant becomes a record set aside, with its reason; the others of its
database are read all the same. Source: domain facts of the cluster, 2.2; incidents 8 to 10.
"""

from __future__ import annotations

import json
import math
import sqlite3
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from . import elo, patterns
from .errors import KitError
from .records import Body, Record, aside, digest, plain
from .source import quoted, table_columns

KIND = "match"
TABLE = "match_history"
STEP = 5_000
_DIALECTS = (("participant_a", "participant_b"), ("model_a", "model_b"), ("model_a_id", "model_b_id"))
_WINNERS = ("winner", "winner_id")
CARRIED = (
    "game_length", "duration_sec", "tournament_id", "worker", "metadata", "harness_type", "architecture_version",
    "evaluation_metadata",
)  # fmt: skip
"""What else of a row travels; ``elo_before`` and ``elo_after`` do not, because they are what one node once thought."""
_MOST_ID_CHARS = 500
_MOST_NUMBER = 1e15
_PLAYERS = 2  # in a match, at least
_DDL = (
    (
        "CREATE TABLE IF NOT EXISTS participants (participant_id TEXT PRIMARY KEY, participant_type TEXT DEFAULT"
        " 'model', ai_type TEXT, difficulty INTEGER, use_neural_net INTEGER, model_path TEXT, model_version TEXT,"
        " metadata TEXT, created_at REAL, last_seen REAL)"
    ),
    (
        "CREATE TABLE IF NOT EXISTS elo_ratings (participant_id TEXT NOT NULL, board_type TEXT NOT NULL,"
        " num_players INTEGER NOT NULL, rating REAL DEFAULT 1500.0, games_played INTEGER DEFAULT 0,"
        " wins INTEGER DEFAULT 0, losses INTEGER DEFAULT 0, draws INTEGER DEFAULT 0, rating_deviation REAL DEFAULT"
        " 350.0, last_update REAL, harness_type TEXT, simulation_count INTEGER, archived_at REAL,"
        " PRIMARY KEY (participant_id, board_type, num_players))"
    ),
    (
        "CREATE TABLE IF NOT EXISTS match_history (id INTEGER PRIMARY KEY AUTOINCREMENT, participant_a TEXT,"
        " participant_b TEXT, participant_ids TEXT, rankings TEXT, winner TEXT, winner_id TEXT,"
        " board_type TEXT NOT NULL, num_players INTEGER NOT NULL, game_length INTEGER, duration_sec REAL,"
        " timestamp REAL NOT NULL, tournament_id TEXT, game_id TEXT, worker TEXT, metadata TEXT, elo_before TEXT,"
        " elo_after TEXT, harness_type TEXT, architecture_version TEXT, evaluation_metadata TEXT)"
    ),
    "CREATE INDEX IF NOT EXISTS idx_match_timestamp ON match_history(timestamp)",
    "CREATE INDEX IF NOT EXISTS idx_match_board ON match_history(board_type, num_players, timestamp)",
)


class Row(NamedTuple):
    """A row as it was read, with its record, which may be one set aside."""

    rowid: int
    record: Record


def prepare(conn: sqlite3.Connection) -> None:
    """Bring an owner's database to our shape, inside the caller's transaction; rows stay."""
    have = table_columns(conn, "main", TABLE)
    for statement in _DDL[:3]:
        conn.execute(statement)
    if have:
        for name in ("participant_ids", "rankings", "game_id", *CARRIED):
            if name not in have:
                conn.execute(f"ALTER TABLE {TABLE} ADD COLUMN {name} TEXT")
    for statement in _DDL[3:]:
        conn.execute(statement)
    unique = "CREATE UNIQUE INDEX IF NOT EXISTS idx_match_game_id ON match_history(game_id) WHERE game_id IS NOT NULL"
    try:
        conn.execute(unique)
    except sqlite3.IntegrityError:  # upstream counted some matches twice; they stay, and are looked up all the same
        conn.execute("CREATE INDEX IF NOT EXISTS idx_match_game ON match_history(game_id)")


class Shape:
    """Which columns the matches of one database have; ``carried``: those to read beside what makes the match.

    Raises:
        KitError: ``no_games_table`` where there are no matches in a form that is known.

    """

    def __init__(self, conn: sqlite3.Connection, carried: Sequence[str] = CARRIED) -> None:
        self._carried = carried
        self._configs: Dict[Tuple[object, object], str] = {}
        self.columns = table_columns(conn, "main", TABLE)
        pair = next((names for names in _DIALECTS if set(names) <= set(self.columns)), None)
        lacking = [name for name in ("board_type", "num_players", "timestamp") if name not in self.columns]
        if (pair is None and "participant_ids" not in self.columns) or lacking:
            what = f"lacks {', '.join(lacking)}" if lacking else "names no participants"
            raise KitError("no_games_table", f"its table {TABLE} is missing or {what}; it is left alone")
        self.pair = pair
        wanted = (
            *(pair or ()), "participant_ids", "rankings", *_WINNERS, "board_type", "num_players", "timestamp",
            "game_id", *carried,
        )  # fmt: skip
        self.names = [name for name in wanted if name in self.columns]
        listed = ", ".join(quoted(self.columns[name]) for name in self.names)
        self.select = f"SELECT rowid, {listed} FROM {TABLE}"

    def rows(self, conn: sqlite3.Connection, where: str, values: Sequence[object] = ()) -> Iterator[Row]:
        """Read rows as records; one of no known config comes with an empty config."""
        for rowid, *found in conn.execute(f"{self.select} {where}", tuple(values)):
            yield Row(rowid, self._record(dict(zip(self.names, found))))

    def _record(self, row: Dict[str, Any]) -> Record:
        place = (row["board_type"], row["num_players"])
        config = self._configs.get(place)
        if config is None:
            config = self._configs[place] = patterns.config_key(*place) or ""
        try:
            body = self._body(row, config)
        except ValueError as error:
            reason, _, detail = str(error).partition(": ")
            return aside(TABLE, list(row.items()), config, reason, detail)
        return Record(KIND, key_of(body), config, body)

    def _body(self, row: Dict[str, Any], config: str) -> Body:
        participants = self._participants(row)
        rankings = _json(row.get("rankings"))
        winner = next((row[name] for name in _WINNERS if row.get(name) not in (None, "")), None)
        if self.pair is not None and winner in ("a", "b", *self.pair):
            winner = row[self.pair[winner in ("b", self.pair[1])]]
        try:
            ranks = elo.ranks_of(participants, rankings, winner)
        except ValueError as error:
            raise ValueError(f"no_result: {error}") from error
        game_id = row.get("game_id")
        body: Body = {
            "participants": participants, "ranks": [plain(rank) for rank in ranks], "game_id": plain(game_id) or "",
            "timestamp": plain(row["timestamp"]), **{name: plain(row.get(name)) for name in self._carried},
        }  # fmt: skip
        body["board"], body["players"] = board_of(config) if config else (plain(row["board_type"]), row["num_players"])
        wrong = wrong_with(body, config)
        if wrong:
            raise ValueError(": ".join(wrong))
        return body

    def _participants(self, row: Dict[str, Any]) -> List[str]:
        listed = _json(row.get("participant_ids"))
        if isinstance(listed, list) and listed:
            found = listed
        else:
            found = [row[name] for name in self.pair] if self.pair is not None else []
        if len(found) < _PLAYERS or not all(isinstance(name, str) and name.strip() for name in found):
            raise ValueError("missing_participant: a match has two participants or more, each with an id")
        return [str(plain(name)) for name in found]


def key_of(body: Body) -> str:
    """Name a match: by its game id, else by its participants and timestamp."""
    if body["game_id"]:
        return f"g:{body['game_id']}"
    return f"p:{digest([body['participants'], body['timestamp']])[:32]}"


def wrong_with(body: Body, config: str) -> Optional[Tuple[str, str]]:
    """Say why these values are no match of the config: a word and a sentence; None where they are one."""
    return _wrong_players(body) or _wrong_place(body, config) or _wrong_result(body)


def _wrong_players(body: Body) -> Optional[Tuple[str, str]]:
    names = body.get("participants")
    if not isinstance(names, list) or len(names) < _PLAYERS or not all(map(_is_id, names)):
        return "missing_participant", "a match has two participants or more, each with an id"
    return ("bad_participants", "a participant stands in it twice") if len(set(names)) != len(names) else None


def _wrong_place(body: Body, config: str) -> Optional[Tuple[str, str]]:
    """Whether board, players and models belong together."""
    board, players, names = body.get("board"), body.get("players"), body["participants"]
    if not config or (board, players) != board_of(config):
        what = f"board {board!r:.40} and players {players!r:.20}"
        return "unknown_config", f"{what} are not those of {config or 'any config'}"
    if len(names) != players:
        return "mixed_player_counts", f"{len(names)} participants are in a match of {players} players"
    strange = {name: patterns.config_of_name(name) for name in names}
    for name, other in strange.items():
        if other not in (None, config):
            return "mixed_player_counts", f"{name[:80]} is a model of {other}, the match is of {config}"
    return None


def _wrong_result(body: Body) -> Optional[Tuple[str, str]]:
    ranks = body.get("ranks")
    if not _is_number(body.get("timestamp")):
        return "bad_timestamp", f"its timestamp is {body.get('timestamp')!r:.60}, not seconds since 1970"
    if not isinstance(ranks, list) or len(ranks) != len(body["participants"]) or not all(map(_is_number, ranks)):
        return "no_result", "it has no rank for each participant"
    if not isinstance(body.get("game_id"), str) or any(isinstance(body.get(name), (dict, list)) for name in CARRIED):
        return "bad_row", "a value of it is none that a row can have"
    return None


def where(board: str, players: int) -> Tuple[str, List[object]]:
    """The clause that chooses the rows of a config, whatever the board is called in them, and its values."""
    spellings = [board, *(alias for alias, name in patterns.BOARD_ALIASES.items() if name == board)]
    return f"WHERE num_players = ? AND board_type IN ({', '.join('?' * len(spellings))})", [players, *spellings]


def board_of(config: str) -> Tuple[str, int]:
    """Board and number of players of a config."""
    board, _, players = config.rpartition("_")
    return board, int(players[:-1])


def _json(text: object) -> object:
    if not isinstance(text, str) or not text.strip():
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_id(name: object) -> bool:
    return isinstance(name, str) and bool(name.strip()) and "\0" not in name and len(name) <= _MOST_ID_CHARS


def _is_number(value: object) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and abs(value) < _MOST_NUMBER
    )
