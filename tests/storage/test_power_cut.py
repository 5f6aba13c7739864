"""A power cut, made with ext4's own shutdown on a loop image: what was acknowledged is there, and whole.

Needs root and loop devices. Source: field_notes.md, 5 (EXT4_IOC_SHUTDOWN).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringrift_sync_dagster.state.receipts import has_receipt
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.storage.files import atomic_write_bytes, install, make_dirs
from ringrift_sync_dagster.storage.quarantine import Quarantine

pytestmark = pytest.mark.cluster

EXT4_IOC_SHUTDOWN = 0x8004587D
WITHOUT_FLUSHING_THE_JOURNAL = 2
OPTIONS = "loop,noauto_da_alloc"
"""Without ext4's own guess that a file which was cut short or renamed is meant to be synced: others make none."""

ROOT = Path(__file__).resolve().parents[2]

ACKNOWLEDGE = """
import sys
from ringrift_sync_dagster.state.receipts import Receipt, add_receipt
from ringrift_sync_dagster.state.store import StateStore
store = StateStore.open(sys.argv[1])
print(add_receipt(store, Receipt("ab" * 32, "vast-1", "x", 4, 1.0)).sha256, flush=True)
sys.stdin.read()
"""

Disk = tuple[Path, Callable[[], None]]


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A file system of its own, and a function that cuts its power and mounts it again."""
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("needs root and mkfs.ext4")
    image, mounted = tmp_path / "image", tmp_path / "disk"
    image.write_bytes(b"")
    os.truncate(image, 600 << 20)  # sparse; an agent keeps 256 MiB free
    mounted.mkdir()
    _run("mkfs.ext4", "-q", str(image))
    try:
        _run("mount", "-o", OPTIONS, str(image), str(mounted))
    except subprocess.CalledProcessError as error:
        pytest.skip(f"cannot mount a loop image here: {error.stderr!r}")

    def cut() -> None:
        descriptor = os.open(mounted, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, struct.pack("I", WITHOUT_FLUSHING_THE_JOURNAL))
        finally:
            os.close(descriptor)
        _run("umount", str(mounted))
        _run("mount", "-o", OPTIONS, str(image), str(mounted))

    try:
        yield mounted, cut
    finally:
        _run("umount", str(mounted))


def test_the_cut_loses_what_was_not_synced(disk: Disk) -> None:
    root, cut = disk
    (root / "unsynced.part").write_bytes(b"x" * 10_000)
    (root / "unsynced.part").rename(root / "unsynced")
    cut()
    assert not (root / "unsynced").exists() or (root / "unsynced").read_bytes() == b""


def test_an_installed_file_is_whole_under_its_name(disk: Disk) -> None:
    root, cut = disk
    directory = make_dirs(root / "data" / "incoming" / "vast-1")
    (directory / "x.part").write_bytes(b"x" * 10_000)
    install(directory / "x.part", directory / "x")
    atomic_write_bytes(root / "record.json", b"{}")
    cut()
    assert (directory / "x").read_bytes() == b"x" * 10_000
    assert (root / "record.json").read_bytes() == b"{}"


def test_what_was_set_aside_is_there(disk: Disk) -> None:
    root, cut = disk
    quarantine = Quarantine(root / "data" / "quarantine")
    quarantine.add("vast-1", "game", b"bytes", reason="r", detail="d", artifact="a" * 64, at=1.0)
    cut()
    assert quarantine.read("vast-1", "game") == b"bytes"


def test_an_acknowledged_receipt_is_there(disk: Disk) -> None:
    root, cut = disk
    url = f"sqlite:///{root}/home/state.db"
    command, env = [sys.executable, "-c", ACKNOWLEDGE, url], {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as node:
        assert node.stdout is not None
        sha256 = node.stdout.readline().strip()
        node.kill()  # no orderly end, so no checkpoint of the WAL either
    cut()
    with StateStore.open(url) as store:
        assert has_receipt(store, sha256, "vast-1")
