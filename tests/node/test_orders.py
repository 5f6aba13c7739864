"""Files that an operator names: what leaves stands still, what arrives has its name when it is whole, not before."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from ringrift_sync_dagster.node import landing
from ringrift_sync_dagster.node.errors import KitError
from ringrift_sync_dagster.node.ops import OPS, REMOTE, Context
from ringrift_sync_dagster.node.roots import Roots
from ringrift_sync_dagster.node.zipped import build_zip

TOKEN = "0" * 32
NOW = 2_000_000_000.0
KEY = "0123456789ab"
DAY = 24 * 3600.0
# A name, the mode of what had it before, and that of what arrives.
NEW_AND_OLD = (("secret", None, 0o600), ("run", None, 0o6777), ("read", None, 0o444), ("old", 0o640, 0o600))


@pytest.fixture
def context(tmp_path: Path) -> Context:
    (tmp_path / "root").mkdir()
    return Context(Roots([str(tmp_path / "root")]), str(tmp_path / "root/scratch"), NOW)


def order(context: Context, op: str, **arguments: object) -> dict[str, Any]:
    return OPS[op](context, arguments)


def refused(context: Context, op: str, **arguments: object) -> str:
    with pytest.raises(KitError) as caught:
        order(context, op, **arguments)
    return caught.value.code


def database(path: Path, rows: int = 50) -> Path:
    with contextlib.closing(sqlite3.connect(path)) as conn:
        conn.execute("PRAGMA journal_mode=WAL")
        conn.execute("CREATE TABLE t (n, body)")
        conn.executemany("INSERT INTO t VALUES (?, randomblob(900))", ((n,) for n in range(rows)))
        conn.commit()
    return path


def count(path: str) -> int:
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as conn:
        assert conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return int(conn.execute("SELECT COUNT(*) FROM t").fetchone()[0])


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def in_a_process(root: Path, op: str, python: str = sys.executable, **arguments: object) -> dict[str, Any]:
    """As in life: a process that has no connection to anything."""
    build_zip(str(root / "kit.pyz"))
    done = subprocess.run(
        [python, "-S", "-I", str(root / "kit.pyz"), op, "--root", str(root)],
        input=json.dumps(arguments).encode(), capture_output=True, check=False,
    )  # fmt: skip
    assert done.stderr == b""
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_none_of_them_is_run_for_others() -> None:
    assert not {"snapshot", "discard", "place", "install", "inspect", "stage", "staged", "land"} & set(REMOTE)


def test_a_file_is_told_as_it_lies_and_a_link_as_what_it_leads_to(context: Context, tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"bytes")
    (tmp_path / "latest.npz").symlink_to("a.npz")

    told = order(context, "snapshot", path=str(tmp_path / "latest.npz"), token=TOKEN)

    mode = (tmp_path / "a.npz").stat().st_mode
    assert told == {
        "path": str(tmp_path / "a.npz"), "sha256": sha(b"bytes"), "bytes": 5, "mode": mode, "snapshot": False,
    }  # fmt: skip


def _interpreters() -> list[str]:
    found = Path.home().glob(".pyenv/versions/3.8.*/bin/python")
    return [sys.executable, *map(str, sorted(found))]


@pytest.mark.parametrize("python", _interpreters())
def test_two_snapshots_of_an_unchanged_database_are_the_same_file_with_what_the_log_holds(
    tmp_path: Path, python: str
) -> None:
    source = database(tmp_path / "g.db")
    with contextlib.closing(sqlite3.connect(source)) as writer:
        writer.execute("INSERT INTO t VALUES (1, 2)")
        writer.commit()  # in the log only
        tokens = ("a" * 32, "b" * 32)
        told = [in_a_process(tmp_path, "snapshot", python, path=str(source), token=token) for token in tokens]
        names = sorted(path.name for path in tmp_path.iterdir())

    assert [one["ok"] for one in told] == [True, True], told
    first, second = (one["result"] for one in told)
    assert (first["sha256"], first["snapshot"]) == (second["sha256"], True)
    assert count(first["path"]) == count(second["path"]) == 51
    assert Path(first["path"]).stat().st_mode & 0o777 == 0o600
    assert names == ["data", "g.db", "g.db-shm", "g.db-wal", "kit.pyz"]
    assert in_a_process(tmp_path, "discard", python, token=tokens[0])["ok"]
    assert not Path(first["path"]).exists()


def test_snapshots_that_nobody_discarded_are_gone_after_a_day(context: Context, tmp_path: Path) -> None:
    source = str(database(tmp_path / "g.db"))
    kept = Path(order(context, "snapshot", path=source, token="a" * 32)["path"])
    os.utime(kept, (NOW, NOW))
    old = Path(order(context, "snapshot", path=source, token="b" * 32)["path"])
    os.utime(old, (NOW - DAY - 1, NOW - DAY - 1))

    order(context, "snapshot", path=source, token="c" * 32)

    assert (kept.exists(), old.exists()) == (True, False)


def test_what_is_damaged_missing_or_no_file_gives_no_snapshot(context: Context, tmp_path: Path) -> None:
    damaged = database(tmp_path / "damaged.db")
    with damaged.open("r+b") as stream:
        stream.seek(4096)
        stream.write(b"\xff" * 9000)

    assert refused(context, "snapshot", path=str(damaged), token=TOKEN) == "corrupt"
    assert refused(context, "snapshot", path=str(tmp_path), token=TOKEN) == "unreadable"
    assert refused(context, "snapshot", path=str(tmp_path / "nope.db"), token=TOKEN) == "missing"
    assert refused(context, "snapshot", path="x", token="../../x") == "bad_arguments"
    assert list((tmp_path / "root/scratch/tmp").iterdir()) == []


def test_a_part_is_keyed_by_content_and_those_of_other_content_go_after_a_day(context: Context, tmp_path: Path) -> None:
    (tmp_path / ".a.npz.000000000000.part").write_bytes(b"young")
    (tmp_path / ".a.npz.111111111111.part").write_bytes(b"old")
    (tmp_path / ".a.npz.222222222222.part.keep").write_bytes(b"not a part")
    os.utime(tmp_path / ".a.npz.000000000000.part", (NOW, NOW))
    (tmp_path / f".a.npz.{sha(b'bytes')[:12]}.part").write_bytes(b"byt")

    told = order(context, "place", path=str(tmp_path), name="a.npz", artifact=sha(b"bytes"), bytes=5)

    assert (told["final"], told["bytes"], told["complete"]) == (str(tmp_path / "a.npz"), 3, False)
    assert told["part"] == str(tmp_path / f".a.npz.{sha(b'bytes')[:12]}.part")
    assert {path.name for path in tmp_path.glob(".a.npz*")} == {
        ".a.npz.000000000000.part", ".a.npz.222222222222.part.keep", Path(told["part"]).name,
    }  # fmt: skip


@pytest.mark.parametrize("arrived,code", [(b"byte", "short"), (b"other", "checksum"), (b"longer", "checksum")])
def test_a_part_that_is_not_the_file_gets_no_name(context: Context, tmp_path: Path, arrived: bytes, code: str) -> None:
    part, final = tmp_path / ".a.part", tmp_path / "a"
    part.write_bytes(arrived)
    final.write_bytes(b"old")

    found = refused(context, "install", part=str(part), path=str(final), artifact=sha(b"bytes"), bytes=5)

    assert found == code
    assert final.read_bytes() == b"old"
    assert part.exists() == (code == "short")


def test_what_is_installed_has_the_mode_of_what_it_replaces_else_a_harmless_one_of_its_own(
    context: Context, tmp_path: Path
) -> None:
    for name, before, own in (
        ("secret", None, 0o600),
        ("run", None, 0o6777),
        ("read", None, 0o444),
        ("old", 0o640, 0o6),
    ):
        if before is not None:
            (tmp_path / name).write_bytes(b"old")
            (tmp_path / name).chmod(before)
        (tmp_path / ".part").write_bytes(b"bytes")
        (tmp_path / ".part").chmod(own)
        order(context, "install", part=str(tmp_path / ".part"), path=str(tmp_path / name), bytes=5)

    modes = [(tmp_path / name).stat().st_mode & 0o7777 for name in ("secret", "run", "read", "old")]
    assert modes == [0o600, 0o644, 0o644, 0o640]


def test_what_collects_is_for_its_owner_only(context: Context, tmp_path: Path) -> None:
    part = order(context, "place", path=f"{tmp_path}/", name="a", artifact=sha(b"bytes"), bytes=5)["part"]
    staging = order(context, "stage", path=str(tmp_path), key=KEY, states={})["staging"]

    assert Path(part).stat().st_mode & 0o777 == 0o600
    assert Path(staging).stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["x.db-wal", "x.SQLITE-shm", "x.sqlite3-journal", "plain-wal"])
def test_a_part_of_a_database_neither_leaves_nor_arrives(context: Context, tmp_path: Path, name: str) -> None:
    database(tmp_path / "plain")  # a database by its bytes only
    part, state = tmp_path / ".part", [5, 0, 0o644, ""]
    for path in (tmp_path / name, part):
        path.write_bytes(b"bytes")
    (tmp_path / "link").symlink_to(name)
    (staging := tmp_path / f".ringrift-batch-{KEY}").mkdir()
    (staging / name).write_bytes(b"bytes")

    told = order(context, "inspect", path=str(tmp_path), files=[name, "link"])
    landed = order(context, "land", path=str(tmp_path), key=KEY, states={name: state})

    assert [why[0] for why in told["failed"].values()] == ["bad_arguments"] * 2
    assert landed["failed"][name][0] == "bad_arguments"
    assert refused(context, "snapshot", path=str(tmp_path / "link"), token=TOKEN) == "bad_arguments"
    assert refused(context, "place", path=f"{tmp_path}/", name=name, artifact=sha(b""), bytes=0) == "bad_arguments"
    assert refused(context, "install", part=str(part), path=str(tmp_path / name), bytes=5) == "bad_arguments"
    assert (tmp_path / name).read_bytes() == b"bytes"


def test_a_name_that_only_looks_like_a_part_of_a_database_travels(context: Context, tmp_path: Path) -> None:
    (tmp_path / "notes-journal").write_bytes(b"bytes")

    assert order(context, "snapshot", path=str(tmp_path / "notes-journal"), token=TOKEN)["bytes"] == 5


def test_an_empty_part_is_withdrawn_and_nothing_else(context: Context, tmp_path: Path) -> None:
    for name, data in (("empty.part", b""), ("begun.part", b"x"), ("empty", b"")):
        (tmp_path / name).write_bytes(data)
        order(context, "withdraw", part=str(tmp_path / name))
    order(context, "withdraw", part=str(tmp_path / "none.part"))

    assert sorted(path.name for path in tmp_path.iterdir()) == ["begun.part", "empty", "root"]


def test_an_empty_file_and_a_name_of_full_length_arrive(context: Context, tmp_path: Path) -> None:
    name = "ü" * 127

    told = order(context, "place", path=f"{tmp_path}/new/", name=name, artifact=sha(b""), bytes=0)
    order(context, "install", part=told["part"], path=told["final"], artifact=sha(b""), bytes=0)

    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]


def test_who_uses_a_database_is_seen_by_its_log_its_descriptor_and_its_lock(tmp_path: Path) -> None:
    used = database(tmp_path / "g.db")
    ask = f"from ringrift_sync_dagster.node import landing; print(landing.in_use({str(used)!r}))"

    def told() -> str:
        return subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()

    quiet = told()
    with contextlib.closing(sqlite3.connect(used)) as reader:
        reader.execute("SELECT COUNT(*) FROM t").fetchone()
        opened = told()
        reader.execute("INSERT INTO t VALUES (1, 2)")
        reader.commit()
        written = told()

    assert quiet == ""
    assert opened == f"process {os.getpid()} ({Path('/proc/self/comm').read_text().strip()}) has it open"
    assert written.startswith("g.db-wal beside it holds ")


def test_another_log_is_never_replayed_into_a_database_that_arrives(context: Context, tmp_path: Path) -> None:
    new = database(tmp_path / ".part", rows=3).read_bytes()
    (tmp_path / "g-wal").write_bytes(b"of a database that was moved away")
    arguments = {"part": str(tmp_path / ".part"), "path": str(tmp_path / "g"), "artifact": sha(new), "bytes": len(new)}

    assert refused(context, "install", **arguments) == "locked"
    (tmp_path / "g-wal").write_bytes(b"")
    (tmp_path / "g-shm").write_bytes(bytes(32768))
    order(context, "install", **arguments)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["g", "root"]
    assert count(str(tmp_path / "g")) == 3


def test_a_batch_lands_file_by_file_and_takes_its_folder_away(context: Context, tmp_path: Path) -> None:
    source, dest = tmp_path / "source", tmp_path / "dest"
    for folder in (source, dest, dest / "elsewhere"):
        folder.mkdir()
    for name in ("a", "b", "c", "d"):
        (source / name).write_bytes(name.encode() * 10)
    (dest / "d").symlink_to("elsewhere/x")
    for name, moment in (("b", 0), ("old", 1)):
        for folder in (source, dest):
            (folder / name).write_bytes(name[:1].encode() * 10)
        os.utime(source / name, ns=(7 * 10**9, 7 * 10**9))
        os.utime(dest / name, ns=(7 * 10**9, 7 * 10**9 + moment))
    looked = order(context, "inspect", path=str(source), files=["a", "b", "c", "d", "e", "old"], hashes=["a"])
    states = {name: state[:2] for name, state in looked["files"].items()}

    placed = order(context, "stage", path=str(dest), key=KEY, states=states)
    staging = Path(placed["staging"])
    for name, data in (("a", b"a" * 10), ("c", b"cut"), ("d", b"d" * 10), (".rsync.tmp", b"x")):
        (staging / name).write_bytes(data)
    came = order(context, "staged", path=placed["dest"], key=KEY, files=list(states))["files"]
    arrived = {name: [state[0], state[1], state[3], state[4]] for name, state in looked["files"].items()}
    landed = order(context, "land", path=placed["dest"], key=KEY, states=arrived)
    other = order(context, "land", path=placed["dest"], key=KEY, states={"b": [*arrived["b"][:3], sha(b"other")]})

    assert looked["files"]["a"][4] == sha(b"a" * 10)
    assert looked["failed"] == {"e": ["missing", "there is no such file"]}
    assert (placed["there"], placed["came"]) == (["b"], [])
    assert other["failed"]["b"][0] == "checksum"
    assert came == ["a", "c", "d"]
    assert (landed["landed"], landed["unchanged"]) == (["a"], ["b"])
    assert {name: why[0] for name, why in landed["failed"].items()} == {
        "c": "checksum", "d": "unreadable", "old": "missing",
    }  # fmt: skip
    assert (dest / "d").is_symlink()
    assert not staging.exists()


def test_what_an_earlier_batch_left_of_other_files_is_removed(context: Context, tmp_path: Path) -> None:
    staging = tmp_path / f".ringrift-batch-{KEY}"
    (staging / "sub").mkdir(parents=True)
    for name in ("sub/kept", "sub/.kept.AbCdEf", "gone"):
        (staging / name).write_bytes(b"x")

    order(context, "stage", path=str(tmp_path), key=KEY, states={"sub/kept": [1, 2]})

    assert [path.name for path in staging.rglob("*") if path.is_file()] == ["kept"]
    assert refused(context, "stage", path=str(tmp_path), key="../x", states={}) == "bad_arguments"


def test_the_folder_of_a_batch_to_which_nobody_came_back_for_a_day_is_removed(context: Context, tmp_path: Path) -> None:
    moments = {"gone": (NOW - DAY - 1, NOW - DAY - 1), "kept": (NOW - DAY - 1, NOW - 9), "alive": (NOW - 9, 5.0)}
    for key, (folder, file) in moments.items():
        (tmp_path / f".ringrift-batch-{key}").mkdir()
        (tmp_path / f".ringrift-batch-{key}" / "x").write_bytes(b"x")
        os.utime(tmp_path / f".ringrift-batch-{key}" / "x", (file, file))
        os.utime(tmp_path / f".ringrift-batch-{key}", (folder, folder))

    order(context, "stage", path=str(tmp_path), key=KEY, states={})

    left = {path.name.rpartition("-")[2] for path in tmp_path.glob(".ringrift-batch-*")}
    assert left == {"kept", "alive", KEY}


def test_a_process_that_starts_while_others_are_looked_at_is_no_trouble(tmp_path: Path) -> None:
    used = database(tmp_path / "g.db")
    ended = threading.Event()

    def churn() -> None:
        while not ended.is_set():
            subprocess.run(["true"], check=True)

    churning = threading.Thread(target=churn)
    churning.start()
    try:
        found = [landing.in_use(str(used)) for _ in range(10)]
    finally:
        ended.set()
        churning.join()

    assert found == [""] * 10
