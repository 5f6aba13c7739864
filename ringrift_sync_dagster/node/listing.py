"""List the complete games of one config in a database by id and identity digest, a page at a time.

This is what a reader falls back to when its cursor's anchor no longer matches: it asks for the ids it lacks by name.
A page is read the same way as a pack, into memory, so that what is listed and what would be packed can never differ.
"""

from __future__ import annotations

from typing import Any, Dict, Optional

from . import gate
from .cursor import Cursor, anchor_holds
from .digest import all_digests
from .errors import KitError
from .pack import Request, folders, read_on
from .source import inode, open_games

PAGE_GAMES = 500


def list_games(
    path: str, name: str, scratch: str, config: str, after: Optional[Cursor], limit: int, now: float
) -> Dict[str, Any]:
    """Give the next page: ``games`` as [id, identity digest, moves, annotation digest], the cursor behind it, ``more``.

    Raises:
        KitError: ``changed`` when the rows before ``after`` are no longer those of the page before; begin again
            without it.

    """
    folders(scratch)
    token = gate.change_token(path) if gate.settled(path, now) else ""
    number = inode(path)
    with open_games(path, scratch) as source:
        if after is not None and not anchor_holds(source, after, number):
            raise KitError(
                "changed", f"{name}: its rows changed places during the listing; list it again from the beginning", name
            )
        found = read_on(source, Request(config, max_games=limit), after or Cursor(number), now, token)
        games = [[game.game_id, game.identity, game.moves, game.annotation] for game in all_digests(source.conn)]
    return {"games": games, "cursor": found.cursor.as_json() if found.cursor else None, "more": found.more}
