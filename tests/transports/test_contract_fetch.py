"""The contract of every transport: what a fetch gives and leaves; ``way`` runs each test over each transport."""

from __future__ import annotations

import concurrent.futures
import threading
from pathlib import Path

import pytest

from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.errors import (
    ArtifactGoneError,
    ChecksumError,
    DeadlineExceededError,
    LocalDiskError,
    TransferCancelledError,
    TransferError,
    TransferUnderWayError,
)
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.transports.base import Transport
from tests.marks import first_of
from tests.transports.artifacts import (
    LARGE,
    MIB,
    SIZES,
    made,
    named,
    part_of,
    run_transfer,
)
from tests.transports.conftest import Way


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


@pytest.mark.parametrize("way", first_of("rsync", "p2p_http", "base64"), indirect=True)
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


@pytest.mark.parametrize("way", first_of("rsync", "p2p_http", "base64"), indirect=True)
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


@pytest.mark.parametrize("way", first_of("rsync", "p2p_http", "base64"), indirect=True)
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
        with pytest.raises(TransferUnderWayError, match="another"):
            transport.fetch(artifact, tmp_path / "got", deadline=deadline)
        go_on.set()
        first.result()
    assert (tmp_path / "got").read_bytes() == data


@pytest.mark.parametrize("way", first_of("p2p_http", "rsync", "base64"), indirect=True)
def test_several_threads_share_one_transport(
    way: Way, transport: Transport, deadline: Deadline, tmp_path: Path
) -> None:
    many = [way.place(made(500_000, seed)) for seed in range(12)]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda one: transport.fetch(one, tmp_path / one.sha256, deadline=deadline), many))
    assert {named(path.read_bytes()).sha256 for path in tmp_path.iterdir()} == {one.sha256 for one in many}
