"""What is really there after the demo: games of the nodes' databases, of the canonical store, and of quarantine.

All reading goes through the demo's own ``content``; only identity digests are the product's, because they are what is
compared. Databases are opened read-only, after their writers have ended.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringrift_sync_dagster.demo.content import IDENTITY, Rows, fingerprint, read_games
from ringrift_sync_dagster.node import digest, schema

OTHER_REASONS: Final = frozenset(
    {"bad_npz", "bad_models", "missing_participant", "mixed_player_counts", "version_conflict"}
)
"""Why something that is no game is set aside in the demo."""


@dataclass(frozen=True, slots=True)
class Found:
    """One game that lies somewhere.

    Args:
        game_id: The id under which it lies.
        content: The demo's fingerprint of its rows.
        identity: The product's identity digest of its rows, computed now.
        recorded: The identity digest that the product wrote down; empty where it writes none.
        node: The node that it came from; empty where that is not recorded.

    """

    game_id: str
    content: str
    identity: str
    recorded: str = ""
    node: str = ""


@dataclass(frozen=True, slots=True)
class SetAside:
    """One game in quarantine; ``config`` is the game's own."""

    node: str
    config: str
    game_id: str
    content: str
    reason: str


def node_games(path: Path, ids: Iterable[str]) -> dict[str, Found]:
    """Games of a node's own database, whatever its history; those that are missing are left out."""
    with closing(opened(path)) as conn:
        return {found.game_id: found for found in _found(read_games(conn, list(ids)))}


def finished_ids(path: Path) -> set[str]:
    """Ids of the games that a database calls completed; empty when there is no such file."""
    if not path.exists():
        return set()
    with closing(opened(path)) as conn:
        return {row[0] for row in conn.execute("SELECT game_id FROM games WHERE game_status = 'completed'")}


def canonical_games(path: Path) -> dict[str, Found]:
    """Games of a canonical database, with what its provenance says of each."""
    with closing(opened(path)) as conn:
        recorded = {
            row[0]: (row[1], row[2]) for row in conn.execute("SELECT game_id, identity, node FROM ringrift_provenance")
        }
        games = {found.game_id: found for found in _found(read_games(conn))}
    nothing = ("", "")
    return {
        game_id: Found(game_id, found.content, found.identity, *recorded.get(game_id, nothing))
        for game_id, found in games.items()
    }


def orphan_rows(path: Path) -> int:
    """Child rows of a canonical database whose game is not there."""
    count = "SELECT COUNT(*) FROM {} WHERE game_id NOT IN (SELECT game_id FROM games)"
    with closing(opened(path)) as conn:
        return sum(int(conn.execute(count.format(table.name)).fetchone()[0]) for table in schema.CHILDREN)


def quarantined_others(directory: Path) -> Counter[str]:
    """How many things of other data types are in quarantine, by reason."""
    reasons = (json.loads(path.read_text())["reason"] for path in directory.glob("*/*.json"))
    return Counter(reason for reason in reasons if reason in OTHER_REASONS)


def quarantined_games(directory: Path) -> list[SetAside]:
    """Every game in quarantine: its entry is a compressed SQLite file with whole games; those of others are not."""
    found = []
    for record_path in sorted(directory.glob("*/*.json")):
        record = json.loads(record_path.read_text())
        if record["reason"] in OTHER_REASONS:
            continue
        data = record_path.with_name(record_path.name.removesuffix(".json") + ".bin").read_bytes()
        with closing(sqlite3.connect(":memory:")) as conn:
            conn.deserialize(zlib.decompress(data))
            for game_id, rows in read_games(conn):
                found.append(SetAside(record["node"], _config(rows), game_id, fingerprint(rows), record["reason"]))
    return found


def opened(path: Path) -> sqlite3.Connection:
    """Open a database to read it."""
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True)


def _config(rows: Rows) -> str:
    game = rows["games"][0]
    return "_".join((str(game["board_type"]), f"{game['num_players']!s}p"))


def _found(games: Iterator[tuple[str, Rows]]) -> list[Found]:
    """Fingerprint and digest of each game; the digest is computed on a copy in the shape that the kit expects."""
    contents = {}
    with closing(sqlite3.connect(":memory:")) as copy:
        for statement in schema.pack_ddl():
            copy.execute(statement)
        for game_id, rows in games:
            contents[game_id] = fingerprint(rows)
            _copy(copy, game_id, rows)
        identities = {one.game_id: one.identity for one in digest.digests(copy)}
    return [Found(game_id, content, identities[game_id]) for game_id, content in contents.items()]


def _copy(conn: sqlite3.Connection, game_id: str, rows: Rows) -> None:
    for table, columns in IDENTITY.items():
        marks = ", ".join("?" * (len(columns) + 1))
        statement = f"INSERT INTO {table} (game_id, {', '.join(columns)}) VALUES ({marks})"  # noqa: S608
        conn.executemany(statement, ([game_id, *_values(row, columns)] for row in rows[table]))


def _values(row: Mapping[str, object], columns: Iterable[str]) -> list[object]:
    return [row[column] for column in columns]
