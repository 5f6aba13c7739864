import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg

from ringrift_sync_dagster.definitions import defs
from ringrift_sync_dagster.defs.partitions import config_by_node
from ringrift_sync_dagster.defs.sensors import inventory_sensor
from ringrift_sync_dagster.node.patterns import CONFIGS

NAMES = {
    "assets": ["games"],
    "checks": ["games:counts_reconcile", "games:no_moveless_games", "games:written_games_are_sound"],
    "jobs": ["collect_games_job", "games_job"],
    "resources": ["bandwidth", "breakers", "sync", "transports"],
    "schedules": [],
    "sensors": ["inventory_sensor"],
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


def test_games_are_partitioned_by_the_twelve_configs_and_the_nodes() -> None:
    spec = defs.resolve_asset_graph().get(dg.AssetKey("games"))
    dimensions = {dimension.name: dimension.partitions_def for dimension in config_by_node.partitions_defs}

    assert spec.partitions_def == config_by_node
    assert dimensions["config"].get_partition_keys() == list(CONFIGS)
    assert isinstance(dimensions["node"], dg.DynamicPartitionsDefinition)
    assert dimensions["node"].name == "nodes"


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
