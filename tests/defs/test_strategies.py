"""The strategies that Dagster runs by itself, by their real jobs, and by single ticks of what starts them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ringrift_sync_dagster.definitions import defs
from ringrift_sync_dagster.defs.strategies import hybrid_schedule, model_promotion_sensor
from ringrift_sync_dagster.demo.cluster import EmbeddedCluster
from ringrift_sync_dagster.demo.exports import model_bytes, write_model
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.settings import load_settings
from ringrift_sync_dagster.state.changes import recent_changes
from ringrift_sync_dagster.state.events import publish
from ringrift_sync_dagster.state.leases import hold
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.sync.loop import strategy_lease
from ringrift_sync_dagster.sync.runtime import Runtime
from tests.defs.test_moving import failure_of

CONFIG = "hex8_2p"
NODE = "vast-900001"
GAMES = dg.AssetKey("games")
Play = Callable[[str, str, int], None]


def run(instance: dg.DagsterInstance, job: str, run_config: dict[str, Any] | None = None) -> dg.ExecuteInProcessResult:
    found = defs.resolve_job_def(job)
    return found.execute_in_process(instance=instance, raise_on_error=False, run_config=run_config)


def promote(folder: Path, name: str) -> str:
    with Runtime.open(load_settings()) as runtime:
        return runtime.files.publisher.promote(CONFIG, write_model(folder / f"{name}.pth", name), trigger="test").sha256


def messages(instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult) -> str:
    return "\n".join(entry.user_message for entry in instance.all_logs(result.run_id))


def test_a_hybrid_pass_moves_what_changed_and_the_next_one_nothing(
    instance: dg.DagsterInstance, owner: EmbeddedCluster, play: Play
) -> None:
    play(NODE, CONFIG, 3)
    results = [run(instance, "hybrid_sync") for _ in range(2)]

    assert [result.success for result in results] == [True, True]
    materialized = [len(result.asset_materializations_for_node("hybrid")) for result in results]
    assert f"{CONFIG}|{NODE}" in instance.get_materialized_partitions(GAMES)
    assert materialized[0] > 0
    assert materialized[1] == 0
    run_tags = {record.dagster_run.tags["ringrift/strategy"] for record in instance.get_run_records()}
    assert run_tags == {"hybrid"}


def test_one_process_acts_at_a_time_and_the_other_one_says_who(
    instance: dg.DagsterInstance, owner: EmbeddedCluster, state: StateStore, play: Play
) -> None:
    play(NODE, CONFIG, 1)
    with hold(state, strategy_lease("hybrid", "hub-1")):
        held = run(instance, "hybrid_sync")
    free = run(instance, "hybrid_sync")

    assert held.success
    assert "nothing done: " in messages(instance, held)
    assert free.success
    assert f"{CONFIG}|{NODE}" in instance.get_materialized_partitions(GAMES)


def test_silent_nodes_are_named_and_fail_no_pass_but_a_pass_without_any_answer_fails(
    instance: dg.DagsterInstance, owner: EmbeddedCluster, play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of the four nodes of the cluster of the test run have no agent."""
    play(NODE, CONFIG, 2)

    partly = run(instance, "hybrid_sync")
    hosts = tmp_path / "hosts.yaml"
    hosts.write_text("hosts:\n  dead-1: {ssh_host: 127.0.0.1, ssh_port: 1, ringrift_path: /x, status: ready}\n")
    monkeypatch.setenv("RINGRIFT_SYNC_HOSTS", str(hosts))
    silent = run(instance, "hybrid_sync")

    assert partly.success, failure_of(partly)
    assert "hetzner-v1" in messages(instance, partly)
    assert f"{CONFIG}|{NODE}" in instance.get_materialized_partitions(GAMES)
    assert not silent.success
    assert "dead-1" in failure_of(silent)


def test_pull_brings_up_and_nothing_down_and_recover_also_what_was_brought(
    instance: dg.DagsterInstance, owner: EmbeddedCluster, play: Play, tmp_path: Path
) -> None:
    play(NODE, CONFIG, 2)
    promote(tmp_path, "best")
    result = run(instance, "pull", {"ops": {"pull_data": {"config": {"nodes": [NODE], "recover": True}}}})

    assert result.success, failure_of(result)
    with Runtime.open(load_settings()) as runtime:
        assert runtime.intake.store.games(CONFIG) == 2
    assert not (owner.node_root(NODE) / f"models/ringrift_best_{CONFIG}.pth").exists()


def test_a_priority_sync_brings_a_node_before_anything_else(
    instance: dg.DagsterInstance, owner: EmbeddedCluster, play: Play
) -> None:
    play(NODE, CONFIG, 2)
    config = {"reason": "orphan_games_recovery", "source_node": NODE, "config_key": CONFIG}
    result = run(instance, "priority_sync", {"ops": {"pull_urgently": {"config": config}}})

    assert result.success, failure_of(result)
    with Runtime.open(load_settings()) as runtime:
        triggers = {change.trigger for change in recent_changes(runtime.state) if change.data_type == "games"}
    assert triggers == {"dagster"}
    record = instance.get_run_record_by_id(result.run_id)
    assert record is not None
    assert record.dagster_run.tags["ringrift/reason"] == "orphan_games_recovery"


def tick(instance: dg.DagsterInstance, cursor: str | None = None) -> Any:  # noqa: ANN401 - no public type
    context = dg.build_sensor_context(instance=instance, definitions=defs, resources=defs.resources, cursor=cursor)
    with context:
        return model_promotion_sensor.evaluate_tick(context)


def test_a_promotion_asks_for_one_broadcast_that_reaches_the_nodes(
    instance: dg.DagsterInstance, owner: EmbeddedCluster, tmp_path: Path
) -> None:
    nothing = tick(instance)
    sha256 = promote(tmp_path, "first")
    first = tick(instance, nothing.cursor)
    again = tick(instance, first.cursor)
    promote(tmp_path, "second")
    second = tick(instance, first.cursor)

    assert (nothing.run_requests, again.run_requests) == ([], [])
    assert "as they were" in again.skip_message
    (request,), (other,) = first.run_requests, second.run_requests
    assert sha256[:12] in request.run_key
    assert request.run_key != other.run_key
    assert request.tags["ringrift/reason"] == f"promoted: {CONFIG}"
    result = run(instance, "broadcast_models", other.run_config)
    assert "2 partitions failed" in failure_of(result)  # those of the two nodes that have no agent
    for node in ("vast-900001", "runpod-a1"):
        assert (owner.node_root(node) / f"models/ringrift_best_{CONFIG}.pth").read_bytes() == model_bytes("second")


def test_a_promotion_told_from_outside_is_broadcast_once_its_model_is_published(
    instance: dg.DagsterInstance, owner: EmbeddedCluster, state: StateStore, tmp_path: Path
) -> None:
    old_cursor = json.dumps({})  # as it was before there were events
    sha256 = hashlib.sha256(model_bytes("best")).hexdigest()
    told = publish(state, "MODEL_PROMOTED", {"config": CONFIG, "sha256": sha256, "publisher": "controller"})
    waits = tick(instance, old_cursor)
    still = tick(instance, waits.cursor)
    promote(tmp_path, "best")
    come = tick(instance, still.cursor)
    quiet = tick(instance, come.cursor)
    again = publish(state, "MODEL_PROMOTED", {"model_id": "v7", "config_key": CONFIG, "model_path": "models/best.pth"})
    asked = tick(instance, quiet.cursor)
    other = publish(state, "MODEL_PROMOTED", {"config": CONFIG, "sha256": "0" * 64})
    lacks = tick(instance, asked.cursor)
    promote(tmp_path, "third")
    replaced = tick(instance, lacks.cursor)

    words = f"{CONFIG}: waits for {sha256[:12]} (event {told} from controller); its file has not come here yet"
    assert (waits.run_requests, words in waits.skip_message, words in still.skip_message) == ([], True, True)
    assert [request.tags["ringrift/reason"] for request in come.run_requests] == [f"promoted: {CONFIG}"]
    assert (quiet.run_requests, "waits" in quiet.skip_message) == ([], False)
    (request,) = asked.run_requests
    assert str(again) in request.run_key
    assert request.run_key != come.run_requests[0].run_key
    assert f"event {other}" in lacks.skip_message
    assert (len(replaced.run_requests), json.loads(replaced.cursor)["waiting"]) == (1, {})


def scheduled(instance: dg.DagsterInstance) -> tuple[int, str]:
    with dg.build_schedule_context(instance=instance, resources=defs.resources) as context:
        data = hybrid_schedule.evaluate_tick(context)
    return len(data.run_requests or ()), data.skip_message or ""


def test_the_schedule_asks_for_a_run_unless_one_goes_on_or_the_interval_is_longer(
    instance: dg.DagsterInstance, owner: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = defs.resolve_job_def("hybrid_sync")
    assert scheduled(instance) == (1, "")
    active = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    count, why = scheduled(instance)
    assert (count, active.run_id[:8] in why) == (0, True)
    instance.delete_run(active.run_id)

    instance.create_run_for_job(job, status=dg.DagsterRunStatus.SUCCESS)
    assert scheduled(instance) == (1, "")
    monkeypatch.setenv("RINGRIFT_SYNC_INTERVAL", "300")
    assert scheduled(instance)[0] == 0
    assert "300 s" in scheduled(instance)[1]


def test_a_run_that_died_with_its_machine_holds_nobody_up_and_one_that_is_at_work_does(
    instance: dg.DagsterInstance, owner: EmbeddedCluster, state: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster calls both of them started."""
    run = instance.create_run_for_job(defs.resolve_job_def("hybrid_sync"), status=dg.DagsterRunStatus.STARTED)
    assert scheduled(instance)[0] == 0
    now = clock.wall() + 60
    monkeypatch.setattr(clock, "wall", lambda: now)

    assert scheduled(instance) == (1, "")
    with hold(state, strategy_lease("hybrid", "hub-1")):
        assert scheduled(instance) == (0, f"run {run.run_id[:8]} of the strategy goes on")
