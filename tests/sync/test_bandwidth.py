"""Limits, priorities and turns, as a transfer meets them: with a real state database, between real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringrift_sync_dagster.core.bandwidth import TransferPriority
from ringrift_sync_dagster.errors import AdmissionRefusedError, TransferCancelledError, TransientError
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.settings.inventory import load_inventory
from ringrift_sync_dagster.settings.settings import load_settings
from ringrift_sync_dagster.state.admission import TransferRequest
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.transfers import TransferState, transfer_rows
from ringrift_sync_dagster.sync.bandwidth import BandwidthManager
from ringrift_sync_dagster.transports.base import Fetched

MB = 1_000_000
HOSTS = """
auto_sync: {bandwidth_limit_mbps: 40, host_bandwidth_overrides: {"vast-*": 30, vast-7: 7}}
hosts:
  hub-1: {ssh_host: 127.77.0.1, ringrift_path: /r, role: coordinator}
  vast-1: {ssh_host: 127.77.0.2, ringrift_path: /r}
  vast-7: {ssh_host: 127.77.0.3, ringrift_path: /r}
  runpod-1: {ssh_host: 127.77.0.4, ringrift_path: /r}
  local-1: {ssh_host: 127.77.0.5, ringrift_path: /r}
  slow-1: {ssh_host: 127.77.0.6, ringrift_path: /r, bandwidth_mbps: 10, hard_limit: true}
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "hosts.yaml").write_text(HOSTS)
    return tmp_path


def manager_of(home: Path, **more: object) -> tuple[BandwidthManager, StateStore]:
    settings = load_settings(home=home, hosts=home / "hosts.yaml", root=home / "root", **more)
    state = StateStore.open(settings.state_url)
    return BandwidthManager(settings, load_inventory(settings.hosts), state), state


@pytest.fixture
def opened(home: Path) -> Iterator[tuple[BandwidthManager, StateStore]]:
    manager, state = manager_of(home)
    yield manager, state
    manager.close()
    state.close()


def wanted(
    node: str = "vast-1", priority: TransferPriority = TransferPriority.NORMAL, size: int = MB
) -> TransferRequest:
    return TransferRequest("ab" * 32, node, "fetch", size, priority, reserved_bytes=size, disk="hub-1")


@pytest.mark.parametrize(
    "host,limit",
    [("slow-1", 10), ("vast-7", 7), ("vast-1", 30), ("runpod-1", 100), ("local-1", 40), ("unheard-of", 40)],
)
def test_the_limit_is_the_hosts_own_else_an_override_else_its_providers_else_the_setting(
    opened: tuple[BandwidthManager, StateStore], host: str, limit: float
) -> None:
    assert opened[0].get_host_bandwidth_limit(host) == limit


def test_a_transfer_alone_has_what_its_priority_is_worth(opened: tuple[BandwidthManager, StateStore]) -> None:
    manager, _ = opened
    found = {}
    for priority in TransferPriority:
        with manager.transfer(wanted(priority=priority)) as running:
            found[priority.value] = running.pacer.rate / MB
    assert found == {"critical": 60, "high": 45, "normal": 30, "low": 15, "background": 7.5}


def test_no_priority_passes_a_hard_limit(opened: tuple[BandwidthManager, StateStore]) -> None:
    with opened[0].transfer(wanted("slow-1", TransferPriority.CRITICAL)) as running:
        assert running.pacer.rate == 10 * MB


def test_who_runs_gives_way_to_a_newcomer_and_gets_its_share_back(opened: tuple[BandwidthManager, StateStore]) -> None:
    manager, _ = opened
    with manager.transfer(wanted()) as first:
        with manager.transfer(wanted(priority=TransferPriority.CRITICAL)) as second:
            assert (first.pacer.rate, second.pacer.rate) == (20 * MB, 40 * MB)
        limit = Deadline(10)
        while first.pacer.rate != 30 * MB:
            assert not limit.expired
            time.sleep(0.05)


def test_the_priority_of_a_host_replaces_that_of_its_transfers_until_it_is_taken_back(
    opened: tuple[BandwidthManager, StateStore],
) -> None:
    manager, state = opened
    manager.set_host_priority("vast-1", TransferPriority.HIGH)
    with manager.transfer(wanted()):
        assert transfer_rows(state, running=True)[0].priority == "high"
    manager.set_host_priority("vast-1", None)
    with manager.transfer(wanted()):
        assert transfer_rows(state, running=True)[0].priority == "normal"


def test_the_row_says_how_a_transfer_ended(opened: tuple[BandwidthManager, StateStore]) -> None:
    manager, state = opened
    with manager.transfer(wanted()) as running:
        running.progress(400)
        running.done(Fetched(MB - 100, 100, 0.5, "rsync"))
    with pytest.raises(TransientError), manager.transfer(wanted()):
        raise TransientError("vast-1", "rsync", "it broke")
    failed, done = transfer_rows(state)
    assert (done.state, done.transport, done.resumed_from, done.seconds) == (TransferState.DONE, "rsync", 100, 0.5)
    assert done.rate_granted == 30 * MB
    assert (failed.state, failed.error_class) == (TransferState.FAILED, "TransientError")


def test_what_would_pass_the_limit_of_the_disk_is_refused_and_a_rescue_is_not(home: Path) -> None:
    (home / "hosts.yaml").write_text("sync_routing: {max_disk_usage_percent: 0.001}\n" + HOSTS)
    manager, state = manager_of(home)
    with state:
        with (
            pytest.raises(AdmissionRefusedError, match=r"max_disk_usage_percent is 0\.001"),
            manager.transfer(wanted(), disk=home),
        ):
            pass
        with manager.transfer(wanted(), disk=home, rescue=True):
            pass
        manager.close()
        assert [row.state for row in transfer_rows(state)] == [TransferState.DONE, TransferState.FAILED]


def test_what_is_under_way_counts_as_if_it_lay_on_the_disk(
    home: Path, opened: tuple[BandwidthManager, StateStore]
) -> None:
    manager, _ = opened
    from ringrift_sync_dagster.storage.room import disk_of  # noqa: PLC0415

    most = disk_of(home).free_bytes // 10 * 6
    with manager.transfer(wanted(size=most), disk=home) as running:
        with pytest.raises(AdmissionRefusedError, match="to come"), manager.transfer(wanted(size=most), disk=home):
            pass
        running.progress(0)
    with manager.transfer(wanted(size=most), disk=home):
        pass


def test_waiting_for_a_turn_can_be_cancelled(home: Path) -> None:
    manager, state = manager_of(home, max_concurrent_syncs=1)
    cancel = threading.Event()
    with state, manager.transfer(wanted()):
        threading.Timer(0.3, cancel.set).start()
        with pytest.raises(TransferCancelledError), manager.transfer(wanted("runpod-1"), cancel=cancel):
            pass
    manager.close()


PROGRAM = """
import json, sys, threading, time
from pathlib import Path
from ringrift_sync_dagster.core.bandwidth import TransferPriority
from ringrift_sync_dagster.settings.inventory import load_inventory
from ringrift_sync_dagster.settings.settings import load_settings
from ringrift_sync_dagster.state.admission import TransferRequest
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.transfers import transfer_rows
from ringrift_sync_dagster.sync.bandwidth import BandwidthManager
home, threads, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
settings = load_settings(home=home, hosts=home / "hosts.yaml", root=home / "root")
state = StateStore.open(settings.state_url)
manager = BandwidthManager(settings, load_inventory(settings.hosts), state)
most = []
def one(_):
    with manager.transfer(TransferRequest("ab" * 32, "vast-1", "fetch", 1, TransferPriority.NORMAL)):
        sys.stdout.write("running\\n")  # in one piece, whatever the other threads say
        sys.stdout.flush()
        time.sleep(seconds)
        most.append(sum(row.state.value == "running" for row in transfer_rows(state, running=True)))
threads = [threading.Thread(target=one, args=(number,)) for number in range(threads)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(json.dumps(max(most)), flush=True)
manager.close()
"""


def start(home: Path, threads: int, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(home), str(threads), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_forty_transfers_of_four_processes_run_five_at_a_time(home: Path) -> None:
    processes = [start(home, 10, 0.05) for _ in range(4)]
    outputs = [process.communicate(timeout=60)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert 1 <= max(int(words[-1]) for words in outputs) <= 5
    _, state = manager_of(home)
    with state:
        assert [row.state for row in transfer_rows(state)] == [TransferState.DONE] * 40


def test_the_slots_and_the_share_of_a_killed_process_are_free_at_once(home: Path) -> None:
    with start(home, 5, 60) as process:
        assert process.stdout is not None
        words = [process.stdout.readline().strip() for _ in range(5)]
        process.send_signal(signal.SIGKILL)
    assert words == ["running"] * 5
    manager, state = manager_of(home)
    with state, manager.transfer(wanted()) as running:
        assert running.pacer.rate == 30 * MB
    manager.close()


def test_what_comes_from_an_ephemeral_node_has_its_turn_before_what_came_a_little_earlier(home: Path) -> None:
    (home / "hosts.yaml").write_text(
        HOSTS + "  spot-1: {ssh_host: 127.77.0.7, ringrift_path: /r, is_ephemeral: true}\n"
    )
    order: list[str] = []
    for boost, expected in ((2.0, ["spot-1", "local-1"]), (1.0, ["local-1", "spot-1"])):
        manager, state = manager_of(home, max_concurrent_syncs=1, ephemeral_priority_boost=boost)
        order.clear()

        def move(node: str, manager: BandwidthManager = manager) -> None:
            with manager.transfer(wanted(node)):
                order.append(node)

        threads = [threading.Thread(target=move, args=(node,)) for node in ("local-1", "spot-1")]
        with manager.transfer(wanted("runpod-1")):
            for number, thread in enumerate(threads, start=2):
                thread.start()
                while len(transfer_rows(state, running=True)) < number:
                    time.sleep(0.01)
        for thread in threads:
            thread.join()
        assert order == expected
        manager.close()
        state.close()
