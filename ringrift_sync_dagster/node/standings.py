"""The ratings of one config in a database: written with the matches that change them, and computed again to compare.

They are written on top of the old ones where all new matches are later than every one before, else computed from all
matches. Both give the same bits, because both let the same matches count in the same order (``elo``). An owner unites
many packs, whose matches lie between each other in time, and computes once at the end (``settle``); until then the
ratings are those of before, and the database says that they are due.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Set

from . import canonical, elo
from .match_rows import KIND, TABLE, Shape, board_of, where
from .records import Record, digest
from .source import table_columns


class Rated(NamedTuple):
    """What became of the ratings: the check where all were computed, or that they are due."""

    checks: Dict[str, bool]
    due: bool = False


def rate(conn: sqlite3.Connection, config: str, new: Sequence[Record], *, replaced: bool) -> Rated:
    """Write the ratings of the config now that there are new matches; an owner leaves what takes all to ``settle``."""
    board, players = board_of(config)
    if not _has_ratings(conn):
        return Rated({})
    memory = _remembered(conn, config)
    matches = [_match(record) for record in new]
    first = min(match.position for match in matches)
    grown = None if memory is None else memory["matches"] + len(new)
    later = memory is not None and not replaced and first > tuple(memory["last"])
    if later and grown == _count(conn, board, players) and memory is not None:
        touched = {name for match in matches for name in match.participants}
        standings = read_standings(conn, board, players)
        if digest(_listed(standings)) == memory["ratings"]:
            standings = elo.computed(matches, standings)
            _write(conn, board, players, {name: standings[name] for name in touched})
            _remember(conn, config, matches, standings, _count(conn, board, players))
            return Rated({})
    if canonical.get(conn, "store_id") is not None:
        return Rated({}, due=True)
    return Rated(settle(conn, config))


def settle(conn: sqlite3.Connection, config: str) -> Dict[str, bool]:
    """Compute the ratings of a config from all its matches and write them, inside the caller's transaction."""
    board, players = board_of(config)
    everything = list(_matches_of(conn, config))
    standings = elo.computed(everything, {})
    _write(conn, board, players, standings)
    _remember(conn, config, everything, read_standings(conn, board, players), _count(conn, board, players))
    written = read_standings(conn, board, players, set(standings))
    return {"ratings_equal_recomputation": written == standings}


def _has_ratings(conn: sqlite3.Connection) -> bool:
    return {"participant_id", "rating"} <= set(table_columns(conn, "main", "elo_ratings"))


def ratings_hold(conn: sqlite3.Connection, config: str) -> bool:
    """Tell whether the ratings of a config are what its matches give, bit for bit."""
    standings = elo.computed(_matches_of(conn, config), {})
    return read_standings(conn, *board_of(config), set(standings)) == standings


def read_standings(
    conn: sqlite3.Connection, board: str, players: int, only: Optional[Set[str]] = None
) -> Dict[str, elo.Standing]:
    """The standings of one (board, players) as they are written."""
    rows = conn.execute(
        "SELECT participant_id, rating, games_played, wins, losses, draws, last_update FROM elo_ratings"
        " WHERE board_type = ? AND num_players = ?",
        (board, players),
    )
    return {
        name: elo.Standing(
            float(rating), int(games or 0), int(wins or 0), int(losses or 0), int(draws or 0), float(at or 0)
        )
        for name, rating, games, wins, losses, draws, at in rows
        if only is None or name in only
    }


def _write(conn: sqlite3.Connection, board: str, players: int, standings: Dict[str, elo.Standing]) -> None:
    conn.executemany(
        "INSERT INTO elo_ratings (participant_id, board_type, num_players, rating, games_played, wins, losses, draws,"
        " last_update) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (participant_id, board_type, num_players)"
        " DO UPDATE SET rating = excluded.rating, games_played = excluded.games_played, wins = excluded.wins,"
        " losses = excluded.losses, draws = excluded.draws, last_update = excluded.last_update",
        [(name, board, players, *standing) for name, standing in sorted(standings.items())],
    )


def _remembered(conn: sqlite3.Connection, config: str) -> Optional[Dict[str, Any]]:
    """What the last merge of an owner's database left for the next one; None on a node, which has no marker."""
    text = canonical.get(conn, f"elo:{config}")
    return dict(json.loads(text)) if text else None


def _remember(
    conn: sqlite3.Connection, config: str, matches: Sequence[elo.Match], standings: Dict[str, elo.Standing], count: int
) -> None:
    if canonical.get(conn, "store_id") is not None and matches:
        last = max(match.position for match in matches)
        value = {"last": list(last), "matches": count, "ratings": digest(_listed(standings))}
        canonical.put(conn, f"elo:{config}", json.dumps(value))


def _listed(standings: Dict[str, elo.Standing]) -> List[List[object]]:
    return [[name, *map(repr, standing)] for name, standing in sorted(standings.items())]


def _match(record: Record) -> elo.Match:
    body = record.body
    return elo.Match(
        float(body["timestamp"]), record.key, tuple(body["participants"]), tuple(map(float, body["ranks"]))
    )


def _count(conn: sqlite3.Connection, board: str, players: int) -> int:
    clause, values = where(board, players)
    return int(conn.execute(f"SELECT COUNT(*) FROM {TABLE} {clause}", values).fetchone()[0])


def _matches_of(conn: sqlite3.Connection, config: str) -> Iterable[elo.Match]:
    clause, values = where(*board_of(config))
    for row in Shape(conn, carried=()).rows(conn, clause, values):
        if row.record.kind == KIND and row.record.config == config:
            yield _match(row.record)
