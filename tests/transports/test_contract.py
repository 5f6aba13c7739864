"""The contract of every transport, on real nodes and real files; ``way`` runs each test over each of them."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from functools import lru_cache
from pathlib import Path

import pytest

from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.errors import (
    ArtifactGoneError,
    ChecksumError,
    DeadlineExceededError,
    LocalDiskError,
    RemoteCallError,
    RungUnusableError,
    SourceChangedError,
    TransferCancelledError,
    TransferError,
    TransientError,
)
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.transports.base import Progress, Pushed, Transport
from tests.transports.conftest import Way

MIB = 1 << 20
SIZES = [0, 1, MIB - 1, MIB, MIB + 1, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 12 * MIB + 3]
LARGE = 64 * MIB
ON_THE_WAY = 16 * MIB  # what two sockets and a batch may hold when a process is killed


@lru_cache
def _noise() -> bytes:
    return random.Random(1).randbytes(LARGE)


def made(size: int, seed: object = 0) -> bytes:
    """Bytes that do not compress; another seed gives others from the first byte on."""
    head = hashlib.sha256(f"{size} {seed}".encode()).digest()
    return (head + _noise()[len(head) :])[:size]


def named(data: bytes) -> Artifact:
    return Artifact(hashlib.sha256(data).hexdigest(), len(data), "games")


def part_of(dest: Path) -> Path:
    return dest.with_name(dest.name + ".part")


# --- fetch -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_a_fetched_artifact_is_the_one_that_was_asked_for(
    way: Way, transport: Transport, deadline: Deadline, tmp_path: Path, size: int
) -> None:
    data = made(size)
    seen: list[int] = []
    fetched = transport.fetch(way.place(data), tmp_path / "got", deadline=deadline, progress=seen.append)
    assert (tmp_path / "got").read_bytes() == data
    assert (fetched.bytes_moved, fetched.resumed_from) == (size, 0)
    assert seen == sorted(seen)
    assert seen[-1:] == [size][: len(seen)]
    assert [path.name for path in tmp_path.iterdir()] == ["got"]


def test_what_is_there_already_is_not_moved_again(
    way: Way, transport: Transport, deadline: Deadline, tmp_path: Path
) -> None:
    artifact = way.place(made(100_000))
    transport.fetch(artifact, tmp_path / "got", deadline=deadline)
    assert transport.fetch(artifact, tmp_path / "got", deadline=deadline).bytes_moved == 0


def test_a_file_with_other_bytes_is_replaced_by_the_whole_artifact(
    way: Way, transport: Transport, deadline: Deadline, tmp_path: Path
) -> None:
    data = made(100_000)
    (tmp_path / "got").write_bytes(bytes(100_000))
    transport.fetch(way.place(data), tmp_path / "got", deadline=deadline)
    assert (tmp_path / "got").read_bytes() == data


@pytest.mark.parametrize("there", [1, MIB, 2 * MIB - 1, 2 * MIB])
def test_a_part_is_continued_at_its_end(
    way: Way, transport: Transport, deadline: Deadline, tmp_path: Path, there: int
) -> None:
    data = made(2 * MIB)
    part_of(tmp_path / "got").write_bytes(data[:there])
    fetched = transport.fetch(way.place(data), tmp_path / "got", deadline=deadline)
    assert (fetched.bytes_moved, fetched.resumed_from) == (2 * MIB - there, there)
    assert (tmp_path / "got").read_bytes() == data


@pytest.mark.parametrize("there", [1000, 2 * MIB, 3 * MIB])
def test_a_part_of_other_content_is_dropped_and_the_fetch_starts_over(
    way: Way, transport: Transport, deadline: Deadline, tmp_path: Path, there: int
) -> None:
    data = made(2 * MIB)
    part_of(tmp_path / "got").write_bytes(bytes(there))
    fetched = transport.fetch(way.place(data), tmp_path / "got", deadline=deadline)
    assert (tmp_path / "got").read_bytes() == data
    assert fetched.resumed_from == 0
    assert not part_of(tmp_path / "got").exists()


@pytest.mark.parametrize(
    "name", ["-rf", "..dots", ".hidden", "two words", "line\nbreak", "ünï-码", "$(id)", "a'b\"c", "%41"]
)
def test_any_name_of_a_file_is_only_a_name(
    way: Way, transport: Transport, deadline: Deadline, tmp_path: Path, name: str
) -> None:
    data = made(1000)
    transport.fetch(way.place(data), tmp_path / name, deadline=deadline)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == data


def test_a_directory_in_the_place_of_the_target_stays(
    way: Way, transport: Transport, deadline: Deadline, tmp_path: Path
) -> None:
    (tmp_path / "got").mkdir()
    with pytest.raises(LocalDiskError, match="directory"):
        transport.fetch(way.place(made(1000)), tmp_path / "got", deadline=deadline)
    assert [path.name for path in tmp_path.iterdir()] == ["got"]


@pytest.mark.parametrize("name", ["got", "got.part"])
def test_nothing_is_written_through_a_symbolic_link(
    way: Way, transport: Transport, deadline: Deadline, tmp_path: Path, name: str
) -> None:
    (tmp_path / "victim").write_bytes(b"precious")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / name).symlink_to(tmp_path / "victim")
    with pytest.raises(LocalDiskError):
        transport.fetch(way.place(made(1000)), folder / "got", deadline=deadline)
    assert (tmp_path / "victim").read_bytes() == b"precious"


def test_a_missing_directory_is_our_own_disks_fault(
    way: Way, transport: Transport, deadline: Deadline, tmp_path: Path
) -> None:
    with pytest.raises(LocalDiskError):
        transport.fetch(way.place(made(1000)), tmp_path / "missing" / "got", deadline=deadline)


def test_a_disk_that_takes_no_more_is_our_own_fault_and_the_part_is_kept(way: Way, tmp_path: Path) -> None:
    artifact = way.place(made(4 * MIB))
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
    done = run_transfer(way, "fetch", artifact, tmp_path / "got", before=limit)
    assert "LocalDiskError" in done.stderr
    assert part_of(tmp_path / "got").stat().st_size == MIB


def test_an_artifact_that_is_gone_must_be_ordered_again(
    transport: Transport, deadline: Deadline, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactGoneError):
        transport.fetch(named(b"never placed"), tmp_path / "got", deadline=deadline)


def test_other_bytes_under_the_name_leave_nothing_behind(
    way: Way, transport: Transport, deadline: Deadline, tmp_path: Path
) -> None:
    data = made(MIB)
    sha = named(made(MIB, "another")).sha256
    with pytest.raises(ChecksumError):
        transport.fetch(way.place(data, sha), tmp_path / "got", deadline=deadline)
    part_of(tmp_path / "got").write_bytes(data[:1000])
    with pytest.raises(ChecksumError):
        transport.fetch(Artifact(sha, MIB, "games"), tmp_path / "got", deadline=deadline)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("difference", [-1, 1])
def test_a_file_of_another_length_than_the_artifact_is_refused(
    way: Way, transport: Transport, deadline: Deadline, tmp_path: Path, difference: int
) -> None:
    data = made(MIB)
    sha = named(data + b"x").sha256
    way.place(data, sha)
    with pytest.raises(TransferError):
        transport.fetch(Artifact(sha, MIB + difference, "games"), tmp_path / "got", deadline=deadline)
    assert not (tmp_path / "got").exists()


def test_a_cancelled_fetch_stops_soon_and_goes_on_later(
    way: Way, transport: Transport, deadline: Deadline, tmp_path: Path
) -> None:
    data = made(LARGE)
    artifact = way.place(data)
    cancel = threading.Event()

    def stop_at_a_quarter(received: int) -> None:
        if received > LARGE // 4:
            cancel.set()

    with pytest.raises(TransferCancelledError):
        transport.fetch(artifact, tmp_path / "got", deadline=deadline, progress=stop_at_a_quarter, cancel=cancel)
    kept = part_of(tmp_path / "got").stat().st_size
    assert LARGE // 4 < kept < LARGE
    assert transport.fetch(artifact, tmp_path / "got", deadline=deadline).resumed_from == kept
    assert (tmp_path / "got").read_bytes() == data


def test_no_time_left_is_said_before_anything_is_asked(way: Way, transport: Transport, tmp_path: Path) -> None:
    with pytest.raises(DeadlineExceededError):
        transport.fetch(way.place(made(1000)), tmp_path / "got", deadline=Deadline(0))


def test_one_place_is_fetched_by_one_at_a_time(
    way: Way, transport: Transport, deadline: Deadline, tmp_path: Path
) -> None:
    data = made(LARGE)
    artifact = way.place(data)
    started, go_on = threading.Event(), threading.Event()

    def hold(_received: int) -> None:
        started.set()
        go_on.wait(20)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(transport.fetch, artifact, tmp_path / "got", deadline=deadline, progress=hold)
        started.wait(20)
        with pytest.raises(TransientError, match="another"):
            transport.fetch(artifact, tmp_path / "got", deadline=deadline)
        go_on.set()
        first.result()
    assert (tmp_path / "got").read_bytes() == data


def test_several_threads_share_one_transport(
    way: Way, transport: Transport, deadline: Deadline, tmp_path: Path
) -> None:
    many = [way.place(made(500_000, seed)) for seed in range(12)]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda one: transport.fetch(one, tmp_path / one.sha256, deadline=deadline), many))
    assert {named(path.read_bytes()).sha256 for path in tmp_path.iterdir()} == {one.sha256 for one in many}


# --- killed in the middle --------------------------------------------------------------------------------------------

TRANSFER = """
import json, os, signal, sys
from pathlib import Path
from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.settings.clock import Deadline
verb, path, sha, size, kill_at, arguments = json.loads(sys.argv[1])
def progress(received):
    if received >= kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
artifact, transport = Artifact(sha, size, "games"), connect(*arguments)
if verb == "fetch":
    transport.fetch(artifact, Path(path), deadline=Deadline(60), progress=progress)
else:
    transport.push(artifact, Path(path), "node-h", deadline=Deadline(60), progress=progress)
"""


def run_transfer(
    way: Way, verb: str, artifact: Artifact, path: Path, *, kill_at: int = 1 << 60, before: str = ""
) -> subprocess.CompletedProcess[str]:
    given = json.dumps([verb, str(path), artifact.sha256, artifact.size_bytes, kill_at, way.arguments])
    program = before + way.program + TRANSFER
    return subprocess.run(
        [sys.executable, "-c", program, given], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("percent", [10, 50, 90])
def test_a_killed_receiver_goes_on_where_it_was(
    way: Way, transport: Transport, deadline: Deadline, tmp_path: Path, percent: int
) -> None:
    data = made(LARGE)
    artifact = way.place(data)
    killed = run_transfer(way, "fetch", artifact, tmp_path / "got", kill_at=LARGE * percent // 100)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "got").exists()
    fetched = transport.fetch(artifact, tmp_path / "got", deadline=deadline)
    assert fetched.resumed_from >= LARGE * percent // 100
    assert fetched.bytes_moved == LARGE - fetched.resumed_from
    assert (tmp_path / "got").read_bytes() == data


@pytest.mark.parametrize("percent", [10, 50, 90])
def test_a_killed_sender_costs_only_what_was_on_the_way(
    way: Way, transport: Transport, deadline: Deadline, tmp_path: Path, percent: int
) -> None:
    data = made(LARGE)
    artifact = way.place(data)
    try:
        with pytest.raises((TransientError, RungUnusableError)):
            transport.fetch(
                artifact, tmp_path / "got", deadline=deadline, progress=killing(way, LARGE * percent // 100)
            )
    finally:
        way.restart()
    fetched = transport.fetch(artifact, tmp_path / "got", deadline=deadline)
    assert fetched.resumed_from >= LARGE * percent // 100
    assert (tmp_path / "got").read_bytes() == data


@pytest.mark.parametrize("percent", [10, 50, 90])
def test_a_killed_pusher_goes_on_where_the_node_says(
    way: Way, transport: Transport, deadline: Deadline, tmp_path: Path, percent: int
) -> None:
    data = made(LARGE, f"push {percent} {os.getpid()}")
    artifact = named(data)
    (tmp_path / "source").write_bytes(data)
    killed = run_transfer(way, "push", artifact, tmp_path / "source", kill_at=LARGE * percent // 100)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    pushed = pushed_when_free(transport, artifact, tmp_path / "source", deadline)
    # What the killed process had handed to its socket may be lost with it, but not more.
    assert pushed.resumed_from >= LARGE * percent // 100 - ON_THE_WAY
    assert pushed.bytes_moved == LARGE - pushed.resumed_from
    assert way.received("node-h", artifact.sha256).read_bytes() == data


@pytest.mark.parametrize("percent", [10, 50, 90])
def test_a_killed_node_goes_on_with_a_push_where_it_was(
    way: Way, transport: Transport, deadline: Deadline, tmp_path: Path, percent: int
) -> None:
    data = made(LARGE, f"receive {percent} {os.getpid()}")
    artifact = named(data)
    (tmp_path / "source").write_bytes(data)
    try:
        progress = killing(way, LARGE * percent // 100)
        with pytest.raises((TransientError, RungUnusableError)):
            transport.push(artifact, tmp_path / "source", "node-h", deadline=deadline, progress=progress)
    finally:
        way.restart()
    pushed = transport.push(artifact, tmp_path / "source", "node-h", deadline=deadline)
    assert pushed.resumed_from >= LARGE * percent // 100 - ON_THE_WAY
    assert way.received("node-h", artifact.sha256).read_bytes() == data


def killing(way: Way, at: int) -> Progress:
    done: list[int] = []

    def progress(received: int) -> None:
        if received >= at and not done:
            done.append(received)
            way.kill()

    return progress


def pushed_when_free(transport: Transport, artifact: Artifact, source: Path, deadline: Deadline) -> Pushed:
    """The node may not have noticed yet that the killed one is gone."""
    while True:
        with contextlib.suppress(TransientError):
            return transport.push(artifact, source, "node-h", deadline=deadline)
        time.sleep(0.1)


# --- push ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_a_push_ends_with_the_receipt_of_the_node(
    way: Way, transport: Transport, deadline: Deadline, tmp_path: Path, size: int
) -> None:
    data = made(size, "push")
    artifact = named(data)
    (tmp_path / "source").write_bytes(data)
    seen: list[int] = []
    pushed = transport.push(artifact, tmp_path / "source", "origin-1", deadline=deadline, progress=seen.append)
    assert (pushed.receipt.sha256, pushed.receipt.node, pushed.receipt.size_bytes) == (artifact.sha256, way.node, size)
    assert (pushed.bytes_moved, pushed.resumed_from) == (size, 0)
    assert seen == sorted(seen)
    assert way.received("origin-1", artifact.sha256).read_bytes() == data
    again = transport.push(artifact, tmp_path / "source", "origin-1", deadline=deadline)
    assert (again.bytes_moved, again.receipt) == (0, pushed.receipt)


def test_a_pushed_file_that_is_not_the_artifact_gets_no_receipt(
    way: Way, transport: Transport, deadline: Deadline, tmp_path: Path
) -> None:
    artifact = named(made(MIB, "right"))
    (tmp_path / "source").write_bytes(made(MIB, "wrong"))
    with pytest.raises(ChecksumError):
        transport.push(artifact, tmp_path / "source", "origin-1", deadline=deadline)
    received = way.received("origin-1", artifact.sha256)
    assert not received.exists()
    assert not part_of(received).exists()


def test_a_source_of_another_length_is_a_changed_source(
    transport: Transport, deadline: Deadline, tmp_path: Path
) -> None:
    (tmp_path / "source").write_bytes(b"short")
    with pytest.raises(SourceChangedError):
        transport.push(named(b"longer"), tmp_path / "source", "origin-1", deadline=deadline)
    with pytest.raises(LocalDiskError):
        transport.push(named(b"longer"), tmp_path / "missing", "origin-1", deadline=deadline)


def test_a_source_that_changes_on_the_way_is_a_changed_source(
    way: Way, transport: Transport, deadline: Deadline, tmp_path: Path
) -> None:
    data = made(8 * MIB, "changing")
    (tmp_path / "source").write_bytes(data)

    def change(_sent: int) -> None:
        os.utime(tmp_path / "source", ns=(1, 1))

    with pytest.raises(SourceChangedError):
        transport.push(named(data), tmp_path / "source", "origin-1", deadline=deadline, progress=change)
    assert not way.received("origin-1", named(data).sha256).exists()


def test_a_cancelled_push_goes_on_later(way: Way, transport: Transport, deadline: Deadline, tmp_path: Path) -> None:
    data = made(LARGE, "cancelled")
    artifact = named(data)
    (tmp_path / "source").write_bytes(data)
    cancel = threading.Event()

    def stop_at_half(sent: int) -> None:
        if sent > LARGE // 2:
            cancel.set()

    with pytest.raises(TransferCancelledError):
        transport.push(artifact, tmp_path / "source", "node-h", deadline=deadline, progress=stop_at_half, cancel=cancel)
    pushed = pushed_when_free(transport, artifact, tmp_path / "source", deadline)
    assert pushed.resumed_from > LARGE // 4
    assert way.received("node-h", artifact.sha256).read_bytes() == data


# --- calls -----------------------------------------------------------------------------------------------------------


def test_a_probe_tells_version_and_time_or_why_not(way: Way, transport: Transport) -> None:
    probe = transport.probe(Deadline(5))
    assert probe.reachable, probe.detail
    assert probe.version
    assert 0 < probe.rtt_seconds < 5
    way.kill()
    try:
        lost = transport.probe(Deadline(5))
        assert (lost.reachable, bool(lost.detail)) == (False, True)
    finally:
        way.restart()


def test_a_call_gives_the_kits_result_or_its_refusal(way: Way, transport: Transport, deadline: Deadline) -> None:
    way.write("data/training/hex8_2p.npz", b"positions")
    result = transport.call("hash", {"path": "data/training/hex8_2p.npz"}, deadline=deadline)
    assert result["artifact"] == named(b"positions").sha256
    with pytest.raises(RemoteCallError) as refused:
        transport.call("hash", {"path": "../outside.npz"}, deadline=deadline)
    assert (refused.value.code, refused.value.path) == ("outside", "../outside.npz")
    with pytest.raises(RemoteCallError):
        transport.call("no-such-op", {}, deadline=deadline)


def test_a_file_is_hashed_and_fetched(way: Way, transport: Transport, deadline: Deadline, tmp_path: Path) -> None:
    data = made(3 * MIB)
    way.write("data/training/hex8_4p.npz", data)
    result = transport.call("hash", {"path": "data/training/hex8_4p.npz"}, deadline=deadline)
    artifact = Artifact(result["artifact"], result["bytes"], "npz")
    transport.fetch(artifact, tmp_path / "got", deadline=deadline)
    assert (tmp_path / "got").read_bytes() == data
    way.write("data/training/hex8_4p.npz", data[:-1])
    with pytest.raises(SourceChangedError):
        transport.fetch(artifact, tmp_path / "again", deadline=deadline)


def test_a_manifest_tells_everything_first_and_then_what_changed(
    way: Way, transport: Transport, deadline: Deadline
) -> None:
    way.write("data/training/square8_3p.npz", b"one")
    time.sleep(1.1)  # a scan that has just ended is used again
    first = transport.manifest(None, deadline=deadline)
    assert (first["full"], "data/training/square8_3p.npz" in {entry["path"] for entry in first["entries"]}) == (
        True,
        True,
    )
    way.write("data/training/square8_4p.npz", b"two")
    time.sleep(1.1)
    second = transport.manifest(first["token"], deadline=deadline)
    assert (second["full"], [entry["path"] for entry in second["entries"]]) == (False, ["data/training/square8_4p.npz"])


def test_a_forgotten_artifact_is_gone_and_may_be_forgotten_again(
    way: Way, transport: Transport, deadline: Deadline, tmp_path: Path
) -> None:
    artifact = way.place(made(1000, "forget"))
    transport.forget(artifact, deadline=deadline)
    transport.forget(artifact, deadline=deadline)
    with pytest.raises(ArtifactGoneError):
        transport.fetch(artifact, tmp_path / "got", deadline=deadline)
