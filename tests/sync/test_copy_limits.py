"""How long and how often a copy is tried, when it is not tried at all, and what of that is recorded."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ringrift_sync_dagster.core.bandwidth import TransferPriority
from ringrift_sync_dagster.core.breaker import CircuitBreakerConfig, CircuitState
from ringrift_sync_dagster.errors import ConfigError
from ringrift_sync_dagster.state import breakers
from ringrift_sync_dagster.state.admission import TransferRequest
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.sync.batch_rsync import BatchResult, BatchRsync
from ringrift_sync_dagster.sync.coordinated_rsync import BandwidthCoordinatedRsync, SyncResult
from ringrift_sync_dagster.sync.runtime import Runtime
from tests.marks import first_of
from tests.sshd import PROGRAMS, Sshd, program
from tests.sync.copying import HOST, MB, grown, made_site, noise

# The node's rsync, which does as the file says that lies beside it, and counts how often it was asked to.
MOODY_RSYNC = """#!/bin/sh
case "$*" in *--server*) echo >> {folder}/runs ;; *) exec {rsync} "$@" ;; esac
case "$(cat {folder}/mood)" in
  fails) exit 12 ;;
  hangs) exec sleep 30 ;;
  *) exec {rsync} "$@" ;;
esac
"""
Copied = SyncResult | BatchResult


class Moody:
    """A site whose node's rsync works, fails or hangs."""

    def __init__(self, sshd: Sshd, base: Path) -> None:
        self._folder = sshd.folder / "bin"
        self.site = made_site(base, sshd)
        (self.site.near / "a.npz").write_bytes(noise(1000))
        (self.site.far / "b.npz").write_bytes(noise(1000, 1))
        self.now("works")

    def now(self, mood: str) -> None:
        (self._folder / "mood").write_text(mood)
        (self._folder / "runs").write_text("")

    @property
    def runs(self) -> int:
        return len((self._folder / "runs").read_text().splitlines())

    @property
    def breaker(self) -> tuple[CircuitState, int]:
        """The state of the node's breaker for rsync, and failures in a row."""
        with StateStore.open(self.site.settings.state_url) as state:
            rows = breakers.breaker_rows(state)
        return (rows[0].state, rows[0].failures) if rows else (CircuitState.CLOSED, 0)

    def copy(self, kind: str, timeout_seconds: float | None = None) -> Copied:
        """One way to bring ``a.npz`` to the node, or ``b.npz`` here."""
        site = self.site
        if kind == "push":
            return site.copy(site.near / "a.npz", f"{site.at}/", timeout_seconds=timeout_seconds)
        if kind == "fetch":
            return site.copy(f"{site.at}/b.npz", f"{site.near}/", timeout_seconds=timeout_seconds)
        return site.batch(["a.npz"], site.near, site.at, timeout_seconds=timeout_seconds)


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with Sshd(tmp_path_factory.mktemp("sshd"), "127.66.1.8", programs=(*PROGRAMS, "sleep", "chmod")) as running:
        own = running.folder / "bin"
        (own / "python3").symlink_to(Path(sys.executable).resolve())
        (own / "rsync").write_text(MOODY_RSYNC.format(rsync=program("rsync"), folder=own))
        (own / "rsync").chmod(0o755)
        yield running


@pytest.fixture
def moody(sshd: Sshd, tmp_path: Path) -> Moody:
    return Moody(sshd, tmp_path)


@pytest.mark.parametrize("kind", first_of("push", "batch"))
def test_a_copy_is_tried_three_times_and_the_next_one_is_not_tried_while_the_breaker_is_open(
    moody: Moody, kind: str
) -> None:
    moody.now("fails")
    failed = moody.copy(kind)
    runs = moody.runs
    refused = moody.copy(kind)

    first, second = moody.site.rows()
    assert not failed.success
    assert not refused.success
    assert (runs, moody.runs) == (3, 3)
    assert [(rung["rung"], rung["error"]) for rung in first.rungs] == [("rsync", "TransientError")] * 3
    assert (first.error_class, first.transport) == ("TransientError", "rsync")
    assert moody.breaker == (CircuitState.OPEN, 3)
    assert second.error_class == "NodeDownError"
    assert [rung["error"] for rung in second.rungs] == ["Skipped"]
    assert "not tried" in refused.error
    assert "3 failures in a row" in refused.error


def test_a_copy_that_works_closes_the_breaker_and_what_is_no_fault_of_the_node_opens_none(moody: Moody) -> None:
    with StateStore.open(moody.site.settings.state_url) as state:
        for _ in range(2):
            breakers.failed(state, HOST, "rsync", CircuitBreakerConfig(), "X")
    moody.copy("push")
    after_success = moody.breaker
    for _ in range(3):
        moody.site.copy(f"{moody.site.at}/missing.npz", f"{moody.site.near}/")

    assert after_success == (CircuitState.CLOSED, 0)
    assert moody.breaker == (CircuitState.CLOSED, 0)
    assert [row.rungs[0]["error"] for row in moody.site.rows()[1:]] == ["ArtifactGoneError"] * 3


def test_a_node_that_does_not_answer_counts_against_its_breaker_and_the_rows_say_so(tmp_path: Path) -> None:
    with Sshd(tmp_path / "sshd", "127.66.1.9", programs=PROGRAMS) as sshd:
        moody = Moody(sshd, tmp_path / "site")

    counted = [(moody.copy(kind).success, moody.breaker[1]) for kind in ("push", "fetch", "batch")]

    assert counted == [(False, 1), (False, 2), (False, 3)]
    assert moody.breaker == (CircuitState.OPEN, 3)
    for row in moody.site.rows():
        assert row.error_class == "UnreachableError"
        assert [rung["error"] for rung in row.rungs] == ["UnreachableError"]


@pytest.mark.parametrize("kind", first_of("push", "batch"))
def test_a_copy_that_hangs_ends_with_its_time(moody: Moody, kind: str) -> None:
    moody.now("hangs")
    began = time.monotonic()
    result = moody.copy(kind, timeout_seconds=1.5)
    seconds = time.monotonic() - began

    (row,) = moody.site.rows()
    assert not result.success
    assert 1.4 < seconds < 10
    assert row.error_class == "DeadlineExceededError"
    assert [rung["error"] for rung in row.rungs] == ["DeadlineExceededError"]
    assert moody.breaker == (CircuitState.CLOSED, 0)


@pytest.mark.parametrize("kind,given", first_of(("push", 1.5), ("batch", 3.0)))
def test_waiting_for_a_turn_is_part_of_the_time(
    moody: Moody, monkeypatch: pytest.MonkeyPatch, kind: str, given: float
) -> None:
    monkeypatch.setenv("RINGRIFT_MAX_CONCURRENT_SYNCS", "1")
    wanted = TransferRequest("a" * 64, "other-1", "fetch", 10, TransferPriority.NORMAL)
    with Runtime.open(moody.site.settings) as runtime, runtime.bandwidth.transfer(wanted):
        began = time.monotonic()
        result = moody.copy(kind, timeout_seconds=given)
        seconds = time.monotonic() - began

    assert "no turn came" in result.error
    assert given - 0.2 < seconds < given + 8
    assert moody.runs == 0


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_time_that_is_none_is_refused(moody: Moody, seconds: float) -> None:
    for kind in ("push", "batch"):
        with pytest.raises(ConfigError, match="give seconds above 0"):
            moody.copy(kind, timeout_seconds=seconds)


@pytest.mark.parametrize("direction", first_of("push", "fetch"))
def test_two_copies_of_one_thing_do_not_mix_and_the_second_finds_it_there(
    sshd: Sshd, tmp_path: Path, direction: str
) -> None:
    Moody(sshd, tmp_path / "works")
    site = made_site(tmp_path / "site", sshd, limit=5)
    here, there = (site.near, site.far) if direction == "push" else (site.far, site.near)
    (here / "c.npz").write_bytes(noise(4 * MB))
    ends = (here / "c.npz", f"{site.at}/") if direction == "push" else (f"{site.at}/c.npz", f"{there}/")
    first: list[SyncResult] = []
    copying = threading.Thread(target=lambda: first.append(site.copy(*ends)))
    copying.start()
    grown(there, MB)

    impatient = site.copy(*ends, timeout_seconds=0.1)
    second = site.copy(*ends)
    copying.join()

    assert first[0].success, first
    assert "is held by" in impatient.error
    assert (second.success, second.bytes_transferred) == (True, 0), second
    assert (there / "c.npz").read_bytes() == noise(4 * MB)
    assert site.leftovers() == []


def test_a_copy_that_waits_for_another_one_or_for_a_thread_ends_at_once_when_it_is_cancelled(
    sshd: Sshd, tmp_path: Path
) -> None:
    Moody(sshd, tmp_path / "works")
    site = made_site(tmp_path / "site", sshd, limit=2)
    (site.near / "c.npz").write_bytes(noise(8 * MB))

    async def cancelled(runtime: Runtime) -> list[float]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(3))
        rsync, batch = BandwidthCoordinatedRsync(runtime), BatchRsync(runtime)
        ends = (f"{site.near}/c.npz", f"{site.at}/", HOST)
        moving = asyncio.ensure_future(rsync.sync_with_checksum(*ends))
        await asyncio.to_thread(grown, site.far, 100_000)
        waiting = [rsync.sync_with_checksum(*ends), rsync.sync_with_checksum(*ends)]
        without_a_thread = [rsync.sync_with_checksum(*ends), batch.sync(["c.npz"], str(site.near), site.at, HOST)]
        tasks = [asyncio.ensure_future(work) for work in (*waiting, *without_a_thread)]
        await asyncio.sleep(0.5)
        seconds = []
        for task in (*tasks[::-1], moving):
            began = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            seconds.append(time.monotonic() - began)
        return seconds

    with Runtime.open(site.settings) as runtime:
        seconds = asyncio.run(cancelled(runtime))

    assert max(seconds) < 2.0  # half a second, and the rest for a machine that does other things
    assert {row.error_class for row in site.rows()} == {"TransferCancelledError"}
