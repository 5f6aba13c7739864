from __future__ import annotations

import ast
import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from ringrift_sync_dagster.node import KIT_VERSION, zipped
from ringrift_sync_dagster.node.__main__ import main
from tests.node.kit_samples import make_database

DATABASE = "data/games/hex8_2p.db"


def _interpreters() -> list[str]:
    """Give this Python and every 3.8 that pyenv holds: the oldest that a node may have."""
    found = Path.home().glob(".pyenv/versions/3.8.*/bin/python")
    return [sys.executable, *map(str, sorted(found))]


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kit") / "kit.pyz"
    zipped.build_zip(str(path))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_database(tmp_path / "a node" / DATABASE, [("g1", "hex8", 2, "completed"), ("g2", "hex8", 2, "active")])
    return tmp_path / "a node"


def call(python: str, kit: Path, *argv: str, given: object = None) -> tuple[int, dict[str, Any]]:
    text = given if isinstance(given, bytes) else json.dumps({} if given is None else given).encode()
    done = subprocess.run([python, "-S", "-I", str(kit), *argv], input=text, capture_output=True, check=False, cwd="/")
    assert done.stderr == b""
    return done.returncode, json.loads(done.stdout)


def test_the_same_sources_give_the_same_bytes(tmp_path: Path, kit: Path) -> None:
    digests = {zipped.build_zip(str(tmp_path / name)) for name in ("one", "two", "one")}

    assert digests == {hashlib.sha256(kit.read_bytes()).hexdigest()}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
    assert (tmp_path / "one").stat().st_mode & 0o777 == 0o644


def test_nothing_but_the_kit_is_in_it(kit: Path) -> None:
    with zipfile.ZipFile(kit) as archive:
        names = archive.namelist()
        outer = archive.read("ringrift_sync_dagster/__init__.py")

    assert names == sorted(names)
    assert outer == b""
    assert all(name.startswith("ringrift_sync_dagster/node/") for name in names[1:] if name.count("/") > 1)


def test_a_folder_that_is_missing_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()

    with pytest.raises(OSError, match="No such file"):
        zipped.build_zip(str(tmp_path / "no/kit.pyz"))
    with pytest.raises(OSError, match="directory"):
        zipped.build_zip(str(tmp_path / "taken"))
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_the_kit_imports_the_standard_library_and_itself_only() -> None:
    for source in Path(zipped.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1, source
                names = [node.module or ""] if node.level == 0 else []
            assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names, source


@pytest.mark.parametrize("python", _interpreters())
def test_every_operation_runs_zipped_without_site_packages(python: str, kit: Path, root: Path, tmp_path: Path) -> None:
    (root / "data/training").mkdir()
    (root / "data/training/hex8_2p.npz").write_bytes(b"array")
    extra = make_database(tmp_path / "disk/hex8_3p.db", [("g3", "hex8", 3, "finished")]).parent
    where = ("--root", str(root), "--root", str(extra), "--scratch", str(tmp_path / "scratch"))

    status, scanned = call(python, kit, "scan", *where)
    assert (status, scanned["ok"]) == (0, True)
    found = {entry["path"]: entry.get("games") for entry in scanned["result"]["entries"]}
    assert found == {"@1/hex8_3p.db": {"hex8_3p": 1}, DATABASE: {"hex8_2p": 1}, "data/training/hex8_2p.npz": None}

    status, packed = call(python, kit, "pack", *where, given={"path": DATABASE, "config": "hex8_2p"})
    assert (status, packed["result"]["games"]) == (0, 1)
    assert (tmp_path / "scratch/artifacts" / packed["result"]["artifact"]).exists()
    status, listed = call(python, kit, "list", *where, given={"path": "@1/hex8_3p.db", "config": "hex8_3p"})
    assert [game[0] for game in listed["result"]["games"]] == ["g3"]
    status, hashed = call(python, kit, "hash", *where, given={"path": "data/training/hex8_2p.npz"})
    assert hashed["result"]["artifact"] == hashlib.sha256(b"array").hexdigest()


@pytest.mark.parametrize("python", _interpreters())
def test_what_comes_over_ssh_is_served_zipped_too(python: str, kit: Path, root: Path) -> None:
    data, where = b"weights", ("--root", str(root))
    sha = hashlib.sha256(data).hexdigest()
    pushed = {"node": "vast-1", "artifact": sha, "bytes": len(data)}

    part = Path(call(python, kit, "received", *where, given=pushed)[1]["result"]["path"])
    part.write_bytes(data)
    status, accepted = call(python, kit, "accept", *where, given=pushed)
    assert (status, accepted["result"]["receipt"]["sha256"]) == (0, sha)
    (root / "models").mkdir()
    (root / "models/a.pth").write_bytes(data)
    call(python, kit, "hash", *where, given={"path": "models/a.pth"})
    located = call(python, kit, "locate", *where, given={"artifact": sha})[1]["result"]
    assert located == {"path": str(root / "models/a.pth"), "bytes": len(data)}
    token = call(python, kit, "manifest", *where)[1]["result"]["token"]
    assert call(python, kit, "manifest", *where, given={"since": token})[1]["result"]["entries"] == []
    assert call(python, kit, "forget", *where, given={"artifact": sha})[0] == 0


@pytest.mark.parametrize("python", _interpreters())
@pytest.mark.parametrize(
    "argv, given, code",
    [
        (["dance", "--root", "."], {}, "bad_arguments"),
        (["scan"], {}, "bad_arguments"),
        (["scan", "--root", "/no/such/root"], {}, "missing"),
        (["hash", "--root", "/"], {"path": "../x"}, "outside"),
        (["hash", "--root", "/"], b"{", "bad_arguments"),
        (["hash", "--root", "/"], b"\xff", "bad_arguments"),
        (["hash", "--root", "/"], b"[" * 100_000, "bad_arguments"),
        (["hash", "--root", "/"], [], "bad_arguments"),
        (["hash", "--root", "/"], b"", "bad_arguments"),
    ],
)
def test_a_refusal_is_one_answer_with_a_code(python: str, kit: Path, argv: list[str], given: object, code: str) -> None:
    status, answer = call(python, kit, *argv, given=given)

    assert (status, answer["ok"], answer["error"]["code"]) == (1, False, code)


def test_the_scratch_folder_lies_in_the_first_root_unless_named(kit: Path, root: Path) -> None:
    call(sys.executable, kit, "scan", "--root", str(root))

    assert (root / "data/.ringrift-sync/scan-cache.db").exists()


def test_the_version_is_told_in_every_pack() -> None:
    assert KIT_VERSION.count(".") == 2
    assert main(["dance"]) == 1
