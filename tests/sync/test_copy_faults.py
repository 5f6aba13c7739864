"""What goes wrong with a copy is told, and leaves what was there as it was: real sshd, real rsync, real full disks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringrift_sync_dagster.errors import ConfigError
from ringrift_sync_dagster.sync.coordinated_rsync import BandwidthCoordinatedRsync, SyncResult
from ringrift_sync_dagster.sync.runtime import Runtime
from tests.disks import small_disk
from tests.marks import first_of
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


@pytest.mark.parametrize("direction", first_of("push", "fetch"))
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
@pytest.mark.parametrize("direction", first_of("push", "fetch"))
def test_a_full_disk_at_the_destination_is_told_and_nothing_is_replaced(site: Site, direction: str) -> None:
    here, there = (site.near, site.far) if direction == "push" else (site.far, site.near)
    (here / "a.npz").write_bytes(noise(4 * MB))
    with small_disk(there / "small", "2m") as disk:
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


@pytest.mark.parametrize("direction", first_of("push", "fetch"))
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
    (site.far / "canonical_hex8_2p.db-wal").write_bytes(b"x")
    store = site.base / "hub/data/games"
    store.mkdir(parents=True)
    (site.near / "link").symlink_to(store)
    names = ("canonical_hex8_2p.db", "canonical_hex8_2p.db-wal", "eval_square8_3p.db", "eval_square8_3p.db-journal")

    for dest in (f"{store}/", site.near / "link", *(store / name for name in names)):
        with pytest.raises(ConfigError, match="games are merged into it"):
            site.copy(f"{site.at}/canonical_hex8_2p.db", dest)
    for name in names:
        with pytest.raises(ConfigError, match="games are merged into it"):
            site.batch(["a.npz", name], site.at, site.near / "link")
    assert site.rows() == []
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


@pytest.mark.parametrize("direction", first_of("push", "fetch"))
def test_a_secret_stays_one_and_a_name_may_be_any_bytes(site: Site, direction: str) -> None:
    here, there = (site.near, site.far) if direction == "push" else (site.far, site.near)
    name = os.fsdecode(b"x\xff.npz")
    (here / name).write_bytes(b"secret")
    (here / name).chmod(0o600)
    source, dest = (here, site.at) if direction == "push" else (site.at, there)

    copied = site.copy(f"{source}/{name}", f"{dest}/one/")
    batched = site.batch([name], source, f"{dest}/many")
    missing = (site.copy(f"{source}/{name}?", f"{dest}/").success, site.batch([f"{name}?"], source, dest).success)

    assert (copied.success, copied.verified) == (True, True), copied
    assert (batched.success, batched.transferred) == (True, (name,)), batched
    assert [(there / folder / name).stat().st_mode & 0o777 for folder in ("one", "many")] == [0o600] * 2
    assert [(there / folder / name).read_bytes() for folder in ("one", "many")] == [b"secret"] * 2
    assert missing == (False, False)
    assert ".npz?" in site.rows()[-1].error
