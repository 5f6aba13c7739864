"""``sync`` of several data types, ``versions``, ``promote`` and ``where``, as a person types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from ringrift_sync_dagster.demo.cluster import EmbeddedCluster
from ringrift_sync_dagster.demo.exports import make_export, model_bytes, write_model
from ringrift_sync_dagster.demo.games import make_game
from ringrift_sync_dagster.demo.recorder import Recorder
from ringrift_sync_dagster.demo.schemas import Dialect

CONFIG = "hex8_2p"
NODE = "vast-900001"
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli(shared_cluster: EmbeddedCluster, tmp_path: Path) -> Command:
    environment = {
        **os.environ,
        **shared_cluster.environment,
        "RINGRIFT_SYNC_ROOT": str(tmp_path / "root"),
        "RINGRIFT_SYNC_STATE_URL": f"sqlite:///{tmp_path}/state.db",
    }

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ringrift_sync_dagster.cli", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)

    return run


def export(cluster: EmbeddedCluster, count: int) -> None:
    path = cluster.node_root(NODE) / f"data/training/{CONFIG}.npz"
    path.unlink(missing_ok=True)
    make_export(path, CONFIG, count, str(count))


@pytest.mark.cluster
def test_two_types_are_moved_and_told_apart(cli: Command, shared_cluster: EmbeddedCluster) -> None:
    export(shared_cluster, 5)
    write_model(shared_cluster.node_root(NODE) / f"models/candidate_{CONFIG}.pth", "c")
    only = ("--config", CONFIG, "--node", NODE, "--type", "npz", "--type", "models", "--up")

    told = cli("sync", *only, "--json")
    again = cli("sync", *only)

    assert told.returncode == 0, told.stderr
    types = {one["type"]: one["partitions"][0] for one in json.loads(told.stdout)["types"]}
    assert types["npz"]["counts"] == {"files_new": 1, "published": 1}
    assert types["models"]["counts"]["files_new"] == 1
    assert "1 partitions, 0 failed, 0 changed" in again.stdout


@pytest.mark.cluster
def test_versions_are_shown_and_one_is_put_back_by_its_first_digits(
    cli: Command, shared_cluster: EmbeddedCluster
) -> None:
    for count in (5, 9):
        export(shared_cluster, count)
        cli("sync", "--config", CONFIG, "--node", NODE, "--type", "npz", "--up")
    shown = json.loads(cli("versions", "list", "npz", CONFIG, "--json").stdout)["versions"]
    first, second = shown

    assert (first["detail"]["samples"], second["detail"]["samples"]) == (5, 9)
    assert (first["published"], second["published"]) == (False, True)
    done = cli("versions", "publish", "npz", CONFIG, first["sha256"][:8])
    assert done.returncode == 0, done.stderr
    assert f"{first['sha256'][:12]} is published" in done.stdout
    assert cli("versions", "publish", "npz", CONFIG, "00000000").returncode == 1
    assert "published" in cli("versions", "list", "npz", CONFIG).stdout


def test_a_promoted_model_reaches_a_node_and_where_shows_both_copies(
    cli: Command, shared_cluster: EmbeddedCluster, tmp_path: Path
) -> None:
    model = write_model(tmp_path / "new.pth", "new")
    bad = tmp_path / "bad.pth"
    bad.write_bytes(b"no model")

    refused = cli("promote", CONFIG, str(bad))
    promoted = cli("promote", CONFIG, str(model), "--json")
    cli("sync", "--config", CONFIG, "--type", "models", "--down", "--to", NODE)

    assert refused.returncode == 1
    assert "bad.pth" in refused.stderr
    sha256 = json.loads(promoted.stdout)["published"]["sha256"]
    best = shared_cluster.node_root(NODE) / f"models/ringrift_best_{CONFIG}.pth"
    assert best.read_bytes() == model_bytes("new")
    found = json.loads(cli("where", CONFIG, "--hash", sha256[:10], "--json").stdout)["locations"]
    assert NODE in {one["node"] for one in found}
    assert {one["copies"] for one in found} == {len(found)}
    told_in_tables(cli, tmp_path)


@pytest.mark.cluster
def test_what_is_missing_is_told_and_what_was_lost_is_repaired(
    cli: Command, shared_cluster: EmbeddedCluster, tmp_path: Path
) -> None:
    cli("promote", CONFIG, str(write_model(tmp_path / "new.pth", "new")))
    cli("sync", "--config", CONFIG, "--type", "models", "--down", "--to", NODE)
    best = shared_cluster.node_root(NODE) / f"models/ringrift_best_{CONFIG}.pth"
    assert "nobody told" in cli("where", "hexagonal_4p").stdout
    missing = json.loads(cli("diff", NODE, "--json").stdout)
    assert missing["told_at"] > 0
    assert [one for one in missing["missing"] if one["data_type"] == "models" and one["way"] == "down"] == []
    assert cli("diff", "nobody").returncode == 3

    best.resolve().unlink()
    broken = cli("verify", "--config", CONFIG, "--node", NODE, "--no-repair")
    repaired = json.loads(cli("verify", "--deep", "--config", CONFIG, "--node", NODE, "--json").stdout)
    assert broken.returncode == 1
    assert "lost" in broken.stdout
    assert [one["condition"] for one in repaired["findings"]] == ["repaired"]
    assert best.read_bytes() == model_bytes("new")


def told_in_tables(cli: Command, folder: Path) -> None:
    """All that the state database remembers, as a person takes it away."""
    page = folder / "report.html"
    done = cli("report", "--csv", str(folder / "csv"), "--parquet", str(folder / "parquet"), "--html", str(page))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 13
    names = {path.stem for path in (folder / "csv").iterdir()}
    assert names == {"locations", "transfers", "throughput", "games", "lag", "ratings"}
    assert pd.read_parquet(folder / "parquet/locations.parquet")["node"].tolist().count(NODE) > 0
    assert pd.read_csv(folder / "csv/transfers.csv")["bytes_moved"].sum() > 0
    assert f"canonical_{CONFIG}" in page.read_text()
    assert "p2p" in cli("report").stdout


@pytest.mark.cluster
def test_pull_brings_up_and_nothing_down_and_after_a_loss_what_was_brought(
    cli: Command, shared_cluster: EmbeddedCluster, tmp_path: Path
) -> None:
    root = shared_cluster.node_root(NODE)
    with Recorder(root / "data/games/selfplay_pull.db", Dialect.V18) as recorder:
        recorder.record_all([make_game(f"pull-{number}", "square19_4p") for number in range(3)])
    only = ("--config", "square19_4p", "--node", NODE, "--type", "games")
    cli("sync", *only, "--to", NODE)
    for suffix in ("", "-wal", "-shm"):
        (root / f"data/games/selfplay_pull.db{suffix}").unlink(missing_ok=True)
    store = tmp_path / "root/data/games/canonical_square19_4p.db"
    store.unlink()

    told = [json.loads(cli("pull", *only, *more, "--json").stdout) for more in ((), ("--recover",))]

    assert [one["partitions"][0]["games_new"] for one in told] == [0, 3]
    assert store.exists()
