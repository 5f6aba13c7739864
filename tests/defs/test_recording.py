import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.defs import batching
from ringrift_sync_dagster.defs.checks import evaluations
from ringrift_sync_dagster.defs.freshness import freshness
from ringrift_sync_dagster.defs.recording import Recorded, record_materializations
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.changes import Change, add_changes, pending, recent_changes
from ringrift_sync_dagster.state.nodes import apply_manifest
from ringrift_sync_dagster.state.risks import Risk, put
from ringrift_sync_dagster.state.store import StateStore
from tests.marks import first_of

GAMES = dg.AssetKey("games")
PROGRAM = Path(__file__).with_name("recorder_program.py")
SOUND = {"no_moveless_games": True, "counts_reconcile": True, "asides": []}


def change(change_id: str, config: str = "hex8_2p", node: str = "vast-1", **numbers: object) -> Change:
    usual = {
        "data_type": "games",
        "games_new": 2,
        "size_bytes": 100,
        "seconds": 0.5,
        "canonical_games": 2,
        "checks": SOUND,
    }
    fields: dict[str, Any] = {**usual, "data_type": "games", "transport": "p2p_http", **numbers}
    return Change(change_id, 1000.0, fields.pop("data_type"), "up", config, node, **fields)


def drain(instance: dg.DagsterInstance, state: StateStore) -> tuple[Recorded, str]:
    """Record in a run of its own; give what was recorded and the id of the run."""
    found: list[Recorded] = []

    @dg.op
    def record(context: dg.OpExecutionContext) -> None:
        found.append(record_materializations(context, state))

    @dg.job(executor_def=dg.in_process_executor)
    def record_job() -> None:
        record()

    result = record_job.execute_in_process(instance=instance)
    return found[0], result.run_id


def events(instance: dg.DagsterInstance) -> list[tuple[str, dict[str, Any]]]:
    records = instance.fetch_materializations(GAMES, limit=1000, ascending=True).records
    return [
        (str(record.partition_key), {name: value.value for name, value in event.metadata.items()})
        for record in records
        if (event := record.asset_materialization)
    ]


def test_the_changes_of_one_partition_become_one_event_with_their_sums(
    instance: dg.DagsterInstance, state: StateStore
) -> None:
    first = change("a", artifact="x", lag_seconds=3.0)
    second = change("b", artifact="y", lag_seconds=1.0, canonical_games=5, games_same=4)
    add_changes(state, [first, second])

    drain(instance, state)

    ((partition, numbers),) = events(instance)
    assert partition == "hex8_2p|vast-1"
    assert (numbers["games_new"], numbers["games_total"], numbers["bytes"], numbers["seconds"]) == (4, 8, 200, 1.0)
    assert (numbers["canonical_games"], numbers["lag_seconds"], numbers["transport"]) == (5, 3.0, "p2p_http")
    assert numbers["change_ids"] == ["a", "b"]
    assert numbers["artifact"] == ["x", "y"]


def test_the_event_of_games_tells_what_is_on_its_node_alone(instance: dg.DagsterInstance, state: StateStore) -> None:
    now = clock.wall()
    ids = [f"game-{number}" for number in range(30)]
    put(state, Risk("vast-1", 30, 900, ids, now - 40.0, at=now))
    put(state, Risk("vast-2", 0, at=now))
    put(state, Risk("vast-3", 3, 90, ids[:3], now - 40.0, at=now, lost_at=now))
    nodes = ("vast-1", "vast-2", "vast-3", "hub-9")
    add_changes(state, [change(node, node=node) for node in nodes])
    add_changes(state, [change("other", config="square8_2p"), change("npz", data_type="npz")])

    drain(instance, state)

    told = dict(events(instance))
    first = told["hex8_2p|vast-1"]
    assert (first["games_at_risk"], first["bytes_at_risk"], first["ids_at_risk"]) == (30, 900, ids[:10])
    assert 40.0 <= first["oldest_unsaved_seconds"] < 60.0
    assert told["square8_2p|vast-1"]["games_at_risk"] == 30
    rest = [numbers for partition, numbers in told.items() if not partition.endswith("vast-1")]
    assert len(rest) == 3
    assert not any(name.endswith("at_risk") for numbers in rest for name in numbers)
    (npz,) = instance.fetch_materializations(dg.AssetKey("npz"), limit=10).records
    assert npz.asset_materialization is not None
    assert "games_at_risk" not in npz.asset_materialization.metadata


def test_recorded_changes_carry_the_run_and_are_not_recorded_again(
    instance: dg.DagsterInstance, state: StateStore
) -> None:
    add_changes(state, [change("a")])

    recorded, run_id = drain(instance, state)
    again, _ = drain(instance, state)

    assert (recorded.changes, again.changes) == (1, 0)
    assert not pending(state)
    assert recent_changes(state)[0].recorded_by == run_id
    assert len(events(instance)) == 1


def test_a_node_that_dagster_has_never_heard_of_becomes_a_partition_first(
    instance: dg.DagsterInstance, state: StateStore
) -> None:
    add_changes(state, [change("a", node="vast-new")])

    drain(instance, state)

    assert instance.get_dynamic_partitions("nodes") == ["vast-new"]
    assert instance.get_materialized_partitions(GAMES) == {"hex8_2p|vast-new"}


@pytest.mark.cluster
def test_the_dimensions_of_a_partition_are_tags(instance: dg.DagsterInstance, state: StateStore) -> None:
    add_changes(state, [change("a")])

    drain(instance, state)

    (record,) = instance.fetch_materializations(GAMES, limit=1).records
    assert record.asset_materialization
    tags = record.asset_materialization.tags or {}
    assert tags["dagster/partition/config"] == "hex8_2p"
    assert tags["dagster/partition/node"] == "vast-1"


def test_changes_are_recorded_again_with_the_same_ids_when_the_process_dies_before_it_marks_them(
    tmp_path: Path, state: StateStore
) -> None:
    add_changes(state, [change("a"), change("b")])
    home = tmp_path / "dagster"
    home.mkdir()
    environment = os.environ | {"DAGSTER_HOME": str(home), "DAGSTER_DISABLE_TELEMETRY": "1"}
    url = f"sqlite:///{tmp_path}/state.db"

    command = [sys.executable, str(PROGRAM)]

    died = subprocess.run([*command, "record.before_mark", url], env=environment, check=False, timeout=60)
    assert died.returncode == -signal.SIGKILL
    assert len(pending(state)) == 2

    subprocess.run([*command, "nowhere", url], env=environment, check=True, timeout=60)

    assert not pending(state)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert [numbers["change_ids"] for _, numbers in events(instance)] == [["a", "b"], ["a", "b"]]


@pytest.mark.parametrize("batch_size", first_of("3", "0"))
def test_batches_write_the_same_events(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, batch_size: str
) -> None:
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", batch_size)

    @dg.op
    def write(context: dg.OpExecutionContext) -> None:
        made = [dg.AssetMaterialization("games", partition=f"hex8_2p|n{number}") for number in range(7)]
        assert batching.log_in_batches(context, made)

    @dg.job(executor_def=dg.in_process_executor)
    def write_job() -> None:
        write()

    assert write_job.execute_in_process(instance=instance).success
    assert instance.get_materialized_partitions(GAMES) == {f"hex8_2p|n{number}" for number in range(7)}


def test_events_go_one_by_one_where_dagster_takes_no_batches(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dg.op
    def write(context: dg.OpExecutionContext) -> None:
        with monkeypatch.context() as other_release:
            other_release.setattr(batching, "_batches_pay", lambda _: True)
            other_release.delattr("dagster._core.events.generate_event_batch_id")
            batching.log_materializations(context, [dg.AssetMaterialization("games", partition="hex8_2p|vast-1")])

    @dg.job(executor_def=dg.in_process_executor)
    def write_job() -> None:
        write()

    assert write_job.execute_in_process(instance=instance).success
    assert instance.get_materialized_partitions(GAMES) == {"hex8_2p|vast-1"}


def verdicts(state: StateStore) -> dict[str, tuple[bool, str]]:
    return {found.check_name: (found.passed, found.severity.value) for found in evaluations(state, [DataType.GAMES])}


def test_a_game_that_was_set_aside_for_its_missing_moves_is_a_warning(state: StateStore) -> None:
    add_changes(state, [change("a", checks=SOUND | {"asides": [["game-1", "0" * 64, "short"]]})])

    assert verdicts(state) == {
        "written_games_are_sound": (True, "WARN"),
        "no_moveless_games": (False, "WARN"),
        "counts_reconcile": (True, "WARN"),
        "fresh_per_config": (True, "WARN"),
        "oldest_unsaved_game": (True, "ERROR"),
    }


def test_a_flag_that_does_not_hold_is_an_error(state: StateStore) -> None:
    add_changes(state, [change("a", checks=SOUND | {"counts_reconcile": False})])

    assert verdicts(state)["counts_reconcile"] == (False, "ERROR")


def test_a_config_is_stale_when_a_node_that_has_it_has_told_nothing_for_ten_minutes(state: StateStore) -> None:
    for node, at in (("vast-1", 1000.0), ("vast-2", 2000.0)):
        games = {"path": "data/games/selfplay.db", "data_type": "games", "kind": "games", "collectable": True,
                 "bytes": 1, "mtime_ns": 1, "token": "t", "games": {"hex8_2p": 3}}  # fmt: skip
        manifest = {"full": True, "token": "m", "entries": [games], "removed": []}
        assert apply_manifest(state, node, manifest, since="", at=at, transport="p2p").accepted

    fresh, stale = (freshness(state, DataType.GAMES, now) for now in (1600.0, 1601.0))

    assert (fresh.passed, fresh.metadata["configs_looked_at"].value) == (True, 1)
    assert (stale.passed, stale.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert stale.description == "1 partitions of hex8_2p are stale, such as hex8_2p of vast-1"
    assert stale.metadata["oldest_seconds"].value == 601.0
    assert freshness(state, DataType.NPZ, 9e9).passed
    gone = freshness(state, DataType.GAMES, 1000.0 + 86_401)
    assert (gone.passed, gone.metadata["nodes_gone"].value) == (False, 1)  # the other one has some minutes left


def test_databases_of_all_configs_are_stale_too(state: StateStore) -> None:
    elo = {"path": "data/unified_elo.db", "data_type": "elo", "kind": "elo", "collectable": True, "bytes": 1,
           "mtime_ns": 1, "token": "t"}  # fmt: skip
    manifest = {"full": True, "token": "m", "entries": [elo], "removed": []}
    assert apply_manifest(state, "vast-1", manifest, since="", at=1000.0, transport="p2p").accepted

    found = freshness(state, DataType.ELO, 2000.0)

    assert (found.passed, found.description) == (False, "1 partitions of all are stale, such as all of vast-1")


def test_a_good_write_of_one_node_does_not_hide_a_bad_one_of_another(state: StateStore) -> None:
    bad = SOUND | {"asides": [["game-1", "0" * 64, "short"]]}
    add_changes(state, [change("a", checks=bad), change("b", node="vast-2")])
    assert not verdicts(state)["no_moveless_games"][0]

    add_changes(state, [change("c")])
    assert verdicts(state)["no_moveless_games"][0]


def test_the_checks_are_recorded_with_the_changes(instance: dg.DagsterInstance, state: StateStore) -> None:
    add_changes(state, [change("a")])

    drain(instance, state)

    key = dg.AssetCheckKey(GAMES, "counts_reconcile")
    (record,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=5)
    assert record.status.value == "SUCCEEDED"
