"""Matches as records: read from any of the three column dialects, united in any of them, with the ratings they give.

``match_history`` is a set that only grows. A match is named by its game id, else by its participants and timestamp; the
autoincrement id of a row never travels. The ratings of every touched (board, players) are written in the transaction of
the union: on top of the old ones where all new matches are later, else computed from all matches. Both give the same
bits. A row that mixes player counts or lacks a participant is set aside by itself, with its reason.
Source: domain facts of the cluster, 2.2; incidents 8 to 10.
"""

from __future__ import annotations

import json
import math
import sqlite3
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from .match_rows import CARRIED, KIND, TABLE, Row, Shape, board_of, key_of, prepare, where, wrong_with
from .records import ASIDE, Body, Merged, Reading, Record, Refused, digest
from .source import quoted, table_columns
from .standings import Rated, rate, settle

_LOOKUP = 400  # values in one statement: below SQLite's smallest limit of 999 variables


def read(conn: sqlite3.Connection, config: str, cursor: Optional[Dict[str, Any]], inode: int, limit: int) -> Reading:
    """Read the matches of a config behind the cursor, in the order of their rows.

    Where the row that the cursor names is another one now, everything is read again: a union is idempotent.
    """
    shape, warnings = Shape(conn), []
    after = _position(conn, shape, cursor, inode)
    records: List[Record] = []
    last: Optional[Row] = None
    strange, more = 0, False
    for row in shape.rows(conn, "WHERE rowid > ? ORDER BY rowid", (after,)):
        if len(records) >= limit:
            more = True
            break
        last = row
        if row.record.config == config:
            records.append(row.record)
        strange += not row.record.config
    if strange:
        warnings.append(f"{strange} matches are of no board and number of players that are known; they stay at home")
    reached = {"v": 1, "inode": inode, "rowid": after, "key": (cursor or {}).get("key", "") if after else ""}
    if last is not None:
        reached.update(rowid=last.rowid, key=last.record.key)
    return Reading(records, reached, more, warnings)


def _position(conn: sqlite3.Connection, shape: Shape, cursor: Optional[Dict[str, Any]], inode: int) -> int:
    if not cursor or cursor.get("v") != 1 or cursor.get("inode") != inode or not isinstance(cursor.get("rowid"), int):
        return 0
    rowid = int(cursor["rowid"])
    if not 0 < rowid < 1 << 63:
        return 0
    found = next(shape.rows(conn, "WHERE rowid = ?", (rowid,)), None)
    return rowid if found is not None and found.record.key == cursor.get("key") else 0


def all_records(conn: sqlite3.Connection, config: str) -> Iterator[Record]:
    """Every match of the config, those that are none left out."""
    board, players = board_of(config)
    shape = Shape(conn)
    for row in shape.rows(conn, *where(board, players)):
        if row.record.config == config and row.record.kind == KIND:
            yield row.record


def checked(record: Record, config: str) -> Optional[Tuple[str, str]]:
    """Say why a record that came from elsewhere does not enter; None where it does."""
    if record.kind == ASIDE:
        return str(record.body.get("reason", "bad_row"))[:60], str(record.body.get("detail", ""))[:300]
    if record.kind != KIND:
        return "unknown_kind", f"there are no records of kind {record.kind[:40]!r} among matches"
    wrong = wrong_with(record.body, config)
    if wrong is None and (record.config != config or record.key != key_of(record.body)):
        return "bad_key", "its key or config is not that of its values"
    return wrong


def merge(conn: sqlite3.Connection, records: Sequence[Record], config: str) -> Merged:
    """Unite matches with those of the database, and write the ratings, inside the caller's transaction.

    Of two different matches with one game id the one with the lower digest has it, whichever came first.
    """
    shape = Shape(conn)
    refused: List[Refused] = []
    good: Dict[str, Record] = {}
    for record in records:
        wrong = checked(record, config)
        if wrong is not None:
            refused.append(Refused(record, *wrong))
        else:
            good[record.key] = record
    known = _known(conn, shape, list(good.values()))
    new = [record for key, record in good.items() if key not in known]
    replaced = False
    for key, row in known.items():
        arriving, there = good[key], row.record
        if _core(arriving) == _core(there):
            continue
        loser = arriving
        if digest(_core(arriving)) < digest(_core(there)):
            conn.execute(f"DELETE FROM {TABLE} WHERE rowid = ?", (row.rowid,))
            new.append(arriving)
            loser, replaced = there, True
        refused.append(Refused(loser, "same_id_other_match", f"another match has its game id {key[2:60]}"))
    _insert(conn, shape, new)
    _insert_participants(conn, new)
    rated = rate(conn, config, new, replaced=replaced) if new else Rated({})
    counts = {"matches_new": len(new) - replaced, "matches_same": len(known)}
    return Merged(counts, refused, rated.checks, bool(new or refused), rated.due)


def _core(record: Record) -> List[object]:
    body = record.body
    return [body["participants"], body["ranks"], body["timestamp"], body["board"], body["players"]]


def _known(conn: sqlite3.Connection, shape: Shape, records: Sequence[Record]) -> Dict[str, Row]:
    """The rows that have the key of one of the records already."""
    keys = {record.key for record in records}
    ids = [record.body["game_id"] for record in records if record.body["game_id"]]
    times = sorted({record.body["timestamp"] for record in records if not record.body["game_id"]})
    found: Dict[str, Row] = {}
    wanted = [("timestamp", times)] + ([("game_id", ids)] if "game_id" in shape.columns else [])
    for column, values in wanted:
        for start in range(0, len(values), _LOOKUP):
            part = values[start : start + _LOOKUP]
            where = f"WHERE {quoted(shape.columns[column])} IN ({', '.join('?' * len(part))}) ORDER BY rowid DESC"
            found.update({row.record.key: row for row in shape.rows(conn, where, part) if row.record.key in keys})
    return found


def _insert(conn: sqlite3.Connection, shape: Shape, records: Sequence[Record]) -> None:
    """Insert rows in the dialect of the database."""
    rows = [_columns(shape, record.body) for record in records]
    if rows:
        names = list(rows[0])
        listed = ", ".join(quoted(shape.columns[name]) for name in names)
        marks = ", ".join("?" * len(names))
        conn.executemany(
            f"INSERT INTO {TABLE} ({listed}) VALUES ({marks})", [[row[name] for name in names] for row in rows]
        )


def _columns(shape: Shape, body: Body) -> Dict[str, object]:
    participants, ranks = body["participants"], body["ranks"]
    best = min(ranks)
    winner = participants[ranks.index(best)] if ranks.count(best) == 1 else None
    row: Dict[str, object] = {
        "participant_ids": json.dumps(participants), "rankings": json.dumps(ranks), "winner": winner,
        "winner_id": winner, "board_type": body["board"], "num_players": body["players"],
        "timestamp": body["timestamp"], "game_id": body["game_id"] or None,
        **{name: body.get(name) for name in CARRIED},
    }  # fmt: skip
    if shape.pair is not None:
        row.update(zip(shape.pair, participants))
    return {name: value for name, value in row.items() if name in shape.columns}


def _insert_participants(conn: sqlite3.Connection, records: Sequence[Record]) -> None:
    have = table_columns(conn, "main", "participants")
    if "participant_id" not in have:
        return
    first: Dict[str, float] = {}
    for record in records:
        for name in record.body["participants"]:
            first[name] = min(record.body["timestamp"], first.get(name, math.inf))
    names = [name for name in ("participant_id", "created_at") if name in have]
    rows = [(name, at)[: len(names)] for name, at in sorted(first.items())]
    marks = ", ".join("?" * len(names))
    conn.executemany(f"INSERT OR IGNORE INTO participants ({', '.join(names)}) VALUES ({marks})", rows)


__all__ = ["all_records", "checked", "merge", "prepare", "read", "settle"]
