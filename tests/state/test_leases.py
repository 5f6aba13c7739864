"""One holder at a time, among real processes that are killed, stopped and woken again."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from ringrift_sync_dagster.errors import LeaseHeldError, LeaseLostError, StateError
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state import store as store_module
from ringrift_sync_dagster.state.leases import Lease, hold, lease_rows
from ringrift_sync_dagster.state.schema import leases
from ringrift_sync_dagster.state.store import StateStore

StartProgram = Callable[..., "subprocess.Popen[str]"]

HOLDER = """
import sys
from ringrift_sync_dagster.errors import LeaseLostError
from ringrift_sync_dagster.state.leases import hold
from ringrift_sync_dagster.state.store import StateStore
with StateStore.open(sys.argv[1]) as store, hold(store, "merge", ttl_seconds=float(sys.argv[2])) as lease:
    print(lease.fence, flush=True)
    for line in sys.stdin:
        if line == "end\\n":
            break
        try:
            lease.check()
            print("ours", flush=True)
        except LeaseLostError:
            print("lost", flush=True)
"""

COUNTER = """
import pathlib, sys, time
from ringrift_sync_dagster.state.leases import hold
from ringrift_sync_dagster.state.store import StateStore
counter = pathlib.Path(sys.argv[2])
with StateStore.open(sys.argv[1]) as store:
    for _ in range(5):
        with hold(store, "merge", wait_seconds=60) as lease:
            value = int(counter.read_text())
            time.sleep(0.005)
            counter.write_text(str(value + 1))
            lease.check()
print("done", flush=True)
"""


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _ask(process: subprocess.Popen[str], command: str = "check") -> str:
    assert process.stdin is not None
    process.stdin.write(f"{command}\n")
    process.stdin.flush()
    return _line(process)


def _change_row(store: StateStore, **values: object) -> None:
    with store.begin() as connection:
        connection.execute(sa.update(leases).values(values))


def test_a_second_holder_is_told_who_holds_it(store: StateStore) -> None:
    with hold(store, "merge:hex8_2p"):
        who = rf"merge:hex8_2p is held by process {os.getpid()} on "
        with pytest.raises(LeaseHeldError, match=who), hold(store, "merge:hex8_2p"):
            pytest.fail("two holders")
        with hold(store, "merge:square8_2p") as other:
            other.check()


def test_the_fence_grows_with_each_holder_and_never_falls(store: StateStore) -> None:
    fences = []
    for _ in range(3):
        with hold(store, "merge") as lease:
            fences.append(lease.fence)
    assert fences == [1, 2, 3]


def test_a_lease_is_free_again_after_the_body_raises(store: StateStore) -> None:
    with pytest.raises(ZeroDivisionError), hold(store, "merge"):
        raise ZeroDivisionError
    with hold(store, "merge") as lease:
        assert lease.fence == 2


def test_waiting_gets_the_lease_when_its_holder_ends(store: StateStore) -> None:
    held, end = threading.Event(), threading.Event()

    def other() -> None:
        with hold(store, "merge"):
            held.set()
            end.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    assert held.wait(10)
    threading.Timer(0.2, end.set).start()
    with hold(store, "merge", wait_seconds=10) as lease:
        assert lease.fence == 2
    thread.join()


def test_waiting_is_bounded(store: StateStore) -> None:
    with hold(store, "merge"):
        begun = time.monotonic()
        with pytest.raises(LeaseHeldError), hold(store, "merge", wait_seconds=0.3):
            pytest.fail("two holders")
        assert 0.3 <= time.monotonic() - begun < 5


def test_processes_take_turns(url: str, tmp_path: Path, start_program: StartProgram) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    StateStore.open(url).close()
    processes = [start_program(COUNTER, url, str(counter)) for _ in range(4)]
    assert [process.communicate(timeout=90)[0] for process in processes] == ["done\n"] * 4
    assert counter.read_text() == "20"


def test_the_heartbeat_keeps_a_lease_beyond_its_time(store: StateStore) -> None:
    with hold(store, "merge", ttl_seconds=0.6) as lease:
        time.sleep(1.5)
        lease.check()
        with pytest.raises(LeaseHeldError), hold(store, "merge"):
            pytest.fail("two holders")


def test_kill_9_frees_the_lease_at_once(store: StateStore, url: str, start_program: StartProgram) -> None:
    process = start_program(HOLDER, url, "3600")
    assert _line(process) == "1"
    with pytest.raises(LeaseHeldError, match=f"process {process.pid}"), hold(store, "merge"):
        pytest.fail("two holders")
    # Nobody waits for the child here: as a zombie it still has an entry in /proc, and has ended all the same.
    process.kill()
    with hold(store, "merge", wait_seconds=2) as lease:
        assert lease.fence == 2


def test_a_holder_that_was_stopped_past_its_time_learns_that_another_one_took_over(
    store: StateStore, url: str, start_program: StartProgram
) -> None:
    process = start_program(HOLDER, url, "0.6")
    assert _line(process) == "1"
    assert _ask(process) == "ours"
    process.send_signal(signal.SIGSTOP)
    with hold(store, "merge", wait_seconds=5) as lease:
        assert lease.fence == 2
        process.send_signal(signal.SIGCONT)
        assert _ask(process) == "lost"
        assert process.stdin is not None
        process.stdin.write("end\n")
        process.stdin.close()
        assert process.wait(10) == 0
        lease.check()  # the loser's release did not free what is ours


def test_a_holder_that_was_stopped_past_its_time_has_lost_even_when_nobody_came(
    store: StateStore, url: str, start_program: StartProgram
) -> None:
    process = start_program(HOLDER, url, "0.5")
    assert _line(process) == "1"
    process.send_signal(signal.SIGSTOP)
    time.sleep(1.0)
    process.send_signal(signal.SIGCONT)
    assert _ask(process) == "lost"
    assert [row.free for row in lease_rows(store)] == [True]


def test_a_restart_of_the_machine_frees_the_leases_of_a_file(sqlite_store: StateStore) -> None:
    with hold(sqlite_store, "merge", ttl_seconds=3600) as lost:
        _change_row(sqlite_store, boot_id="the boot before", expires=clock.boottime() + 1e9)
        with hold(sqlite_store, "merge") as lease:
            assert lease.fence == 2
            with pytest.raises(LeaseLostError, match="lease merge is no longer ours"):
                lost.check()


@pytest.mark.cluster
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_on_postgresql_another_boot_is_another_machine_and_only_expiry_frees(store: StateStore) -> None:
    with hold(store, "merge", ttl_seconds=3600):
        _change_row(store, boot_id="some other machine")
        with pytest.raises(LeaseHeldError), hold(store, "merge"):
            pytest.fail("two holders")


def test_a_pid_that_belongs_to_another_process_now_holds_nothing(store: StateStore) -> None:
    with hold(store, "merge", ttl_seconds=3600):
        _change_row(store, pid_started=1)
        with hold(store, "merge") as lease:
            assert lease.fence == 2


def test_a_pid_of_another_pid_namespace_is_left_to_expiry(store: StateStore) -> None:
    with hold(store, "merge", ttl_seconds=3600):
        _change_row(store, host="container#pid:[1]", pid=2**22 + 1)
        with pytest.raises(LeaseHeldError, match="on container"), hold(store, "merge"):
            pytest.fail("two holders")


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_a_wall_clock_that_jumps_changes_nothing(
    store: StateStore, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    with hold(store, "merge", ttl_seconds=0.6) as lease:
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + jump)
        time.sleep(0.8)
        lease.check()
        with pytest.raises(LeaseHeldError), hold(store, "merge"):
            pytest.fail("two holders")


def test_a_lease_of_ours_survives_a_database_that_is_busy_for_a_moment(
    sqlite_store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "BUSY_SECONDS", 0.01)
    impatient = StateStore(sqlite_store.url)
    with hold(impatient, "merge", ttl_seconds=1.2) as lease:
        with sqlite_store.begin():
            time.sleep(0.5)
        time.sleep(0.9)
        lease.check()
    impatient.close()


def test_a_release_that_fails_does_not_undo_the_work(
    sqlite_store: StateStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store_module, "BUSY_SECONDS", 0.01)
    impatient = StateStore(sqlite_store.url)
    context = hold(impatient, "merge", ttl_seconds=60)
    context.__enter__()
    with sqlite_store.begin():
        context.__exit__(None, None, None)
    impatient.close()
    assert "lease=merge release=failed" in caplog.text


def test_check_says_so_when_the_database_is_gone(tmp_path: Path) -> None:
    store = StateStore.open(f"sqlite:///{tmp_path}/a/state.db")
    lease = Lease("merge", secrets.token_hex(4), 1, store, 30)
    store.close()
    (tmp_path / "a").rename(tmp_path / "b")
    with pytest.raises(StateError, match=r"state\.db: it cannot be opened: check that the directory exists"):
        lease.check()
