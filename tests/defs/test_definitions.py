import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
from dagster._core.definitions.partitions.context import partition_loading_context

from ringrift_sync_dagster.definitions import defs
from ringrift_sync_dagster.defs.partitions import config_by_node
from ringrift_sync_dagster.defs.sensors import inventory_sensor
from ringrift_sync_dagster.node.patterns import CONFIGS

NAMES = {
    "assets": ["elo", "games", "models", "npz", "registry"],
    "checks": [
        "elo:fresh_per_config",
        "elo:matches_are_sound",
        "elo:ratings_equal_recomputation",
        "games:archives_can_be_restored",
        "games:counts_reconcile",
        "games:fresh_per_config",
        "games:no_moveless_games",
        "games:oldest_unsaved_game",
        "games:written_games_are_sound",
        "models:digests_agree_with_receipts",
        "models:fresh_per_config",
        "models:links_resolve",
        "models:structure_is_valid",
        "npz:digests_agree_with_receipts",
        "npz:fresh_per_config",
        "npz:structure_is_valid",
        "registry:fresh_per_config",
        "registry:no_version_conflicts",
        "registry:registry_hashes_exist",
    ],
    "jobs": [
        "archive",
        "broadcast_models",
        "collect_games_job",
        "elo_job",
        "ephemeral_sync",
        "games_job",
        "hybrid_sync",
        "models_job",
        "move_data_job",
        "npz_job",
        "priority_sync",
        "pull",
        "registry_job",
        "report_job",
        "restore_check",
        "retention",
        "sync_job",
        "verify",
    ],
    "resources": ["bandwidth", "breakers", "sync", "transports"],
    "schedules": [
        "archive_schedule",
        "ephemeral_schedule",
        "hybrid_schedule",
        "restore_check_schedule",
        "retention_schedule",
        "verify_schedule",
    ],
    "sensors": [
        "backpressure_sensor",
        "inventory_sensor",
        "loop_guard_sensor",
        "model_promotion_sensor",
        "orphan_games_sensor",
        "run_failure_sensor",
    ],
}


def names() -> dict[str, list[str]]:
    graph = defs.resolve_asset_graph()
    checks = [f"{key.asset_key.to_user_string()}:{key.name}" for key in graph.asset_check_keys]
    return {
        "assets": sorted(key.to_user_string() for key in graph.get_all_asset_keys()),
        "checks": sorted(checks),
        "jobs": sorted(job.name for job in defs.resolve_all_job_defs() if not job.name.startswith("__")),
        "resources": sorted(defs.resources or {}),
        "schedules": sorted(schedule.name for schedule in defs.schedules or []),
        "sensors": sorted(sensor.name for sensor in defs.sensors or []),
    }


def test_the_definitions_are_these_and_no_others() -> None:
    assert names() == NAMES


def test_the_definitions_load() -> None:
    dg.Definitions.validate_loadable(defs)


def test_every_asset_is_partitioned_by_the_twelve_configs_and_the_nodes() -> None:
    dimensions = {dimension.name: dimension.partitions_def for dimension in config_by_node.partitions_defs}

    for name in NAMES["assets"]:
        spec = defs.resolve_asset_graph().get(dg.AssetKey(name))
        assert spec.partitions_def == config_by_node
        assert (spec.group_name, list(spec.owners)) == ("cluster_data", ["team:ringrift-data"])
        assert spec.metadata["store"]
    assert dimensions["config"].get_partition_keys() == list(CONFIGS)
    assert isinstance(dimensions["node"], dg.DynamicPartitionsDefinition)
    assert dimensions["node"].name == "nodes"


def parents(child: str, key: str, parent: str, nodes: list[str]) -> set[str]:
    """The partitions of a parent that a partition of a child is made of, by the asset graph itself."""
    with dg.instance_for_test() as instance:
        instance.add_dynamic_partitions("nodes", nodes)
        with partition_loading_context(dynamic_partitions_store=instance):
            found = defs.resolve_asset_graph().get_parents_partitions(dg.AssetKey(child), key).parent_partitions
    return {one.partition_key or "" for one in found if one.asset_key == dg.AssetKey(parent)}


def test_what_a_node_has_of_a_config_is_made_of_what_all_nodes_had_of_it() -> None:
    nodes = ["n1", "n2", "n3"]
    everything = {f"hex8_2p|{node}" for node in nodes}

    assert parents("npz", "hex8_2p|n1", "games", nodes) == everything
    assert parents("models", "hex8_2p|n2", "npz", nodes) == everything
    assert parents("elo", "hex8_2p|n3", "models", nodes) == everything
    assert parents("registry", "hex8_2p|n1", "models", nodes) == everything
    assert {
        key.to_user_string(): sorted(
            parent.to_user_string() for parent in defs.resolve_asset_graph().get(key).parent_keys
        )
        for key in defs.resolve_asset_graph().get_all_asset_keys()
    } == {"games": [], "npz": ["games"], "models": ["npz"], "elo": ["models"], "registry": ["models"]}


def test_the_sensor_looks_every_five_seconds_and_is_on_from_the_start() -> None:
    assert inventory_sensor.minimum_interval_seconds == 4
    assert inventory_sensor.default_status is dg.DefaultSensorStatus.RUNNING


def test_loading_reads_no_inventory_and_writes_nothing(tmp_path: Path) -> None:
    environment = os.environ | {"RINGRIFT_SYNC_HOSTS": str(tmp_path / "nowhere"), "DAGSTER_HOME": str(tmp_path)}
    script = "import json, ringrift_sync_dagster.definitions as d; print(json.dumps(sorted(d.defs.resources)))"
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=tmp_path, timeout=60,
        env=environment | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )  # fmt: skip

    assert json.loads(done.stdout) == NAMES["resources"]
    assert not list(tmp_path.iterdir())
