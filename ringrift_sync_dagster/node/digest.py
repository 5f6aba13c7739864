"""The two digests of a game: *identity* (what was played) and *annotation* (what is known about it).

Both are the SHA-256 of JSON lines made from the pack's tables, whose declared types have already normalised each
number, so that they do not depend on the source's schema version, column order or number format. NULL, an absent
column and a column's default are one value. A game stored under ``{id}~{digest12}`` (see ``merge``) has the digest of
its original id.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from itertools import groupby
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

from . import patterns
from .schema import CHILDREN, GAMES, Column, Table

_RENAMED = re.compile(r"^(?P<origin>.+)~(?P<digest>[0-9a-f]{12})$", re.DOTALL)
DIGEST_SUFFIX = 12  # characters of the identity digest that make a second id

_Pick = Callable[[Tuple[Any, ...]], List[Any]]


class GameDigests(NamedTuple):
    """What names one game by content.

    This is the SHA-256 hex of its identity and of its annotation, and its number of rows in ``game_moves``.
    """

    game_id: str
    identity: str
    annotation: str
    moves: int


def renamed_id(game_id: str, identity: str) -> str:
    """The id under which a different game enters when its own id is taken."""
    return f"{game_id}~{identity[:DIGEST_SUFFIX]}"


def origin_id(game_id: str, identity: str) -> str:
    """The id a game had at its source; inverse of ``renamed_id``."""
    match = _RENAMED.match(game_id)
    if match and match.group("digest") == identity[:DIGEST_SUFFIX]:
        return match.group("origin")
    return game_id


def digests(
    conn: sqlite3.Connection, schema: str = "main", only: Optional[Sequence[str]] = None
) -> Iterator[GameDigests]:
    """Digest games in tables of the pack's or canonical shape (version 18), in order of their ids.

    Args:
        conn: Connection whose ``schema`` holds the tables; its rows are read, nothing is written.
        schema: Name of the attached database.
        only: Ids to digest; without it all. They go through the temporary table ``digest_ids``.

    """
    if only is not None:
        conn.execute("CREATE TEMP TABLE IF NOT EXISTS digest_ids (game_id TEXT PRIMARY KEY) WITHOUT ROWID")
        conn.execute("DELETE FROM temp.digest_ids")
        conn.executemany("INSERT OR IGNORE INTO temp.digest_ids VALUES (?)", ((game_id,) for game_id in only))
    children = [(table, _Rows(conn, schema, table, filtered=only is not None)) for table in CHILDREN]
    for game in _select(conn, schema, GAMES, filtered=only is not None):
        yield _digest_game(game, children)


def all_digests(
    conn: sqlite3.Connection, schema: str = "main", only: Optional[Sequence[str]] = None
) -> List[GameDigests]:
    """Digest games as ``digests`` does, in one go and faster: text is decoded in C unless some of it is not UTF-8."""
    factory = conn.text_factory
    conn.text_factory = str
    try:
        return list(digests(conn, schema, only))
    except (sqlite3.OperationalError, UnicodeDecodeError):
        conn.text_factory = factory
        return list(digests(conn, schema, only))
    finally:
        conn.text_factory = factory


def digest_of(conn: sqlite3.Connection, schema: str, game_id: str) -> GameDigests:
    """Digest one game that is there.

    Raises:
        LookupError: It is not there.

    """
    for found in list(digests(conn, schema, [game_id])):
        return found
    raise LookupError(f"{schema}.games has no game {game_id!r}")


def _digest_game(game: Tuple[Any, ...], children: List[Tuple[Table, _Rows]]) -> GameDigests:
    """Digest one row of ``games`` with its child rows."""
    game_id = game[0]
    values = dict(zip(GAMES.names(), game))
    values["board_type"] = patterns.BOARD_ALIASES.get(str(values["board_type"]).strip().lower(), values["board_type"])
    identity: List[Any] = [[_value(values[c.name], c) for c in GAMES.columns if c.identity and c.name != "game_id"]]
    annotation: List[Any] = [
        [_value(values[c.name], c) for c in GAMES.columns if not c.identity and c.name not in _NOT_DIGESTED]
    ]
    moves = 0
    for table, rows in children:
        mine = rows.of(game_id)
        if table.name == "game_moves":
            moves = len(mine)
        if table.packed:
            identity_row, annotation_row = _SPLIT[table.name]
            if identity_row is not None:
                identity.append([identity_row(row) for row in mine])
            annotation.append([annotation_row(row) for row in mine])
    return _finish(game_id, identity, annotation, moves)


def _finish(game_id: str, identity: List[Any], annotation: List[Any], moves: int) -> GameDigests:
    """Hash the collected rows; the id counts without the suffix that this very identity gave it."""
    match = _RENAMED.match(game_id)
    if match:
        original = _sha256([match.group("origin"), *identity])
        if original[:DIGEST_SUFFIX] == match.group("digest"):
            return GameDigests(game_id, original, _sha256(annotation), moves)
    return GameDigests(game_id, _sha256([game_id, *identity]), _sha256(annotation), moves)


def _sha256(rows: List[Any]) -> str:
    text = json.dumps(rows, ensure_ascii=True, separators=(",", ":"), default=_hex)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _hex(blob: bytes) -> str:
    return "blob:" + bytes(blob).hex()


_NOT_DIGESTED = {"schema_version"}  # says which program wrote the row, nothing about the game


def _default(column: Column) -> Union[str, int, None]:
    """The Python value of a column's SQL default."""
    if column.default is None:
        return None
    return column.default.strip("'") if column.default.startswith("'") else int(column.default)


def _value(value: object, column: Column) -> object:
    """One value with its column's default written as None and whole floats as integers."""
    whole = _whole(value)
    return None if whole == _default(column) else whole


def _splitter(table: Table, *, identity: bool) -> Optional[_Pick]:
    """A function that picks a child row's identity or annotation values (without the game's id); None: it has none.

    It runs for every row of every game that leaves a node, so it looks one by one only at the values of columns that
    have a default, and at those of a row that holds a float.
    """
    picked = [(i, c) for i, c in enumerate(table.columns) if i and c.identity == identity]
    if identity and not picked:
        return None
    key = [] if identity else [i for i, c in enumerate(table.columns) if i and c.identity and c.name in table.key]
    places = [*key, *(i for i, _ in picked)]
    defaults = [(place, _default(c)) for place, (_, c) in enumerate(picked, len(key)) if c.default is not None]

    def pick(row: Tuple[Any, ...]) -> List[Any]:
        values = [row[i] for i in places]
        if float in map(type, values):
            values[len(key) :] = [_whole(value) for value in values[len(key) :]]
        for place, default in defaults:
            if values[place] == default:
                values[place] = None
        return values

    return pick


def _whole(value: object) -> object:
    """A whole float as an integer, any other value as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_SPLIT: Dict[str, Tuple[Optional[_Pick], _Pick]] = {
    table.name: (_splitter(table, identity=True), _splitter(table, identity=False) or list) for table in CHILDREN
}
"""What picks the identity of a child row (None: such rows are annotation, however many there are), and the rest."""


def _select(conn: sqlite3.Connection, schema: str, table: Table, *, filtered: bool) -> Iterator[Tuple[Any, ...]]:
    """Rows of one table in key order."""
    names = ", ".join(f"t.{name}" for name in table.names())
    key = ", ".join(f"t.{name}" for name in table.key)
    if filtered:  # CROSS JOIN fixes the order: look each id up, never walk the whole table
        rows = f"temp.digest_ids d CROSS JOIN {schema}.{table.name} t ON t.game_id = d.game_id"
    else:
        rows = f"{schema}.{table.name} t"
    cursor = conn.cursor()
    cursor.execute(f"SELECT {names} FROM {rows} ORDER BY {key}")
    return cursor


class _Rows:
    """Child rows grouped by game, read forward in step with the games (both are in order of the id)."""

    def __init__(self, conn: sqlite3.Connection, schema: str, table: Table, *, filtered: bool) -> None:
        rows = _select(conn, schema, table, filtered=filtered) if table.packed else iter(())
        self._groups = groupby(rows, key=lambda row: row[0])
        self._current: Optional[Tuple[str, List[Tuple[Any, ...]]]] = None

    def of(self, game_id: str) -> List[Tuple[Any, ...]]:
        """The rows of ``game_id``; ids must be asked for in ascending order. Rows of unknown games are passed over."""
        wanted = _bytes(game_id)
        while self._current is None or _bytes(self._current[0]) < wanted:
            following = next(self._groups, None)
            if following is None:
                return []
            self._current = (following[0], list(following[1]))
        return self._current[1] if self._current[0] == game_id else []


def _bytes(game_id: str) -> bytes:
    """The id as SQLite orders it: by its bytes, whatever they are."""
    return game_id.encode("utf-8", "surrogateescape")
