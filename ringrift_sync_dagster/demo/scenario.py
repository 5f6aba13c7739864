"""Who plays what in the demo: the games databases of each node, and the cases that a merge must get right.

Every case is drawn from the seed and its number, so that two writers on two nodes play their halves of it without
talking to each other. It has the same basename on two nodes, a database of mixed configs, and ids that overlap.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ringrift_sync_dagster.demo.games import SHORTEST, Game, make_game
from ringrift_sync_dagster.demo.ledger import Plan
from ringrift_sync_dagster.demo.schemas import Dialect

SHORT_MOVES: Final = 3
DUPLICATES, REVISIONS, SAME_IDS = 12, 6, 5
BACKLOG_GAMES: Final = 1_700


@dataclass(frozen=True, slots=True)
class GamesFile:
    """One games database of a node; ``configs`` take turns in it."""

    node: str
    path: str
    dialect: Dialect
    configs: tuple[str, ...]


VAST: Final = GamesFile("vast-900001", "data/games/selfplay.db", Dialect.V18, ("hex8_2p", "square8_2p"))
RUNPOD: Final = GamesFile("runpod-a1", "data/games/selfplay.db", Dialect.V12, ("hex8_2p",))
NEBIUS: Final = GamesFile("nebius-t1", "data/games/gumbel_hex8_4p.db", Dialect.V18, ("hex8_4p",))
HETZNER: Final = GamesFile("hetzner-v1", "data/selfplay/unified_x/games.db", Dialect.V12_MOVE_INDEX, ("hex8_2p",))
FILES: Final = (
    VAST,
    RUNPOD,
    GamesFile("runpod-a1", "data/selfplay/p2p/square8_2p/s1/games.db", Dialect.V18, ("square8_2p",)),
    NEBIUS,
    HETZNER,
    GamesFile("hetzner-v1", "data/games/selfplay.db", Dialect.V18, ("square8_2p", "hexagonal_3p")),
)


@dataclass(frozen=True, slots=True)
class Case:
    """One game that is more than a normal one: its plan, and the database where it is written."""

    plan: Plan
    file: GamesFile
    game: Game
    late: bool = False  # played after the first run
    late_half: bool = False  # the rest of a game that was begun before


def files_of(node: str) -> tuple[GamesFile, ...]:
    """The databases of a node; a node that the scenario does not know plays into one new database."""
    return tuple(file for file in FILES if file.node == node) or (
        GamesFile(node, "data/games/selfplay.db", Dialect.V18, ("hex8_2p",)),
    )


def normal_game(seed: int, file: GamesFile, number: int) -> Game:
    """The ``number``-th ordinary game of a database, counted from 0."""
    config = file.configs[number % len(file.configs)]
    return make_game(f"{seed}:{file.node}:{file.path}:{number}", config)


def cases_of(seed: int, node: str) -> list[Case]:
    """All cases that this node's writer plays."""
    return [case for case in _cases(seed) if case.file.node == node]


def _cases(seed: int) -> Iterator[Case]:
    for number in range(DUPLICATES):
        game = make_game(f"{seed}:duplicate:{number}", "hex8_2p")
        yield Case(Plan.DUPLICATE, VAST, game)
        yield Case(Plan.DUPLICATE, RUNPOD if number % 2 else HETZNER, game, late=number % 3 == 0)
    for number in range(REVISIONS):
        yield from _revision(seed, number)
    for number in range(SAME_IDS):
        for file in (VAST, RUNPOD, HETZNER)[: 2 + number % 2]:
            game = make_game(f"{seed}:{file.node}:diversity:{number}", "hex8_2p", game_id=f"diversity_{number}")
            yield Case(Plan.SAME_ID, file, game, late=number == SAME_IDS - 1 and file is VAST)
    for file in (HETZNER, RUNPOD):
        game = make_game(f"{seed}:{file.node}:short", "hex8_2p", length=SHORT_MOVES)
        yield Case(Plan.SHORT, file, game)
    for file in FILES:
        yield Case(Plan.UNFINISHED, file, make_game(f"{seed}:{file.node}:{file.path}:unfinished", file.configs[0]))
        yield Case(Plan.LATE, file, make_game(f"{seed}:{file.node}:{file.path}:late", file.configs[0]))


def _revision(seed: int, number: int) -> Iterator[Case]:
    """The same game twice, one with more moves; the loser arrives first in half of the cases, later in the others."""
    key, length = f"{seed}:revision:{number}", SHORTEST + number
    loser, winner = make_game(key, "hex8_2p", length=length), make_game(key, "hex8_2p", length=length + 7)
    yield Case(Plan.REVISION_LOSER, VAST, loser, late=number % 2 == 0)
    yield Case(Plan.REVISION_WINNER, RUNPOD, winner, late=number % 2 == 1)
