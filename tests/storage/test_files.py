"""A name shows the old bytes or the new ones, and the disk's troubles are told as such."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringrift_sync_dagster.errors import LocalDiskError, NextStep, TransferCancelledError
from ringrift_sync_dagster.storage import files
from ringrift_sync_dagster.storage.files import (
    atomic_write_bytes,
    atomic_write_text,
    confined,
    disk_errors,
    fsync_dir,
    fsync_file,
    install,
    make_dirs,
    sha256_file,
)

ROOT = Path(__file__).resolve().parents[2]

WRITER = """
import pathlib, sys
from ringrift_sync_dagster.storage.files import atomic_write_bytes
target = pathlib.Path(sys.argv[1])
print("ready", flush=True)
while True:
    for letter in (b"a", b"b"):
        atomic_write_bytes(target, letter * 200_000)
"""


@contextlib.contextmanager
def without_rights(directory: Path) -> Iterator[None]:
    """Be somebody who may not write to the directory, also where the tests run as root."""
    directory.chmod(0o555)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        directory.chmod(0o755)


def test_install_gives_the_finished_file_its_name(tmp_path: Path) -> None:
    part, final = tmp_path / "x.part", tmp_path / "x"
    part.write_bytes(b"new")
    final.write_bytes(b"old")
    with final.open("rb") as reader:
        install(part, final)
        assert reader.read() == b"old"
    assert final.read_bytes() == b"new"
    assert not part.exists()


def test_install_over_a_directory_is_refused_and_the_part_stays(tmp_path: Path) -> None:
    part, final = tmp_path / "x.part", tmp_path / "x"
    part.write_bytes(b"new")
    final.mkdir()
    with pytest.raises(LocalDiskError, match=r"cannot install .*/x: a directory has that name"):
        install(part, final)
    assert part.read_bytes() == b"new"


def test_install_over_a_link_out_of_the_tree_is_refused_and_what_it_names_stays(tmp_path: Path) -> None:
    tree, elsewhere = tmp_path / "tree", tmp_path / "elsewhere.db"
    tree.mkdir()
    elsewhere.write_bytes(b"old")
    part, final = tree / "x.part", tree / "x"
    part.write_bytes(b"new")
    final.symlink_to(elsewhere)
    with pytest.raises(LocalDiskError, match=r"symbolic link to .*elsewhere\.db, outside .*/tree"):
        install(part, final)
    assert elsewhere.read_bytes() == b"old"
    assert final.is_symlink()
    assert part.exists()


def test_install_replaces_a_link_inside_the_tree_and_not_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "links").mkdir()
    target, final, part = tmp_path / "models" / "v1", tmp_path / "links" / "best", tmp_path / "links" / "best.part"
    target.write_bytes(b"v1")
    part.write_bytes(b"v2")
    final.symlink_to(target)
    with pytest.raises(LocalDiskError):
        install(part, final)
    install(part, final, root=tmp_path)
    assert (final.read_bytes(), final.is_symlink(), target.read_bytes()) == (b"v2", False, b"v1")


def test_install_without_the_part_says_so(tmp_path: Path) -> None:
    with pytest.raises(LocalDiskError, match=r"x\.part: No such file or directory; it is not there"):
        install(tmp_path / "x.part", tmp_path / "x")


def test_an_atomic_write_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    atomic_write_text(path, "long ago, café")
    atomic_write_text(path, "now")
    assert path.read_text() == "now"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mask", [0o022, 0o777])
def test_a_written_file_has_exactly_the_mode_that_was_asked_for(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        atomic_write_bytes(tmp_path / "key", b"secret", 0o600)
        atomic_write_bytes(tmp_path / "public", b"open")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "public").stat().st_mode) == 0o644


def test_a_long_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    atomic_write_bytes(path, b"x")
    assert path.read_bytes() == b"x"


def test_kill_9_never_leaves_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "target"
    for _ in range(5):
        arguments = [sys.executable, "-c", WRITER, str(path)]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, env=env) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(0.05)
            writer.send_signal(signal.SIGKILL)
        assert path.read_bytes() in (b"a" * 200_000, b"b" * 200_000)


def test_a_write_without_rights_names_the_path_and_what_to_do(tmp_path: Path) -> None:
    with without_rights(tmp_path), pytest.raises(LocalDiskError) as raised:
        atomic_write_bytes(tmp_path / "x", b"x")
    assert str(tmp_path) in str(raised.value)
    assert "give the directory to the user who runs the sync" in str(raised.value)
    assert raised.value.next_step is NextStep.OURS
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_as_such() -> None:
    full = Path("/dev/full")
    expected = pytest.raises(LocalDiskError, match=r"cannot write /dev/full: .*; the disk is full; free space")
    with expected as raised, disk_errors(full, "write"), full.open("wb", buffering=0) as stream:
        stream.write(b"x")
    assert isinstance(raised.value.__cause__, OSError)
    assert raised.value.__cause__.errno == errno.ENOSPC


def test_a_file_that_cannot_grow_leaves_the_old_content_and_nothing_beside_it(tmp_path: Path) -> None:
    program = (
        "import pathlib, resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "from ringrift_sync_dagster.storage.files import atomic_write_bytes;"
        "atomic_write_bytes(pathlib.Path(sys.argv[1]), bytes(5000))"
    )
    path = tmp_path / "x"
    path.write_bytes(b"old")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], env=env, capture_output=True, text=True, check=False
    )
    assert "LocalDiskError" in done.stderr
    assert "File too large" in done.stderr
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", [fsync_file, fsync_dir, sha256_file])
def test_what_is_not_there_is_named(tmp_path: Path, call: object) -> None:
    assert callable(call)
    with pytest.raises(LocalDiskError, match=r"cannot \w+.* .*/missing: No such file"):
        call(tmp_path / "missing")


def test_a_file_is_no_directory_to_sync(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    fsync_file(tmp_path / "x")
    with pytest.raises(LocalDiskError, match="Not a directory"):
        fsync_dir(tmp_path / "x")


def test_directories_are_made_with_their_parents_and_again(tmp_path: Path) -> None:
    assert make_dirs(tmp_path / "a" / "b" / "c") == tmp_path / "a" / "b" / "c"
    make_dirs(tmp_path / "a" / "b" / "c")
    (tmp_path / "file").touch()
    with pytest.raises(LocalDiskError, match="cannot create the directory"):
        make_dirs(tmp_path / "file" / "d")


@pytest.mark.parametrize("size", [0, 1, files.CHUNK_BYTES, files.CHUNK_BYTES + 1, 3 * files.CHUNK_BYTES - 1])
def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "x").write_bytes(data)
    assert sha256_file(tmp_path / "x") == hashlib.sha256(data).hexdigest()


def test_hashing_stops_when_asked(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(10))
    cancel = threading.Event()
    assert sha256_file(tmp_path / "x", cancel)
    cancel.set()
    with pytest.raises(TransferCancelledError, match="asked to stop"):
        sha256_file(tmp_path / "x", cancel)


@pytest.mark.parametrize("name", ["a", "a/b.db", "a/./b", "data/games/x..y.db", ".hidden"])
def test_a_name_inside_the_tree_is_given_its_path(tmp_path: Path, name: str) -> None:
    assert confined(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize("name", ["", "/etc/passwd", "..", "../x", "a/../../x", "a/..", "x\0y"])
def test_a_name_that_leaves_the_tree_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is not a path inside"):
        confined(tmp_path, name)


def test_a_link_may_lead_around_inside_the_tree_but_not_out_of_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "real").mkdir(parents=True)
    (root / "inside").symlink_to(root / "real")
    (root / "outside").symlink_to(tmp_path)
    assert confined(root, "inside/x") == root / "inside" / "x"
    with pytest.raises(ValueError, match="leads out of"):
        confined(root, "outside/x")
