"""The guide's copy with a checksum, between this machine and a node with a real sshd and a real rsync."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringrift_sync_dagster.core.bandwidth import TransferPriority
from ringrift_sync_dagster.sync.coordinated_rsync import BandwidthCoordinatedRsync
from ringrift_sync_dagster.sync.runtime import Runtime
from tests.marks import first_of
from tests.sshd import Sshd
from tests.sync.copying import HOST, MB, Site, grown, made_site, make_database, noise, opened, part_of, rows_of

GUIDE = """
from app.coordination.sync_bandwidth import BandwidthCoordinatedRsync

rsync = BandwidthCoordinatedRsync()
result = await rsync.sync_with_checksum(
    source="/data/games/canonical_hex8.db",
    dest="ubuntu@training:/data/games/",
    host="training-node",
    verify_checksum=True,  # Verify after transfer
)
"""
COPY = """
import asyncio, sys
from ringrift_sync_dagster.settings.settings import load_settings
from ringrift_sync_dagster.sync.coordinated_rsync import BandwidthCoordinatedRsync
print(asyncio.run(BandwidthCoordinatedRsync().sync_with_checksum(sys.argv[1], sys.argv[2], "training-node")))
"""
WRITER = """
import sqlite3, sys
conn = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=20)
conn.execute("PRAGMA journal_mode=WAL")
n = conn.execute("SELECT MAX(n) FROM t").fetchone()[0]
while True:
    n += 1
    conn.execute("BEGIN IMMEDIATE")
    conn.execute("INSERT INTO t VALUES (?, randomblob(1000))", (n,))
    conn.execute("UPDATE t SET body = randomblob(1000) WHERE n % 50 = ?", (n % 50,))
    conn.execute("COMMIT")
    print(n, flush=True)
"""


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with Sshd(tmp_path_factory.mktemp("sshd"), "127.66.1.2") as running:
        yield running


@pytest.fixture
def site(sshd: Sshd, tmp_path: Path) -> Site:
    return made_site(tmp_path, sshd)


def started(site: Site, source: object, dest: object) -> subprocess.Popen[str]:
    """The same in a process of its own, which opens this program's settings."""
    return subprocess.Popen(
        [sys.executable, "-c", COPY, str(source), str(dest)], env={**os.environ, **site.environment},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_the_guides_call_works_as_it_is_written(site: Site) -> None:
    make_database(site.near / "canonical_hex8.db")
    code = GUIDE.replace("app.coordination.sync_bandwidth", "ringrift_sync_dagster.sync.coordinated_rsync")
    code = code.replace("/data/games/canonical", f"{site.near}/canonical")
    code = code.replace("ubuntu@training:/data/games/", f"{site.at}/")
    body = "".join(f"    {line}\n" for line in code.splitlines())
    program = f"import asyncio\nasync def main():\n{body}    print(result)\nasyncio.run(main())"

    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **site.environment}, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip

    assert "success=True" in done.stdout, done.stderr
    assert "verified=True" in done.stdout
    assert f"dest='{site.at}/canonical_hex8.db'" in done.stdout
    assert rows_of(site.far / "canonical_hex8.db") == 200


def test_a_file_arrives_verified_either_way_and_leaves_a_row_and_nothing_else(site: Site) -> None:
    data = noise(3 * MB)
    (site.near / "a.npz").write_bytes(data)

    pushed = site.copy(site.near / "a.npz", f"{site.at}/deep/er/")
    fetched = site.copy(f"{site.at}/deep/er/a.npz", site.near / "back.npz")
    again = site.copy(f"{site.at}/deep/er/a.npz", site.near / "back.npz", verify_checksum=False)

    assert [one.success for one in (pushed, fetched, again)] == [True] * 3, (pushed, fetched, again)
    assert [one.bytes_transferred for one in (pushed, fetched, again)] == [3 * MB, 3 * MB, 0]
    assert pushed.checksum == fetched.checksum == again.checksum != ""
    assert pushed.dest == f"{site.at}/deep/er/a.npz"
    assert fetched.dest == str(site.near / "back.npz")
    assert (site.near / "back.npz").read_bytes() == data
    assert (site.far / "deep/er/a.npz").stat().st_mode & 0o777 == 0o644
    assert [(row.direction, row.size_bytes, row.state.value) for row in site.rows()] == [
        ("push", 3 * MB, "done"), ("fetch", 3 * MB, "done"), ("fetch", 3 * MB, "done"),
    ]  # fmt: skip
    assert [row.rungs[0]["bytes_moved"] for row in site.rows()[:2]] == [3 * MB, 3 * MB]
    assert site.leftovers() == []


@pytest.mark.cluster
def test_odd_names_and_several_copies_at_a_time_are_no_trouble(site: Site) -> None:
    names = ["-a b.npz", "line\nend'\".npz", "[x]*?.npz", "w:eirdß;#$x.npz"]
    for number, name in enumerate(names):
        (site.near / name).write_bytes(noise(1000, number))

    async def all_of_them(runtime: Runtime) -> list[bool]:
        rsync = BandwidthCoordinatedRsync(runtime)
        copies = (rsync.sync_with_checksum(f"{site.near}/{name}", f"{site.at}/", HOST) for name in names)
        results = await asyncio.gather(*copies)
        return [result.success for result in results]

    with Runtime.open(site.settings) as runtime:
        assert asyncio.run(all_of_them(runtime)) == [True] * len(names)
        back = asyncio.run(
            BandwidthCoordinatedRsync(runtime).sync_with_checksum(
                f"{site.at}/{names[2]}", f"{site.near}/{names[1]}", HOST, verify_checksum=False
            )
        )

    assert back.success, back
    assert [(site.far / name).read_bytes() for name in names] == [noise(1000, n) for n in range(len(names))]
    assert (site.near / names[1]).read_bytes() == noise(1000, 2)


@pytest.mark.parametrize("direction", first_of("fetch", "push"))
def test_a_live_database_arrives_as_one_moment_of_it(site: Site, direction: str) -> None:
    here, there = (site.near, site.far) if direction == "push" else (site.far, site.near)
    source = make_database(here / "g.db", 3000)
    before = sqlite3.connect(source)
    with (
        contextlib.closing(before),
        subprocess.Popen([sys.executable, "-c", WRITER, str(source)], stdout=subprocess.PIPE, text=True) as writer,
    ):
        assert writer.stdout is not None
        committed = int([writer.stdout.readline() for _ in range(20)][-1])
        try:
            ends = (source, f"{site.at}/") if direction == "push" else (f"{site.at}/g.db", site.near)
            result = site.copy(*ends)
            assert writer.poll() is None
        finally:
            writer.kill()

    assert result.success, result
    assert result.verified
    assert rows_of(there / "g.db") >= committed + 1
    assert not (there / "g.db-wal").exists() or (there / "g.db-wal").stat().st_size == 0
    assert site.leftovers() == []


@pytest.mark.parametrize("direction", first_of("fetch", "push"))
def test_a_database_in_use_is_never_replaced(site: Site, direction: str) -> None:
    here, there = (site.near, site.far) if direction == "push" else (site.far, site.near)
    make_database(here / "g.db", 5)
    target = make_database(there / "g.db", 9)
    ends = (site.near / "g.db", f"{site.at}/") if direction == "push" else (f"{site.at}/g.db", f"{site.near}/")

    with opened(target):
        used = site.copy(*ends)
    (there / "g.db-wal").write_bytes(b"left by a writer that died")
    dead = site.copy(*ends)
    (there / "g.db-wal").unlink()

    assert not used.success
    assert f"process {os.getpid()}" in used.error
    assert "ringrift-sync sync --type games --node training-node" in used.error
    assert not dead.success
    assert "g.db-wal beside it holds" in dead.error
    assert rows_of(target) == 9
    assert {row.error_class for row in site.rows()} == {"RemoteCallError"}


def test_an_unused_database_is_replaced_together_with_what_its_last_user_left(site: Site) -> None:
    make_database(site.near / "g.db", 5, wal=True)
    target = make_database(site.far / "g.db", 9, wal=True)
    with contextlib.closing(sqlite3.connect(f"file:{target}?mode=ro", uri=True)) as reader:
        reader.execute("SELECT * FROM t").fetchone()
    left = sorted(path.name for path in site.far.iterdir())

    result = site.copy(site.near / "g.db", f"{site.at}/g.db")

    assert left == ["g.db", "g.db-shm", "g.db-wal"]
    assert result.success, result
    assert [path.name for path in site.far.iterdir()] == ["g.db"]
    assert rows_of(target) == 5


@pytest.mark.parametrize("direction", first_of("fetch", "push"))
def test_a_killed_copy_leaves_only_its_part_and_the_next_one_goes_on(
    sshd: Sshd, tmp_path: Path, direction: str
) -> None:
    site = made_site(tmp_path, sshd, limit=20)
    here, there = (site.near, site.far) if direction == "push" else (site.far, site.near)
    data = noise(12 * MB)
    (here / "a.npz").write_bytes(data)
    (there / "a.npz").write_bytes(b"the old one")
    ends = (here / "a.npz", f"{site.at}/") if direction == "push" else (f"{site.at}/a.npz", f"{site.near}/")

    with started(site, *ends) as copy:
        part = grown(there, 3 * MB)
        os.kill(copy.pid, signal.SIGKILL)
    time.sleep(0.3)
    size = part.stat().st_size
    old = (there / "a.npz").read_bytes()
    result = site.copy(*ends)

    assert old == b"the old one"
    assert size < 12 * MB
    assert result.success, result
    assert (there / "a.npz").read_bytes() == data
    assert site.rows()[-1].resumed_from >= size
    assert result.bytes_transferred == 12 * MB - site.rows()[-1].resumed_from
    assert site.leftovers() == []


def test_cancelling_the_task_ends_the_copy_within_half_a_second_and_keeps_what_came(sshd: Sshd, tmp_path: Path) -> None:
    site = made_site(tmp_path, sshd, limit=5)
    (site.near / "a.npz").write_bytes(noise(20 * MB))

    async def cancelled(runtime: Runtime) -> float:
        copying = asyncio.ensure_future(
            BandwidthCoordinatedRsync(runtime).sync_with_checksum(f"{site.near}/a.npz", f"{site.at}/", HOST)
        )
        await asyncio.to_thread(grown, site.far, MB)
        copying.cancel()
        asked = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await copying
        return time.monotonic() - asked

    with Runtime.open(site.settings) as runtime:
        seconds = asyncio.run(cancelled(runtime))

    assert seconds < 1.0  # half a second, and as much again for a machine that does other things
    assert part_of(site.far).stat().st_size >= MB
    assert [(row.state.value, row.error_class) for row in site.rows()] == [("failed", "TransferCancelledError")]


@pytest.mark.cluster
def test_a_limit_of_20_mb_per_second_holds(sshd: Sshd, tmp_path: Path) -> None:
    site = made_site(tmp_path, sshd, limit=20)
    (site.near / "a.npz").write_bytes(noise(40 * MB))

    result = site.copy(site.near / "a.npz", f"{site.at}/")

    (row,) = site.rows()
    assert result.success, result
    assert row.rate_granted == 20 * MB
    assert row.seconds >= 0.9 * 2.0
    assert row.seconds < 10


def test_the_priority_of_the_host_counts_before_the_callers(site: Site) -> None:
    (site.near / "a.npz").write_bytes(b"x")

    with Runtime.open(site.settings) as runtime:
        runtime.bandwidth.set_host_priority(HOST, TransferPriority.HIGH)
    site.copy(site.near / "a.npz", f"{site.at}/", priority=TransferPriority.BACKGROUND)

    assert [row.priority for row in site.rows()] == ["high"]
