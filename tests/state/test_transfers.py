"""A transfer can be watched while it runs, and is not "running" when nobody runs it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from ringrift_sync_dagster.errors import ChecksumError
from ringrift_sync_dagster.state.schema import transfers
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.transfers import (
    ABANDONED,
    TransferState,
    fail,
    finish,
    mark_abandoned,
    progress,
    resumed,
    start_transfer,
    transfer_rows,
)

StartProgram = Callable[..., "subprocess.Popen[str]"]

SENDER = """
import sys
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.transfers import progress, start_transfer
with StateStore.open(sys.argv[1]) as store:
    transfer = start_transfer(
        store, artifact="a" * 64, node="vast-1", direction="push", transport="p2p_http", size_bytes=100
    )
    progress(store, transfer, 40)
    print(transfer, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def transfer(store: StateStore) -> int:
    return start_transfer(
        store,
        artifact="a" * 64,
        node="vast-1",
        direction="fetch",
        transport="p2p_http",
        size_bytes=1000,
        config="hex8_2p",
        trigger="cli",
    )


def test_a_running_transfer_shows_how_far_it_is(store: StateStore, transfer: int) -> None:
    progress(store, transfer, 400)
    [row] = transfer_rows(store)
    assert (row.id, row.state, row.received_bytes, row.size_bytes) == (transfer, TransferState.RUNNING, 400, 1000)
    assert (row.node, row.direction, row.transport, row.config, row.trigger) == (
        "vast-1", "fetch", "p2p_http", "hex8_2p", "cli",
    )  # fmt: skip
    assert row.finished_at is None
    assert row.updated_at >= row.started_at > 1.6e9


def test_the_last_byte_counts_when_everything_is_verified(store: StateStore, transfer: int) -> None:
    progress(store, transfer, 1000)
    assert transfer_rows(store)[0].received_bytes == 999
    finish(store, transfer)
    [row] = transfer_rows(store)
    assert (row.state, row.received_bytes) == (TransferState.DONE, 1000)
    assert row.finished_at is not None


def test_a_failed_transfer_keeps_how_far_it_came_and_says_why(store: StateStore, transfer: int) -> None:
    progress(store, transfer, 400)
    fail(store, transfer, ChecksumError("vast-1", "p2p_http", "wrong bytes"))
    [row] = transfer_rows(store)
    assert (row.state, row.received_bytes, row.error_class) == (TransferState.FAILED, 400, "ChecksumError")
    assert row.error == "vast-1 over p2p_http: wrong bytes"


def test_what_has_ended_stays_ended(store: StateStore, transfer: int) -> None:
    finish(store, transfer)
    progress(store, transfer, 5)
    fail(store, transfer, ValueError("late"))
    [row] = transfer_rows(store)
    assert (row.state, row.received_bytes, row.error) == (TransferState.DONE, 1000, "")


def test_a_resumed_transfer_says_from_where(store: StateStore, transfer: int) -> None:
    resumed(store, transfer, 300)
    assert transfer_rows(store)[0].resumed_from == 300
    again = start_transfer(
        store, artifact="b" * 64, node="n", direction="fetch", transport="t", size_bytes=10, resumed_from=4
    )
    newest = transfer_rows(store, limit=1)[0]
    assert (newest.id, newest.received_bytes, newest.resumed_from) == (again, 4, 4)


def test_what_was_tried_and_how_long_it_took_is_written_with_the_end(store: StateStore, transfer: int) -> None:
    rungs = [
        {"rung": "p2p_http", "error": "UnreachableError", "message": "refused", "seconds": 0.1, "bytes_moved": 0},
        {"rung": "rsync", "error": "", "message": "", "seconds": 2.5, "bytes_moved": 700},
    ]
    finish(store, transfer, seconds=2.5, rungs=rungs, resumed_from=300, transport="rsync", rate_granted=5e7)
    failed = start_transfer(store, artifact="b" * 64, node="n", direction="push", transport="rsync", size_bytes=10)
    fail(store, failed, ValueError("no"), seconds=1.5, rungs=rungs[:1])
    second, first = transfer_rows(store)
    assert (first.seconds, first.rungs, first.resumed_from, first.transport, first.rate_granted) == (
        2.5, rungs, 300, "rsync", 5e7,
    )  # fmt: skip
    assert (second.seconds, second.rungs, second.resumed_from, second.transport) == (1.5, rungs[:1], 0, "rsync")


def test_a_transfer_of_a_killed_process_is_abandoned(store: StateStore, url: str, start_program: StartProgram) -> None:
    process = start_program(SENDER, url)
    assert process.stdout is not None
    process.stdout.readline()
    assert [row.state for row in transfer_rows(store, running=True)] == [TransferState.RUNNING]
    assert mark_abandoned(store) == 0

    process.kill()
    process.wait()
    [row] = transfer_rows(store, running=True)
    assert (row.state, row.received_bytes, row.process.pid) == (TransferState.ABANDONED, 40, process.pid)

    assert mark_abandoned(store) == 1
    assert mark_abandoned(store) == 0
    [row] = transfer_rows(store)
    assert (row.state, row.error_class, row.received_bytes) == (TransferState.FAILED, ABANDONED, 40)
    assert row.finished_at is not None
    assert transfer_rows(store, running=True) == []


def test_a_transfer_of_an_earlier_boot_is_abandoned_where_the_database_is_a_file(sqlite_store: StateStore) -> None:
    start_transfer(sqlite_store, artifact="a" * 64, node="n", direction="push", transport="t", size_bytes=1)
    with sqlite_store.begin() as connection:
        connection.execute(sa.update(transfers).values(boot_id="the boot before"))
    assert transfer_rows(sqlite_store)[0].state is TransferState.ABANDONED
