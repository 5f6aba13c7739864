"""A Dagster instance, a fresh owner and games on nodes, for the tests of what Dagster loads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from ringrift_sync_dagster.demo.cluster import EmbeddedCluster
from ringrift_sync_dagster.demo.games import make_game
from ringrift_sync_dagster.demo.recorder import Recorder
from ringrift_sync_dagster.demo.schemas import Dialect
from ringrift_sync_dagster.state.store import StateStore

Play = Callable[[str, str, int], None]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as found:
        yield found


@pytest.fixture
def owner(shared_cluster: EmbeddedCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EmbeddedCluster:
    """Make the cluster the configured one, with an empty canonical store and an empty state."""
    environment = shared_cluster.environment | {
        "RINGRIFT_SYNC_ROOT": str(tmp_path / "owner"),
        "RINGRIFT_SYNC_STATE_URL": f"sqlite:///{tmp_path}/state.db",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return shared_cluster


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateStore]:
    """The state database that ``owner`` names."""
    with StateStore.open(f"sqlite:///{tmp_path}/state.db") as found:
        yield found


@pytest.fixture
def play(shared_cluster: EmbeddedCluster) -> Iterator[Play]:
    """Play games on a node; what was played goes away after the test."""
    written: list[Path] = []

    def some(node: str, config: str, count: int) -> None:
        path = shared_cluster.node_root(node) / "data" / "games" / f"selfplay_{config}.db"
        written.append(path)
        with Recorder(path, Dialect.V18) as recorder:
            recorder.record_all([make_game(f"{node}-{config}-{number}", config) for number in range(count)])

    yield some
    for path in {Path(f"{found}{suffix}") for found in written for suffix in ("", "-wal", "-shm")}:
        path.unlink(missing_ok=True)
