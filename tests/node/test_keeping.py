"""What the kit does for whoever comes over SSH: where an artifact lies, and how a pushed one arrives."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringrift_sync_dagster.node.errors import CODES, KitError
from ringrift_sync_dagster.node.ops import OPS, REMOTE, Context
from ringrift_sync_dagster.node.roots import Roots
from tests import disks

DATA = b"positions" * 1000
SHA = hashlib.sha256(DATA).hexdigest()
MODEL = "models/a.pth"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "node/models").mkdir(parents=True)
    (tmp_path / "node" / MODEL).write_bytes(DATA)
    return tmp_path / "node"


@pytest.fixture
def context(root: Path) -> Context:
    return Context(Roots([str(root)]), str(root / "data/.ringrift-sync"), 1_700_000_000.0)


def call(context: Context, op: str, **given: Any) -> dict[str, Any]:  # noqa: ANN401 - arguments of any operation
    result = OPS[op](context, {"artifact": SHA, **given})
    json.dumps(result)
    return result


def refused(context: Context, op: str, **given: Any) -> str:  # noqa: ANN401 - as above
    with pytest.raises(KitError) as error:
        call(context, op, **given)
    assert error.value.code in CODES
    return error.value.code


def pushed(**more: Any) -> dict[str, Any]:  # noqa: ANN401 - as above
    return {"node": "vast-1", "bytes": len(DATA), **more}


def arrive(context: Context, data: bytes) -> Path:
    part = Path(call(context, "received", **pushed())["path"])
    part.write_bytes(data)
    return part


def test_none_of_these_is_run_for_others() -> None:
    assert not {"locate", "forget", "received", "accept", "manifest"} & set(REMOTE)


def test_a_pack_is_located_and_forgotten(context: Context, root: Path) -> None:
    folder = root / "data/.ringrift-sync/artifacts"
    folder.mkdir(parents=True)
    (folder / SHA).write_bytes(DATA)
    (folder / f"{SHA}.json").write_text("{}")

    assert call(context, "locate") == {"path": str(folder / SHA), "bytes": len(DATA)}
    assert call(context, "forget") == call(context, "forget") == {}
    assert list(folder.iterdir()) == []
    assert refused(context, "locate") == "missing"


def test_a_registered_file_is_located_while_it_is_what_was_hashed(context: Context, root: Path) -> None:
    OPS["hash"](context, {"path": MODEL})
    assert call(context, "locate") == {"path": str(root / MODEL), "bytes": len(DATA)}

    os.utime(root / MODEL, ns=(1, 1))
    assert refused(context, "locate") == "changed"
    OPS["hash"](context, {"path": MODEL})
    (root / MODEL).replace(root / "models/b.pth")
    assert refused(context, "locate") == "missing"
    call(context, "forget")
    assert (root / "models/b.pth").read_bytes() == DATA


def test_a_database_is_never_located_whatever_a_note_says(context: Context, root: Path) -> None:
    folder = root / "data/.ringrift-sync/artifacts"
    folder.mkdir(parents=True)
    (root / "models/x.db").write_bytes(DATA)
    found = (root / "models/x.db").stat()
    note = {"kind": "file", "path": "models/x.db", "bytes": found.st_size, "mtime_ns": found.st_mtime_ns}
    (folder / f"{SHA}.json").write_text(json.dumps({**note, "inode": found.st_ino}))
    assert refused(context, "locate") == "missing"


@pytest.mark.parametrize("note", ["[]", "{", '{"kind": "file", "path": 1}', '{"kind": "pack"}'])
def test_a_note_that_makes_no_sense_is_no_artifact(context: Context, root: Path, note: str) -> None:
    folder = root / "data/.ringrift-sync/artifacts"
    folder.mkdir(parents=True)
    (folder / f"{SHA}.json").write_text(note)
    assert refused(context, "locate") == "missing"


def test_a_name_that_leads_elsewhere_is_not_located(context: Context, root: Path) -> None:
    folder = root / "data/.ringrift-sync/artifacts"
    folder.mkdir(parents=True)
    (folder / f"{SHA}.json").write_text(json.dumps({"kind": "file", "path": "../x.pth"}))
    assert refused(context, "locate") == "outside"
    (folder / SHA).symlink_to(root / MODEL)
    assert refused(context, "locate") == "missing"


def test_what_arrives_is_verified_durable_and_acknowledged_once_and_for_all(context: Context, root: Path) -> None:
    assert call(context, "received", **pushed())["bytes"] == 0
    part = arrive(context, DATA[:5])
    assert call(context, "received", **pushed()) == {"complete": False, "bytes": 5, "path": str(part)}
    assert refused(context, "accept", **pushed()) == "short"
    part.write_bytes(DATA)
    part.chmod(0o600)

    receipt = call(context, "accept", **pushed())["receipt"]

    final = root / "data/.ringrift-sync/incoming/vast-1" / SHA
    assert receipt == {"sha256": SHA, "size_bytes": len(DATA), "verified_at": 1_700_000_000.0}
    assert (final.read_bytes(), final.stat().st_mode & 0o777, part.exists()) == (DATA, 0o644, False)
    assert call(context, "received", **pushed()) == {"complete": True, "receipt": receipt}
    assert call(context, "accept", **pushed())["receipt"] == receipt


def test_other_bytes_are_removed_and_never_acknowledged(context: Context, root: Path) -> None:
    part = arrive(context, DATA[:-1] + b"x")
    assert refused(context, "accept", **pushed()) == "checksum"
    assert not part.exists()
    assert refused(context, "accept", **pushed()) == "missing"
    part = arrive(context, DATA + b"x")
    assert refused(context, "accept", **pushed()) == "checksum"
    assert not part.exists()


def test_a_part_that_is_longer_than_the_artifact_begins_anew(context: Context) -> None:
    part = arrive(context, DATA + b"x")
    assert call(context, "received", **pushed())["bytes"] == 0
    assert part.stat().st_size == 0


def test_a_damaged_file_under_the_final_name_is_told_and_left_alone(context: Context, root: Path) -> None:
    folder = root / "data/.ringrift-sync/incoming/vast-1"
    folder.mkdir(parents=True)
    (folder / SHA).write_bytes(b"x" * len(DATA))
    assert refused(context, "received", **pushed()) == "corrupt"
    assert (folder / SHA).exists()


def test_nothing_arrives_through_a_symbolic_link(context: Context, root: Path, tmp_path: Path) -> None:
    incoming = root / "data/.ringrift-sync/incoming"
    (tmp_path / "elsewhere").mkdir()
    (incoming / "vast-2").mkdir(parents=True)
    (incoming / "vast-1").symlink_to(tmp_path / "elsewhere")
    (incoming / "vast-2" / f"{SHA}.part").symlink_to(tmp_path / "victim")
    assert refused(context, "received", **pushed()) == "outside"
    assert refused(context, "received", **pushed(node="vast-2")) == "unreadable"
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize(
    "wrong", [{"node": ".."}, {"node": "a/b"}, {"node": ""}, {"artifact": "x"}, {"bytes": -1}, {"bytes": "1"}]
)
def test_names_and_sizes_that_make_no_sense_are_refused(context: Context, wrong: dict[str, Any]) -> None:
    assert refused(context, "received", **pushed(**wrong)) == "bad_arguments"
    assert refused(context, "accept", **pushed(**wrong)) == "bad_arguments"


@pytest.fixture
def small_disk(root: Path) -> Iterator[Path]:
    """A file system of 64 KiB in memory where things arrive; mounting one takes root."""
    with disks.small_disk(root / "data/.ringrift-sync/incoming", "64k") as mounted:
        yield mounted


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a file system")
def test_what_would_not_fit_is_refused_before_a_byte_moves(context: Context, small_disk: Path) -> None:
    assert refused(context, "received", **pushed(bytes=1 << 20)) == "no_space"


def manifest(context: Context, since: str | None = None) -> dict[str, Any]:
    return OPS["manifest"](context, {"since": since})


def test_a_manifest_tells_everything_and_then_what_changed(context: Context, root: Path) -> None:
    first = manifest(context)
    assert (first["full"], [entry["path"] for entry in first["entries"]]) == (True, [MODEL])

    assert manifest(context, first["token"]) == {**first, "full": False, "entries": []}
    (root / "models/b.pth").write_bytes(b"b")
    (root / MODEL).unlink()
    second = manifest(context, first["token"])

    changed = [entry["path"] for entry in second["entries"]]
    assert (second["full"], changed, second["removed"]) == (False, ["models/b.pth"], [MODEL])
    assert manifest(context, "no such token")["full"]
    assert manifest(context, "0" * 64)["full"]


def test_a_manifest_is_the_same_whoever_asks_and_only_a_few_states_are_kept(context: Context, root: Path) -> None:
    tokens = []
    for number in range(8):
        (root / MODEL).write_bytes(b"x" * number)
        tokens.append(manifest(context)["token"])
    folder = root / "data/.ringrift-sync/manifests"

    assert len(list(folder.iterdir())) <= 4
    assert [manifest(context, token)["full"] for token in (tokens[0], tokens[-1])] == [True, False]
    (folder / f"{tokens[-2]}.json").write_text("[")
    assert manifest(context, tokens[-2])["full"]
