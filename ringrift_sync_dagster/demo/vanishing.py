"""The second accident of the demo: a rented node vanishes with its writer, its agent and its disk, and stays away.

It dies at a bad moment: the coordinator's agent stands still for a second (``kill -STOP``), so games wait. What was at
risk is noted from outside, from the writer's ledger and from the receipts in the outbox of the dead node; a copy of its
directory is the judge's evidence. What the product said of it, before and afterwards, is compared with that.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ringrift_sync_dagster.demo import findings
from ringrift_sync_dagster.demo.cluster import EmbeddedCluster, agent_name
from ringrift_sync_dagster.demo.ledger import Entry, read_ledger
from ringrift_sync_dagster.demo.processes import PYTHON, ChildFailedError, descendants, kill_tree
from ringrift_sync_dagster.demo.verdict import Check, settled
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.events import newest_events
from ringrift_sync_dagster.state.risks import risk_of
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.storage.layout import SCRATCH_DIR

LOST_EVENT: Final = "GAMES_LOST"
_OUTBOX: Final = "outbox.db"
_STILL: Final = 4.2, 5.8
"""From when to when the coordinator's agent stands still, in seconds after a heartbeat; the next one comes after 5."""
_BEAT_SECONDS: Final = 1.0
_TRY_SECONDS: Final = 15.0
_GIVEN_UP_SECONDS: Final = 120.0
_COMMAND_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Vanished:
    """A node that is gone.

    Args:
        node: Its name.
        evidence: Copy of its ``ai-service`` directory, made between its death and its removal.
        receipted: Games that its outbox called durable.
        at_risk: Finished games that it did not.
        said: How many games ``ringrift-sync status`` said are on it alone; None where it said nothing of the node.
        said_before: So many seconds before its death it had said so itself.
        named: The ids that it had named then.

    """

    node: str
    evidence: Path
    receipted: tuple[Entry, ...]
    at_risk: tuple[Entry, ...]
    said: int | None
    said_before: float
    named: tuple[str, ...]

    def __str__(self) -> str:
        said = "nothing" if self.said is None else f"{self.said}, {self.said_before:.1f} s before"
        return f"{len(self.at_risk)} games were at risk on {self.node} when it was killed (status said {said})"


@dataclass(frozen=True, slots=True)
class Arrived:
    """What the owner has, whoever brought it: fingerprints and ids of the canonical store and of quarantine."""

    contents: frozenset[str]
    ids: frozenset[str]


@dataclass(frozen=True, slots=True)
class Report:
    """What the product says is lost with a node.

    Args:
        ids: The ids that its event names.
        games: How many ``ringrift-sync status`` counts.
        reason: Why the node counts as gone; empty where nothing was to be told.

    """

    ids: frozenset[str] = field(default_factory=frozenset)
    games: int = 0
    reason: str = ""


def vanish(cluster: EmbeddedCluster, node: str, ledger: Path, writer: str, evidence: Path) -> Vanished:
    """Kill a node's agent and writer at one instant, note what was at risk, and remove its directory.

    Args:
        cluster: Where.
        node: Which one.
        ledger: Its writer's ledger.
        writer: Name of its writer's process.
        evidence: Where the judge's copy of its ``ai-service`` directory goes.

    """
    with StateStore.open(cluster.state_url) as state:
        wait_for_a_bad_moment(cluster, state, node, _TRY_SECONDS)
        died_at = _kill(cluster, [agent_name(node), writer])
        told = risk_of(state, node)
    said = _status(cluster, node)
    shutil.copytree(cluster.node_root(node), evidence)
    shutil.rmtree(cluster.base / node)
    finished = settled(read_ledger(ledger), lambda _: evidence)
    durable = _durable(evidence)
    return Vanished(
        node, evidence,
        tuple(one for one in finished if (one.path, one.game_id) in durable),
        tuple(one for one in finished if (one.path, one.game_id) not in durable),
        None if said is None else int(said["games"]),
        0.0 if said is None else max(0.0, died_at - float(said["at"])),
        () if told is None else tuple(told.ids),
    )  # fmt: skip


def arrived(root: Path) -> Arrived:
    """Read what the owner has."""
    contents, ids = set[str](), set[str]()
    for path in sorted((root / "data" / "games").glob("canonical_*.db")):
        for game_id, found in findings.canonical_games(path).items():
            contents.add(found.content)
            ids.add(game_id)
    for one in findings.quarantined_games(root / "data" / "quarantine"):
        contents.add(one.content)
        ids.add(one.game_id)
    return Arrived(frozenset(contents), frozenset(ids))


def missing(vanished: Vanished, here: Arrived) -> list[Entry]:
    """Give the games that went with the node: nobody else has what was played."""
    return [one for one in (*vanished.receipted, *vanished.at_risk) if one.content not in here.contents]


def give_up(cluster: EmbeddedCluster, vanished: Vanished) -> Report:
    """Wait until the product gives a node up that the inventory calls terminated, and read its report.

    Raises:
        ChildFailedError: It was not given up.

    """
    if vanished.said:
        program = [PYTHON, "-m", "ringrift_sync_dagster.demo.losing", "--node", vanished.node]
        ended = cluster.run([*program, "--seconds", f"{_GIVEN_UP_SECONDS:g}"], seconds=_GIVEN_UP_SECONDS + 30)
        if ended.returncode != 0:
            raise ChildFailedError(f"{vanished.node} is not given up: {ended.stdout}{ended.stderr}")
    said = _status(cluster, vanished.node) or {}
    with StateStore.open(cluster.state_url) as state:
        told = [one.payload for one in newest_events(state, [LOST_EVENT]) if one.payload["node"] == vanished.node]
    ids = frozenset(game_id for payload in told for game_id in payload["ids"])
    return Report(ids, int(said.get("lost_games", 0)), "; ".join(str(payload["reason"]) for payload in told))


def vanishing_checks(vanished: Vanished, here: Arrived, report: Report) -> tuple[Check, ...]:
    """Judge what became of the games of the node.

    Args:
        vanished: What was noted when it died.
        here: What the owner has at the end.
        report: What the product says is lost.

    """
    lost = missing(vanished, here)
    at_risk = {(one.path, one.game_id) for one in vanished.at_risk}
    broken = tuple(one.game_id for one in vanished.receipted if one.content not in here.contents)
    unforeseen = tuple(one.game_id for one in lost if (one.path, one.game_id) not in at_risk)
    silent = () if vanished.said is not None else ("it never sent a heartbeat",)
    none = () if vanished.receipted else ("none had a receipt: nothing was written through",)
    node = vanished.node
    return (
        Check(str(vanished), silent, len(vanished.at_risk)),
        Check(f"every game of {node} with a receipt is in the canonical store or in quarantine", (*none, *broken),
              len(vanished.receipted)),
        Check(f"what is missing of {node} was at risk, and nothing else is missing", unforeseen, len(lost)),
        _report(vanished, here, {one.game_id for one in lost}, report),
    )  # fmt: skip


def _report(vanished: Vanished, here: Arrived, lost: set[str], report: Report) -> Check:
    """What the node had named last and did not come must be reported by name, and nothing else."""
    wanted = set(vanished.named) - here.ids
    problems = [f"{one} is called lost, and has come" for one in sorted(report.ids & here.ids)]
    problems += [f"{one} is called lost, and was never at risk" for one in sorted(report.ids - here.ids - lost)]
    problems += [f"{one} is lost, and not reported" for one in sorted(wanted - report.ids)]
    if report.games != len(wanted):
        problems.append(f"status counts {report.games} lost games, not {len(wanted)}")
    question = "the loss report names each game of the last heartbeat that is truly lost, and none that is in the store"
    return Check(question, tuple(problems), len(report.ids))


def wait_for_a_bad_moment(cluster: EmbeddedCluster, state: StateStore, node: str, seconds: float) -> bool:
    """Wait until the node has just said that games are on it alone; False when it did not in so many seconds."""
    last = clock.monotonic() + seconds
    while clock.monotonic() < last:
        before = risk_of(state, node)
        at = clock.wall() if before is None else before.at
        stop, go_on = (at + seconds for seconds in _STILL)
        if stop < clock.wall():  # not a new heartbeat: wait for the next one
            time.sleep(0.2)
            continue
        time.sleep(stop - clock.wall())
        cluster.processes.signal(agent_name(cluster.coordinator), signal.SIGSTOP)
        try:
            time.sleep(max(0.0, go_on - clock.wall()))
        finally:
            cluster.processes.signal(agent_name(cluster.coordinator), signal.SIGCONT)
        limit = clock.monotonic() + _BEAT_SECONDS
        while clock.monotonic() < limit:
            told = risk_of(state, node)
            if told is not None and told.at > at:
                if told.games:
                    return True
                break
            time.sleep(0.005)
    return False


def _kill(cluster: EmbeddedCluster, names: Sequence[str]) -> float:
    """``kill -9`` for processes and all that they started; give when."""
    pids = [cluster.processes.pid(name) for name in names]
    started = descendants(pids)
    died_at = clock.wall()
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    kill_tree(started)
    for name in names:
        cluster.processes.kill(name)
    return died_at


def _status(cluster: EmbeddedCluster, node: str) -> Mapping[str, Any] | None:
    """Give what ``ringrift-sync status`` says is at risk on a node."""
    ended = cluster.run([PYTHON, "-m", "ringrift_sync_dagster.cli", "status", "--json"], seconds=_COMMAND_SECONDS)
    if ended.returncode != 0:
        raise ChildFailedError(f"ringrift-sync status failed: {ended.stdout}{ended.stderr}")
    return next((risk for risk in json.loads(ended.stdout)["risks"] if risk["node"] == node), None)


def _durable(root: Path) -> set[tuple[str, str]]:
    """The games that the outbox of a dead node calls durable, by database and id."""
    with closing(findings.opened(root / SCRATCH_DIR / _OUTBOX)) as conn:
        return {(row[0], row[1]) for row in conn.execute("SELECT path, game_id FROM saved")}
