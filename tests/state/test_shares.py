"""All transfers of a node share its bandwidth over all processes; who ended or fell silent has no share."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from ringrift_sync_dagster.core.bandwidth import TransferPriority
from ringrift_sync_dagster.errors import StateError
from ringrift_sync_dagster.state import store as store_module
from ringrift_sync_dagster.state.admission import TransferRequest, request, request_and_admit
from ringrift_sync_dagster.state.schema import transfers
from ringrift_sync_dagster.state.shares import rates, renew
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.transfers import finish, start_transfer, transfer_rows

StartProgram = Callable[..., "subprocess.Popen[str]"]

CRITICAL, HIGH, NORMAL, LOW, BACKGROUND = TransferPriority
LIMIT = 100.0

SHARER = """
import sys
from ringrift_sync_dagster.core.bandwidth import TransferPriority
from ringrift_sync_dagster.state.admission import TransferRequest, request_and_admit
from ringrift_sync_dagster.state.shares import renew
from ringrift_sync_dagster.state.store import StateStore
with StateStore.open(sys.argv[1]) as store:
    wanted = TransferRequest("b" * 64, "vast-1", "push", 100, TransferPriority.CRITICAL, transport="rsync")
    transfer, _ = request_and_admit(store, wanted, max_running=99)
    print(transfer, flush=True)
    for _ in sys.stdin:
        print(renew(store, [transfer], lambda node: (100.0, False))[transfer], flush=True)
"""


def _limits(_node: str) -> tuple[float, bool]:
    return LIMIT, False


def _start(store: StateStore, priority: TransferPriority = NORMAL, node: str = "vast-1", size_bytes: int = 1000) -> int:
    wanted = TransferRequest("a" * 64, node, "fetch", size_bytes, priority, transport="p2p_http")
    transfer, admitted = request_and_admit(store, wanted, max_running=99)
    assert admitted
    return transfer


def _silence(store: StateStore, transfer: int) -> None:
    with store.begin() as connection:
        values = {"expires": transfers.c.expires - 5.01}
        connection.execute(sa.update(transfers).where(transfers.c.id == transfer).values(values))


def test_alone_each_priority_has_its_multiple_of_the_limit_unless_the_limit_is_hard(store: StateStore) -> None:
    for priority, soft, hard in ((CRITICAL, 200, 100), (NORMAL, 100, 100), (BACKGROUND, 25, 25)):
        transfer = _start(store, priority)
        assert renew(store, [transfer], _limits) == {transfer: soft}
        assert renew(store, [transfer], lambda _: (LIMIT, True)) == {transfer: hard}
        finish(store, transfer)


def test_five_priorities_share_by_the_formula_and_the_row_keeps_what_was_granted(store: StateStore) -> None:
    ids = [_start(store, priority) for priority in TransferPriority]
    granted = renew(store, ids, _limits)
    assert [granted[i] for i in ids] == pytest.approx([200 * p.multiplier / 5.25 for p in TransferPriority])
    assert sum(granted.values()) == pytest.approx(200)
    assert {row.id: row.rate_granted for row in transfer_rows(store)} == granted


def test_a_share_is_free_at_once_when_a_transfer_ends(store: StateStore) -> None:
    first, second = _start(store), _start(store)
    assert renew(store, [first, second], _limits) == {first: 50, second: 50}
    finish(store, first)
    assert renew(store, [first, second], _limits) == {second: 100}


def test_other_nodes_and_those_that_wait_take_nothing(store: StateStore) -> None:
    first, other = _start(store), _start(store, node="vast-2")
    waiting = request(store, TransferRequest("c" * 64, "vast-1", "push", 10, CRITICAL))
    start_transfer(store, artifact="d" * 64, node="vast-1", direction="push", transport="t", size_bytes=1)
    assert renew(store, [first, other, waiting], _limits) == {first: 100, other: 100}
    assert rates(store, [first], lambda node: (7.0 if node == "vast-1" else 9.0, False)) == {first: 7}


def test_transfers_of_two_processes_share_and_kill_9_gives_the_share_back_at_once(
    store: StateStore, url: str, start_program: StartProgram
) -> None:
    process = start_program(SHARER, url)
    assert process.stdout is not None
    assert process.stdin is not None
    process.stdout.readline()
    mine = _start(store, NORMAL)
    assert renew(store, [mine], _limits)[mine] == pytest.approx(200 * 1 / 3)
    process.stdin.write("renew\n")
    process.stdin.flush()
    assert float(process.stdout.readline()) == pytest.approx(200 * 2 / 3)
    process.kill()
    process.wait()
    assert renew(store, [mine], _limits) == {mine: 100}


def test_who_is_silent_for_5_seconds_has_no_share_until_its_next_word(store: StateStore) -> None:
    first, second = _start(store), _start(store)
    _silence(store, second)
    assert renew(store, [first], _limits) == {first: 100}
    assert renew(store, [second], _limits) == {second: 50}
    assert renew(store, [first], _limits) == {first: 50}


def test_a_word_of_an_earlier_boot_has_no_share(store: StateStore) -> None:
    first, second = _start(store), _start(store)
    with store.begin() as connection:
        before = {"epoch": "the boot before", "expires": 1e12}
        connection.execute(sa.update(transfers).where(transfers.c.id == second).values(before))
    assert renew(store, [first], _limits) == {first: 100}


def test_renewing_many_with_how_far_they_are_is_one_commit(store: StateStore) -> None:
    ids = [_start(store, size_bytes=1000) for _ in range(4)]
    commits: list[object] = []
    event.listen(store.engine, "commit", commits.append)
    renew(store, ids, _limits, received={ids[0]: 400, ids[1]: 1000})
    assert len(commits) == 1
    assert [row.received_bytes for row in reversed(transfer_rows(store))] == [400, 999, 0, 0]
    assert renew(store, [], _limits) == {}


def test_asking_for_the_rates_writes_nothing_and_a_database_that_is_busy_says_so(
    sqlite_store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    transfer = _start(sqlite_store)
    monkeypatch.setattr(store_module, "BUSY_SECONDS", 0.01)
    with StateStore(sqlite_store.url) as impatient, sqlite_store.begin():
        assert rates(impatient, [transfer], _limits) == {transfer: 100}
        with pytest.raises(StateError, match="another process has been writing"):
            renew(impatient, [transfer], _limits)
