"""Many files in one run of rsync, between this machine and a node with a real sshd."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringrift_sync_dagster.errors import ConfigError
from ringrift_sync_dagster.sync.batch_rsync import BatchResult, BatchRsync
from ringrift_sync_dagster.sync.runtime import Runtime
from tests.chaos_proxy import ChaosProxy
from tests.disks import small_disk
from tests.marks import first_of
from tests.sshd import Sshd
from tests.sync.copying import HOST, MB, Site, made_site, make_database, noise, rows_of, spoiling_site

ODD = [
    "a.npz",
    "#hash",
    ";semi",
    "sub/dir/b c",
    "line\nend",
    "grüße",
    "[x]*?",
    "q'uo\"te",
    "-dash",
    "back\\s",
    "lit\\#012",
]
BATCH = """
import asyncio, json, sys
from ringrift_sync_dagster.sync.batch_rsync import BatchRsync
print(asyncio.run(BatchRsync().sync(json.loads(sys.argv[1]), sys.argv[2], sys.argv[3], "training-node")))
"""
DATABASE = "a database does not travel in a batch: copy it alone, as a snapshot (bad_arguments)"


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with Sshd(tmp_path_factory.mktemp("sshd"), "127.66.1.6") as running:
        yield running


@pytest.fixture
def site(sshd: Sshd, tmp_path: Path) -> Site:
    return made_site(tmp_path, sshd)


def put(folder: Path, *names: str, size: int = 1000) -> list[str]:
    """Write files of different bytes."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(noise(size, number))
    return list(names)


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


def staged(folder: Path) -> list[Path]:
    """Whole files that wait for their names; rsync's own begin with a dot."""
    found = folder.glob(".ringrift-batch-*/**/*")
    return [path for path in found if path.is_file() and not path.name.startswith(".")]


def test_files_of_any_name_arrive_either_way_and_come_once(site: Site) -> None:
    put(site.near, *ODD)
    far = f"{site.at}/[w]ei*rd 'f\\older/"

    pushed = site.batch(ODD, site.near, far, verify_checksum=True)
    fetched = site.batch(ODD, far, site.base / "back")
    again = site.batch(ODD, far, site.base / "back", verify_checksum=True)

    assert (pushed.success, pushed.transferred, pushed.unchanged) == (True, tuple(ODD), ()), pushed
    assert (fetched.success, fetched.transferred, fetched.unchanged) == (True, tuple(ODD), ()), fetched
    assert (again.success, again.transferred, again.unchanged) == (True, (), tuple(ODD)), again
    assert [one.bytes_transferred for one in (pushed, fetched, again)] == [11_000, 11_000, 0]
    assert [(site.base / "back" / name).read_bytes() for name in ODD] == [noise(1000, n) for n in range(len(ODD))]
    assert (site.base / "back" / "a.npz").stat().st_mode & 0o777 == 0o644
    assert [(row.direction, row.size_bytes, row.state.value) for row in site.rows()] == [
        ("push", 11_000, "done"), ("fetch", 11_000, "done"), ("fetch", 0, "done"),
    ]  # fmt: skip
    assert site.leftovers() == []


def test_only_what_differs_is_sent(site: Site) -> None:
    names = put(site.near, "a.npz", "b.npz", "c.npz")
    site.batch(names, site.near, site.at)
    (site.near / "b.npz").write_bytes(noise(500, 9))

    result = site.batch(["./c.npz", *names, "a.npz"], site.near, site.at)

    assert (result.transferred, set(result.unchanged)) == (("b.npz",), {"a.npz", "c.npz"})
    assert result.bytes_transferred == 500
    assert (site.far / "b.npz").read_bytes() == noise(500, 9)


@pytest.mark.cluster
def test_a_file_of_the_same_length_is_sent_when_its_time_differs_by_a_moment_or_verified_bytes_differ(
    site: Site,
) -> None:
    names = put(site.near, "later.npz", "other.npz", "same.npz")
    for folder in (site.near, site.far):
        put(folder, *names)
        for name in names:
            os.utime(folder / name, ns=(1_700_000_000_100_000_000,) * 2)
    (site.near / "later.npz").write_bytes(noise(1000, 8))
    os.utime(site.near / "later.npz", ns=(1_700_000_000_600_000_000,) * 2)
    (site.far / "other.npz").write_bytes(noise(1000, 9))
    os.utime(site.far / "other.npz", ns=(1_700_000_000_100_000_000,) * 2)

    believed = site.batch(names, site.near, site.at)
    verified = site.batch(names, site.near, site.at, verify_checksum=True)

    assert (believed.transferred, believed.unchanged) == (("later.npz",), ("other.npz", "same.npz")), believed
    assert (verified.transferred, verified.unchanged) == (("other.npz",), ("later.npz", "same.npz")), verified
    assert [(site.far / name).read_bytes() for name in names] == [(site.near / name).read_bytes() for name in names]
    assert [one.bytes_transferred for one in (believed, verified)] == [1000, 1000]


def test_a_part_of_a_database_does_not_travel_without_it(site: Site) -> None:
    put(site.near, "x.db-wal", "a.npz")
    make_database(site.far / "x.db", 5, wal=True)

    result = site.batch(["x.db-wal", "a.npz"], site.near, site.at)

    assert result.transferred == ("a.npz",)
    assert "replayed into another one: copy the database" in result.failed["x.db-wal"]
    assert rows_of(site.far / "x.db") == 5


@pytest.mark.cluster
def test_what_never_travelled_is_not_called_unchanged_when_a_batch_is_interrupted(sshd: Sshd, tmp_path: Path) -> None:
    site = made_site(tmp_path, sshd, limit=8)
    names = put(site.near, *(f"{n}.npz" for n in range(5)), size=MB)
    for name in names:
        (site.far / name).write_bytes(noise(MB, 50))  # older, and as long
    with ChaosProxy((sshd.address, sshd.port)) as proxy:
        hosts = (tmp_path / "hosts.yaml").read_text().replace(f"port: {sshd.port}", f"port: {proxy.port}")
        (tmp_path / "hosts.yaml").write_text(hosts.replace(sshd.address, proxy.host))
        with sshd.known_hosts.open("a") as known:
            known.write(sshd.known_hosts.read_text().replace(sshd.place, f"[{proxy.host}]:{proxy.port}"))
        proxy.up.cut_after = 1_500_000  # one file comes with each of the three tries
        result = site.batch(names, site.near, site.at)

    sshd.trust()
    assert result.error != ""
    came = len(result.transferred)
    assert (came, result.unchanged, result.bytes_transferred) == (3, (), 3 * MB), result
    assert result.failed == dict.fromkeys(names[3:], result.error)
    assert [(site.far / name).read_bytes() for name in names[3:]] == [noise(MB, 50)] * 2
    assert [rung["error"] for rung in site.rows()[0].rungs] == ["TransientError"] * 3


def test_what_cannot_travel_is_named_with_its_reason_and_the_others_arrive(site: Site) -> None:
    put(site.near, "good.npz")
    make_database(site.near / "g.db", 2)
    make_database(site.near / "disguised.npz", 2)
    (site.near / "folder").mkdir()
    os.mkfifo(site.near / "pipe")
    (site.near / "out").symlink_to("/etc/hostname")
    (site.near / "in.npz").symlink_to("good.npz")
    (site.far / "taken").mkdir()
    put(site.near, "taken")
    bad = ["g.db", "disguised.npz", "nope", "folder", "pipe", "out", "../up", "/etc/hostname", "taken"]

    result = site.batch([*bad, "good.npz", "in.npz"], site.near, site.at)

    assert not result.success
    assert result.error == ""
    assert result.transferred == ("good.npz", "in.npz")
    assert result.failed == {
        "g.db": DATABASE,
        "disguised.npz": DATABASE,
        "nope": "there is no such file (missing)",
        "folder": "this is no regular file; name the files of a folder one by one (unreadable)",
        "pipe": "this is no regular file; name the files of a folder one by one (unreadable)",
        "out": "a symbolic link leads out of the folder (outside)",
        "../up": "the name leads out of the folder (outside)",
        "/etc/hostname": "the name leads out of the folder (outside)",
        "taken": "a folder or device has the name taken; nothing was replaced: move it away (unreadable)",
    }
    assert (site.far / "in.npz").read_bytes() == noise(1000)
    assert not (site.far / "in.npz").is_symlink()


def test_a_killed_batch_shows_no_name_and_the_next_one_sends_only_what_it_lacks(sshd: Sshd, tmp_path: Path) -> None:
    site = made_site(tmp_path, sshd, limit=10)
    names = put(site.near, *(f"{n}.npz" for n in range(6)), size=MB)
    command = [sys.executable, "-c", BATCH, str(names).replace("'", '"'), str(site.near), site.at]

    with subprocess.Popen(command, env={**os.environ, **site.environment}, stdout=subprocess.PIPE) as batch:
        wait_for(lambda: len(staged(site.far)) >= 2)
        os.kill(batch.pid, signal.SIGKILL)
    time.sleep(0.3)
    shown, whole = [path for path in site.far.iterdir() if path.name in names], len(staged(site.far))
    changed = (site.near / names[0]).stat().st_mtime_ns + 1
    (site.near / names[0]).write_bytes(noise(MB, 90))
    os.utime(site.near / names[0], ns=(changed, changed))
    hosts = (tmp_path / "hosts.yaml").read_text()
    (tmp_path / "hosts.yaml").write_text(f"{hosts}\nsync_routing: {{max_disk_usage_percent: 0.0001}}\n")
    refused = site.batch(names, site.near, site.at)
    (tmp_path / "hosts.yaml").write_text(hosts)
    result = site.batch(names, site.near, site.at)

    assert shown == []
    assert "max_disk_usage_percent" in refused.error
    assert result.success, result
    assert result.transferred == tuple(names)
    assert result.bytes_transferred == (6 - whole + 1) * MB  # what came outlives a refusal, but not a change
    assert [(site.far / name).read_bytes() for name in names] == [noise(MB, n) for n in (90, 1, 2, 3, 4, 5)]
    assert site.leftovers() == []


def test_a_file_that_changes_or_vanishes_under_way_fails_alone(sshd: Sshd, tmp_path: Path) -> None:
    site = made_site(tmp_path, sshd, limit=8)
    names = put(site.near, "0.npz", "1.npz", "2.npz", "3.npz", size=MB)
    (site.far / "0.npz").write_bytes(b"the old one")

    async def disturbed(runtime: Runtime) -> BatchResult:
        running = asyncio.ensure_future(BatchRsync(runtime).sync(names, str(site.near), site.at, HOST))
        await asyncio.to_thread(wait_for, lambda: len(staged(site.far)) >= 1)
        (site.near / "0.npz").write_bytes(noise(MB, 77))
        (site.near / "3.npz").unlink()
        return await running

    with Runtime.open(site.settings) as runtime:
        result = asyncio.run(disturbed(runtime))

    assert result.transferred == ("1.npz", "2.npz")
    assert result.failed["0.npz"] == "it changed while the batch ran (changed)"
    assert result.failed.keys() == {"0.npz", "3.npz"}
    assert (site.far / "0.npz").read_bytes() == b"the old one"
    assert site.leftovers() == []


def test_a_file_with_other_bytes_gets_no_name_when_it_is_verified(tmp_path: Path) -> None:
    with spoiling_site(tmp_path, "127.66.1.7") as site:
        put(site.near, "a.npz")
        (site.far / "a.npz").write_bytes(b"the old one")

        result = site.batch(["a.npz"], site.near, site.at, verify_checksum=True)

        assert result.failed == {"a.npz": "what arrived is another file; it was removed (checksum)"}
        assert (site.far / "a.npz").read_bytes() == b"the old one"
        assert site.leftovers() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a file system")
@pytest.mark.parametrize("direction", first_of("push", "fetch"))
def test_a_disk_that_fills_up_is_told_and_what_came_before_is_there(sshd: Sshd, tmp_path: Path, direction: str) -> None:
    site = made_site(tmp_path, sshd, limit=8)
    here, there = (site.near, site.far) if direction == "push" else (site.far, site.near)
    names = put(here, "0.npz", "1.npz", "2.npz", "3.npz", size=MB)

    with small_disk(there / "small", "10m") as disk, Runtime.open(site.settings) as runtime:
        ends = (str(here), f"{site.at}/small") if direction == "push" else (f"{site.at}/", str(disk))

        async def filled() -> BatchResult:
            running = asyncio.ensure_future(BatchRsync(runtime).sync(names, *ends, HOST))
            await asyncio.to_thread(wait_for, lambda: len(staged(disk)) >= 1)
            with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
                while filler.write(bytes(MB)):
                    pass
            return await running

        result = asyncio.run(filled())
        arrived = sorted(path.name for path in disk.iterdir())

    assert "full" in result.error or "No space left" in result.error
    assert 1 <= len(result.transferred) < 4
    assert arrived == [*sorted(result.transferred), "filler"]
    assert set(result.failed) == set(names) - set(arrived)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a file system")
def test_a_disk_with_too_little_room_takes_nothing(site: Site) -> None:
    names = put(site.far, "0.npz", size=3 * MB)
    with small_disk(site.near / "small", "2m") as disk:
        result = site.batch(names, f"{site.at}/", disk)
        left = list(disk.iterdir())

    assert "free some space" in result.error
    assert left == []


def test_cancelling_the_task_ends_the_batch_within_half_a_second(sshd: Sshd, tmp_path: Path) -> None:
    site = made_site(tmp_path, sshd, limit=5)
    names = put(site.near, "0.npz", "1.npz", size=8 * MB)

    async def cancelled(runtime: Runtime) -> float:
        running = asyncio.ensure_future(BatchRsync(runtime).sync(names, str(site.near), site.at, HOST))
        await asyncio.to_thread(wait_for, lambda: any(site.far.glob(".ringrift-batch-*/.*")))
        running.cancel()
        asked = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await running
        return time.monotonic() - asked

    with Runtime.open(site.settings) as runtime:
        seconds = asyncio.run(cancelled(runtime))

    assert seconds < 1.0  # half a second, and as much again for a machine that does other things
    assert [row.error_class for row in site.rows()] == ["TransferCancelledError"]


@pytest.mark.cluster
def test_one_batch_at_a_time_goes_to_one_folder(sshd: Sshd, tmp_path: Path) -> None:
    site = made_site(tmp_path, sshd, limit=4)
    names = put(site.near, "0.npz", size=3 * MB)
    first: list[BatchResult] = []
    running = threading.Thread(target=lambda: first.append(site.batch(names, site.near, site.at)))
    running.start()
    wait_for(lambda: any(site.far.glob(".ringrift-batch-*/.*")))

    impatient = site.batch(names, site.near, site.at, timeout_seconds=0.1)
    second = site.batch(names, site.near, site.at)
    running.join()

    assert first[0].success, first
    assert "is held by" in impatient.error
    assert set(impatient.failed) == set(names)
    assert (second.success, second.unchanged, second.bytes_transferred) == (True, tuple(names), 0), second


def test_a_node_that_cannot_be_reached_fails_every_file_with_the_reason(site: Site) -> None:
    names = put(site.near, "a.npz", "b.npz")
    site.sshd.known_hosts.write_text("")
    try:
        result = site.batch(names, site.near, site.at)
    finally:
        site.sshd.trust()

    assert "ssh-keyscan" in result.error
    assert result.failed == dict.fromkeys(names, result.error)
    assert [row.error_class for row in site.rows()] == ["HostKeyError"]


def test_a_batch_of_nothing_asks_nobody_and_a_wrong_address_is_refused(site: Site) -> None:
    assert site.batch([], site.near, site.at).success
    assert site.rows() == []
    with pytest.raises(ConfigError, match="no address of training-node"):
        site.batch(["a"], site.near, "203.0.113.9:/d")
    with pytest.raises(ConfigError, match="give a list of names"):
        site.batch("a.npz", site.near, site.at)  # type: ignore[arg-type]
