"""Never more transfers than allowed run over all processes; priority orders those that wait, and all get a turn."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from ringrift_sync_dagster.core.bandwidth import TransferPriority
from ringrift_sync_dagster.errors import LeaseLostError
from ringrift_sync_dagster.state import store as store_module
from ringrift_sync_dagster.state.admission import TransferRequest, request, request_and_admit, reserved, try_admit
from ringrift_sync_dagster.state.host_priorities import host_priority, set_host_priority
from ringrift_sync_dagster.state.schema import transfers
from ringrift_sync_dagster.state.shares import renew
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.transfers import (
    ABANDONED,
    TransferState,
    fail,
    finish,
    mark_abandoned,
    progress,
    transfer_rows,
)

StartProgram = Callable[..., "subprocess.Popen[str]"]

CRITICAL, HIGH, NORMAL, LOW, BACKGROUND = TransferPriority

HOLDER = """
import sys
from ringrift_sync_dagster.core.bandwidth import TransferPriority
from ringrift_sync_dagster.state.admission import TransferRequest, request_and_admit
from ringrift_sync_dagster.state.store import StateStore
wanted = TransferRequest("b" * 64, "vast-1", "push", 100, TransferPriority.NORMAL, reserved_bytes=100, disk="vast-1")
with StateStore.open(sys.argv[1]) as store:
    print(*request_and_admit(store, wanted, max_running=1), flush=True)
    sys.stdin.read()
"""

TEN_AT_ONCE = """
import os, sys, threading, time
from ringrift_sync_dagster.core.bandwidth import TransferPriority
from ringrift_sync_dagster.state.admission import TransferRequest, request_and_admit, try_admit
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.transfers import finish
wanted = TransferRequest("a" * 64, "vast-1", "fetch", 10, TransferPriority.NORMAL)
log = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND)

def run():
    transfer, admitted = request_and_admit(store, wanted, max_running=3)
    limit = time.monotonic() + 60
    while not admitted and time.monotonic() < limit:
        time.sleep(0.02)
        admitted = try_admit(store, transfer, max_running=3)
    # Begun a little late and ended a little early, so that the log never shows more than there were.
    os.write(log, b"+")
    time.sleep(0.01)
    os.write(log, b"-")
    finish(store, transfer)

with StateStore.open(sys.argv[1]) as store:
    threads = [threading.Thread(target=run) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
print("done", flush=True)
"""


def wanted(priority: TransferPriority = NORMAL, **values: Any) -> TransferRequest:  # noqa: ANN401 - any field
    return replace(TransferRequest("a" * 64, "vast-1", "fetch", 1000, priority), **values)


def elapse(store: StateStore, seconds: float, *ids: int) -> None:
    """Let time pass for these transfers: without a word, and in the queue."""
    past = {"expires": transfers.c.expires - seconds, "requested": transfers.c.requested - seconds}
    with store.begin() as connection:
        connection.execute(sa.update(transfers).where(transfers.c.id.in_(ids)).values(past))


def state_of(store: StateStore, transfer: int) -> TransferState:
    return next(row.state for row in transfer_rows(store) if row.id == transfer)


def test_a_transfer_waits_runs_and_ends_as_one_row(store: StateStore) -> None:
    transfer = request(store, wanted(HIGH, config="hex8_2p", trigger="cli", disk="hub-1", reserved_bytes=1000))
    [row] = transfer_rows(store, running=True)
    assert (row.id, row.state, row.node, row.config, row.trigger) == (
        transfer, TransferState.WAITING, "vast-1", "hex8_2p", "cli",
    )  # fmt: skip
    assert (row.priority, row.multiplier, row.disk, row.reserved_bytes) == ("high", 1.5, "hub-1", 1000)
    assert row.process.pid == os.getpid()
    assert try_admit(store, transfer, max_running=1)
    assert try_admit(store, transfer, max_running=1)
    assert state_of(store, transfer) is TransferState.RUNNING
    finish(store, transfer)
    assert state_of(store, transfer) is TransferState.DONE
    with pytest.raises(LeaseLostError, match=f"transfer {transfer} no longer waits"):
        try_admit(store, transfer, max_running=1)


def test_who_finds_all_slots_taken_waits_until_one_is_free(store: StateStore) -> None:
    first, second, third = (request_and_admit(store, wanted(), max_running=2) for _ in range(3))
    assert [admitted for _, admitted in (first, second, third)] == [True, True, False]
    assert not try_admit(store, third[0], max_running=2)
    fail(store, second[0], OSError("disk full"))
    assert try_admit(store, third[0], max_running=2)


def test_a_larger_limit_counts_at_once(store: StateStore) -> None:
    waiting = [request_and_admit(store, wanted(), max_running=1)[0] for _ in range(4)][1:]
    assert [try_admit(store, transfer, max_running=3) for transfer in waiting] == [True, True, False]


def test_priority_orders_those_that_wait(store: StateStore) -> None:
    running, _ = request_and_admit(store, wanted(), max_running=1)
    asked = {priority: request(store, wanted(priority)) for priority in (BACKGROUND, NORMAL, CRITICAL, LOW, HIGH)}
    started = []
    while asked:
        finish(store, running)
        turns = [(p, transfer) for p, transfer in asked.items() if try_admit(store, transfer, max_running=1)]
        [(priority, running)] = turns
        started.append(priority)
        del asked[priority]
    assert started == [CRITICAL, HIGH, NORMAL, LOW, BACKGROUND]


def test_a_background_transfer_that_waited_long_starts_before_newer_normal_ones(store: StateStore) -> None:
    running, _ = request_and_admit(store, wanted(), max_running=1)
    aged = request(store, wanted(BACKGROUND))
    renew(store, [aged], lambda _: (1e6, False))
    with store.begin() as connection:
        connection.execute(
            sa.update(transfers).where(transfers.c.id == aged).values(requested=transfers.c.requested - 61)
        )
    newer = [request(store, wanted(NORMAL)) for _ in range(3)]
    finish(store, running)
    assert not any(try_admit(store, transfer, max_running=1) for transfer in newer)
    assert try_admit(store, aged, max_running=1)


def test_forty_transfers_of_four_processes_never_exceed_the_limit(
    store: StateStore, url: str, tmp_path: Path, start_program: StartProgram
) -> None:
    log = tmp_path / "log"
    log.touch()
    processes = [start_program(TEN_AT_ONCE, url, str(log)) for _ in range(4)]
    assert [process.communicate(timeout=60)[0] for process in processes] == ["done\n"] * 4
    running, most = 0, 0
    for mark in log.read_text():
        running += 1 if mark == "+" else -1
        most = max(most, running)
    assert len(log.read_text()) == 80
    assert 1 < most <= 3
    assert {row.state for row in transfer_rows(store)} == {TransferState.DONE}


def test_kill_9_gives_slot_and_reserved_space_back_at_once(
    store: StateStore, url: str, start_program: StartProgram
) -> None:
    process = start_program(HOLDER, url)
    assert process.stdout is not None
    killed, admitted = process.stdout.readline().split()
    assert admitted == "True"
    waiting, admitted_too = request_and_admit(store, wanted(), max_running=1)
    assert not admitted_too
    assert reserved(store, "vast-1") == 100
    process.kill()
    process.wait()
    assert reserved(store, "vast-1") == 0
    assert try_admit(store, waiting, max_running=1)
    row = next(row for row in transfer_rows(store) if row.id == int(killed))
    assert (row.state, row.error_class) == (TransferState.FAILED, ABANDONED)


def test_who_is_silent_for_5_seconds_loses_slot_and_place_and_a_word_brings_them_back(store: StateStore) -> None:
    running, _ = request_and_admit(store, wanted(), max_running=1)
    first, second = request(store, wanted()), request(store, wanted())
    elapse(store, 6.0, running, first)
    assert try_admit(store, second, max_running=1)
    # It was only slow: its bytes travel, so it counts again, and what waits waits.
    assert state_of(store, running) is TransferState.RUNNING
    assert set(renew(store, [running], lambda _: (1e6, False))) == {running}
    finish(store, second)
    assert not try_admit(store, first, max_running=1)
    finish(store, running)
    assert try_admit(store, first, max_running=1)


def test_who_is_silent_for_a_minute_is_taken_for_dead(store: StateStore) -> None:
    running, _ = request_and_admit(store, wanted(), max_running=2)
    waiting = request(store, wanted())
    elapse(store, 66.0, running, waiting)
    assert state_of(store, waiting) is TransferState.ABANDONED
    assert mark_abandoned(store) == 2
    assert renew(store, [running, waiting], lambda _: (1e6, False)) == {}
    with pytest.raises(LeaseLostError, match="took it for dead"):
        try_admit(store, waiting, max_running=2)
    finish(store, running)
    assert state_of(store, running) is TransferState.FAILED


def test_after_a_restart_of_the_machine_nothing_of_before_counts(store: StateStore) -> None:
    old, _ = request_and_admit(store, wanted(CRITICAL, disk="d", reserved_bytes=7), max_running=1)
    request(store, wanted(CRITICAL))
    with store.begin() as connection:
        connection.execute(sa.update(transfers).values(epoch="the boot before", expires=1e12))
    assert reserved(store, "d") == 0
    assert request_and_admit(store, wanted(BACKGROUND), max_running=1)[1]
    assert state_of(store, old) is TransferState.FAILED


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_a_wall_clock_that_jumps_changes_nothing(
    store: StateStore, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    running, _ = request_and_admit(store, wanted(), max_running=1)
    first = request(store, wanted())
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + jump)
    with store.begin() as connection:
        connection.execute(sa.update(transfers).values(started_at=now() - jump, updated_at=now() + 7 * jump))
    second = request(store, wanted())
    assert not try_admit(store, first, max_running=1)
    finish(store, running)
    assert [try_admit(store, transfer, max_running=1) for transfer in (second, first)] == [False, True]


def test_asking_again_in_vain_writes_nothing(sqlite_store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    request_and_admit(sqlite_store, wanted(), max_running=1)
    waiting = request(sqlite_store, wanted())
    monkeypatch.setattr(store_module, "BUSY_SECONDS", 0.01)
    with StateStore(sqlite_store.url) as impatient, sqlite_store.begin():
        assert not try_admit(impatient, waiting, max_running=1)


def test_asking_again_renews_the_word_when_it_is_half_over(store: StateStore) -> None:
    request_and_admit(store, wanted(), max_running=1)
    waiting = request(store, wanted())
    for _ in range(4):
        elapse(store, 3.0, waiting)
        assert not try_admit(store, waiting, max_running=1)
    late = request(store, wanted())
    assert not try_admit(store, late, max_running=2)
    assert try_admit(store, waiting, max_running=2)


def test_asking_and_starting_cost_one_commit(store: StateStore) -> None:
    commits: list[object] = []
    event.listen(store.engine, "commit", commits.append)
    request_and_admit(store, wanted(), max_running=1)
    assert len(commits) == 1


def test_reserved_space_is_what_live_transfers_still_need(store: StateStore) -> None:
    assert reserved(store, "hub-1") == 0
    first = request(store, wanted(disk="hub-1", reserved_bytes=1000))
    second = request(store, wanted(disk="hub-1", reserved_bytes=500))
    third = request(store, wanted(disk="vast-1", reserved_bytes=70))
    progress(store, first, 400)
    assert (reserved(store, "hub-1"), reserved(store, "vast-1")) == (1100, 70)
    assert (reserved(store, "hub-1", up_to=first), reserved(store, "hub-1", up_to=third)) == (600, 1100)
    progress(store, second, 600)
    finish(store, first)
    assert reserved(store, "hub-1") == 0
    elapse(store, 6.0, third)
    assert reserved(store, "vast-1") == 0


def test_a_multiplier_may_differ_from_that_of_the_priority_but_not_be_0(store: StateStore) -> None:
    request(store, wanted(LOW, multiplier=3.0))
    assert [(row.priority, row.multiplier) for row in transfer_rows(store)] == [("low", 3.0)]
    with pytest.raises(ValueError, match="above 0, not 0"):
        wanted(multiplier=0.0)


def test_a_host_has_the_priority_that_a_person_gave_it_until_it_is_taken_back(store: StateStore) -> None:
    assert host_priority(store, "training-node") is None
    set_host_priority(store, "training-node", LOW)
    set_host_priority(store, "training-node", HIGH)
    assert host_priority(store, "training-node") is HIGH
    assert host_priority(store, "vast-1") is None
    set_host_priority(store, "training-node", None)
    set_host_priority(store, "training-node", None)
    assert host_priority(store, "training-node") is None
