"""What must be in the canonical store and in quarantine, worked out from the writers' ledgers alone.

The rules are those of the merge, written down a second time: games under one id with the same seed and start are
versions of one game, of which the one with more moves stays (then the lower digest) and the others are set aside;
different games under one id all stay, the lowest digest under the id itself, each other one as ``{id}~{digest12}``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from ringrift_sync_dagster.demo.ledger import Entry, Plan

COMPLETE_MOVES: Final = 5
DIGEST_CHARACTERS: Final = 12
PLANNED_REASON: Final = {Plan.REVISION_LOSER: "revision", Plan.SHORT: "short"}


@dataclass(slots=True)
class Expected:
    """What must be there.

    Args:
        canonical: (config, id) to fingerprint.
        quarantine: (original id, fingerprint) to reason.
        unplanned: Games that the rules set aside against their plan; empty, or the demo itself is wrong.

    """

    canonical: dict[tuple[str, str], str] = field(default_factory=dict)
    quarantine: dict[tuple[str, str], str] = field(default_factory=dict)
    unplanned: list[str] = field(default_factory=list)


def expect(finished: Iterable[Entry], digests: Mapping[str, str]) -> Expected:
    """Work out what must be where.

    Args:
        finished: The games that were finished.
        digests: Fingerprint of a game to its identity digest; needed where different games share an id.

    """
    expected = Expected()
    by_id: dict[tuple[str, str], dict[str, Entry]] = defaultdict(dict)
    for entry in finished:
        if entry.moves < COMPLETE_MOVES:
            _set_aside(expected, entry, "short")
        else:
            by_id[entry.config, entry.game_id][entry.content] = entry
    for (config, game_id), games in by_id.items():
        winners = _winners(expected, games.values(), digests)
        for number, entry in enumerate(winners):
            digest = digests.get(entry.content, "")
            stored = f"{game_id}~{digest[:DIGEST_CHARACTERS]}" if number else game_id
            expected.canonical[config, stored] = entry.content
    return expected


def _winners(expected: Expected, games: Iterable[Entry], digests: Mapping[str, str]) -> list[Entry]:
    """One game per (seed, start), the lowest digest first; its other versions are set aside."""
    versions: dict[tuple[int, str], list[Entry]] = defaultdict(list)
    for entry in games:
        versions[entry.seed, entry.created_at].append(entry)
    winners = []
    for same in versions.values():
        winner, *losers = sorted(same, key=lambda entry: (-entry.moves, digests.get(entry.content, "")))
        winners.append(winner)
        for loser in losers:
            _set_aside(expected, loser, "revision")
    return sorted(winners, key=lambda entry: digests.get(entry.content, ""))


def _set_aside(expected: Expected, entry: Entry, reason: str) -> None:
    expected.quarantine[entry.game_id, entry.content] = reason
    if PLANNED_REASON.get(entry.plan) != reason:
        expected.unplanned.append(f"{entry.game_id} on {entry.node}: planned as {entry.plan}, set aside as {reason}")
