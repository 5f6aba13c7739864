"""Real daemons: each schedule and sensor ticks, one acts at a time, and whoever is killed is followed in seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import dagster as dg
import pytest

from ringrift_sync_dagster.core.events import DataEventType
from ringrift_sync_dagster.demo import cargo, scenario
from ringrift_sync_dagster.demo.cargo_verdict import BEST
from ringrift_sync_dagster.demo.cluster import EmbeddedCluster
from ringrift_sync_dagster.demo.dagster_home import dagster_environment
from ringrift_sync_dagster.demo.dev import dagster, living_cluster
from ringrift_sync_dagster.demo.processes import PYTHON
from ringrift_sync_dagster.demo.vanishing import wait_for_a_bad_moment
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state import marks
from ringrift_sync_dagster.state.events import events_since
from ringrift_sync_dagster.state.leases import holder_of
from ringrift_sync_dagster.state.marks import Mark
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.sync.loop import strategy_lease
from tests import looking
from tests.living import digest, free_port, kill_with_children, until

pytestmark = pytest.mark.cluster

CLI = [PYTHON, "-m", "ringrift_sync_dagster.cli"]
VAST = scenario.VAST.node
GRACE_SECONDS = 30
ALONE_SECONDS = 30
STANDING_BY_SECONDS = 15
"""On a machine with nothing else to do; where more than one process waits for each processor, so much longer."""
SUCCESS, FAILURE = dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE


@dataclass(frozen=True, slots=True)
class Living:
    """A cluster with a real Dagster.

    Args:
        cluster: The nodes.
        state: Their state database.
        instance: Dagster's storage.

    """

    cluster: EmbeddedCluster
    state: StateStore
    instance: dg.DagsterInstance

    def marks(self, after_at: float = 0.0) -> list[Mark]:
        """Marks of the ephemeral strategy whose work began after that."""
        found = marks.recent(self.state, "ephemeral", self.cluster.coordinator, 10_000)
        return [mark for mark in found if mark.began_at > after_at]

    def runs(self, job: str, status: dg.DagsterRunStatus) -> list[dg.RunRecord]:
        """Runs of a job that stand so."""
        return list(self.instance.get_run_records(dg.RunsFilter(job_name=job, statuses=[status])))

    def ticks(self, name: str) -> dict[str, int]:
        """How often a schedule or sensor ticked, by status."""
        found = looking.ticks(self.instance).get(name)
        return {} if found is None else dict(found.count)

    def events(self, kind: DataEventType) -> list[dict[str, Any]]:
        """The payloads of all events of a kind."""
        return [dict(event.payload) for event in events_since(self.state, types=[kind])]

    def kill_holder(self, kind: str) -> float:
        """``kill -9`` for who has the turn; give when that was."""
        lease = strategy_lease("ephemeral", self.cluster.coordinator)
        while (holder := holder_of(self.state, lease)) is None or not self.marks()[-1].holder.startswith(kind):
            time.sleep(0.1)  # the turn goes from one run to the next at this moment
        killed_at = clock.wall()
        kill_with_children(holder.pid)
        return killed_at

    def resumed(self, killed_at: float, kind: str) -> float:
        """Wait for the next one to act; give after how many seconds it did."""
        self.until(
            lambda: any(mark.holder.startswith(kind) for mark in self.marks(killed_at)), 120, f"a {kind} follows"
        )
        return next(mark.began_at for mark in self.marks(killed_at)) - killed_at

    def until(self, ready: Any, seconds: float, what: str) -> float:  # noqa: ANN401 - any condition
        """Wait for something; give how long it took."""
        return until(self.cluster, ready, seconds, what)


@pytest.fixture(scope="module")
def living(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Living]:
    settings = {"RINGRIFT_SYNC_EPHEMERAL_MAX_DATA_AGE": str(GRACE_SECONDS)}
    with living_cluster(tmp_path_factory.mktemp("living"), settings) as cluster:
        home = dagster_environment(cluster.base)["DAGSTER_HOME"]
        with StateStore.open(cluster.state_url) as state, dagster(cluster, free_port()):
            until(cluster, lambda: marks.last(state, "ephemeral", cluster.coordinator), 90, "the first mark")
            with dg.DagsterInstance.from_config(home) as instance:  # two at once would both make the tables
                yield Living(cluster, state, instance)


def test_the_schedules_start_runs_that_end_well_and_materialize_what_changed(living: Living) -> None:
    living.until(lambda: living.runs("hybrid_sync", SUCCESS), 120, "a hybrid run ends well")
    living.until(lambda: living.runs("ephemeral_sync", SUCCESS), 150, "an ephemeral run ends well")

    assert living.ticks("hybrid_schedule")["SUCCESS"] >= 1
    assert living.ticks("ephemeral_schedule")["SUCCESS"] >= 1
    assert living.instance.get_materialized_partitions(dg.AssetKey("games"))
    assert looking.unfounded(looking.materializations(living.instance), living.state) == []


def test_the_inventory_becomes_partitions_and_the_load_is_looked_at(living: Living) -> None:
    assert set(living.instance.get_dynamic_partitions("nodes")) == set(living.cluster.nodes)
    living.until(lambda: living.ticks("backpressure_sensor"), 30, "a tick of the backpressure sensor")
    assert set(living.ticks("inventory_sensor")) <= {"SUCCESS", "SKIPPED", "STARTED"}
    assert set(living.ticks("backpressure_sensor")) <= {"SUCCESS", "SKIPPED", "STARTED"}


def test_a_promoted_model_is_broadcast_within_seconds(living: Living) -> None:
    model = cargo.promoted(living.cluster.base, 7, 1)
    ended = living.cluster.run([*CLI, "promote", cargo.CONFIG, str(model)])
    assert ended.returncode == 0, ended.stdout + ended.stderr

    bests = [living.cluster.node_root(node) / BEST for node in living.cluster.nodes]
    took = living.until(lambda: all(digest(best) == digest(model) for best in bests), 60, "the model is everywhere")
    living.until(lambda: living.runs("broadcast_models", SUCCESS), 30, "the broadcast ends")
    print(f"a promoted model was on {len(bests)} nodes after {took:.1f} s")

    assert living.ticks("model_promotion_sensor")["SUCCESS"] == 1


def test_dagster_alone_goes_on_within_30_seconds_after_kill_9_of_its_run(living: Living) -> None:
    killed_at = living.kill_holder("run")
    took = living.resumed(killed_at, "run")
    print(f"kill -9 of the run: the next one looked after {took:.1f} s")

    assert took < ALONE_SECONDS


def test_beside_a_daemon_one_acts_at_a_time_and_each_follows_the_other(living: Living) -> None:
    began_at = clock.wall()
    living.cluster.processes.start("auto-sync", [*CLI, "daemon", "--strategy", "ephemeral"], living.cluster.environment)
    log = living.cluster.base / "logs" / "auto_sync.log"
    living.until(lambda: log.exists() and "daemon starts" in log.read_text(), 20, "the daemon starts")
    time.sleep(7)  # both are there at a mark or two
    if living.marks()[-1].holder.startswith("run"):
        took = living.resumed(living.kill_holder("run"), "daemon")
        print(f"kill -9 of the run: the daemon that stood by looked after {took:.1f} s")
        assert took < STANDING_BY_SECONDS
    living.until(lambda: living.marks()[-1].holder.startswith("daemon"), 10, "the daemon acts")
    skipped = living.ticks("ephemeral_schedule").get("SKIPPED", 0)
    living.until(
        lambda: living.ticks("ephemeral_schedule").get("SKIPPED", 0) > skipped,
        75,
        "the schedule leaves it to the daemon",
    )

    killed_at = living.kill_holder("daemon")
    took = living.resumed(killed_at, "run")
    print(f"kill -9 of the daemon: Dagster looked after {took:.1f} s")
    found = living.marks(began_at)

    assert took < ALONE_SECONDS
    assert len({mark.holder.split()[0] for mark in found}) == 2
    assert looking.overlaps(found) == []
    assert len({mark.mark for mark in found}) == len(found)


def test_a_node_that_dies_with_games_is_asked_for_them_and_each_failed_run_is_told(living: Living) -> None:
    # It writes through, so that a game is on it alone for a moment only: it must die at such a moment.
    assert wait_for_a_bad_moment(living.cluster, living.state, VAST, 60)
    living.cluster.kill_agent(VAST)
    detected, failed = DataEventType.ORPHAN_GAMES_DETECTED, DataEventType.DATA_SYNC_FAILED
    living.until(lambda: any(one["node"] == VAST for one in living.events(detected)), 120, "orphans are detected")
    living.until(lambda: living.runs("priority_sync", FAILURE), 60, "the priority sync of a dead node fails")
    (run, *_) = living.runs("priority_sync", FAILURE)
    living.until(
        lambda: any(one.get("run_id") == run.dagster_run.run_id for one in living.events(failed)), 45, "it is told"
    )
    living.cluster.start_agent(VAST)
    registered = DataEventType.ORPHAN_GAMES_REGISTERED
    living.until(lambda: any(one["node"] == VAST for one in living.events(registered)), 200, "the orphans have come")

    assert run.dagster_run.tags["ringrift/node"] == VAST
    assert living.ticks("run_failure_sensor")["SUCCESS"] >= 1


def test_no_tick_of_all_this_failed(living: Living) -> None:
    found = looking.ticks(living.instance)

    assert {name: one.errors for name, one in found.items() if one.errors} == {}
    assert found["loop_guard_sensor"].count["SUCCESS"] >= 1
