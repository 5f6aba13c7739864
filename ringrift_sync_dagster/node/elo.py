"""Ratings as a function of matches: the cluster's formula, in one order, so that every machine gets the same bits.

A participant starts at 1500. K is 40 for its first 30 games, 16 from a rating of 2400 on, else 32. A match of n players
is taken apart into all pairs, each with K / (n - 1); expected is 1 / (1 + 10 ** ((Rb - Ra) / 400)), the score 1, 0.5
(same rank) or 0; all changes of one match come from the ratings before it. Matches count in the order of (timestamp,
key). Source: domain facts of the cluster, 2.2.
"""

from __future__ import annotations

from typing import Dict, Iterable, List, NamedTuple, Sequence, Tuple

START = 1500.0
NEW_GAMES, NEW_K = 30, 40.0
TOP_RATING, TOP_K = 2400.0, 16.0
USUAL_K = 32.0


class Standing(NamedTuple):
    """What one participant has on one board with one number of players; ``last`` is its latest match's timestamp."""

    rating: float = START
    games: int = 0
    wins: int = 0
    losses: int = 0
    draws: int = 0
    last: float = 0.0


class Match(NamedTuple):
    """One match: its place in the order, who played, and their ranks (the lower the better, equal ones shared)."""

    timestamp: float
    key: str
    participants: Tuple[str, ...]
    ranks: Tuple[float, ...]

    @property
    def position(self) -> Tuple[float, str]:
        """Its place in the order of all matches."""
        return (self.timestamp, self.key)


def k_factor(standing: Standing) -> float:
    """How much one game can move a participant."""
    if standing.games < NEW_GAMES:
        return NEW_K
    return TOP_K if standing.rating >= TOP_RATING else USUAL_K


def expected(own: float, other: float) -> float:
    """The expected score of a participant with rating ``own`` against one with ``other``."""
    return float(1.0 / (1.0 + 10.0 ** ((other - own) / 400.0)))


def played(standings: Dict[str, Standing], match: Match) -> None:
    """Let one match count: change the standings of those who played it."""
    before = [standings.get(name, Standing()) for name in match.participants]
    count = len(before)
    best = min(match.ranks)
    shared = match.ranks.count(best) > 1
    for place, (name, own) in enumerate(zip(match.participants, before)):
        k = k_factor(own) / (count - 1)
        delta = 0.0
        for other_place, other in enumerate(before):
            if other_place != place:
                delta += k * (_score(match.ranks[place], match.ranks[other_place]) - expected(own.rating, other.rating))
        first = match.ranks[place] == best
        standings[name] = Standing(
            own.rating + delta, own.games + 1, own.wins + (first and not shared), own.losses + (not first),
            own.draws + (first and shared), match.timestamp,
        )  # fmt: skip


def computed(matches: Iterable[Match], standings: Dict[str, Standing]) -> Dict[str, Standing]:
    """Let the matches count on top of ``standings`` (changed in place, and given back); they must all be later."""
    for match in sorted(matches, key=lambda one: one.position):
        played(standings, match)
    return standings


def _score(own: float, other: float) -> float:
    return 1.0 if own < other else 0.5 if own == other else 0.0


def ranks_of(participants: Sequence[str], rankings: object, winner: object) -> Tuple[float, ...]:
    """Give the ranks of the participants.

    Args:
        participants: Who played, in order.
        rankings: A rank for each in order, a mapping of participant to rank, or the participants in the order in
            which they finished; None where nothing is said.
        winner: The winner's id; None or empty means a draw where ``rankings`` says nothing.

    Raises:
        ValueError: Neither makes sense.

    """
    if isinstance(rankings, dict):
        found: List[object] = [rankings.get(name) for name in participants]
        return _numbers(found, participants)
    if isinstance(rankings, list) and rankings:
        if all(isinstance(entry, str) for entry in rankings):
            if sorted(rankings) != sorted(participants):
                raise ValueError("the rankings name other participants")
            return tuple(float(rankings.index(name)) for name in participants)
        return _numbers(rankings, participants)
    if winner in (None, "", "draw"):
        return tuple(0.0 for _ in participants)
    if winner not in participants:
        raise ValueError("the winner is none of the participants")
    return tuple(0.0 if name == winner else 1.0 for name in participants)


def _numbers(found: Sequence[object], participants: Sequence[str]) -> Tuple[float, ...]:
    if len(found) != len(participants):
        raise ValueError("there are not as many ranks as participants")
    ranks = []
    for rank in found:
        if isinstance(rank, bool) or not isinstance(rank, (int, float)):
            raise ValueError("a rank is no number")  # noqa: TRY004 - one error for every way to be no result
        ranks.append(float(rank))
    return tuple(ranks)
