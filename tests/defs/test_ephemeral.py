"""The loop of ephemeral nodes, orphans and failed runs: by their real jobs, and by single ticks of what starts them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ringrift_sync_dagster.core.events import DataEventType
from ringrift_sync_dagster.definitions import defs
from ringrift_sync_dagster.defs.ephemeral import (
    AFTER_END_SECONDS,
    ephemeral_schedule,
    ephemeral_sync,
    loop_guard_sensor,
)
from ringrift_sync_dagster.defs.orphans import orphan_games_sensor, run_failure_sensor
from ringrift_sync_dagster.demo.cluster import EmbeddedCluster
from ringrift_sync_dagster.node.cursor import Cursor
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.settings import load_settings
from ringrift_sync_dagster.state import marks
from ringrift_sync_dagster.state import nodes as node_state
from ringrift_sync_dagster.state.events import events_since
from ringrift_sync_dagster.state.leases import hold
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.sync.collect import Request, move
from ringrift_sync_dagster.sync.loop import strategy_lease
from ringrift_sync_dagster.sync.runtime import Runtime
from ringrift_sync_dagster.sync.survey import survey
from tests.defs.test_moving import failure_of

CONFIG = "hex8_2p"
NODE = "vast-900001"
GAMES = dg.AssetKey("games")
Play = Callable[[str, str, int], None]


def look(instance: dg.DagsterInstance, seconds: float) -> dg.ExecuteInProcessResult:
    config = {"ops": {"look_at_ephemeral_nodes": {"config": {"seconds": seconds}}}}
    return defs.resolve_job_def("ephemeral_sync").execute_in_process(
        instance=instance, raise_on_error=False, run_config=config
    )


def test_a_run_looks_at_each_mark_and_records_only_what_changed(
    instance: dg.DagsterInstance, owner: EmbeddedCluster, state: StateStore, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGRIFT_EPHEMERAL_SYNC_INTERVAL", "0.5")
    play(NODE, CONFIG, 2)
    result = look(instance, 3.2)
    found = marks.recent(state, "ephemeral", "hub-1")

    assert result.success, failure_of(result)
    assert len(found) >= 3
    assert sum(mark.changes for mark in found) <= 1  # on a slow machine a look ends after its mark
    assert {mark.holder for mark in found} == {f"run {result.run_id[:8]}"}
    recorded = result.asset_materializations_for_node("look_at_ephemeral_nodes")
    assert [event.partition for event in recorded] == [f"{CONFIG}|{NODE}"]


def test_a_run_beside_a_holder_that_does_not_hand_over_does_nothing(
    instance: dg.DagsterInstance, owner: EmbeddedCluster, state: StateStore, play: Play
) -> None:
    play(NODE, CONFIG, 1)
    with hold(state, f"{strategy_lease('ephemeral', 'hub-1')}:next"):
        result = look(instance, 1)

    assert result.success
    assert marks.recent(state, "ephemeral", "hub-1") == []
    assert GAMES not in instance.all_asset_keys()


def scheduled(instance: dg.DagsterInstance) -> tuple[int, str]:
    with dg.build_schedule_context(instance=instance, resources=defs.resources) as context:
        data = ephemeral_schedule.evaluate_tick(context)
    return len(data.run_requests or ()), data.skip_message or ""


def guarded(instance: dg.DagsterInstance) -> tuple[int, str]:
    with dg.build_sensor_context(instance=instance, definitions=defs, resources=defs.resources) as context:
        data = loop_guard_sensor.evaluate_tick(context)
    return len(data.run_requests or ()), data.skip_message or ""


def test_a_run_is_asked_for_while_there_are_ephemeral_nodes_and_nobody_else_acts(
    instance: dg.DagsterInstance,
    owner: EmbeddedCluster,
    state: StateStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert scheduled(instance) == guarded(instance) == (1, "")

    with hold(state, strategy_lease("ephemeral", "hub-1")):
        assert scheduled(instance) == (1, "")  # the run of the next minute takes over
        assert (guarded(instance)[0], "has the turn" in guarded(instance)[1]) == (0, True)
        pid = int(guarded(instance)[1].split()[1])
        marks.begin(state, marks.Mark("ephemeral", "hub-1", 0.0, time.time(), f"daemon {pid}"))
        assert scheduled(instance) == guarded(instance) == (0, f"daemon {pid} acts for this strategy")

    waiting = instance.create_run_for_job(ephemeral_sync, status=dg.DagsterRunStatus.STARTING)
    assert (scheduled(instance)[0], "waits to be started" in scheduled(instance)[1]) == (0, True)
    assert (guarded(instance)[0], "was asked for" in guarded(instance)[1]) == (0, True)
    instance.delete_run(waiting.run_id)
    ended = instance.create_run_for_job(ephemeral_sync, status=dg.DagsterRunStatus.FAILURE)
    assert (guarded(instance)[0], "was asked for" in guarded(instance)[1]) == (0, True)
    later = clock.wall() + AFTER_END_SECONDS
    monkeypatch.setattr(clock, "wall", lambda: later)
    assert guarded(instance) == (1, "")
    instance.delete_run(ended.run_id)

    hosts = tmp_path / "hosts.yaml"
    hosts.write_text("hosts:\n  pod-1: {ssh_host: 127.0.0.1, ringrift_path: /x, provider: runpod}\n")
    monkeypatch.setenv("RINGRIFT_SYNC_HOSTS", str(hosts))
    assert scheduled(instance) == guarded(instance) == (0, "no node of the inventory is ephemeral and active")
    monkeypatch.setenv("RINGRIFT_SYNC_HOSTS", str(tmp_path / "none"))
    assert "nothing can be looked at" in scheduled(instance)[1]


def orphans(instance: dg.DagsterInstance, cursor: str | None) -> Any:  # noqa: ANN401 - no public type
    context = dg.build_sensor_context(instance=instance, definitions=defs, resources=defs.resources, cursor=cursor)
    with context:
        return orphan_games_sensor.evaluate_tick(context)


def test_games_that_stay_behind_are_asked_for_with_pauses_and_told_when_they_have_come(
    instance: dg.DagsterInstance, owner: EmbeddedCluster, state: StateStore, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGRIFT_SYNC_EPHEMERAL_MAX_DATA_AGE", "0.5")
    play(NODE, CONFIG, 3)
    with Runtime.open(load_settings()) as runtime:  # the last scan of a node whose packs do not come
        node = runtime.inventory.get(NODE)
        survey(runtime, runtime.transport_to(node), node, ())

    young = orphans(instance, None)
    time.sleep(0.6)
    asked = orphans(instance, young.cursor)
    waits = orphans(instance, asked.cursor)
    with Runtime.open(load_settings()) as runtime:
        move(runtime, Request(nodes=[NODE], down=False))
    come = orphans(instance, waits.cursor)
    quiet = orphans(instance, come.cursor)

    assert (young.run_requests, "1 files are being read" in young.skip_message) == ([], True)
    (request,) = asked.run_requests
    assert request.run_config["ops"]["pull_urgently"]["config"] == {
        "reason": "orphan_games_recovery", "source_node": NODE
    }  # fmt: skip
    assert request.tags["ringrift/node"] == NODE
    assert (waits.run_requests, f"{NODE}: 3 games in 1 files" in waits.skip_message) == ([], True)
    assert f"{NODE}: its games have come" in come.skip_message
    assert quiet.run_requests == []
    assert "its games have come" not in quiet.skip_message
    types = {DataEventType.ORPHAN_GAMES_DETECTED, DataEventType.ORPHAN_GAMES_REGISTERED}
    told = [(event.type, event.payload) for event in events_since(state, types=types)]
    assert [kind for kind, _ in told] == ["ORPHAN_GAMES_DETECTED", "ORPHAN_GAMES_REGISTERED"]
    assert (told[0][1]["node"], told[0][1]["games"]) == (NODE, 3)
    assert (told[1][1]["node"], told[1][1]["games"]) == (NODE, 3)


def asked_for_orphans(instance: dg.DagsterInstance, play: Play, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Let games of the node stay behind until they are asked for; give the sensor's cursor."""
    monkeypatch.setenv("RINGRIFT_SYNC_EPHEMERAL_MAX_DATA_AGE", "0.5")
    play(NODE, CONFIG, 3)
    with Runtime.open(load_settings()) as runtime:
        node = runtime.inventory.get(NODE)
        survey(runtime, runtime.transport_to(node), node, ())
    young = orphans(instance, None)
    time.sleep(0.6)
    asked = orphans(instance, young.cursor)
    assert len(asked.run_requests) == 1
    return str(asked.cursor)


def orphans_told(state: StateStore) -> list[str]:
    types = {DataEventType.ORPHAN_GAMES_DETECTED, DataEventType.ORPHAN_GAMES_REGISTERED}
    return [event.type for event in events_since(state, types=types)]


@pytest.mark.parametrize("left", [True, False])
def test_games_that_never_came_are_not_told_to_have_come(
    instance: dg.DagsterInstance,
    owner: EmbeddedCluster,
    state: StateStore,
    play: Play,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    left: bool,  # noqa: FBT001 - a parameter
) -> None:
    cursor = asked_for_orphans(instance, play, monkeypatch)
    if left:  # the inventory
        hosts = tmp_path / "hosts.yaml"
        hosts.write_text("hosts:\n  pod-1: {ssh_host: 127.0.0.1, ringrift_path: /x, provider: runpod}\n")
        monkeypatch.setenv("RINGRIFT_SYNC_HOSTS", str(hosts))
    else:  # a part of the games came before it went down
        with Runtime.open(load_settings()) as runtime:
            path = f"data/games/selfplay_{CONFIG}.db"
            runtime.intake.store.set_cursor(CONFIG, NODE, path, Cursor(1, 2, "some game").as_json())
        node_state.failed(state, NODE, "gone", at=time.time())

    after = orphans(instance, cursor)

    assert orphans_told(state) == ["ORPHAN_GAMES_DETECTED"]
    assert (NODE in json.loads(after.cursor)["told"]) is not left


def test_one_damaged_merged_database_hides_no_orphans(
    instance: dg.DagsterInstance, owner: EmbeddedCluster, state: StateStore, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = Path(os.environ["RINGRIFT_SYNC_ROOT"]) / "data/games/canonical_square8_2p.db"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"no database" * 1000)
    asked_for_orphans(instance, play, monkeypatch)
    assert orphans_told(state) == ["ORPHAN_GAMES_DETECTED"]


def test_a_failed_run_is_told_to_everybody(
    instance: dg.DagsterInstance, owner: EmbeddedCluster, state: StateStore
) -> None:
    config = {"ops": {"pull_urgently": {"config": {"reason": "x", "source_node": "nobody"}}}}
    failed = defs.resolve_job_def("priority_sync").execute_in_process(
        instance=instance, raise_on_error=False, run_config=config
    )
    event = next(one for one in failed.all_events if one.event_type_value == "PIPELINE_FAILURE")
    run = instance.get_run_by_id(failed.run_id)
    assert run is not None
    with dg.build_run_status_sensor_context(
        "run_failure_sensor", event, instance, run, resources=defs.resources
    ) as context:
        run_failure_sensor(context.for_run_failure())

    (told,) = events_since(state, types={DataEventType.DATA_SYNC_FAILED})
    assert (told.payload["job"], told.payload["run_id"]) == ("priority_sync", failed.run_id)
    assert told.payload["error"]
    assert json.loads(json.dumps(dict(told.payload)))
