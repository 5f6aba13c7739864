from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ringrift_sync_dagster.definitions import defs
from ringrift_sync_dagster.defs.assets import ASSETS
from ringrift_sync_dagster.demo.cluster import EmbeddedCluster
from ringrift_sync_dagster.demo.exports import make_export, model_bytes, write_model
from ringrift_sync_dagster.demo.ratings import make_matches, write_matches
from ringrift_sync_dagster.demo.registry_rows import RegisteredVersion, write_registry
from ringrift_sync_dagster.settings.settings import load_settings
from ringrift_sync_dagster.sync.collect import collect
from ringrift_sync_dagster.sync.runtime import Runtime

GAMES = dg.AssetKey("games")
NODES = ["nebius-t1", "runpod-a1", "vast-900001"]  # nebius-t1 has no agent in these tests

Play = Callable[[str, str, int], None]


def run(
    instance: dg.DagsterInstance, job: str, *, partition: str = "", tags: dict[str, str] | None = None, **op: object
) -> dg.ExecuteInProcessResult:
    config = {"ops": {"collect_games": {"config": op}}} if op else None
    return defs.resolve_job_def(job).execute_in_process(
        instance=instance, raise_on_error=False, partition_key=partition or None, tags=tags, run_config=config
    )


def rectangle(first: str, last: str) -> dict[str, str]:
    return {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}


def recorded(instance: dg.DagsterInstance) -> dict[str, dict[str, Any]]:
    """Metadata of the latest materialization of each partition."""
    records = instance.fetch_materializations(GAMES, limit=1000, ascending=True).records
    return {
        str(record.partition_key): {name: value.value for name, value in record.asset_materialization.metadata.items()}
        for record in records
        if record.asset_materialization
    }


def observations(instance: dg.DagsterInstance) -> list[dg.AssetObservation]:
    found = [record.asset_observation for record in instance.fetch_observations(GAMES, limit=100).records]
    return [observation for observation in found if observation]


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    failed = [event for event in result.all_events if event.is_step_failure]
    data = failed[0].step_failure_data.user_failure_data
    return str(data.description if data else failed[0])


@pytest.fixture
def nodes(instance: dg.DagsterInstance) -> None:
    instance.add_dynamic_partitions("nodes", NODES)


def test_materializing_one_partition_records_it_with_its_numbers(
    instance: dg.DagsterInstance, owner: EmbeddedCluster, play: Play, nodes: None
) -> None:
    play("vast-900001", "hex8_2p", 3)

    result = run(instance, "games_job", partition="hex8_2p|vast-900001")

    assert result.success
    found = recorded(instance)
    assert list(found) == ["hex8_2p|vast-900001"]
    numbers = found["hex8_2p|vast-900001"]
    assert {numbers[name] for name in ("games_new", "games_total", "canonical_games", "dagster/row_count")} == {3}
    assert numbers["transport"] == "p2p_http"
    assert numbers["trigger"] == "dagster"
    assert numbers["bytes"] > 0
    assert len(numbers["change_ids"]) == 1


@pytest.mark.cluster
def test_every_check_of_the_asset_has_a_verdict_also_when_nothing_changed(
    instance: dg.DagsterInstance, owner: EmbeddedCluster, play: Play, nodes: None
) -> None:
    play("vast-900001", "hex8_2p", 2)

    for _ in range(2):
        result = run(instance, "games_job", partition="hex8_2p|vast-900001")
        verdicts = {evaluation.check_name: evaluation.passed for evaluation in result.get_asset_check_evaluations()}

        assert result.success
        names = ["archives_can_be_restored", "counts_reconcile", "fresh_per_config"]
        names += ["no_moveless_games", "oldest_unsaved_game", "written_games_are_sound"]
        assert verdicts == dict.fromkeys(names, True)


def test_a_rectangle_is_one_run_and_records_only_what_changed(
    instance: dg.DagsterInstance, owner: EmbeddedCluster, play: Play, nodes: None
) -> None:
    play("vast-900001", "hex8_2p", 2)
    play("runpod-a1", "hex8_3p", 1)

    result = run(instance, "games_job", tags=rectangle("hex8_2p|runpod-a1", "hex8_4p|vast-900001"))

    assert result.success
    found = recorded(instance)
    new = {key for key, numbers in found.items() if numbers["games_new"]}
    assert new == {"hex8_2p|vast-900001", "hex8_3p|runpod-a1"}
    assert found["hex8_2p|runpod-a1"]["brought"] == 2  # it trains
    (observation,) = observations(instance)
    assert observation.partition is None
    assert observation.metadata["unchanged"].value == 3


def test_what_did_not_change_is_not_recorded_again(
    instance: dg.DagsterInstance, owner: EmbeddedCluster, play: Play, nodes: None
) -> None:
    play("vast-900001", "hex8_2p", 2)
    run(instance, "games_job", partition="hex8_2p|vast-900001")

    assert run(instance, "games_job", partition="hex8_2p|vast-900001").success

    assert len(instance.fetch_materializations(GAMES, limit=10).records) == 1


def test_one_failed_partition_does_not_stop_the_others_and_is_named(
    instance: dg.DagsterInstance, owner: EmbeddedCluster, play: Play, nodes: None
) -> None:
    play("vast-900001", "hex8_2p", 2)

    result = run(instance, "games_job", tags=rectangle("hex8_2p|nebius-t1", "hex8_2p|vast-900001"))

    assert not result.success
    assert set(recorded(instance)) == {"hex8_2p|vast-900001", "hex8_2p|runpod-a1"}
    assert "1 partition failed" in failure_of(result)
    assert "hex8_2p|nebius-t1" in failure_of(result)


@pytest.mark.cluster
def test_a_node_that_left_the_inventory_fails_its_own_partition_only(
    instance: dg.DagsterInstance, owner: EmbeddedCluster, play: Play, nodes: None
) -> None:
    play("vast-900001", "hex8_2p", 2)
    instance.add_dynamic_partitions("nodes", ["vast-gone"])

    result = run(instance, "games_job", tags=rectangle("hex8_2p|vast-900001", "hex8_2p|vast-gone"))

    assert set(recorded(instance)) == {"hex8_2p|vast-900001"}
    assert "hex8_2p|vast-gone: the inventory has no host of this name any more" in failure_of(result)


@pytest.mark.cluster
def test_a_backfill_also_answers_for_what_did_not_change(
    instance: dg.DagsterInstance, owner: EmbeddedCluster, play: Play, nodes: None
) -> None:
    play("vast-900001", "hex8_2p", 2)
    tags = rectangle("hex8_2p|nebius-t1", "hex8_2p|vast-900001") | {"dagster/backfill": "abcdefgh"}

    run(instance, "games_job", tags=tags)

    outcomes = {key: numbers["outcome"] for key, numbers in recorded(instance).items()}
    assert outcomes == {"hex8_2p|vast-900001": "changed", "hex8_2p|runpod-a1": "changed"}

    run(instance, "games_job", tags=tags)

    outcomes = {key: numbers["outcome"] for key, numbers in recorded(instance).items()}
    assert outcomes == {"hex8_2p|vast-900001": "unchanged", "hex8_2p|runpod-a1": "unchanged"}


def test_the_op_job_brings_the_nodes_in_step_and_collects_what_its_config_says(
    instance: dg.DagsterInstance, owner: EmbeddedCluster, play: Play
) -> None:
    play("vast-900001", "hex8_2p", 2)
    play("vast-900001", "square8_2p", 1)

    result = run(instance, "collect_games_job", configs=["hex8_2p"], nodes=["vast-900001"])

    assert result.success
    assert set(recorded(instance)) == {"hex8_2p|vast-900001"}
    assert set(instance.get_dynamic_partitions("nodes")) == {"hetzner-v1", "nebius-t1", "runpod-a1", "vast-900001"}


@pytest.mark.cluster
def test_what_the_command_line_collected_is_recorded_by_the_next_run_whatever_it_collects(
    instance: dg.DagsterInstance, owner: EmbeddedCluster, play: Play, nodes: None
) -> None:
    play("vast-900001", "hex8_2p", 2)
    play("runpod-a1", "square19_4p", 1)
    with Runtime.open(load_settings()) as runtime:
        collect(runtime, nodes=["vast-900001", "runpod-a1"], trigger="cli")

    assert run(instance, "games_job", partition="hexagonal_2p|runpod-a1").success

    found = recorded(instance)
    assert set(found) == {"hex8_2p|vast-900001", "square19_4p|runpod-a1"}
    assert {numbers["trigger"] for numbers in found.values()} == {"cli"}


def test_a_wrong_config_is_a_failure_that_says_what_to_do(instance: dg.DagsterInstance, owner: EmbeddedCluster) -> None:
    result = run(instance, "collect_games_job", configs=["hex9_2p"])

    assert not result.success
    assert "'hex9_2p' is no config" in failure_of(result)


def test_a_missing_inventory_is_a_failure_that_names_it(
    instance: dg.DagsterInstance, owner: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGRIFT_SYNC_HOSTS", "/nowhere/hosts")

    result = run(instance, "collect_games_job")

    assert not result.success
    assert "/nowhere/hosts" in failure_of(result)
    assert "RINGRIFT_SYNC_HOSTS" in failure_of(result)


def latest(instance: dg.DagsterInstance, data_type: str) -> dict[str, dict[str, Any]]:
    """Metadata of the latest materialization of each partition of a data type."""
    records = instance.fetch_materializations(dg.AssetKey(data_type), limit=1000, ascending=True).records
    return {
        str(record.partition_key): {name: value.value for name, value in record.asset_materialization.metadata.items()}
        for record in records
        if record.asset_materialization
    }


@pytest.fixture
def everything(owner: EmbeddedCluster, play: Play, tmp_path: Path) -> EmbeddedCluster:
    """All five data types on one node, and a promoted model at the owner."""
    root, config = owner.node_root("vast-900001"), "hex8_2p"
    play("vast-900001", config, 3)
    make_export(root / f"data/training/{config}.npz", config, 7)
    write_model(root / f"models/candidate_{config}.pth", "candidate")
    write_matches(root / "data/unified_elo.db", make_matches("dagster", config, 12))
    write_registry(root / "data/model_registry/registry.db", [RegisteredVersion(f"canonical_{config}", 1)])
    with Runtime.open(load_settings()) as runtime:
        runtime.files.publisher.promote(config, write_model(tmp_path / "best.pth", "best"), trigger="test")
    return owner


def test_one_run_over_all_five_moves_each_both_ways_and_says_which(
    instance: dg.DagsterInstance, everything: EmbeddedCluster, nodes: None
) -> None:
    partition = "hex8_2p|vast-900001"
    result = run(instance, "sync_job", partition=partition)

    assert result.success, failure_of(result)
    assert {data_type: list(latest(instance, data_type)) for data_type in ASSETS} == {
        data_type: [partition] for data_type in ASSETS
    }
    numbers = {data_type.value: latest(instance, data_type)[partition] for data_type in ASSETS}
    assert numbers["games"]["games_new"] == 3
    assert (numbers["npz"]["files_new"], numbers["npz"]["samples"], numbers["npz"]["published"]) == (1, 7, 1)
    assert numbers["elo"]["matches_new"] == 12
    assert numbers["registry"]["versions_new"] == 1
    models = numbers["models"]
    assert (models["files_new"], models["brought"], models["direction"]) == (1, 1, "up, down")
    assert models["up_bytes"] > 0
    assert models["down_bytes"] > 0
    best = everything.node_root("vast-900001") / "models/ringrift_best_hex8_2p.pth"
    assert best.read_bytes() == model_bytes("best")
    checks = {(check.asset_key.to_user_string(), check.check_name): check for check in checks_of(result)}
    assert checks["elo", "ratings_equal_recomputation"].passed
    assert checks["models", "links_resolve"].passed
    assert checks["registry", "no_version_conflicts"].passed
    unknown = checks["registry", "registry_hashes_exist"]
    assert (unknown.passed, unknown.severity) == (False, dg.AssetCheckSeverity.WARN)


@pytest.mark.cluster
def test_a_run_in_which_games_changed_nothing_still_moves_npz_and_models(
    instance: dg.DagsterInstance, everything: EmbeddedCluster, nodes: None
) -> None:
    partition = "hex8_2p|vast-900001"
    run(instance, "games_job", partition=partition)
    before = len(instance.fetch_materializations(GAMES, limit=10).records)

    assert run(instance, "sync_job", partition=partition).success
    assert len(instance.fetch_materializations(GAMES, limit=10).records) == before
    assert latest(instance, "npz")
    assert latest(instance, "models")


@pytest.mark.cluster
def test_a_rectangle_of_models_is_one_run_and_a_bad_one_is_set_aside_and_told(
    instance: dg.DagsterInstance, everything: EmbeddedCluster, nodes: None
) -> None:
    bad = everything.node_root("runpod-a1") / "models/candidate_hex8_2p.pth"
    write_model(bad, "bad").write_bytes(model_bytes("bad")[:-100])
    result = run(instance, "models_job", tags=rectangle("hex8_2p|runpod-a1", "hex8_2p|vast-900001"))

    assert result.success, failure_of(result)
    assert latest(instance, "models")["hex8_2p|runpod-a1"]["set_aside"] == 1
    (verdict,) = [check for check in checks_of(result) if check.check_name == "structure_is_valid"][-1:]
    assert not verdict.passed
    assert "hex8_2p|runpod-a1" in str(verdict.description)


@pytest.mark.cluster
def test_a_range_the_wrong_way_round_fails_with_its_reason(
    instance: dg.DagsterInstance, owner: EmbeddedCluster, nodes: None
) -> None:
    """Dagster itself would run nothing and call it a success."""
    result = run(instance, "models_job", tags=rectangle("hex8_2p|vast-900001", "hex8_2p|runpod-a1"))

    assert not result.success
    assert "order in which they became partitions" in failure_of(result)


def test_the_job_that_takes_any_choice_moves_what_it_is_told(
    instance: dg.DagsterInstance, everything: EmbeddedCluster
) -> None:
    config = {"data_types": ["elo"], "configs": ["hex8_2p"], "nodes": ["vast-900001"], "down": False}
    job = defs.resolve_job_def("move_data_job")
    result = job.execute_in_process(instance=instance, run_config={"ops": {"move_data": {"config": config}}})

    assert result.success
    assert list(latest(instance, "elo")) == ["hex8_2p|vast-900001"]
    assert latest(instance, "npz") == {}


def checks_of(result: dg.ExecuteInProcessResult) -> list[dg.AssetCheckEvaluation]:
    return list(result.get_asset_check_evaluations())


def test_tables_and_numbers_are_observed_and_what_is_lost_is_repaired_by_a_job(
    instance: dg.DagsterInstance, everything: EmbeddedCluster, nodes: None
) -> None:
    assert run(instance, "sync_job", partition="hex8_2p|vast-900001").success
    kept = load_settings().root / "models/ringrift_best_hex8_2p.pth"
    kept.resolve().unlink()

    verified, reported = run(instance, "verify"), run(instance, "report_job")

    assert verified.success, failure_of(verified)
    assert kept.read_bytes() == model_bytes("best")
    assert reported.success, failure_of(reported)
    seen: dict[str, dict[str, Any]] = {}
    for data_type in ASSETS:
        (record,) = instance.fetch_observations(dg.AssetKey(data_type.value), limit=1).records
        assert record.asset_observation is not None
        seen[data_type.value] = dict(record.asset_observation.metadata)
    games = seen["games"]
    assert games["games/hex8_2p"].value == 3
    assert [row.data["games"] for row in games["games_by_day"].records] == [3]
    assert {row.data["transport"] for row in games["throughput"].records} == {"p2p_http"}
    assert seen["models"]["bytes/p2p_http"].value > 0
    assert len(seen["elo"]["ratings"].records) > 2
