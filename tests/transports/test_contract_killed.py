"""The contract of every transport: whoever is killed in the middle, the transfer goes on where it was."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from ringrift_sync_dagster.errors import (
    RungUnusableError,
    TransientError,
)
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.transports.base import Transport
from tests.marks import first_of
from tests.transports.artifacts import (
    LARGE,
    MIB,
    ON_THE_WAY,
    killing,
    made,
    named,
    pushed_when_free,
    run_transfer,
)
from tests.transports.conftest import Way

HUGE = 512 * MIB


@pytest.mark.parametrize("way", first_of("base64", "p2p_http", "rsync"), indirect=True)
@pytest.mark.parametrize("percent", first_of(50, 10, 90))
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


@pytest.mark.parametrize("way", first_of("p2p_http", "rsync", "base64"), indirect=True)
@pytest.mark.parametrize("percent", first_of(50, 10, 90))
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


@pytest.mark.parametrize("way", first_of("rsync", "p2p_http", "base64"), indirect=True)
@pytest.mark.parametrize("percent", first_of(50, 10, 90))
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


@pytest.mark.parametrize("way", first_of("p2p_http", "rsync", "base64"), indirect=True)
@pytest.mark.parametrize("percent", first_of(50, 10, 90))
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


@pytest.mark.cluster
@pytest.mark.parametrize("percent", range(10, 100, 10))
def test_a_large_artifact_survives_a_killed_receiver_and_a_killed_sender_at_each_tenth(
    way: Way, transport: Transport, tmp_path: Path, percent: int
) -> None:
    data = made(HUGE)
    artifact, dest, at = way.place(data), tmp_path / "got", HUGE * percent // 100
    killed = run_transfer(way, "fetch", artifact, dest, kill_at=at // 2)
    try:
        with pytest.raises((TransientError, RungUnusableError)):
            transport.fetch(artifact, dest, deadline=Deadline.after(120), progress=killing(way, at))
    finally:
        way.restart()

    fetched = transport.fetch(artifact, dest, deadline=Deadline.after(120))

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert fetched.resumed_from >= at
    assert dest.read_bytes() == data
