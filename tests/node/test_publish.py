"""A version on a node: whole before a link leads to it, in the order of the serials, and nothing of the node lost."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from ringrift_sync_dagster.node import faults
from ringrift_sync_dagster.node.errors import KitError
from ringrift_sync_dagster.node.keeping import NOTED_BYTES, is_verified, locate, note_verified
from ringrift_sync_dagster.node.ops import OPS, Context
from ringrift_sync_dagster.node.roots import Roots
from tests.disks import resize, small_disk

CONFIG = "hex8_2p"
START = 2_000_000_000.0

# One order in a process of its own, which dies as by kill -9 at the point that it is told.
DYING = """
import json, os, sys
from ringrift_sync_dagster.node import faults
from ringrift_sync_dagster.node.ops import OPS, Context
from ringrift_sync_dagster.node.roots import Roots
root, point, arguments = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
faults.hook = lambda name: os.kill(os.getpid(), 9) if name == point else None
OPS["publish"](Context(Roots([root]), root + "/data/.ringrift-sync", 2_000_000_000.0), arguments)
"""


class Host:
    """One node without an agent: its root, and the kit's answers."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.scratch = root / "data/.ringrift-sync"
        self.models = root / "models"
        self.training = root / "data/training"
        for folder in (self.models, self.training, self.scratch):
            folder.mkdir(parents=True)

    def call(self, op: str, at: float = START, **arguments: object) -> dict[str, Any]:
        return OPS[op](Context(Roots([str(self.root)]), str(self.scratch), at), arguments)

    def order(self, data: bytes, serial: int, data_type: str = "models", **more: object) -> dict[str, Any]:
        """The arguments of an order, whose bytes have arrived."""
        sha = hashlib.sha256(data).hexdigest()
        arrived = self.scratch / "incoming/owner" / sha
        arrived.parent.mkdir(parents=True, exist_ok=True)
        arrived.write_bytes(data)
        common = {"node": "owner", "artifact": sha, "bytes": len(data), "config": CONFIG}
        return {**common, "data_type": data_type, "serial": serial, **more}

    def publish(self, data: bytes, serial: int, data_type: str = "models", **more: Any) -> dict[str, Any]:  # noqa: ANN401
        at = more.pop("at", START)
        return self.call("publish", at, **self.order(data, serial, data_type, **more))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "root")


def refused(host: Host, data: bytes, serial: int, data_type: str = "models", **more: object) -> str:
    with pytest.raises(KitError) as error:
        host.publish(data, serial, data_type, **more)
    return error.value.code


def test_a_model_is_installed_and_both_names_lead_to_it(host: Host) -> None:
    sha = hashlib.sha256(b"one").hexdigest()

    answer = host.publish(b"one", 1)

    version = host.models / f"versions/canonical_{CONFIG}.{sha[:12]}.pth"
    assert answer["published"] is True
    assert (answer["serial"], answer["path"]) == (1, version.relative_to(host.root).as_posix())
    assert (host.models / f"canonical_{CONFIG}.pth").readlink() == Path(f"versions/{version.name}")
    assert (host.models / f"ringrift_best_{CONFIG}.pth").readlink() == Path(f"canonical_{CONFIG}.pth")
    assert (host.models / f"ringrift_best_{CONFIG}.pth").read_bytes() == b"one"
    assert version.stat().st_mode & 0o777 == 0o444
    assert Path(f"{version}.sha256").read_text() == f"{sha}  {version.name}\n"
    assert not (host.scratch / "incoming/owner" / sha).exists()


def test_what_was_published_can_be_served_at_once(host: Host) -> None:
    answer = host.publish(b"one", 1)

    found = locate(Roots([str(host.root)]), str(host.scratch), hashlib.sha256(b"one").hexdigest())

    assert found == {"path": str(host.root.resolve() / answer["path"]), "bytes": 3}


def test_the_same_order_again_does_nothing_and_needs_no_bytes(host: Host) -> None:
    order = host.order(b"one", 1)
    first = host.call("publish", **order)

    assert host.call("publish", **order) == first


def test_an_older_order_is_ignored_and_told_the_serial_that_counts(host: Host) -> None:
    host.publish(b"new", 2)

    assert host.publish(b"old", 1) == {"published": False, "serial": 2}
    assert (host.models / f"canonical_{CONFIG}.pth").read_bytes() == b"new"


def test_bytes_that_are_others_are_removed_and_nothing_is_switched(host: Host) -> None:
    host.publish(b"one", 1)
    order = host.order(b"two", 2)
    arrived = host.scratch / "incoming/owner" / order["artifact"]
    arrived.write_bytes(b"TWO")

    with pytest.raises(KitError) as error:
        host.call("publish", **order)

    assert (error.value.code, arrived.exists()) == ("checksum", False)
    assert (host.models / f"canonical_{CONFIG}.pth").read_bytes() == b"one"


def test_a_rotten_version_is_replaced_by_the_verified_bytes(host: Host) -> None:
    version = host.root / host.publish(b"one", 1)["path"]
    version.chmod(0o644)
    version.write_bytes(b"0ne")

    host.publish(b"one", 1)

    assert version.read_bytes() == b"one"


def test_without_the_bytes_the_answer_says_so(host: Host) -> None:
    order = host.order(b"one", 1)
    (host.scratch / "incoming/owner" / order["artifact"]).unlink()
    with pytest.raises(KitError) as error:
        host.call("publish", **order)
    assert error.value.code == "missing"


def test_a_regular_file_under_the_name_is_kept_as_a_version(host: Host) -> None:
    (host.models / f"canonical_{CONFIG}.pth").write_bytes(b"trained here")
    sha = hashlib.sha256(b"trained here").hexdigest()

    answer = host.publish(b"one", 1)

    (kept,) = answer["kept"]
    assert kept["artifact"] == sha
    assert (host.models / "versions" / kept["path"]).read_bytes() == b"trained here"
    assert (host.models / f"canonical_{CONFIG}.pth").read_bytes() == b"one"


def test_an_export_that_the_owner_does_not_have_is_not_replaced(host: Host) -> None:
    export = host.training / f"{CONFIG}.npz"
    export.write_bytes(b"own export")

    assert refused(host, b"one", 1, "npz") == "uncollected"

    assert (export.is_symlink(), export.read_bytes()) == (False, b"own export")


def test_an_export_that_the_owner_has_makes_room_and_stays_as_a_version(host: Host) -> None:
    export = host.training / f"{CONFIG}.npz"
    export.write_bytes(b"own export")

    answer = host.publish(b"one", 1, "npz", known=[hashlib.sha256(b"own export").hexdigest()])

    assert export.readlink() == Path(f"{CONFIG}.{hashlib.sha256(b'one').hexdigest()[:12]}.npz")
    assert export.read_bytes() == b"one"
    assert (host.training / answer["kept"][0]["path"]).read_bytes() == b"own export"


@pytest.mark.parametrize("target", ["../../elsewhere.pth", "/etc/hostname"])
def test_a_link_that_leads_out_of_its_folder_is_left_alone(host: Host, target: str) -> None:
    link = host.models / f"canonical_{CONFIG}.pth"
    link.symlink_to(target)

    assert refused(host, b"one", 1) == "outside"
    assert link.readlink() == Path(target)


def test_a_dangling_link_inside_the_folder_is_mended(host: Host) -> None:
    (host.models / f"canonical_{CONFIG}.pth").symlink_to("versions/gone.pth")
    (state,) = host.call("published", data_type="models", config=CONFIG)["links"]
    assert (state["dangling"], state["artifact"]) == (True, None)

    host.publish(b"one", 1)

    assert (host.models / f"canonical_{CONFIG}.pth").read_bytes() == b"one"


def test_published_tells_what_each_name_leads_to_without_hashing(host: Host) -> None:
    version = host.root / host.publish(b"one", 4)["path"]
    sha = hashlib.sha256(b"one").hexdigest()
    links = host.call("published", config=CONFIG)["links"]
    assert [(link["path"], link["artifact"], link["serial"]) for link in links] == [
        (f"models/canonical_{CONFIG}.pth", sha, 4),
        (f"models/ringrift_best_{CONFIG}.pth", sha, 4),
    ]
    version.chmod(0o644)
    version.write_bytes(b"other")

    assert {link["artifact"] for link in host.call("published", config=CONFIG)["links"]} == {None}


def test_old_versions_stay_up_to_the_number_kept_and_while_anybody_has_one_open(host: Host) -> None:
    paths = [host.root / host.publish(b"%d" % n, n + 1, keep=1, at=START + n)["path"] for n in range(3)]
    assert all(path.exists() for path in paths), "a version that was replaced a moment ago stays"
    command = [sys.executable, "-c", "input()"]
    with paths[0].open("rb") as held, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=held) as user:
        host.publish(b"3", 4, keep=1, at=START + 1000)
        assert [path.exists() for path in paths] == [True, False, True]
        user.kill()

    host.publish(b"3", 4, keep=1, at=START + 2000)

    assert [path.exists() for path in paths] == [False, False, True]
    assert not Path(f"{paths[1]}.sha256").exists()


def test_a_reader_always_finds_a_whole_known_content_during_50_switches(host: Host) -> None:
    contents = [bytes([number]) * 200_000 for number in range(50)]
    host.publish(contents[0], 1)
    seen, stop = set[bytes](), threading.Event()

    def read() -> None:
        while not stop.is_set():
            for name in ("canonical", "ringrift_best"):
                seen.add((host.models / f"{name}_{CONFIG}.pth").read_bytes())

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number, content in enumerate(contents[1:], 2):
        host.publish(content, number)
    stop.set()
    for reader in readers:
        reader.join()

    assert seen <= set(contents)
    assert len(seen) > 1


def points(host: Host) -> list[str]:
    """Every point that an order on top of a regular file and an old version reaches."""
    found: list[str] = []
    prepare(host)
    order = host.order(b"new", 9, keep=0)
    faults.hook = found.append
    try:
        host.call("publish", **order)
    finally:
        faults.hook = None
    return found


def prepare(host: Host) -> None:
    """A node with one old version that may be removed, and a model of its own under the other name."""
    host.publish(b"older", 1, at=START - 5000)
    host.publish(b"old", 2, at=START - 4000)
    best = host.models / f"ringrift_best_{CONFIG}.pth"
    best.unlink()
    best.write_bytes(b"own")


@pytest.mark.parametrize("number", range(7))
def test_killed_at_any_step_the_names_lead_to_whole_files_and_the_same_order_finishes(
    tmp_path: Path, number: int
) -> None:
    reached = points(Host(tmp_path / "dry"))
    assert len(reached) == 7, reached
    host = Host(tmp_path / "root")
    prepare(host)
    order = host.order(b"new", 9, keep=0)

    died = subprocess.run(
        [sys.executable, "-c", DYING, str(host.root), reached[number], json.dumps(order)], check=False
    )

    assert died.returncode == -9
    assert (host.models / f"canonical_{CONFIG}.pth").read_bytes() in (b"old", b"new")
    assert (host.models / f"ringrift_best_{CONFIG}.pth").read_bytes() in (b"own", b"old", b"new")
    host.call("publish", **order)
    for name in ("canonical", "ringrift_best"):
        assert (host.models / f"{name}_{CONFIG}.pth").read_bytes() == b"new"
    left = {path.read_bytes() for path in (host.models / "versions").glob("*.pth")}
    assert {b"new", b"own"} <= left
    assert not [path for path in host.models.rglob(".*") if not path.is_dir()]


def test_a_large_artifact_that_changed_after_it_was_verified_is_read_again(host: Host) -> None:
    order = host.order(b"x" * NOTED_BYTES, 1)
    arrived = host.scratch / "incoming/owner" / order["artifact"]
    note_verified(str(arrived))
    assert is_verified(str(arrived))
    arrived.write_bytes(b"y" * NOTED_BYTES)

    with pytest.raises(KitError) as error:
        host.call("publish", **order)

    assert error.value.code == "checksum"


def test_the_note_of_a_verified_artifact_goes_with_it(host: Host) -> None:
    order = host.order(b"x" * NOTED_BYTES, 1)
    note_verified(str(host.scratch / "incoming/owner" / order["artifact"]))

    host.call("publish", **order)

    assert not list((host.scratch / "incoming/owner").iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a file system")
def test_a_disk_that_is_full_at_publish_changes_nothing_and_the_same_order_ends_right_when_there_is_room(
    host: Host,
) -> None:
    old, new = b"o" * (64 << 10), b"n" * (512 << 10)
    with small_disk(host.models, "256k"):  # what arrived lies on another disk, and is copied
        host.publish(old, 1)
        with pytest.raises((KitError, OSError)) as full:
            host.publish(new, 2)
        names = sorted(path.name for path in host.models.rglob("*.pth"))
        before = [(host.models / f"{name}_{CONFIG}.pth").read_bytes() == old for name in ("canonical", "ringrift_best")]
        resize(host.models, "4m")
        host.publish(new, 2)
        after = [(host.models / f"{name}_{CONFIG}.pth").read_bytes() == new for name in ("canonical", "ringrift_best")]

    assert "No space" in str(full.value)
    assert len(names) == 3  # two links and the old version
    assert (before, after) == ([True, True], [True, True])
