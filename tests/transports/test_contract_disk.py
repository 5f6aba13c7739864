"""The contract of every transport: a disk that is full or not ours is our own fault, and nothing is lost by it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringrift_sync_dagster.errors import LocalDiskError
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.transports.base import Transport
from tests import disks
from tests.transports.artifacts import MIB, made, part_of, run_transfer
from tests.transports.conftest import Way

AS_NOBODY = """
import os
from ringrift_sync_dagster.transports import base64_ssh, p2p_http, rsync
import encodings.idna, json, signal, sys, traceback
os.setgroups([]); os.setgid(65534); os.setuid(65534)
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB in memory; mounting one takes root."""
    with disks.small_disk(tmp_path / "small", "2m") as mounted:
        yield mounted


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a file system")
def test_a_full_disk_keeps_what_has_arrived_and_the_fetch_goes_on_when_there_is_room(
    way: Way, transport: Transport, deadline: Deadline, small_disk: Path
) -> None:
    data = made(4 * MIB)
    artifact = way.place(data)

    with pytest.raises(LocalDiskError, match="got"):
        transport.fetch(artifact, small_disk / "got", deadline=deadline)
    there = part_of(small_disk / "got").stat().st_size
    disks.resize(small_disk, "8m")
    fetched = transport.fetch(artifact, small_disk / "got", deadline=deadline)

    assert 0 < there < 4 * MIB
    assert fetched.resumed_from == there
    assert (small_disk / "got").read_bytes() == data


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_folder_that_is_not_ours_is_said_and_left_as_it_was(way: Way, tmp_path: Path) -> None:
    artifact = way.place(made(1000))
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o700)

    done = run_transfer(way, "fetch", artifact, folder / "got", before=AS_NOBODY)

    assert "LocalDiskError" in done.stderr, done.stderr
    assert list(folder.iterdir()) == []
