"""The verdict: is all that the writers finished in the canonical store or in quarantine, unaltered, and nothing else?

It is computed from the writers' ledgers and from the databases as they lie on the disk; no counter, log or report of
the product has a say. Run it when the writers have ended and the last collection is over.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ringrift_sync_dagster.demo import findings
from ringrift_sync_dagster.demo.expectation import Expected, expect
from ringrift_sync_dagster.demo.findings import Found, SetAside
from ringrift_sync_dagster.demo.ledger import Entry

_EXAMPLES: Final = 3


@dataclass(frozen=True, slots=True)
class Check:
    """One question and its answer.

    Args:
        question: What must hold, in words.
        problems: What does not; empty when it holds.
        counted: How many things were looked at.

    """

    question: str
    problems: tuple[str, ...]
    counted: int

    @property
    def passed(self) -> bool:
        """True when nothing is wrong."""
        return not self.problems

    def __str__(self) -> str:
        if self.passed:
            return f"{self.question}: yes ({self.counted:,})"
        more = len(self.problems) - _EXAMPLES
        examples = "; ".join(self.problems[:_EXAMPLES]) + (f"; and {more} more" if more > 0 else "")
        return f"{self.question}: NO, {len(self.problems)} of {self.counted}: {examples}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The checks, and the numbers behind them.

    Args:
        checks: All of them.
        finished: Games that the ledgers call finished, one entry for each copy.
        canonical: Games in the canonical store.
        set_aside: Games in quarantine.

    """

    checks: tuple[Check, ...]
    finished: tuple[Entry, ...]
    canonical: int
    set_aside: tuple[SetAside, ...]

    @property
    def passed(self) -> bool:
        """True when every check passed."""
        return all(check.passed for check in self.checks)


def judge(entries: Sequence[Entry], root: Path, node_root: Callable[[str], Path]) -> Verdict:
    """Compare ledgers and databases.

    Args:
        entries: All ledgers.
        root: The coordinator's ``ai-service`` directory.
        node_root: That of a node.

    """
    finished = settled(entries, node_root)
    sources = _read_sources(finished, node_root)
    canonical = {
        path.stem.removeprefix("canonical_"): findings.canonical_games(path)
        for path in sorted((root / "data" / "games").glob("canonical_*.db"))
    }
    stored = {(config, found.game_id): found for config, games in canonical.items() for found in games.values()}
    set_aside = findings.quarantined_games(root / "data" / "quarantine")
    digests = {found.content: found.identity for found in sources.values()}
    expected = expect(finished, digests)
    orphans = {config: findings.orphan_rows(root / "data" / "games" / f"canonical_{config}.db") for config in canonical}
    checks = (
        _sources_unaltered(finished, sources),
        _all_there(expected, stored),
        _nothing_else(expected, stored),
        _unaltered(expected, stored),
        _digests_equal(stored, digests),
        _quarantine_complete(expected, set_aside),
        Check(
            "no row in the canonical store without its game",
            tuple(f"{config} has {count} such rows" for config, count in orphans.items() if count),
            len(orphans),
        ),
    )
    return Verdict(checks, tuple(finished), len(stored), tuple(set_aside))


def settled(entries: Sequence[Entry], node_root: Callable[[str], Path]) -> list[Entry]:
    """The finished games; where a killed writer left a doubt, its database decides."""
    finished = []
    for entry in entries:
        if entry.in_doubt and entry.game_id in findings.finished_ids(node_root(entry.node) / entry.path):
            finished.append(replace(entry, finished=True))
        elif entry.finished:
            finished.append(entry)
    return finished


def _read_sources(finished: Sequence[Entry], node_root: Callable[[str], Path]) -> dict[tuple[str, str, str], Found]:
    """The games as they lie on the nodes, by node, path and id."""
    ids: dict[tuple[str, str], list[str]] = defaultdict(list)
    for entry in finished:
        ids[entry.node, entry.path].append(entry.game_id)
    return {
        (node, path, game_id): found
        for (node, path), wanted in ids.items()
        for game_id, found in findings.node_games(node_root(node) / path, wanted).items()
    }


def _sources_unaltered(finished: Sequence[Entry], sources: dict[tuple[str, str, str], Found]) -> Check:
    problems = []
    for entry in finished:
        found = sources.get((entry.node, entry.path, entry.game_id))
        if found is None or found.content != entry.content:
            problems.append(f"{entry.game_id} in {entry.node}:{entry.path}")
    return Check("the nodes' own databases hold what their writers played", tuple(problems), len(finished))


def _all_there(expected: Expected, stored: dict[tuple[str, str], Found]) -> Check:
    missing = tuple(
        f"{game_id} is not in {config}" for config, game_id in expected.canonical if (config, game_id) not in stored
    )
    return Check("every complete game is in the canonical store", missing, len(expected.canonical))


def _nothing_else(expected: Expected, stored: dict[tuple[str, str], Found]) -> Check:
    extra = tuple(f"{game_id} in {config}" for config, game_id in stored if (config, game_id) not in expected.canonical)
    return Check("nothing is there that nobody finished", extra, len(stored))


def _unaltered(expected: Expected, stored: dict[tuple[str, str], Found]) -> Check:
    both = [(key, content) for key, content in expected.canonical.items() if key in stored]
    altered = tuple(f"{key[1]} in {key[0]}" for key, content in both if stored[key].content != content)
    return Check("every canonical game is the game that was played", altered, len(both))


def _digests_equal(stored: dict[tuple[str, str], Found], digests: dict[str, str]) -> Check:
    """Three digests of each game: from the canonical rows, from the node's rows, and the one that was recorded."""
    problems = [
        f"{found.game_id} in {config}"
        for (config, _), found in stored.items()
        if not found.identity == found.recorded == digests.get(found.content)
    ]
    return Check(
        "identity digests are equal at the node, in the store and in its records", tuple(problems), len(stored)
    )


def _quarantine_complete(expected: Expected, set_aside: Sequence[SetAside]) -> Check:
    reasons = {(one.game_id, one.content): one.reason for one in set_aside}
    problems = list(expected.unplanned)
    for key, reason in expected.quarantine.items():
        if key not in reasons:
            problems.append(f"{key[0]} is missing ({reason})")
        elif reasons[key] != reason:
            problems.append(f"{key[0]} lies there as {reasons[key]}, not as {reason}")
    problems += [
        f"{game_id} is there ({reason})"
        for (game_id, content), reason in reasons.items()
        if (game_id, content) not in expected.quarantine
    ]
    return Check("quarantine holds what was planned, each with its reason", tuple(problems), len(expected.quarantine))
