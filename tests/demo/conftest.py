"""Games of three nodes, played and collected once; a test that breaks something gets a copy."""

import shutil
from pathlib import Path

import pytest

from tests.demo.played import PlayedCluster


@pytest.fixture(scope="session")
def collected_once(tmp_path_factory: pytest.TempPathFactory) -> PlayedCluster:
    cluster = PlayedCluster(tmp_path_factory.mktemp("played"))
    cluster.play_all()
    cluster.collect()
    return cluster


@pytest.fixture
def collected(collected_once: PlayedCluster, tmp_path: Path) -> PlayedCluster:
    shutil.copytree(collected_once.base, tmp_path / "copy")
    return PlayedCluster(tmp_path / "copy")
