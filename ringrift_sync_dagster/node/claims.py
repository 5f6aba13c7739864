"""What a pack claims of its games, held against its own rows before any of them is merged.

A line of ``pack_games`` that names no game makes the whole pack unsound. A game that is not over, not complete, of
another config or without a value that every games table requires is named with the reason, and the others go on.
"""

from __future__ import annotations

import re
import sqlite3
from typing import Iterator, NamedTuple, Optional, Set

from . import patterns
from .errors import KitError
from .schema import FINISHED, MIN_MOVES, TABLES
from .source import printable

_SHA256 = re.compile(r"[0-9a-f]{64}")


class Claim(NamedTuple):
    """A game of the pack: what the pack declares and what its rows say."""

    game_id: str
    identity: str
    annotation: str
    moves: int


class Judged(NamedTuple):
    """A claim with the word and the sentence for why its game cannot be merged; both empty when it can."""

    claim: Claim
    reason: str = ""
    detail: str = ""


def read_claims(conn: sqlite3.Connection, schema: str, config: str) -> Iterator[Judged]:
    """Judge every game that the pack attached as ``schema`` declares, in the order of their ids.

    Raises:
        KitError: ``corrupt``: a line of ``pack_games`` is no claim.

    """
    lacking = _lacking(conn, schema)
    rows = conn.execute(
        "SELECT p.game_id, p.identity, p.annotation, p.moves, g.game_id IS NOT NULL, LOWER(TRIM(g.game_status)),"
        " g.total_moves, g.board_type, g.num_players,"
        f" (SELECT COUNT(*) FROM {schema}.game_moves m WHERE m.game_id = p.game_id)"
        f" FROM {schema}.pack_games p LEFT JOIN {schema}.games g ON g.game_id = p.game_id ORDER BY p.game_id"
    ).fetchall()
    for game_id, identity, annotation, moves, present, status, total, board, players, counted in rows:
        if not (_is_id(game_id) and _is_digest(identity) and _is_digest(annotation)):
            raise KitError("corrupt", f"bad line in pack_games: {game_id!r:.100}")
        claim = Claim(game_id, identity, annotation, counted)
        needed = max(MIN_MOVES, total if isinstance(total, int) else 0)
        if not present or status not in FINISHED:
            yield Judged(claim, "not_finished", f"its status is {status!r:.100}")
        elif counted < needed or counted != moves:
            detail = f"it has {counted} moves, the pack declares {moves!r:.100}, complete is {needed}"
            yield Judged(claim, "short", detail)
        elif patterns.config_key(board, players) != config:
            yield Judged(claim, "other_config", f"it is {board!r:.100} with {players!r:.100} players, not {config}")
        elif game_id in lacking:
            yield Judged(claim, "missing_value", "one of its rows lacks a value that no games table leaves out")
        else:
            yield Judged(claim)


def _is_id(value: Optional[object]) -> bool:
    return isinstance(value, str) and bool(printable([value])[0])


def _is_digest(value: Optional[object]) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _lacking(conn: sqlite3.Connection, schema: str) -> Set[object]:
    """Ids of games with a NULL where the schema forbids it: the kit fills these when it packs, a forger may not."""
    found: Set[object] = set()
    for table in TABLES:
        required = [column.name for column in table.columns if column.required]
        if required:
            nulls = " OR ".join(f"{name} IS NULL" for name in required)
            found.update(row[0] for row in conn.execute(f"SELECT game_id FROM {schema}.{table.name} WHERE {nulls}"))
    return found
