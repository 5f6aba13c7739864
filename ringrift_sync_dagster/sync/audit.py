"""Hold the rows of an archived database against those of the store now: all or a bounded sample, and what is missing.

Every game that was archived must be in the store with the identity that it had then, whatever its id is now, or a
revision of it that wins by the rule of the merge. For some games the digest is computed anew from the rows of both.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ringrift_sync_dagster.node import canonical
from ringrift_sync_dagster.node.digest import digest_of, origin_id
from ringrift_sync_dagster.node.source import table_columns

SAMPLE_ROWS: Final = 20_000
"""Rows of one database that are looked up, at most; chosen by the seed where there are more."""
DIGESTED_GAMES: Final = 200
"""Games of one database whose rows are hashed anew on both sides, at most."""
NAMED: Final = 20
"""Rows that a finding names, at most; it counts all."""


@dataclass(slots=True)
class Audit:
    """What became of the rows of one archived database.

    Args:
        rows: How many were looked up.
        equal: Rows that are there as they were.
        renamed: Games that are there under another id, because another game has theirs.
        revised: Games in whose place a longer revision is.
        hashed: Games whose rows were hashed on both sides.
        missing: Names of rows that are not there.
        different: Names of rows that are there as others, with why.

    """

    rows: int = 0
    equal: int = 0
    renamed: int = 0
    revised: int = 0
    hashed: int = 0
    missing: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)

    def problems(self) -> Iterator[str]:
        """Give a sentence for what is missing, and one for what is different."""
        for names, words in ((self.missing, "not in the store"), (self.different, "other in the store than archived")):
            if names:
                more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
                yield f"{len(names)} of {self.rows} rows are {words}: {', '.join(names[:NAMED])}{more}"


def audit_games(then: sqlite3.Connection, now: sqlite3.Connection | None, chance: random.Random) -> Audit:
    """Look up the games of an archived database in the store; None: the store has no such database."""
    known = canonical.get(then, "schema") is not None
    identity = "(SELECT v.identity FROM ringrift_provenance v WHERE v.game_id = g.game_id)" if known else "NULL"
    chosen = _sample(then.execute(f"SELECT g.game_id, {identity} FROM games g"), chance)  # noqa: S608 - of this line
    audit = Audit(len(chosen))
    if now is None or canonical.get(now, "schema") is None:
        audit.missing += [str(game_id) for game_id, _ in chosen]
        return audit
    hashed = set(chance.sample(range(len(chosen)), min(DIGESTED_GAMES, len(chosen))))
    for number, (game_id, told) in enumerate(chosen):
        _look_up(then, now, str(game_id), None if told is None else str(told), audit, hash_both=number in hashed)
    return audit


def _look_up(
    then: sqlite3.Connection, now: sqlite3.Connection, game_id: str, told: str | None, audit: Audit, *, hash_both: bool
) -> None:
    """Judge one archived game."""
    identity = told
    if hash_both or told is None:
        audit.hashed += 1
        identity = digest_of(then, "main", game_id).identity
        if told not in (None, identity):
            audit.different.append(f"{game_id} (its archived rows hash to {identity[:12]}, not to {str(told)[:12]})")
            return
    came_as = origin_id(game_id, str(identity))
    rows = now.execute(
        "SELECT g.game_id, v.identity FROM games g LEFT JOIN ringrift_provenance v ON v.game_id = g.game_id"
        " WHERE g.game_id IN (?1, ?2) OR g.game_id IN (SELECT game_id FROM ringrift_provenance WHERE origin_id = ?2)",
        (game_id, came_as),
    ).fetchall()
    found = [(str(stored), has or digest_of(now, "main", str(stored)).identity) for stored, has in rows]
    same = next((stored for stored, has in found if has == identity), None)
    if same is None:
        _without_twin(then, now, game_id, str(identity), found, audit)
    elif hash_both and digest_of(now, "main", same).identity != identity:
        audit.different.append(f"{same} (its rows in the store are not those that its provenance says)")
    elif same == game_id:
        audit.equal += 1
    else:
        audit.renamed += 1


def _without_twin(
    then: sqlite3.Connection,
    now: sqlite3.Connection,
    game_id: str,
    identity: str,
    found: Sequence[tuple[str, str]],
    audit: Audit,
) -> None:
    """Judge a game that the store has not with this identity: revised, different or missing."""
    line, moves = _line(then, game_id), _moves(then, game_id)
    for stored, has in found:
        if _line(now, stored) == line and (-_moves(now, stored), has) < (-moves, identity):
            audit.revised += 1
            return
    if found:
        audit.different.append(
            f"{game_id} (identity {identity[:12]} then, {found[0][1][:12]} now, and no revision of it)"
        )
    else:
        audit.missing.append(game_id)


def _line(conn: sqlite3.Connection, game_id: str) -> tuple[Any, ...]:
    """What revisions of one game share; see ``node.conflict``."""
    return tuple(conn.execute("SELECT rng_seed, created_at FROM games WHERE game_id = ?", (game_id,)).fetchone())


def _moves(conn: sqlite3.Connection, game_id: str) -> int:
    return int(conn.execute("SELECT COUNT(*) FROM game_moves WHERE game_id = ?", (game_id,)).fetchone()[0])


def audit_rows(
    then: sqlite3.Connection, now: sqlite3.Connection | None, data_type: str, chance: random.Random
) -> Audit:
    """Look up the matches of an archived ratings database, or the versions of a registry, in the one of now."""
    table, names = (
        ("match_history", ("board_type", "num_players", "timestamp", "game_id"))
        if data_type == "elo"
        else ("versions", ("model_id", "version", "file_hash"))
    )
    if not table_columns(then, "main", table):
        return Audit()
    columns = ", ".join(names)
    chosen = _sample(then.execute(f"SELECT {columns} FROM {table}"), chance)  # noqa: S608 - of the lines above
    audit, have = Audit(len(chosen)), _finder(now, table, names)
    for row in chosen:
        if have(row):
            audit.equal += 1
        else:
            audit.missing.append("/".join(str(part) for part in row))
    return audit


def _finder(now: sqlite3.Connection | None, table: str, names: Sequence[str]) -> Callable[[tuple[Any, ...]], bool]:
    """Give what says whether a row with these values is in the table."""
    if now is None or not table_columns(now, "main", table):
        return lambda _: False
    tests = " AND ".join(f"{name} IS ?" for name in names)
    statement = f"SELECT 1 FROM {table} WHERE {tests} LIMIT 1"  # noqa: S608 - names of the caller's own lines
    return lambda row: now.execute(statement, row).fetchone() is not None


def _sample(rows: sqlite3.Cursor, chance: random.Random) -> list[tuple[Any, ...]]:
    """Choose rows so that each is as likely as any other, holding no more than the sample in memory."""
    kept: list[tuple[Any, ...]] = []
    for number, row in enumerate(rows):
        if number < SAMPLE_ROWS:
            kept.append(row)
        elif (place := chance.randrange(number + 1)) < SAMPLE_ROWS:
            kept[place] = row
    return kept
