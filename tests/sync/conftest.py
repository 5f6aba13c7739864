"""A coordinator of its own for each test, over the agents that all tests share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from ringrift_sync_dagster.demo.cluster import EmbeddedCluster
from ringrift_sync_dagster.demo.games import Game
from ringrift_sync_dagster.demo.recorder import Recorder
from ringrift_sync_dagster.demo.schemas import Dialect
from ringrift_sync_dagster.settings.settings import Settings, load_settings
from ringrift_sync_dagster.sync.collect import collect
from ringrift_sync_dagster.sync.report import CollectReport, Outcome
from ringrift_sync_dagster.sync.runtime import Runtime


@dataclass
class Field:
    """Two nodes with live agents, and a coordinator's settings."""

    cluster: EmbeddedCluster
    base: Path
    settings: Settings
    nodes: tuple[str, ...]

    def play(self, node: str, path: str, *games: Game, dialect: Dialect = Dialect.V18) -> Path:
        """Let a node finish games in its database at ``path``."""
        database = self.cluster.node_root(node) / path
        with Recorder(database, dialect) as recorder:
            recorder.record_all(list(games))
        return database

    def put(self, node: str, path: str, data: bytes) -> Path:
        """Put a file on a node."""
        target = self.cluster.node_root(node) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        return target

    def collect(self, *configs: str, nodes: tuple[str, ...] | None = None) -> CollectReport:
        """One pass in a runtime of its own."""
        with Runtime.open(self.settings) as runtime:
            return collect(runtime, configs=configs or None, nodes=nodes or self.nodes, trigger="test")

    def one(self, config: str, node: str = "") -> Outcome:
        """One pass over one partition."""
        (outcome,) = self.collect(config, nodes=(node or self.nodes[0],)).outcomes
        return outcome

    def canonical(self, config: str) -> Path:
        """The canonical database of a config."""
        return self.base / "root" / "data" / "games" / f"canonical_{config}.db"


@pytest.fixture
def field_(shared_cluster: EmbeddedCluster, tmp_path: Path) -> Field:
    settings = load_settings(
        home=tmp_path,
        hosts=shared_cluster.hosts,
        root=tmp_path / "root",
        state_url=f"sqlite:///{tmp_path}/state.db",
        token_file=shared_cluster.environment["RINGRIFT_SYNC_TOKEN_FILE"],
    )
    return Field(shared_cluster, tmp_path, settings, shared_cluster.nodes)
