"""The verdict on npz, models, elo and registry: good after a real pass, and broken by each thing that may be wrong."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringrift_sync_dagster.demo import cargo
from ringrift_sync_dagster.demo.cargo import CONFIG
from ringrift_sync_dagster.demo.cargo_verdict import BEST, ELO, EXPORT, REGISTRY, judge_cargo
from ringrift_sync_dagster.demo.cluster import EmbeddedCluster
from ringrift_sync_dagster.demo.exports import make_export
from ringrift_sync_dagster.demo.verdict import Check
from ringrift_sync_dagster.settings.settings import load_settings
from ringrift_sync_dagster.sync.collect import Request, move
from ringrift_sync_dagster.sync.runtime import Runtime

SEED = 3


class World:
    """A cluster in which everything has been moved, and which one may break."""

    def __init__(self, cluster: EmbeddedCluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.laid = cargo.lay_out({node: cluster.node_root(node) for node in cluster.nodes}, SEED)
        self.model = folder / "none.pth"

    def move(self) -> None:
        settings = load_settings(
            home=self.folder,
            hosts=self.cluster.hosts,
            root=self.folder / "root",
            state_url=f"sqlite:///{self.folder}/state.db",
            token_file=self.cluster.environment["RINGRIFT_SYNC_TOKEN_FILE"],
        )
        for number in (1, 2):
            with Runtime.open(settings) as runtime:
                self.model = cargo.promoted(self.folder, SEED, number)
                runtime.files.publisher.promote(CONFIG, self.model, trigger="test")
                move(runtime, Request())

    def judge(self) -> list[Check]:
        root, nodes = self.folder / "root", self.cluster.nodes
        return [
            one for one in judge_cargo(self.laid, self.model, root, nodes, self.cluster.node_root) if not one.passed
        ]

    def at(self, node: str, path: str) -> Path:
        return (self.cluster.node_root(node) if node else self.folder / "root") / path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("cargo")
    with EmbeddedCluster(folder / "cluster") as cluster:
        found = World(cluster, folder)
        found.move()
        yield found


def test_after_two_passes_everything_is_where_it_belongs(world: World) -> None:
    assert [str(check) for check in world.judge()] == []


def _worse(world: World) -> Path:
    path = world.at("", EXPORT)
    other = make_export(world.folder / "worse.npz", CONFIG, 5)
    return _instead(path, other)


def _old_model(world: World) -> Path:
    return _instead(world.at(cargo.NODES[0], BEST), cargo.promoted(world.folder, SEED, 1))


def _instead(path: Path, other: Path) -> Path:
    """Put another file under a name that was a link; the link is kept beside it."""
    path.rename(path.with_name(f"{path.name}.kept"))
    shutil.copy(other, path)
    return path


def _changed(node: str, path: str, statement: str) -> Callable[[World], Path]:
    def change(world: World) -> Path:
        database = world.at(node, path)
        with contextlib.closing(sqlite3.connect(database)) as conn, conn:
            conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copy(database, f"{database}.kept")
        with contextlib.closing(sqlite3.connect(database)) as conn, conn:
            conn.execute(statement)
        return database

    return change


@pytest.mark.parametrize(
    "break_it, words",
    [
        (_worse, "best valid export"),
        (_old_model, "promoted last"),
        (_changed("", ELO, "DELETE FROM match_history WHERE rowid = 5"), "ratings"),
        (_changed("", ELO, "UPDATE elo_ratings SET rating = rating + 0.01"), "ratings"),
        (_changed(cargo.NODES[1], ELO, "DELETE FROM match_history WHERE rowid = 5"), "ratings"),
        (_changed("", REGISTRY, "DELETE FROM versions WHERE version = 3"), "registry"),
        (_changed(cargo.NODES[2], REGISTRY, "UPDATE versions SET stage = 'archived'"), "registry"),
    ],
)
def test_the_verdict_breaks(world: World, break_it: Callable[[World], Path], words: str) -> None:
    path = break_it(world)
    try:
        assert [words in check.question for check in world.judge()] == [True]
    finally:
        path.with_name(f"{path.name}.kept").replace(path)
    assert world.judge() == []
