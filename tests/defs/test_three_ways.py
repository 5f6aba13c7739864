"""The UI, ``dagster job execute`` and the command line do the same: the same content, each in the asset's history."""

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ringrift_sync_dagster.demo.cluster import EmbeddedCluster
from ringrift_sync_dagster.demo.exports import write_model
from ringrift_sync_dagster.demo.games import make_game
from ringrift_sync_dagster.demo.recorder import Recorder
from ringrift_sync_dagster.demo.schemas import Dialect
from ringrift_sync_dagster.node.digest import digests
from tests.defs.test_webserver import HISTORY, launch

CHECKOUT = Path(__file__).resolve().parents[2]
CONFIG, NODE = "square19_3p", "vast-900001"
KEY = f"{CONFIG}|{NODE}"
DAGSTER_YAML = """
telemetry: {enabled: false}
storage: {sqlite: {base_dir: %(home)s/storage}}
"""


def content(root: Path) -> set[tuple[str, str, str]]:
    """Id and digests of each canonical game, recomputed from its rows."""
    with contextlib.closing(sqlite3.connect(root / "data" / "games" / f"canonical_{CONFIG}.db")) as conn:
        return {(found.game_id, found.identity, found.annotation) for found in digests(conn)}


def run(arguments: list[str], environment: Mapping[str, str]) -> None:
    """Run one of the programs that a person runs."""
    done = subprocess.run(arguments, env=dict(environment), cwd=CHECKOUT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def execute(environment: Mapping[str, str]) -> None:
    """``dagster job execute`` of the collecting job, over this node."""
    job = ["-m", "ringrift_sync_dagster.definitions", "-j", "collect_games_job"]
    config = {"ops": {"collect_games": {"config": {"nodes": [NODE], "configs": [CONFIG]}}}}
    file = Path(environment["DAGSTER_HOME"]) / "run.json"
    file.write_text(json.dumps(config))  # every JSON text is YAML
    run([sys.executable, "-m", "dagster", "job", "execute", *job, "--config", str(file)], environment)


def owner(cluster: EmbeddedCluster, folder: Path) -> dict[str, str]:
    """The environment of a coordinator of its own, with an own Dagster instance."""
    folder.mkdir()
    (folder / "dagster.yaml").write_text(DAGSTER_YAML % {"home": folder})
    return {
        **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        **cluster.environment,
        "RINGRIFT_SYNC_ROOT": str(folder / "root"),
        "RINGRIFT_SYNC_STATE_URL": f"sqlite:///{folder}/state.db",
        "DAGSTER_HOME": str(folder),
    }


def materialized(home: Path, asset: str = "games") -> list[str]:
    """Partitions in the history of an asset, one for each event."""
    with dg.DagsterInstance.from_config(str(home)) as instance:
        records = instance.fetch_materializations(dg.AssetKey(asset), limit=100).records
        return [str(record.partition_key) for record in records]


def test_ui_job_and_command_line_give_the_same_content_and_each_stands_in_the_history(
    graphql: Callable[..., dict[str, Any]], webserver_root: Path, shared_cluster: EmbeddedCluster, tmp_path: Path
) -> None:
    database = shared_cluster.node_root(NODE) / "data" / "games" / f"selfplay_{CONFIG}.db"
    with Recorder(database, Dialect.V18) as recorder:
        recorder.record_all([make_game(f"three-ways-{number}", CONFIG) for number in range(12)])
    job, shell = owner(shared_cluster, tmp_path / "job"), owner(shared_cluster, tmp_path / "shell")

    run_id = launch(graphql, KEY)
    execute(job)
    run(
        [
            sys.executable,
            "-m",
            "ringrift_sync_dagster.cli",
            "sync",
            "--type",
            "games",
            "--config",
            CONFIG,
            "--node",
            NODE,
        ],
        shell,
    )
    before_the_next_run = materialized(tmp_path / "shell")
    execute(shell)

    by_ui = content(webserver_root)
    assert len(by_ui) == 12
    assert content(tmp_path / "job" / "root") == content(tmp_path / "shell" / "root") == by_ui
    history = graphql(HISTORY)["assetOrError"]["assetMaterializations"]
    assert [event["partition"] for event in history if event["runId"] == run_id] == [KEY]
    assert materialized(tmp_path / "job") == [KEY]
    assert (before_the_next_run, materialized(tmp_path / "shell")) == ([], [KEY])


@pytest.mark.cluster
def test_a_range_of_models_works_by_job_and_by_command_line(shared_cluster: EmbeddedCluster, tmp_path: Path) -> None:
    nodes, configs = ("runpod-a1", "vast-900001"), ("hexagonal_2p", "hexagonal_3p")
    for node in nodes:
        for config in configs:
            write_model(shared_cluster.node_root(node) / f"models/candidate_{config}.pth", f"three {node} {config}")
    by_job, by_line = owner(shared_cluster, tmp_path / "job"), owner(shared_cluster, tmp_path / "line")
    with dg.DagsterInstance.from_config(by_job["DAGSTER_HOME"]) as instance:
        instance.add_dynamic_partitions("nodes", nodes)
    tags = {
        "dagster/asset_partition_range_start": f"{configs[0]}|{nodes[0]}",
        "dagster/asset_partition_range_end": f"{configs[1]}|{nodes[1]}",
    }

    job = ["-m", "ringrift_sync_dagster.definitions", "-j", "models_job", "--tags", json.dumps(tags)]
    run([sys.executable, "-m", "dagster", "job", "execute", *job], by_job)
    only = [word for config in configs for word in ("--config", config)]
    only += [word for node in nodes for word in ("--node", node)]
    run([sys.executable, "-m", "ringrift_sync_dagster.cli", "sync", "--type", "models", *only], by_line)

    wanted = {f"{config}|{node}" for config in configs for node in nodes}
    assert set(materialized(tmp_path / "job", "models")) == wanted
    kept = [
        sorted(path.name for path in (tmp_path / way / "root/models/versions").glob("*.pth")) for way in ("job", "line")
    ]
    assert kept[0] == kept[1]
    assert len(kept[0]) == len(wanted)
