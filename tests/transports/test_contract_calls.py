"""The contract of every transport: probes, calls of the kit, manifests, and forgetting."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.errors import (
    ArtifactGoneError,
    RemoteCallError,
    SourceChangedError,
)
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.transports.base import Transport
from tests.marks import first_of
from tests.transports.artifacts import (
    MIB,
    made,
    named,
)
from tests.transports.conftest import Way


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


def test_a_call_tells_of_the_disk_of_the_nodes_first_root(
    way: Way, transport: Transport, deadline: Deadline, tmp_path: Path
) -> None:
    way.write("data/training/square19_2p.npz", b"positions")
    disk = transport.call("disk", {}, deadline=deadline)
    ours = shutil.disk_usage(tmp_path)
    assert set(disk) == {"total_bytes", "used_bytes", "free_bytes"}
    assert disk["total_bytes"] == ours.total
    assert abs(disk["used_bytes"] - ours.used) + abs(disk["free_bytes"] - ours.free) < 1 << 30  # others write meanwhile
    with pytest.raises(RemoteCallError) as refused:
        transport.call("disk", {"path": "/"}, deadline=deadline)
    assert refused.value.code == "bad_arguments"


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


@pytest.mark.parametrize("name", ["-rf.pth", "ünï cödé.pth", "two\nlines.pth", "a'b\"c$(d).pth", "#?%41.pth"])
def test_any_name_of_a_source_is_only_a_name(
    way: Way, transport: Transport, deadline: Deadline, tmp_path: Path, name: str
) -> None:
    data = made(2000, name)
    way.write(f"models/{name}", data)
    found = transport.call("hash", {"path": f"models/{name}"}, deadline=deadline)
    transport.fetch(Artifact(found["artifact"], found["bytes"], "models"), tmp_path / "got", deadline=deadline)
    assert (tmp_path / "got").read_bytes() == data


@pytest.mark.parametrize("way", first_of("p2p_http", "rsync", "base64"), indirect=True)
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
