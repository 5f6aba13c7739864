"""Rows and games that are applied on a node: killed at any step, the same order again ends right and counts once."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from ringrift_sync_dagster.demo.games import make_game
from ringrift_sync_dagster.demo.ratings import make_matches, ratings_by_hand, write_matches
from ringrift_sync_dagster.demo.recorder import Recorder
from ringrift_sync_dagster.demo.registry_rows import RegisteredVersion, write_registry
from ringrift_sync_dagster.demo.schemas import Dialect
from ringrift_sync_dagster.node import faults, rows
from ringrift_sync_dagster.node.ops import OPS, Context
from ringrift_sync_dagster.node.pack import Request, make_pack
from ringrift_sync_dagster.node.roots import Roots

CONFIG = "hex8_2p"
PATHS = {
    "matches": "data/unified_elo.db", "registry": "data/model_registry/registry.db",
    "games": f"data/games/synced/canonical_{CONFIG}.db",
}  # fmt: skip
COUNTS = {
    "matches": "SELECT COUNT(*), COUNT(DISTINCT game_id) FROM match_history",
    "registry": "SELECT COUNT(*), COUNT(DISTINCT model_id || version) FROM versions",
    "games": "SELECT COUNT(*), COUNT(DISTINCT game_id) FROM games",
}
BEFORE = {"matches": 10, "registry": 1, "games": 0}
AFTER = {"matches": 30, "registry": 3, "games": 4}

# One order in a process of its own, which dies as by kill -9 at the point that it is told.
DYING = """
import json, os, sys
from ringrift_sync_dagster.node import faults
from ringrift_sync_dagster.node.ops import OPS, Context
from ringrift_sync_dagster.node.roots import Roots
root, point, arguments = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
faults.hook = lambda name: os.kill(os.getpid(), 9) if name == point else None
OPS["apply"](Context(Roots([root]), root + "/data/.ringrift-sync", 2_000_000_000.0), arguments)
"""


def write(folder: Path, kind: str, first: int, last: int) -> Path:
    """A database of the kind with the records from one number to another."""
    path = folder / PATHS[kind]
    if kind == "matches":
        return write_matches(path, make_matches("killed", CONFIG, 30)[first:last])
    if kind == "registry":
        versions = [RegisteredVersion(CONFIG, number, f"{number:064x}") for number in range(1, 4)]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_registry(path, versions[first:last])
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with Recorder(path, Dialect.V18) as recorder:
        recorder.record_all([make_game(f"killed-{number}", CONFIG) for number in range(first, last)])
    return path


def order(folder: Path, node: Path, kind: str) -> dict[str, str]:
    """Everything the owner has, packed and pushed to the node; give the arguments of the order to apply it."""
    source, scratch = write(folder / "owner", kind, 0, AFTER[kind]), folder / "scratch"
    if kind == "games":
        sealed = make_pack(str(source), PATHS[kind], str(scratch), Request(CONFIG, None), 0.0)
    else:
        sealed = rows.pack_rows(str(source), str(scratch), rows.Wanted(PATHS[kind], kind, CONFIG, None, 1000), 0.0)
    arrived = node / "data/.ringrift-sync/incoming/owner" / sealed["artifact"]
    arrived.parent.mkdir(parents=True, exist_ok=True)
    arrived.write_bytes((scratch / "artifacts" / sealed["artifact"]).read_bytes())
    return {"path": PATHS[kind], "kind": kind, "config": CONFIG, "node": "owner", "artifact": sealed["artifact"]}


def counted(node: Path, kind: str) -> list[tuple[int, int]]:
    path = node / PATHS[kind]
    if not path.exists():
        return [(0, 0)]
    with contextlib.closing(sqlite3.connect(path)) as conn:
        assert conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        if not conn.execute("SELECT 1 FROM sqlite_master").fetchone():
            return [(0, 0)]
        return conn.execute(COUNTS[kind]).fetchall()


def prepared(folder: Path, kind: str) -> tuple[Path, dict[str, str]]:
    node = folder / "node"
    node.mkdir(parents=True)
    if BEFORE[kind]:
        write(node, kind, 0, BEFORE[kind])
    return node, order(folder, node, kind)


def apply(node: Path, arguments: dict[str, str]) -> None:
    OPS["apply"](Context(Roots([str(node)]), str(node / "data/.ringrift-sync"), 2_000_000_000.0), arguments)


@pytest.mark.parametrize("kind", PATHS)
def test_killed_at_any_step_of_apply_the_same_order_ends_right(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    points: list[str] = []
    monkeypatch.setattr(faults, "hook", points.append)
    node, arguments = prepared(tmp_path / "dry", kind)
    apply(node, arguments)
    monkeypatch.setattr(faults, "hook", lambda _: None)
    assert len(points) >= 2

    for number, point in enumerate(dict.fromkeys(points)):
        node, arguments = prepared(tmp_path / str(number), kind)
        died = subprocess.run([sys.executable, "-c", DYING, str(node), point, json.dumps(arguments)], check=False)
        assert died.returncode == -signal.SIGKILL, point
        assert counted(node, kind)[0][0] in {BEFORE[kind], AFTER[kind]}, point
        for _ in range(2):  # the second time the pack is gone, or there is nothing new in it
            if (node / "data/.ringrift-sync/incoming/owner" / arguments["artifact"]).exists():
                apply(node, arguments)
        assert counted(node, kind) == [(AFTER[kind], AFTER[kind])], point
        if kind == "matches":
            with contextlib.closing(sqlite3.connect(node / PATHS[kind])) as conn:
                found = dict(conn.execute("SELECT participant_id, rating FROM elo_ratings"))
            by_hand = ratings_by_hand(make_matches("killed", CONFIG, AFTER[kind]))
            assert found == pytest.approx({name: rating for name, (rating, _) in by_hand.items()}), point
