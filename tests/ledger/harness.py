"""One run of the ledger harness: play, break and mend by a schedule, drain, judge."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ringrift_sync_dagster.demo.dev import DAGSTER
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.risks import Risk, risk_of
from ringrift_sync_dagster.state.store import StateStore
from tests.ledger.cluster import LedgerCluster, can_mount
from tests.ledger.faults import Breaker
from tests.ledger.judge import Truth, judge_run
from tests.ledger.schedule import OF_DAGSTER, OF_DISKS, Fault, Kind
from tests.living import slowness

_LOOK_SECONDS = 0.1
_SAMPLE_SECONDS = 1.0
_READY_SECONDS = 60.0


@dataclass(frozen=True)
class Plan:
    """What a run is.

    Args:
        seed: Of the games; the faults have theirs.
        faults: What is broken when.
        seconds: How long is played.
        slots: Spot nodes at a time.
        rate: Games a second of each.
        drain_seconds: What draining may take at the end, on a machine with nothing else to do.
        port: Dagster's; 0: none runs.

    """

    seed: int
    faults: Sequence[Fault]
    seconds: float
    slots: int
    rate: float
    drain_seconds: float
    port: int = 0


@dataclass
class Samples:
    """Receipts and risks as they were seen while everything went on; a receipt that was seen must never be gone."""

    receipts: dict[str, set[str]] = field(default_factory=dict)
    risks: dict[str, Risk] = field(default_factory=dict)
    _serial: dict[str, int] = field(default_factory=dict)

    def take_all(self, cluster: LedgerCluster) -> None:
        """Take a sample of each node that lives."""
        for node in set(cluster.slots.values()) - set(cluster.lost):
            self.take(node, cluster.outbox(node))

    def take(self, node: str, outbox: Path) -> None:
        """Read what the outbox of a node says became durable since the last time; nothing while it cannot be read."""
        with contextlib.suppress(sqlite3.Error):
            conn = sqlite3.connect(f"file:{outbox}?mode=ro", uri=True, timeout=0.2)
            with contextlib.closing(conn):
                rows = conn.execute(
                    "SELECT serial, game_id FROM saved WHERE serial > ?", (self._serial.get(node, 0),)
                ).fetchall()
            self.receipts.setdefault(node, set()).update(str(game_id) for _, game_id in rows)
            self._serial[node] = max([self._serial.get(node, 0), *(serial for serial, _ in rows)])


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Args:
        problems: Everything that is not as it should be.
        games: How many games were finished.
        done: How often each kind of fault was done.

    """

    problems: list[str]
    games: int
    done: Counter[Kind]


def run(base: Path, plan: Plan, say: Callable[[str], None]) -> Outcome:
    """Run a plan."""
    disks = can_mount()
    left_out = {*(OF_DAGSTER if not plan.port else ()), *(OF_DISKS if not disks else ())}
    if not disks:
        say("no disk is filled here: mounting takes root")
    faults = [fault for fault in plan.faults if fault.kind not in left_out]
    losses = sum(fault.kind is Kind.LOSE_NODE for fault in faults)
    cluster = LedgerCluster(base, slots=plan.slots, losses=losses, disks=disks, seed=plan.seed, rate=plan.rate)
    with cluster, contextlib.ExitStack() as stack, StateStore.open(cluster.state_url) as state:
        breaker, samples = Breaker(cluster, plan.port, stack, say), Samples()
        breaker.start_dagster()
        began = _play(cluster, breaker, samples, state, plan, faults)
        say("all is mended; the writers end")
        cluster.stop_writers()
        truth = Truth(cluster, breaker, samples.receipts, samples.risks, plan.rate, began)
        drained = _drain(breaker, truth, samples, plan.drain_seconds)
        say(f"drained after {drained:.1f} s" if drained >= 0 else f"NOT drained after {plan.drain_seconds:.0f} s")
        if plan.port:
            cluster.processes.stop([DAGSTER])
        problems = judge_run(truth, state, say)
        return Outcome(problems, len(truth.finished), Counter(fault.kind for fault in faults))


def _play(
    cluster: LedgerCluster,
    breaker: Breaker,
    samples: Samples,
    state: StateStore,
    plan: Plan,
    faults: Sequence[Fault],
) -> float:
    """Let the faults come and go; give when that began."""
    began, at = clock.wall(), clock.monotonic()
    coming, broken = sorted(faults, key=lambda fault: fault.at), list[Fault]()
    sampled = 0.0
    while (now := clock.monotonic() - at) < plan.seconds or coming or broken or not breaker.is_whole:
        for fault in [one for one in broken if one.until <= now]:
            broken.remove(fault)
            breaker.mend(fault)
        if coming and coming[0].at <= now:
            fault = coming.pop(0)
            if fault.kind is Kind.LOSE_NODE:
                node = cluster.slots[fault.target]
                if (risk := risk_of(state, node)) is not None:
                    samples.risks[node] = risk
            breaker.begin(fault)
            broken.append(fault)
        breaker.look()
        if now - sampled >= _SAMPLE_SECONDS:
            sampled = now
            samples.take_all(cluster)
        assert now < plan.seconds + _READY_SECONDS * slowness(), "somebody who was started does not answer"
        time.sleep(_LOOK_SECONDS)
    return began


def _drain(breaker: Breaker, truth: Truth, samples: Samples, seconds: float) -> float:
    """Wait until all that must be there is; give how long it took, or -1."""
    began = clock.monotonic()
    while clock.monotonic() - began < seconds * slowness():
        breaker.look()
        samples.take_all(truth.cluster)  # on a slow machine all of a late node's receipts come now
        if not truth.missing():
            return clock.monotonic() - began
        time.sleep(0.2)
    return -1.0
