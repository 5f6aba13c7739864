"""Where things lie, and the digests of their blocks."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from ringrift_sync_dagster.core.blocks import BLOCK_BYTES
from ringrift_sync_dagster.errors import LocalDiskError, TransferCancelledError
from ringrift_sync_dagster.storage.blocks import block_list
from ringrift_sync_dagster.storage.layout import Layout


def test_paths_lie_where_the_cluster_expects_them() -> None:
    layout = Layout(Path("/srv/ai-service"))
    sha = "0f" * 32
    assert str(layout.canonical("hex8_2p")) == "/srv/ai-service/data/games/canonical_hex8_2p.db"
    assert str(layout.incoming("vast-1")) == "/srv/ai-service/data/incoming/vast-1"
    assert str(layout.incoming_artifact("vast-1", sha)) == f"/srv/ai-service/data/incoming/vast-1/{sha}"
    assert str(layout.quarantine) == "/srv/ai-service/data/quarantine"
    assert str(layout.artifacts) == "/srv/ai-service/data/.ringrift-sync/artifacts"
    assert layout.relative(layout.incoming_artifact("vast-1", sha)) == f"data/incoming/vast-1/{sha}"


@pytest.mark.parametrize("node", ["..", "a/b", "", ".x", "a|b"])
def test_no_node_leaves_incoming(node: str) -> None:
    with pytest.raises(ValueError, match="cannot name a node"):
        Layout(Path("/srv")).incoming(node)


def test_no_config_and_no_digest_is_made_up() -> None:
    layout = Layout(Path("/srv"))
    with pytest.raises(ValueError, match="is not a config"):
        layout.canonical("../../etc/passwd")
    with pytest.raises(ValueError, match="is not a SHA-256"):
        layout.incoming_artifact("vast-1", "../x")
    with pytest.raises(ValueError, match="is not in the subpath"):
        layout.relative(Path("/etc/passwd"))


def test_directories_are_made_once_and_again(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "root")
    layout.mkdirs()
    layout.mkdirs()
    assert layout.games_dir.is_dir()
    assert layout.artifacts.is_dir()


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 2 * BLOCK_BYTES + 5])
def test_the_block_list_has_the_digest_of_each_block(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "x").write_bytes(data)
    blocks = [data[start : start + BLOCK_BYTES] for start in range(0, size, BLOCK_BYTES)]
    assert block_list(tmp_path / "x") == [hashlib.sha256(block).hexdigest() for block in blocks]


def test_a_missing_file_has_no_block_list_and_a_cancelled_one_stops(tmp_path: Path) -> None:
    with pytest.raises(LocalDiskError, match="missing"):
        block_list(tmp_path / "missing")
    (tmp_path / "x").write_bytes(b"x")
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(TransferCancelledError):
        block_list(tmp_path / "x", cancel)
