"""What `make dev` starts is left alone for ten minutes, under load and with a fault, and judged by what it recorded."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
import requests

from ringrift_sync_dagster.core.events import DataEventType
from ringrift_sync_dagster.demo import cargo, scenario
from ringrift_sync_dagster.demo.cargo_verdict import BEST
from ringrift_sync_dagster.demo.cluster import EmbeddedCluster
from ringrift_sync_dagster.demo.dagster_home import dagster_environment
from ringrift_sync_dagster.demo.dev import ADDRESS, DAGSTER, dagster, living_cluster
from ringrift_sync_dagster.demo.processes import PYTHON
from ringrift_sync_dagster.demo.vanishing import wait_for_a_bad_moment
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state import marks
from ringrift_sync_dagster.state.events import Event, events_since
from ringrift_sync_dagster.state.marks import Mark
from ringrift_sync_dagster.state.store import StateStore
from tests import looking
from tests.living import digest, free_port, until

SECONDS = 600.0
"""How long it is left alone; `make soak ARGS=--soak-seconds=300` is a shorter try, 240 the shortest."""
GRACE_SECONDS = 90.0
"""After so long games are orphans; over a minute, because persistent nodes are looked at every minute."""
BREAKER_SECONDS = 200.0
"""A node that comes back is tried when its breaker lets somebody try: after 60 s, and after 120 s more."""
BAD_MOMENT_SECONDS = 60.0
START_SECONDS = 180.0
LOAD = (0.05, 0.35)
"""Part of the time in which two processes take all they can get of the processors."""
PROMOTION = 0.15
FAULT = 0.4
DEAD = scenario.VAST.node
EVERY_MINUTE_OR_MORE = {
    "hybrid_schedule", "ephemeral_schedule", "inventory_sensor", "model_promotion_sensor", "orphan_games_sensor",
    "loop_guard_sensor", "run_failure_sensor", "backpressure_sensor",
}  # fmt: skip
RHYTHMS = (("ephemeral", 5.0, 10.0, 0.5), ("hybrid", 60.0, 90.0, 2.0))
"""Strategy, its interval, the gap that no two of its marks may have, and the width of a class in the histogram."""
ORPHANS = DataEventType.ORPHAN_GAMES_DETECTED, DataEventType.ORPHAN_GAMES_REGISTERED


@dataclass(slots=True)
class Soak:
    """A cluster with Dagster that is left alone.

    Args:
        cluster: The nodes.
        state: Their state database.
        seconds: For how long.
        say: Tells a person how it goes.
        began: When, by the monotonic clock.
        began_at: When, in seconds since 1970.

    """

    cluster: EmbeddedCluster
    state: StateStore
    seconds: float
    say: Callable[[str], None]
    began: float = 0.0
    began_at: float = 0.0

    def marks(self, strategy: str) -> list[Mark]:
        """The marks of a strategy since the beginning."""
        found = marks.recent(self.state, strategy, self.cluster.coordinator, 10_000)
        return [mark for mark in found if mark.began_at >= self.began_at]

    def events(self, kind: DataEventType) -> list[Event]:
        """The events of a kind."""
        return events_since(self.state, types=[kind], limit=10_000)

    def until_part(self, part: float) -> None:
        """Wait for a part of the time to be over."""
        while clock.monotonic() - self.began < part * self.seconds:
            assert self.cluster.processes.is_running(DAGSTER), self.cluster.processes.tail(DAGSTER, 40)
            time.sleep(0.5)

    def until(self, ready: Callable[[], object], seconds: float, what: str) -> float:
        """Wait for something; give how long it took."""
        took = until(self.cluster, ready, seconds, what)
        self.say(f"{what}: {took:.1f} s")
        return took


@contextlib.contextmanager
def load(processes: int = 2) -> Iterator[None]:
    """Take what there is of the processors."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def promote(soak: Soak) -> None:
    """Promote a model by the command, and wait until each node plays with it; nobody clicks."""
    model = cargo.promoted(soak.cluster.base, 7, 1)
    command = [PYTHON, "-m", "ringrift_sync_dagster.cli", "promote", cargo.CONFIG, str(model.resolve()), "--json"]
    ended = soak.cluster.run(command)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert json.loads(ended.stdout)
    bests = {node: soak.cluster.node_root(node) / BEST for node in soak.cluster.nodes}
    soak.until(
        lambda: all(digest(best) == digest(model) for best in bests.values()), 90, "the promoted model is on all nodes"
    )


def lose_a_node_for_a_while(soak: Soak) -> None:
    """An agent dies with games in its outbox, comes back after they were called orphans, and they come.

    It writes through, so that a game is on it alone for a moment only: it is killed when it has just said that one is.
    """
    assert wait_for_a_bad_moment(soak.cluster, soak.state, DEAD, BAD_MOMENT_SECONDS), f"nothing is at risk on {DEAD}"
    soak.cluster.kill_agent(DEAD)
    soak.say(f"kill -9: the agent of {DEAD} is dead, its games go on")
    soak.until(lambda: soak.events(ORPHANS[0]), GRACE_SECONDS + 60, f"the orphans of {DEAD} are detected")
    soak.cluster.start_agent(DEAD)
    soak.until(
        lambda: soak.events(ORPHANS[1]), BREAKER_SECONDS, f"the orphans of {DEAD} have come after its agent came back"
    )


@pytest.mark.soak
def test_what_make_dev_starts_works_for_ten_minutes_by_itself(
    tmp_path: Path, pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds, port = pytestconfig.getoption("--soak-seconds") or SECONDS, free_port()
    settings = {"RINGRIFT_SYNC_EPHEMERAL_MAX_DATA_AGE": f"{GRACE_SECONDS:g}"}
    start = clock.monotonic()

    def say(text: str) -> None:
        with capsys.disabled():
            print(f"\n{clock.monotonic() - start:6.1f} s  {text}", end="", flush=True)

    with living_cluster(tmp_path, settings) as cluster, StateStore.open(cluster.state_url) as state:
        soak = Soak(cluster, state, seconds, say)
        with dagster(cluster, port):
            soak.until(lambda: soak.marks("ephemeral") and soak.marks("hybrid"), START_SECONDS, "both strategies work")
            assert requests.get(f"http://{ADDRESS}:{port}/server_info", timeout=30).ok
            soak.began, soak.began_at = clock.monotonic(), clock.wall()
            soak.until_part(LOAD[0])
            with load():
                soak.until_part(PROMOTION)
                promote(soak)
                soak.until_part(LOAD[1])
            soak.until_part(FAULT)
            lose_a_node_for_a_while(soak)
            soak.until_part(1.0)
            home = dagster_environment(cluster.base)["DAGSTER_HOME"]
            with dg.DagsterInstance.from_config(home) as instance:
                problems = judge(soak, instance)
    say("verdict: " + ("good" if not problems else "\n  ".join(["bad", *problems])))

    assert problems == []


def judge(soak: Soak, instance: dg.DagsterInstance) -> list[str]:
    """Tell everything that is not as it should be."""
    return [*_rhythm(soak), *_orphans(soak), *_record(soak, instance), *_runs(soak, instance), *_ticks(soak, instance)]


def _rhythm(soak: Soak) -> list[str]:
    problems = []
    for strategy, interval, worst, width in RHYTHMS:
        found = soak.marks(strategy)
        gaps = looking.gaps(found)
        median, largest = statistics.median(gaps), max(gaps)
        soak.say(f"{strategy}: {len(found)} marks, median gap {median:.2f} s, worst {largest:.2f} s")
        soak.say("\n".join(["gaps", *looking.histogram(gaps, width)]))
        few = len(found) < soak.seconds / interval - 2
        if abs(median - interval) > interval / 50 or largest >= worst or few:
            problems.append(f"{strategy}: {len(found)} marks, median gap {median:.2f} s, worst {largest:.2f} s")
        problems += looking.overlaps(found)
    return problems


def _orphans(soak: Soak) -> list[str]:
    told = [event.payload for kind in ORPHANS for event in soak.events(kind)]
    hosts = {str(payload["node"]) for payload in told}
    counts = [len(soak.events(kind)) for kind in ORPHANS]
    soak.say(f"orphans: {counts[0]} detected, {counts[1]} recovered")
    return [] if hosts == {DEAD} and counts == [1, 1] else [f"orphans of {sorted(hosts)}, events {counts}"]


def _record(soak: Soak, instance: dg.DagsterInstance) -> list[str]:
    found, late = looking.materializations(instance), looking.unrecorded(soak.state, clock.wall() - 30)
    soak.say(f"{len(found)} materializations of {sum(len(one.change_ids) for one in found)} changes")
    return [*looking.unfounded(found, soak.state), *([f"{late} changes were never recorded"] if late else [])]


def _runs(soak: Soak, instance: dg.DagsterInstance) -> list[str]:
    """Only what asked the dead node for its games may have failed."""
    problems, count = [], dict[tuple[str, str], int]()
    for record in instance.get_run_records():
        run = record.dagster_run
        count[run.job_name, run.status.value] = count.get((run.job_name, run.status.value), 0) + 1
        explained = run.job_name == "priority_sync" and run.tags.get("ringrift/node") == DEAD
        if run.status is dg.DagsterRunStatus.FAILURE and not explained:
            problems.append(f"run {run.run_id[:8]} of {run.job_name} failed")
    soak.say("runs: " + ", ".join(f"{job} {status.lower()} {n}" for (job, status), n in sorted(count.items())))
    good = count.get(("hybrid_sync", "SUCCESS"), 0)
    return problems + ([f"only {good} hybrid runs ended well"] if good < soak.seconds / 60 - 2 else [])


def _ticks(soak: Soak, instance: dg.DagsterInstance) -> list[str]:
    found = looking.ticks(instance)
    for name, one in sorted(found.items()):
        soak.say(f"ticks of {name}: " + ", ".join(f"{count} {status.lower()}" for status, count in one.count.items()))
    silent = [f"{name} never ticked" for name in sorted(EVERY_MINUTE_OR_MORE) if not found[name].count]
    return silent + [f"{name}: {error}" for name, one in found.items() for error in one.errors]
