"""What the kit tells of a node: whether it is fit, without writing anything there."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from ringrift_sync_dagster.node.errors import KitError
from ringrift_sync_dagster.node.ops import OPS, REMOTE, Context
from ringrift_sync_dagster.node.roots import Roots


def test_the_facts_are_those_of_the_node(tmp_path: Path) -> None:
    root = tmp_path / "ai-service"
    (root / "data").mkdir(parents=True)
    missing = tmp_path / "gone"
    before = sorted(tmp_path.rglob("*"))
    context = Context(Roots([str(root), str(missing)]), str(root / "data/.ringrift-sync"), 1234.5)

    found = OPS["facts"](context, {})

    assert sorted(tmp_path.rglob("*")) == before
    assert "facts" in REMOTE
    assert (found["now"], found["sqlite"]) == (1234.5, sqlite3.sqlite_version)
    own, other = found["roots"]
    assert own["path"] == os.path.realpath(root)
    assert (own["exists"], own["readable"], own["writable"]) == (True, True, True)
    assert 0 < own["free_bytes"] <= own["total_bytes"]
    assert (other["exists"], "free_bytes" in other) == (False, False)
    assert found["data"]["exists"]
    assert not found["scratch"]["exists"]
    assert set(found["programs"]) == {"rsync", "sqlite3"}


def test_it_takes_no_arguments(tmp_path: Path) -> None:
    with pytest.raises(KitError, match="path is unknown"):
        OPS["facts"](Context(Roots([str(tmp_path)]), str(tmp_path), 0.0), {"path": "/etc"})
