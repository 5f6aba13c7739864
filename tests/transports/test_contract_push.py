"""The contract of every transport: a push ends with a receipt, or with nothing."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from ringrift_sync_dagster.errors import (
    ChecksumError,
    LocalDiskError,
    SourceChangedError,
    TransferCancelledError,
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
    pushed_when_free,
)
from tests.transports.conftest import Way


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


@pytest.mark.parametrize("way", first_of("rsync", "p2p_http", "base64"), indirect=True)
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
