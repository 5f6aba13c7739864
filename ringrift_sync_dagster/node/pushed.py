"""How far a store has read a database whose reader pushes by itself: what a pack says, where nothing lies between.

Packs may arrive out of order: one lies at a peer, and the next one came. A cursor that passed by the missing one would
hide its games from every pass, for long.
"""

from __future__ import annotations

import sqlite3
from typing import Any, Dict, Iterable, Optional, Tuple

from . import canonical
from .cursor import WAITING_LIMIT, Cursor, Waiting, parse
from .errors import KitError
from .packfile import Declared


def cursor_to_write(
    conn: sqlite3.Connection, declared: Declared, node: str, config: str
) -> Optional[Tuple[str, Dict[str, Any]]]:
    """Give the path and the cursor behind an attached ``pack``, or None where the store may not take it over."""
    try:
        stored = parse(canonical.read_cursor(conn, node, declared.path, config))
    except (KitError, ValueError):
        return None  # somebody spoilt it: the next pass begins again
    games = (row[0] for row in conn.execute("SELECT game_id FROM pack.pack_games"))
    cursor = taken_over(stored, declared, games)
    return (declared.path, cursor.as_json()) if cursor is not None else None


def taken_over(stored: Optional[Cursor], declared: Declared, games: Iterable[str]) -> Optional[Cursor]:
    """Give what a store may remember of its reading, or None: it stays where it was.

    Short games that the reader marked as told were told to itself: the store has yet to ask for them.

    Args:
        stored: How far the store has read; None: it never did.
        declared: What the pack says.
        games: Ids of the games in the pack.

    """
    after, behind = declared.after, declared.cursor
    left: Dict[str, Waiting] = {}
    if after is None:
        if not _from_beginning(stored, behind):
            return None
    elif stored is None or not _joins(stored, after, behind):
        return None
    else:
        # Given up meanwhile, or in an earlier pack, which is not here yet: it waits on, and the next pass asks for it.
        accounted = {*after.waiting, *behind.waiting, *games}
        left = {game_id: entry for game_id, entry in stored.waiting.items() if game_id not in accounted}
        if left and len(left) + len(behind.waiting) > WAITING_LIMIT:
            return None
    told = {game_id for game_id, entry in (stored.waiting if stored else {}).items() if entry.reported}
    waiting = {game_id: entry._replace(reported=game_id in told) for game_id, entry in behind.waiting.items()}
    return behind._replace(waiting={**left, **waiting}, token="" if left else behind.token)


def _from_beginning(stored: Optional[Cursor], behind: Cursor) -> bool:
    """Whether the store has read another file, or this one no further."""
    return stored is None or stored.inode != behind.inode or stored.rowid <= behind.rowid


def _joins(stored: Cursor, after: Cursor, behind: Cursor) -> bool:
    """Whether the pack begins at rows that the store has read, and ends no earlier."""
    if after.crowded or stored.crowded or not after.inode == stored.inode == behind.inode:
        return False
    if after.rowid == stored.rowid and after.game_id != stored.game_id:
        return False  # The rowid was given to another game in between, and who knows how many others were.
    return after.rowid <= stored.rowid <= behind.rowid
