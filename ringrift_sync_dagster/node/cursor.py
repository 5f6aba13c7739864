"""How far one canonical store has read one games database: a hint, proved against the database before it is believed.

The anchor is the last row looked at whose game was over (rowid, game id and, if that game was complete, its identity
digest) in a file with a known inode. VACUUM renumbers rowids, REPLACE and DELETE let them be used again and a file can
be replaced: in each case the anchor does not match, and the reader falls back to a listing of all games. Self-play
that gives a game up deletes its row, and the next game takes the rowid if it was the newest: that is always a row
behind the anchor, and those are looked at anew each time. Games seen unfinished or incomplete wait in the cursor by
their id.
"""

from __future__ import annotations

import math
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

from .errors import KitError
from .source import Row, Source

VERSION = 1
WAITING_LIMIT = 20_000
"""Games that one cursor may hold as waiting. Short ones that were told make room when it is full. Where
it is full of games that go on for ever, the cursor is crowded, which costs time but no game."""
TOLD_AT_ONCE = 500
"""Short games that one answer names: they travel in one pack, to quarantine."""
TAIL_ROWS = 1_000
"""So many rows of games that go on may lie behind an anchor without any cost; of twice as many, the older half does not
move it any more: a game that is begun so long ago and neither over nor given up was left lying."""
_INTEGERS = 1 << 63


class Waiting(NamedTuple):
    """A game seen before it was complete.

    It says whether the game was over, how many moves it had then, since when it has stood so (by the node's clock),
    and whether it was told as short.
    """

    finished: bool
    moves: int
    since: float
    reported: bool


class Cursor(NamedTuple):
    """Position in one database for one config.

    ``token`` is the change token up to which everything was read, or empty. ``crowded`` says that more games wait than
    the cursor holds, so that the next look must list all of them.
    """

    inode: int
    rowid: int = 0
    game_id: Optional[str] = None
    digest: Optional[str] = None
    token: str = ""
    waiting: Mapping[str, Waiting] = {}
    crowded: bool = False

    def as_json(self) -> Dict[str, Any]:
        """The cursor as the asker keeps it."""
        waiting = {game_id: list(entry) for game_id, entry in self.waiting.items()}
        return {"v": VERSION, **self._asdict(), "waiting": waiting}


def parse(value: Any) -> Optional[Cursor]:  # noqa: ANN401 - JSON of any shape: what does not fit is refused
    """Read a cursor from JSON; None for none.

    Raises:
        KitError: ``bad_arguments`` when it is not a cursor of this version: it may come from a hostile machine.

    """
    if value is None:
        return None
    try:
        if value["v"] != VERSION:
            return None  # written by another version of this program: begin again, a union cannot double anything
        waiting = {_id(game_id): _waiting(entry) for game_id, entry in value["waiting"].items()}
        game_id, digest = (_text_or_none(part) for part in (value["game_id"], value["digest"]))
        inode = int(value["inode"])  # Some file systems give numbers past 64 bits; it is only compared.
        crowded = bool(value.get("crowded", False))
        return Cursor(inode, _number(value["rowid"]), game_id, digest, _id(value["token"]), waiting, crowded)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise KitError("bad_arguments", f"this is not a cursor: {error!r}") from error


def _id(part: object) -> str:
    """Text that SQLite takes; an id that is no valid text is never packed, so it never waits."""
    if not isinstance(part, str):
        raise TypeError("an id and a token are text")
    part.encode("utf-8")
    return part


def _number(part: Any) -> int:  # noqa: ANN401 - JSON of any shape
    """A whole number that SQLite takes."""
    number = int(part)
    if not -_INTEGERS <= number < _INTEGERS:
        raise ValueError("a rowid and a number of moves have 64 bits")
    return number


def _waiting(entry: Any) -> Waiting:  # noqa: ANN401 - JSON of any shape
    finished, moves, since, reported = entry
    if not math.isfinite(float(since)):
        raise ValueError("a time is finite")
    return Waiting(bool(finished), _number(moves), float(since), bool(reported))


def _text_or_none(part: object) -> Optional[str]:
    if part is None or isinstance(part, str):
        return part
    raise TypeError("game_id and digest are text")


def anchor_holds(source: Source, cursor: Cursor, inode: int) -> bool:
    """Whether the rows up to the cursor are still those that were read."""
    if cursor.inode != inode:
        return False
    if cursor.rowid == 0:
        return True
    row = source.row_at(cursor.rowid)
    if row is None or row.game_id != cursor.game_id:
        return False
    if cursor.digest is None:
        return True
    found = source.digest_one(row.game_id)
    return found is not None and found.identity == cursor.digest


def next_anchor(tail: List[Row]) -> Tuple[Optional[Row], List[Row]]:
    """Give the row to anchor at, None where the earlier anchor stays, and the rows behind it.

    Args:
        tail: The rows looked at behind the earlier anchor, in rowid order.

    """
    over = [place for place, row in enumerate(tail) if row.finished]
    if not over and len(tail) <= 2 * TAIL_ROWS:
        return None, tail
    place = over[-1] if over else len(tail) - TAIL_ROWS - 1
    return tail[place], tail[place + 1 :]


def short_games(waiting: Mapping[str, Waiting], now: float, after_seconds: float) -> List[str]:
    """The first ids of games that are over but incomplete, have not moved for ``after_seconds``, and were not told."""
    found = sorted(
        game_id
        for game_id, entry in waiting.items()
        if entry.finished and not entry.reported and now - entry.since >= after_seconds
    )
    return found[:TOLD_AT_ONCE]
