"""Two games under one id: which of them keeps it, which enters under a second id, and which is set aside.

Games with the same seed and creation time are revisions of one game: more moves wins, then the lower digest, and the
others are set aside. Different games are all kept: the one with the lowest digest has the id, each other one is
stored as ``{id}~{digest12}``. The outcome is a function of the set of games, so the order in which packs arrive
cannot matter. Nothing here touches a database.
"""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from .digest import renamed_id


class Contender(NamedTuple):
    """One game that claims an id; ``stored_id`` is the id it has in the store, None for the one that arrives."""

    identity: str
    moves: int
    seed: Optional[int]
    created_at: Optional[str]
    stored_id: Optional[str]


class Settlement(NamedTuple):
    """Which games stay, under which ids, and which are set aside.

    ``places`` maps the identity of each game that stays to the id it shall have; ``losers`` are the revisions that
    are set aside.
    """

    places: Dict[str, str]
    losers: Tuple[Contender, ...]


def settle(origin_id: str, contenders: Sequence[Contender]) -> Settlement:
    """Decide among games with different identities that all came under ``origin_id``."""
    best: Dict[Tuple[object, object], Contender] = {}
    losers: List[Contender] = []
    for one in contenders:
        line = (one.seed, one.created_at)
        other = best.get(line)
        if other is None:
            best[line] = one
            continue
        winner, loser = sorted((one, other), key=lambda game: (-game.moves, game.identity))
        best[line] = winner
        losers.append(loser)
    ranked = sorted(best.values(), key=lambda game: game.identity)
    places = {game.identity: renamed_id(origin_id, game.identity) for game in ranked}
    places[ranked[0].identity] = origin_id
    return Settlement(places, tuple(losers))
