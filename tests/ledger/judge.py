"""The judge of a run: the writers' ledgers against the databases as they lie on the disk.

Which games had a receipt is read from the outbox of their node: while it lived, and from the copy that was taken when
nothing of the dead node ran any more. Whether a game is there, once and unaltered, is the demo's verdict; no counter
of the product has a say. What the product says of risk and loss is compared with what was so.
"""

from __future__ import annotations

import sqlite3
import statistics
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, fields
from functools import cached_property

from ringrift_sync_dagster.agent.through_config import WriteThrough
from ringrift_sync_dagster.core.events import DataEventType
from ringrift_sync_dagster.demo import findings
from ringrift_sync_dagster.demo.ledger import Entry, read_ledger
from ringrift_sync_dagster.demo.verdict import judge
from ringrift_sync_dagster.state.events import events_since
from ringrift_sync_dagster.state.risks import Risk
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.storage.layout import Layout
from ringrift_sync_dagster.sync.losses import lost_ids
from tests.ledger.cluster import LedgerCluster
from tests.ledger.faults import Breaker, Death, Times
from tests.ledger.writer import finish_times

INTERVAL = next(float(str(one.default)) for one in fields(WriteThrough) if one.name == "watch_seconds")
HEARTBEAT = 5.0
QUIET_TRANSFER = 3.0
"""Packing and pushing where nothing was broken of late; about a second on an idle machine, each node beside others."""
TRANSFER = 20.0
"""The same where something was broken: a receiver that hangs is given 5 s, and 15 s are the pauses after failures."""
QUIET_SECONDS = 40.0
CLOCK_SECONDS = 0.2
_TOLD = 12
_SEEN_BY_NOW = 20


@dataclass
class Truth:
    """What was so.

    Args:
        cluster: The cluster.
        breaker: What was broken when.
        seen: By node, receipts that were seen while it lived.
        risks: By lost node, what the product said was at risk when it died.
        rate: Games a second of each writer.
        began: When the run began.

    """

    cluster: LedgerCluster
    breaker: Breaker
    seen: Mapping[str, set[str]]
    risks: Mapping[str, Risk]
    rate: float
    began: float

    @cached_property
    def entries(self) -> list[Entry]:
        """All games that were begun, of all ledgers; the writers have ended."""
        return [entry for path in sorted(self.cluster.ledgers.glob("*.jsonl")) for entry in read_ledger(path)]

    @cached_property
    def finished_at(self) -> dict[str, float]:
        """When each game was finished; a game in doubt was so when its node died."""
        found: dict[str, float] = {}
        for path in self.cluster.ledgers.glob("*.jsonl"):
            found |= finish_times(path)
        deaths = {death.node: death.at for death in self.breaker.deaths}
        doubts = {entry.game_id: deaths.get(entry.node, self.began) for entry in self.entries if entry.in_doubt}
        return {**doubts, **found}

    @cached_property
    def finished(self) -> dict[str, Entry]:
        """Games that are finished; where a killed writer left a doubt, its database decides."""
        ids: dict[tuple[str, str], set[str]] = {}
        for entry in self.entries:
            if entry.in_doubt and (entry.node, entry.path) not in ids:
                ids[entry.node, entry.path] = findings.finished_ids(self.cluster.judged_root(entry.node) / entry.path)
        return {
            entry.game_id: entry
            for entry in self.entries
            if entry.finished or (entry.in_doubt and entry.game_id in ids[entry.node, entry.path])
        }

    def receipts(self, node: str) -> dict[str, float]:
        """Give the games of a node that had a receipt, and when the node got it, by its outbox as it is now."""
        with closing(sqlite3.connect(f"file:{self.cluster.outbox(node)}?mode=ro", uri=True)) as conn:
            return dict(conn.execute("SELECT game_id, at FROM saved"))

    @cached_property
    def receipted(self) -> dict[str, dict[str, float]]:
        """By lost node, its receipts."""
        return {node: self.receipts(node) for node in self.cluster.lost}

    @cached_property
    def due(self) -> set[str]:
        """Games that must be in the canonical store: of nodes that live, and with a receipt of those that do not."""
        return {
            game_id
            for game_id, entry in self.finished.items()
            if entry.node not in self.receipted or game_id in self.receipted[entry.node]
        }

    def stored(self) -> set[str]:
        """Give the ids in the canonical store."""
        found: set[str] = set()
        for path in (self.cluster.root / "data" / "games").glob("canonical_*.db"):
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as conn:
                found.update(row[0] for row in conn.execute("SELECT game_id FROM games"))
        return found

    def missing(self) -> set[str]:
        """Give what is due and is not there."""
        return self.due - self.stored()

    def describe(self, game_id: str) -> str:
        """Tell everything about one game: where, when, and what was broken around that."""
        entry, at = self.finished[game_id], self.finished_at[game_id]
        receipts = self.receipted.get(entry.node) or self.receipts(entry.node)
        had = f"receipt {receipts[game_id] - at:.1f} s later" if game_id in receipts else "no receipt"
        near = "; ".join(self.breaker.near(entry.node, at)) or "nothing was broken within 20 s"
        where = f"{entry.node}:{entry.path} {entry.config}"
        return f"{game_id} of {where}, finished {at - self.began:.1f} s after the beginning, {had}. Near it: {near}"


def judge_run(truth: Truth, state: StateStore, say: Callable[[str], None]) -> list[str]:
    """Tell everything that is not as it should be."""
    stored = truth.stored()
    missing = sorted(truth.due - stored, key=lambda game_id: truth.finished_at[game_id])
    problems = [f"{len(missing)} games are missing that must be there"] if missing else []
    problems += [f"MISSING {truth.describe(game_id)}" for game_id in missing[:_TOLD]]
    there = [entry for game_id, entry in truth.finished.items() if game_id in truth.due or game_id in stored]
    verdict = judge(there, truth.cluster.root, truth.cluster.judged_root)
    problems += [str(check) for check in verdict.checks if not check.passed]
    problems += _forgotten(truth)
    for death in truth.breaker.deaths:
        problems += _loss(truth, death, stored, say)
    problems += _told_as_lost(truth, state, stored, say)
    nodes = len({entry.node for entry in truth.finished.values()})
    say(
        f"{len(truth.finished)} games of {nodes} nodes, {len(truth.finished.keys() - stored)} lost"
        f" with {len(truth.breaker.deaths)} nodes; {len(stored)} in the canonical store"
    )
    _say_delays(truth, say)
    return problems


def _forgotten(truth: Truth) -> list[str]:
    """A receipt that was seen while its node lived is there to the end; and the looks at them did see."""
    nodes = {entry.node for entry in truth.finished.values()}
    unseen = [
        f"{node} was never seen to have a receipt"
        for node in nodes
        if not truth.seen.get(node) and len(truth.receipts(node)) > _SEEN_BY_NOW
    ]
    return unseen + [
        f"{node} forgot {len(gone)} receipts that it had"
        for node, seen in truth.seen.items()
        if (gone := seen - truth.receipts(node).keys())
    ]


def _loss(truth: Truth, death: Death, stored: set[str], say: Callable[[str], None]) -> list[str]:
    """Judge what went with one node: how much, and what the product said of it at that moment."""
    node, breaker = death.node, truth.breaker
    mine = {game_id for game_id, entry in truth.finished.items() if entry.node == node}
    risky = mine - truth.receipted[node].keys()
    quiet = _was_quiet(breaker.disturbed.get(node, Times()), death.at)
    allowance = (INTERVAL + (QUIET_TRANSFER if quiet else TRANSFER)) * death.slowness
    start = breaker.unsafe.get(node, Times()).start_of_window(death.at, allowance)
    most = truth.rate * (death.at - start) + 2
    oldest = max((death.at - truth.finished_at[one] for one in risky), default=0.0)
    say(
        f"{node} died {death.at - truth.began:.1f} s after the beginning with {len(mine)} games: {len(risky)} had no"
        f" receipt (at most {most:.0f} may), the oldest for {oldest:.1f} s; {len(risky - stored)} are lost;"
        f" {'nothing was broken' if quiet else f'allowed since {start - death.at:.1f} s'}"
    )
    late = sorted(game_id for game_id in risky if truth.finished_at[game_id] < start - CLOCK_SECONDS)
    problems = [f"TOO LATE {truth.describe(game_id)}" for game_id in late[:_TOLD]]
    if len(risky) > most:
        problems.append(f"{len(risky)} games of {node} had no receipt, and {most:.0f} may have none")
    return problems + _risk_told(truth, death, risky, allowance)


def _risk_told(truth: Truth, death: Death, risky: set[str], allowance: float) -> list[str]:
    """What the last heartbeat said is what was so then, and it is no older than one heartbeat while it was heard."""
    node, risk = death.node, truth.risks.get(death.node)
    unheard = truth.breaker.unheard.get(node, Times())
    told_since = unheard.start_of_window(death.at, HEARTBEAT + allowance)
    known = [game_id for game_id, entry in truth.finished.items() if entry.node == node]
    first = min((truth.finished_at[game_id] for game_id in known), default=death.at)
    if risk is None:
        return [] if first > told_since else [f"{node} was never heard of, and played since {death.at - first:.0f} s"]
    problems = []
    if risk.at < told_since - CLOCK_SECONDS:
        problems.append(f"the risk of {node} was {death.at - risk.at:.1f} s old, and it could speak")
    ids, slack = set(risk.ids), INTERVAL + allowance
    invented = ids - truth.finished.keys()
    early = [one for one in ids & truth.finished.keys() if truth.finished_at[one] > risk.at + CLOCK_SECONDS]
    done = [one for one, at in truth.receipted[node].items() if one in ids and at < risk.at - slack]
    unsafe = truth.breaker.unsafe.get(node, Times())
    seen = unsafe.start_of_window(risk.at, slack)
    unsaid = [one for one in risky - ids if truth.finished_at[one] < seen - CLOCK_SECONDS]
    for what, wrong in (("were never finished", invented), ("came later", early), ("had a receipt already", done)):
        problems += [f"the last heartbeat of {node} named {len(wrong)} games that {what}: {sorted(wrong)[:3]}"] * bool(
            wrong
        )
    if unsaid:
        problems.append(f"the last heartbeat of {node} left out {len(unsaid)}: {truth.describe(min(unsaid))}")
    if risk.games != len(risk.ids):
        problems.append(f"the last heartbeat of {node} counted {risk.games} games and named {len(risk.ids)}")
    return problems


def _told_as_lost(truth: Truth, state: StateStore, stored: set[str], say: Callable[[str], None]) -> list[str]:
    """What GAMES_LOST named, and what would be called lost now: of dead nodes only, and nothing that is there."""
    problems, layout = [], Layout(truth.cluster.root)
    told = [event.payload for event in events_since(state, types=[DataEventType.GAMES_LOST], limit=10_000)]
    named = [f"{one['node']} {one['games']}" for one in told]
    say(f"GAMES_LOST: {', '.join(named) or 'none'}")
    claims = [(str(one["node"]), set(map(str, one["ids"]))) for one in told]
    claims += [(node, set(lost_ids(layout, risk))) for node, risk in truth.risks.items()]
    for node, ids in claims:
        if node not in truth.cluster.lost and ids:
            problems.append(f"{len(ids)} games of {node} are called lost, and it lives")
        if found := ids & stored:
            problems.append(f"{len(found)} games of {node} are called lost and are there: {truth.describe(min(found))}")
        if had := ids & truth.receipted.get(node, {}).keys():
            problems.append(f"{len(had)} games of {node} are called lost and had a receipt: {truth.describe(min(had))}")
    return problems


def _was_quiet(disturbed: Times, at: float) -> bool:
    return all(ended < at - QUIET_SECONDS for _, ended in disturbed.found)


def _say_delays(truth: Truth, say: Callable[[str], None]) -> None:
    delays = sorted(
        receipts[game_id] - truth.finished_at[game_id]
        for node in {entry.node for entry in truth.finished.values()}
        for receipts in [truth.receipts(node)]
        for game_id in receipts.keys() & truth.finished_at.keys()
    )
    if len(delays) > 1:
        cuts, most = statistics.quantiles(delays, n=100), delays[-1]
        p50, p95, p99 = cuts[49], cuts[94], cuts[98]
        say(f"from commit to receipt: p50 {p50:.2f} s, p95 {p95:.2f} s, p99 {p99:.2f} s, max {most:.1f} s")
