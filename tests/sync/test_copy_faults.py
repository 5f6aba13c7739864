"""What goes wrong with a copy is told, and leaves what was there as it was: real sshd, real rsync, real full disks."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringrift_sync_dagster.errors import ConfigError
from ringrift_sync_dagster.sync.coordinated_rsync import BandwidthCoordinatedRsync, SyncResult
from ringrift_sync_dagster.sync.runtime import Runtime
from tests.sshd import Sshd
from tests.sync.copying import (
    HOST,
    MB,
    Site,
    grown,
    made_site,
    make_database,
    noise,
    rows_of,
    small_disk,
    spoiling_site,
)


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with Sshd(tmp_path_factory.mktemp("sshd"), "127.66.1.3") as running:
        yield running


@pytest.fixture
def site(sshd: Sshd, tmp_path: Path) -> Site:
    return made_site(tmp_path, sshd)


async def while_it_runs(runtime: Runtime, ends: tuple[str, str], folder: Path, change: object) -> SyncResult:
    """Copy, and do something to the world when a part has grown."""
    copying = asyncio.ensure_future(BandwidthCoordinatedRsync(runtime).sync_with_checksum(*ends, HOST))
    await asyncio.to_thread(grown, folder, MB)
    change()  # type: ignore[operator]
    return await copying


def test_what_arrives_with_other_bytes_leaves_nothing_behind(tmp_path: Path) -> None:
    with spoiling_site(tmp_path, "127.66.1.4") as site:
        (site.near / "a.npz").write_bytes(noise(MB))
        (site.far / "a.npz").write_bytes(b"the old one")

        compared = site.copy(site.near / "a.npz", f"{site.at}/")
        believed = site.copy(site.near / "a.npz", f"{site.at}/b.npz", verify_checksum=False)

        assert not compared.success
        assert "what arrived is another file; it was removed" in compared.error
        assert (site.far / "a.npz").read_bytes() == b"the old one"
        assert (believed.success, believed.verified) == (True, False)
        assert site.leftovers() == []


@pytest.mark.parametrize("direction", ["push", "fetch"])
def test_a_file_that_changes_under_way_is_given_up(sshd: Sshd, tmp_path: Path, direction: str) -> None:
    site = made_site(tmp_path, sshd, limit=10)
    here, there = (site.near, site.far) if direction == "push" else (site.far, site.near)
    source = here / "a.npz"
    source.write_bytes(noise(6 * MB))
    (there / "a.npz").write_bytes(b"the old one")
    ends = (str(source), f"{site.at}/") if direction == "push" else (f"{site.at}/a.npz", f"{site.near}/")

    def rewrite() -> None:
        with source.open("r+b") as stream:
            stream.seek(5 * MB)
            stream.write(noise(MB, 7))

    with Runtime.open(site.settings) as runtime:
        result = asyncio.run(while_it_runs(runtime, ends, there, rewrite))

    assert not result.success, result
    assert (there / "a.npz").read_bytes() == b"the old one"
    assert site.rows()[-1].error_class in {"SourceChangedError", "ChecksumError"}


def test_a_broken_connection_is_tried_again_and_goes_on(tmp_path: Path) -> None:
    with Sshd(tmp_path / "sshd", "127.66.1.5") as sshd:
        site = made_site(tmp_path / "site", sshd, limit=20)
        (site.near / "a.npz").write_bytes(noise(10 * MB))

        def cut() -> None:
            sshd.kill()
            sshd.start()

        ends = (f"{site.near}/a.npz", f"{site.at}/")
        with Runtime.open(site.settings) as runtime:
            result = asyncio.run(while_it_runs(runtime, ends, site.far, cut))

    (row,) = site.rows()
    assert result.success, result
    assert [rung["error"] != "" for rung in row.rungs] == [True, False]
    assert row.resumed_from >= MB


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a file system")
@pytest.mark.parametrize("direction", ["push", "fetch"])
def test_a_full_disk_at_the_destination_is_told_and_nothing_is_replaced(site: Site, direction: str) -> None:
    here, there = (site.near, site.far) if direction == "push" else (site.far, site.near)
    (here / "a.npz").write_bytes(noise(4 * MB))
    with small_disk(there / "small", 2) as disk:
        (disk / "a.npz").write_bytes(b"the old one")
        ends = (here / "a.npz", f"{site.at}/small/") if direction == "push" else (f"{site.at}/a.npz", f"{disk}/")
        result = site.copy(*ends)
        left = sorted(path.name for path in disk.iterdir())
        old = (disk / "a.npz").read_bytes()

    assert not result.success
    assert "do not fit on the disk" in result.error
    assert old == b"the old one"
    assert [name for name in left if not name.endswith(".part")] == ["a.npz"]
    assert site.rows()[-1].error_class == ("RemoteCallError" if direction == "push" else "LocalDiskError")


@pytest.mark.parametrize("direction", ["push", "fetch"])
def test_a_disk_above_the_inventorys_limit_takes_nothing(sshd: Sshd, tmp_path: Path, direction: str) -> None:
    site = made_site(tmp_path, sshd, more="sync_routing: {max_disk_usage_percent: 0.0001}")
    here, there = (site.near, site.far) if direction == "push" else (site.far, site.near)
    (here / "a.npz").write_bytes(noise(1000))
    ends = (site.near / "a.npz", f"{site.at}/") if direction == "push" else (f"{site.at}/a.npz", f"{site.near}/")
    folders = (site.near, f"{site.at}/") if direction == "push" else (f"{site.at}/", site.near)

    one, many = site.copy(*ends), site.batch(["a.npz"], *folders)

    assert "max_disk_usage_percent" in one.error
    assert "max_disk_usage_percent" in many.error
    assert list(there.iterdir()) == []
    assert [row.error_class for row in site.rows()] == ["AdmissionRefusedError"] * 2


def test_an_unknown_host_key_is_refused_with_the_command_that_adds_it(site: Site, tmp_path: Path) -> None:
    (site.near / "a.npz").write_bytes(b"x")
    site.sshd.known_hosts.write_text("")
    try:
        result = site.copy(site.near / "a.npz", f"{site.at}/")
    finally:
        site.sshd.trust()

    assert not result.success
    assert "ssh-keyscan -p" in result.error
    assert list(site.far.iterdir()) == []
    assert [row.error_class for row in site.rows()] == ["HostKeyError"]


@pytest.mark.parametrize(
    "name,words",
    [("missing.npz", "No such file"), ("folder", "no regular file"), ("damaged.db", "corrupt")],
)
def test_a_source_that_cannot_travel_is_told_before_anything_moves(site: Site, name: str, words: str) -> None:
    (site.far / "folder").mkdir()
    damaged = make_database(site.far / "damaged.db")
    with damaged.open("r+b") as stream:
        stream.seek(4096 + 500)
        stream.write(b"\xff" * 20_000)

    result = site.copy(f"{site.at}/{name}", site.near)

    assert not result.success
    assert words in result.error
    assert result.checksum == ""
    assert list(site.near.iterdir()) == []
    assert site.leftovers() == []


def test_the_canonical_store_is_never_copied_over(site: Site) -> None:
    make_database(site.far / "canonical_hex8_2p.db")
    store = site.base / "hub/data/games"

    for dest in (f"{store}/", store / "canonical_hex8_2p.db"):
        with pytest.raises(ConfigError, match="games are merged into it"):
            site.copy(f"{site.at}/canonical_hex8_2p.db", dest)
    aside = site.copy(f"{site.at}/canonical_hex8_2p.db", store / "copy_of_hex8_2p.db")

    assert aside.success, aside
    assert rows_of(store / "copy_of_hex8_2p.db") == 200


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_a_name_that_is_no_regular_file_is_not_replaced(site: Site, kind: str) -> None:
    (site.near / "a.npz").write_bytes(b"new")
    target = site.far / "into" / "a.npz"
    target.parent.mkdir()
    if kind == "link":
        (site.far / "elsewhere").write_bytes(b"old")
        target.symlink_to("../elsewhere")
    else:
        target.mkdir()

    result = site.copy(site.near / "a.npz", f"{site.at}/into/")

    assert not result.success
    assert "nothing was replaced" in result.error
    assert target.is_symlink() or target.is_dir()


def test_two_copies_to_one_name_do_not_mix(sshd: Sshd, tmp_path: Path) -> None:
    site = made_site(tmp_path, sshd, limit=5)
    (site.near / "a.npz").write_bytes(noise(4 * MB))
    first: list[SyncResult] = []
    ends = (site.near / "a.npz", f"{site.at}/")
    copying = threading.Thread(target=lambda: first.append(site.copy(*ends)))
    copying.start()
    grown(site.far, MB)

    second = site.copy(*ends)
    copying.join()

    assert first[0].success, first
    assert "is held by" in second.error
    assert (site.far / "a.npz").read_bytes() == noise(4 * MB)
