from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path

import pytest

from ringrift_sync_dagster.node.errors import KitError
from ringrift_sync_dagster.node.ops import OPS, Context
from ringrift_sync_dagster.node.roots import Roots
from tests.node.kit_samples import make_database

ONE = [("g1", "hex8", 2, "completed")]
DATABASE = "data/games/hex8_2p.db"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_database(tmp_path / "node" / DATABASE, ONE)
    (tmp_path / "node/data/training").mkdir()
    (tmp_path / "node/data/training/hex8_2p.npz").write_bytes(b"array")
    return tmp_path / "node"


@pytest.fixture
def context(root: Path) -> Context:
    return Context(Roots([str(root)]), str(root / "data/.ringrift-sync"), 2_000_000_000.0)


def refused(context: Context, op: str, arguments: object) -> str:
    with pytest.raises(KitError) as error:
        OPS[op](context, arguments)  # type: ignore[arg-type]
    json.dumps(error.value.as_json())
    return error.value.code


@pytest.mark.parametrize(
    "op, arguments",
    [
        ("scan", {"path": "x"}),
        ("scan", []),
        ("hash", {}),
        ("hash", {"path": None}),
        ("hash", {"path": 7}),
        ("hash", {"path": ""}),
        ("list", {"path": DATABASE}),
        ("list", {"path": DATABASE, "config": "hex9_2p"}),
        ("list", {"path": DATABASE, "config": "hex8_2p", "limit": 0}),
        ("list", {"path": DATABASE, "config": "hex8_2p", "after": "x"}),
        ("list", {"path": "data/training/hex8_2p.npz", "config": "hex8_2p"}),
        ("pack", {"path": DATABASE, "config": "hex8_2p", "max_games": True}),
        ("pack", {"path": DATABASE, "config": "hex8_2p", "max_bytes": 1.5}),
        ("pack", {"path": DATABASE, "config": "hex8_2p", "ids": [1]}),
        ("pack", {"path": DATABASE, "config": "hex8_2p", "ids": "g1"}),
        ("pack", {"path": DATABASE, "config": "hex8_2p", "aside": 1}),
        ("pack", {"path": DATABASE, "config": "hex8_2p", "cursor": {"v": 1}}),
        ("pack", {"path": DATABASE, "config": "hex8_2p", "short_after_seconds": float("nan")}),
        ("pack", {"path": DATABASE, "config": "hex8_2p", "surprise": 1}),
        ("pack", {"path": "data/secrets.txt", "config": "hex8_2p"}),
    ],
)
def test_arguments_that_make_no_sense_are_refused(context: Context, op: str, arguments: object) -> None:
    assert refused(context, op, arguments) == "bad_arguments"


@pytest.mark.parametrize("op", ["hash", "list", "pack"])
def test_no_operation_leaves_the_roots(context: Context, op: str) -> None:
    more = {} if op == "hash" else {"config": "hex8_2p"}

    for path in ("/etc/passwd", "../x.db", "data/games/../../../x.db", "@1/x.db"):
        assert refused(context, op, {"path": path, **more}) == "outside"


def test_a_scan_finds_the_games_and_keeps_what_it_learnt_in_its_own_folder(context: Context, root: Path) -> None:
    entries = OPS["scan"](context, {})["entries"]

    assert [(entry["path"], entry.get("games")) for entry in entries] == [
        (DATABASE, {"hex8_2p": 1}),
        ("data/training/hex8_2p.npz", None),
    ]
    assert (root / "data/.ringrift-sync/scan-cache.db").exists()
    assert OPS["scan"](context, {})["entries"] == entries


def test_games_can_be_packed_and_listed(context: Context, root: Path) -> None:
    packed = OPS["pack"](context, {"path": DATABASE, "config": "hex8_2p", "cursor": None, "ids": None, "max_games": 10})
    listed = OPS["list"](context, {"path": DATABASE, "config": "hex8_2p", "after": None, "limit": 10})
    artifact = (root / "data/.ringrift-sync/artifacts" / packed["artifact"]).read_bytes()

    assert packed["games"] == 1
    assert hashlib.sha256(artifact).hexdigest() == packed["artifact"]
    assert [game[0] for game in listed["games"]] == ["g1"]


def test_a_hashed_file_is_registered_for_serving(context: Context, root: Path) -> None:
    path = root / "data/training/hex8_2p.npz"
    result = OPS["hash"](context, {"path": "data/training/hex8_2p.npz"})
    sidecar = root / f"data/.ringrift-sync/artifacts/{result['artifact']}.json"

    assert result == {
        "artifact": hashlib.sha256(b"array").hexdigest(),
        "bytes": 5,
        "mtime_ns": path.stat().st_mtime_ns,
        "inode": path.stat().st_ino,
    }
    assert json.loads(sidecar.read_text()) == {"kind": "file", "path": "data/training/hex8_2p.npz", **result}
    assert OPS["hash"](context, {"path": "data/training/hex8_2p.npz"}) == result


def test_a_file_that_is_not_of_the_five_data_types_is_not_served(context: Context, root: Path) -> None:
    (root / ".env").write_text("SECRET=1")
    (root / "data/secrets.txt").write_text("secret")

    assert [refused(context, "hash", {"path": path}) for path in (".env", "data/secrets.txt")] == ["bad_arguments"] * 2


def test_a_database_never_leaves_as_a_file_whatever_it_is_called(context: Context, root: Path) -> None:
    (root / "data/training/hex8_3p.npz").write_bytes((root / DATABASE).read_bytes())

    assert refused(context, "hash", {"path": DATABASE}) == "bad_arguments"
    assert refused(context, "hash", {"path": "data/training/hex8_3p.npz"}) == "bad_arguments"


def test_a_file_that_is_missing_or_no_file_is_told(context: Context, root: Path) -> None:
    (root / "data/training/hex8_4p.npz").mkdir()
    os.mkfifo(root / "data/training/pipe.npz")

    assert refused(context, "hash", {"path": "data/training/no.npz"}) == "missing"
    assert refused(context, "hash", {"path": "data/training/hex8_4p.npz"}) == "unreadable"
    assert refused(context, "hash", {"path": "data/training/pipe.npz"}) == "unreadable"
    assert refused(context, "pack", {"path": "data/games/no.db", "config": "hex8_2p"}) == "missing"


def test_a_file_that_changes_while_it_is_hashed_is_told(context: Context, root: Path) -> None:
    path = root / "data/training/hex8_2p.npz"
    with path.open("wb") as target:
        target.truncate(64 << 20)
    stop = threading.Event()

    def keep_writing() -> None:
        number = 0
        while not stop.wait(0.001):
            number += 1
            os.utime(path, ns=(number, number))

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        assert refused(context, "hash", {"path": "data/training/hex8_2p.npz"}) == "changed"
    finally:
        stop.set()
        writer.join()
    assert not list((root / "data").glob(".ringrift-sync/artifacts/*"))
