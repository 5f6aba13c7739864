"""The rsync rung beyond the contract: its pace, its silences, sources that change on the way, and what it leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from ringrift_sync_dagster.errors import (
    ArtifactGoneError,
    DeadlineExceededError,
    RemoteCallError,
    SourceChangedError,
    StallError,
)
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.transports.carriers import Effort, RemoteFile
from ringrift_sync_dagster.transports.pacing import BucketPacer
from ringrift_sync_dagster.transports.partial import open_part
from ringrift_sync_dagster.transports.rsync import RsyncCarrier, knows_trust_sender
from ringrift_sync_dagster.transports.ssh import SshEndpoint
from ringrift_sync_dagster.transports.ssh_transport import SshTransport
from tests import disks
from tests.agent.agents import wait_until
from tests.marks import first_of
from tests.transports.artifacts import MIB, made, named, part_of
from tests.transports.ssh_nodes import SlowPacer, SshHost, registered, running

MODEL = "models/a.pth"
OLD, NEW = made(3 * MIB, "old"), made(3 * MIB, "new")
RATE = 8 * MIB

Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, free_addresses: Iterator[str]) -> Iterator[SshHost]:
    with SshHost(tmp_path_factory.mktemp("rsync") / "host", next(free_addresses)) as started:
        yield started


@pytest.fixture(scope="module")
def transport(host: SshHost) -> SshTransport:
    return host.transport()


def once(action: Callable[[], object]) -> Callable[[int], None]:
    """Do something when the first bytes have come."""
    done: list[object] = []

    def progress(_received: int) -> None:
        if not done:
            done.append(action())

    return progress


def replaced(path: Path) -> None:
    path.with_name("b.tmp").write_bytes(NEW)
    path.with_name("b.tmp").replace(path)


def cut(path: Path) -> None:
    os.truncate(path, MIB // 2)


def overwritten(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.write(NEW)


def grown(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(NEW)


@pytest.mark.parametrize("change", first_of(overwritten, replaced, cut, grown, Path.unlink))
def test_a_source_that_changes_on_the_way_arrives_as_it_was_or_not_at_all(
    host: SshHost, transport: SshTransport, tmp_path: Path, change: Change
) -> None:
    source = host.write(MODEL, OLD)
    artifact, got = registered(transport, MODEL), tmp_path / "got"
    progress = once(lambda: change(source))

    try:
        transport.fetch(artifact, got, deadline=Deadline(30), progress=progress, pacer=SlowPacer(64 << 10, 0.005))
    except (SourceChangedError, ArtifactGoneError):
        assert list(tmp_path.iterdir()) == []
    else:
        assert got.read_bytes() == OLD

    with pytest.raises((SourceChangedError, ArtifactGoneError)):
        transport.fetch(artifact, tmp_path / "again", deadline=Deadline(30))


@pytest.mark.parametrize("change", first_of(replaced, cut, overwritten))
def test_a_part_of_an_older_state_is_never_completed_with_a_newer_one(
    host: SshHost, transport: SshTransport, tmp_path: Path, change: Change
) -> None:
    source = host.write(MODEL, OLD)
    artifact = registered(transport, MODEL)
    part_of(tmp_path / "got").write_bytes(OLD[:MIB])
    change(source)

    with pytest.raises(SourceChangedError):
        transport.fetch(artifact, tmp_path / "got", deadline=Deadline(30))
    assert not (tmp_path / "got").exists()


def test_an_option_of_a_younger_rsync_is_only_given_to_one() -> None:
    told = "rsync  version {}  protocol version 31\nCopyright (C) 1996-2022 by Andrew Tridgell\n"
    versions = ("3.2.4", "3.2.5", "v3.2.7", "3.10.0", "2.6.9", "")
    known = [version for version in versions if knows_trust_sender(told.format(version))]
    assert known == ["3.2.5", "v3.2.7", "3.10.0"]


def test_a_source_without_end_does_not_fill_our_disk(host: SshHost, tmp_path: Path) -> None:
    artifact = host.place(made(MIB, "endless"))
    source = host.scratch / "artifacts" / artifact.sha256
    os.truncate(source, 256 * MIB)  # after the node had told its length
    carrier = RsyncCarrier(SshEndpoint(host.node(), host.settings, "rsync"))

    with open_part(tmp_path / "got", artifact, "node-s", "rsync") as part:
        part.resume()
        with pytest.raises(SourceChangedError, match="more than"):
            carrier.fetch(RemoteFile(str(source), MIB), part, Effort(Deadline(30), pacer=SlowPacer(MIB, 0.01)))

    assert part.path.stat().st_size < 32 * MIB


@pytest.mark.parametrize("name", first_of("a?\\[.pth", "a[1].pth", "a*.pth", "back\\slash.pth", "{a,b}.pth"))
def test_a_name_that_looks_like_a_pattern_brings_no_other_file(
    host: SshHost, transport: SshTransport, tmp_path: Path, name: str
) -> None:
    for other in ("a1.pth", "ab.pth", "axx.pth"):
        host.write(f"models/{other}", b"another")
    host.write(f"models/{name}", OLD[:1000])

    transport.fetch(registered(transport, f"models/{name}"), tmp_path / "got", deadline=Deadline(30))

    assert (tmp_path / "got").read_bytes() == OLD[:1000]


@pytest.mark.parametrize("verb", first_of("fetch", "push"))
def test_the_pace_holds_and_follows_while_a_transfer_runs(
    host: SshHost, transport: SshTransport, tmp_path: Path, verb: str
) -> None:
    data = made(6 * MIB, f"pace {verb}")
    (tmp_path / "source").write_bytes(data)
    artifact = named(data) if verb == "push" else host.place(data)
    pacer = BucketPacer(RATE / 8)
    seconds: dict[str, float] = {}

    def faster(there: int) -> None:
        if there > MIB:
            seconds.setdefault("slow", time.monotonic())
            pacer.set_rate(RATE)

    seconds["start"] = time.monotonic()
    if verb == "push":
        transport.push(artifact, tmp_path / "source", "node-h", deadline=Deadline(30), progress=faster, pacer=pacer)
    else:
        transport.fetch(artifact, tmp_path / "got", deadline=Deadline(30), progress=faster, pacer=pacer)

    assert seconds["slow"] - seconds["start"] > 0.8  # a bucket is full at first
    assert 0.5 < time.monotonic() - seconds["slow"] < 4
    assert 6 * MIB <= pacer.moved < 6.1 * MIB


def test_waiting_for_the_pacer_is_no_stall(host: SshHost, tmp_path: Path) -> None:
    transport = host.transport(stall_seconds=0.7)
    pacer = SlowPacer(MIB, 1.2, pauses=2)
    transport.fetch(host.place(made(MIB, "waiting")), tmp_path / "got", deadline=Deadline(30), pacer=pacer)


def test_a_silence_is_a_stall_and_what_came_before_it_is_kept(host: SshHost, tmp_path: Path) -> None:
    artifact, transport = host.place(made(16 * MIB, "silence")), host.transport(stall_seconds=1.0)
    frozen: list[psutil.Process] = []

    def freeze() -> None:
        for process in psutil.Process().children(recursive=True):
            if process.name() == "sshd":
                process.suspend()
                frozen.append(process)

    started = time.monotonic()
    try:
        with pytest.raises(StallError):
            transport.fetch(artifact, tmp_path / "got", deadline=Deadline(30), progress=once(freeze))
    finally:
        for process in frozen:
            process.resume()
    assert time.monotonic() - started < 6
    assert 0 < part_of(tmp_path / "got").stat().st_size < artifact.size_bytes
    assert transport.fetch(artifact, tmp_path / "got", deadline=Deadline(30)).resumed_from > 0


def test_a_deadline_ends_a_transfer_on_time_and_keeps_what_came(
    host: SshHost, transport: SshTransport, tmp_path: Path
) -> None:
    artifact, clock = host.place(made(2 * MIB, "deadline")), [0.0]
    deadline = Deadline(30, now=lambda: clock[0])
    passed = once(lambda: clock.append(clock.pop() + 31))
    started = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        transport.fetch(artifact, tmp_path / "got", deadline=deadline, progress=passed, pacer=SlowPacer(16 << 10, 0.05))
    assert time.monotonic() - started < 5
    assert 0 < part_of(tmp_path / "got").stat().st_size < 2 * MIB


@pytest.mark.cluster
def test_a_part_of_other_content_on_the_node_is_dropped_and_the_push_starts_over(
    host: SshHost, transport: SshTransport, tmp_path: Path
) -> None:
    data = made(MIB, "stale")
    (tmp_path / "source").write_bytes(data)
    part = part_of(host.received(named(data).sha256))
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(bytes(1000))

    pushed = transport.push(named(data), tmp_path / "source", "node-h", deadline=Deadline(30))

    assert (pushed.resumed_from, pushed.bytes_moved) == (0, 2 * MIB - 1000)
    assert host.received(named(data).sha256).read_bytes() == data
    assert not part.exists()


def test_a_pushed_file_can_be_read_by_all_whatever_the_source_was(
    host: SshHost, transport: SshTransport, tmp_path: Path
) -> None:
    data = made(1000, "mode")
    (tmp_path / "source").write_bytes(data)
    (tmp_path / "source").chmod(0o600)
    transport.push(named(data), tmp_path / "source", "node-h", deadline=Deadline(30))
    assert host.received(named(data).sha256).stat().st_mode & 0o777 == 0o644


@pytest.fixture
def small_disk(host: SshHost) -> Iterator[Path]:
    """A file system of 2 MiB in memory where pushed artifacts arrive; mounting one takes root."""
    with disks.small_disk(host.received("x").parent, "2m") as mounted:
        yield mounted


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a file system")
def test_a_full_disk_on_the_node_is_its_own_matter_and_keeps_what_has_arrived(
    transport: SshTransport, small_disk: Path, tmp_path: Path
) -> None:
    data = made(4 * MIB, "full")
    source, artifact = tmp_path / "source", named(data)
    source.write_bytes(data)
    with pytest.raises(RemoteCallError, match="do not fit") as refused:
        transport.push(artifact, source, "node-h", deadline=Deadline(30))
    assert refused.value.code == "no_space"

    small, short = tmp_path / "small", named(data[:MIB])
    small.write_bytes(data[:MIB])
    filler = once(lambda: (small_disk / "filler").write_bytes(bytes(2 * MIB - (128 << 10))))
    pacer = SlowPacer(64 << 10, 0.01)
    with pytest.raises(RemoteCallError, match="No space left") as full:
        transport.push(short, small, "node-h", deadline=Deadline(30), progress=filler, pacer=pacer)
    assert full.value.code == "no_space"
    assert 0 < part_of(small_disk / short.sha256).stat().st_size < MIB

    (small_disk / "filler").unlink()
    assert transport.push(short, small, "node-h", deadline=Deadline(30)).resumed_from > 0


def test_nothing_of_a_transfer_outlives_a_kill_of_our_process(host: SshHost, tmp_path: Path) -> None:
    artifact, control = host.place(made(4 * MIB, "killed")), host.settings.control_dir / "own"
    program = f"""
import sys
from pathlib import Path
from tests.transports.ssh_nodes import SlowPacer
from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.transports.rsync import rsync_transport
from ringrift_sync_dagster.transports.ssh import SshSettings
node = {host.node()!r}
settings = SshSettings(Path({str(host.settings.known_hosts)!r}), Path({str(control)!r}))
rsync_transport(node, settings).fetch(
    Artifact({artifact.sha256!r}, {artifact.size_bytes}, "games"), Path({str(tmp_path / "got")!r}),
    deadline=Deadline(60), progress=lambda there: print(there, flush=True), pacer=SlowPacer(64 << 10, 0.05),
)
"""
    before = set(host.sshd.sessions)  # of the other tests' transports
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as ours:
        assert ours.stdout is not None
        assert int(ours.stdout.readline()) > 0
        assert running("ssh_relay.py")
        ours.send_signal(signal.SIGKILL)
        ours.wait()

        wait_until(lambda: not running(str(tmp_path)) and not running(str(control)), 5)

    wait_until(lambda: set(host.sshd.sessions) <= before, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["got.part"]
    assert list(control.iterdir()) == []


@pytest.mark.cluster
def test_transfers_side_by_side_share_one_connection(host: SshHost, tmp_path: Path) -> None:
    transport = host.transport()
    transport.fetch(host.place(b"first"), tmp_path / "first", deadline=Deadline(30))
    logins = host.sshd.log.count("Accepted publickey")
    many = [host.place(made(200_000, number)) for number in range(12)]
    threads = [
        threading.Thread(target=transport.fetch, args=(one, tmp_path / one.sha256), kwargs={"deadline": Deadline(60)})
        for one in many
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(named((tmp_path / one.sha256).read_bytes()).sha256 == one.sha256 for one in many)
    assert host.sshd.log.count("Accepted publickey") == logins
