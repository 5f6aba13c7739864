"""What is measured of nodes follows the transfers that ended, each counted once, and only faults of the node count."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from ringrift_sync_dagster.core.room import Disk
from ringrift_sync_dagster.errors import (
    AdmissionRefusedError,
    LocalDiskError,
    RemoteCallError,
    StallError,
    TransferCancelledError,
)
from ringrift_sync_dagster.state import measures
from ringrift_sync_dagster.state.schema import transfers
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.transfers import fail, finish, start_transfer

MB = 10**6


def begin(store: StateStore, node: str, size: int = 8 * MB) -> int:
    return start_transfer(
        store, artifact="a" * 64, node=node, direction="push", transport="p2p_http", size_bytes=size
    )  # fmt: skip


def test_averages_follow_what_ended_and_count_it_once(store: StateStore) -> None:
    for seconds in (1.0, 2.0):
        finish(store, begin(store, "n1"), seconds=seconds)
    assert measures.update_averages(store) == 2
    assert measures.update_averages(store) == 0
    (one,) = measures.all_measures(store).values()
    assert one.bytes_per_second == pytest.approx(8 * MB - 0.3 * 4 * MB)
    assert one.success == 1.0
    fail(store, begin(store, "n1"), StallError("n1", "p2p_http", "silent"))
    measures.update_averages(store)
    assert measures.all_measures(store)["n1"].success == pytest.approx(0.7)
    assert measures.all_measures(store)["n1"].bytes_per_second == one.bytes_per_second


def test_a_long_transfer_holds_back_its_node_only_and_is_counted_when_it_ends(store: StateStore) -> None:
    long = begin(store, "slow")
    finish(store, begin(store, "slow"), seconds=1.0)
    finish(store, begin(store, "fast"), seconds=1.0)
    assert measures.update_averages(store) == 1
    assert set(measures.all_measures(store)) >= {"fast"}
    finish(store, begin(store, "fast"), seconds=1.0)
    assert measures.update_averages(store) == 1
    finish(store, long, seconds=80.0)
    assert measures.update_averages(store) == 2
    slow = measures.all_measures(store)["slow"]
    assert slow.bytes_per_second == pytest.approx(0.1 * MB + 0.3 * (8 * MB - 0.1 * MB))
    assert measures.update_averages(store) == 0


@pytest.mark.parametrize(
    "error",
    [
        AdmissionRefusedError("n", "", "full"),
        LocalDiskError("n", "", "our disk"),
        TransferCancelledError("n", "", "we stopped it"),
        RemoteCallError("n", "", "it refused this one", "locked"),
        ValueError("a fault of ours"),
    ],
)
def test_what_is_not_the_nodes_fault_does_not_count(store: StateStore, error: Exception) -> None:
    fail(store, begin(store, "n"), error)
    measures.update_averages(store)
    assert measures.all_measures(store)["n"].success in {None, 1.0}


def test_a_node_that_nobody_measured_has_no_numbers(store: StateStore) -> None:
    measures.record_round_trips(store, {"n1": 0.1})
    (one,) = measures.all_measures(store).values()
    assert (one.bytes_per_second, one.success, one.disk, one.storage) == (None, None, None, "")


def test_round_trips_and_disks_are_kept(store: StateStore) -> None:
    for seconds in (0.1, 0.2):
        measures.record_round_trips(store, {"n1": seconds, "n2": 0.0})
    measures.record_round_trips(store, {"n1": 0.14})  # about the same
    measures.record_disk(store, "n1", Disk(30, 70))
    measures.record_disk(store, "n1", Disk(40, 60))
    found = measures.all_measures(store)
    assert set(found) == {"n1"}
    assert found["n1"].rtt_seconds == pytest.approx(0.13)
    assert found["n1"].disk == Disk(40, 60)


def test_nodes_with_one_name_of_a_disk_share_it(store: StateStore) -> None:
    measures.record_storage(store, {"a": "disk-1", "b": "disk-1", "c": "disk-2"})
    measures.record_round_trips(store, {"d": 0.1})
    shared = measures.sharing(measures.all_measures(store).values())
    assert {name: set(others) for name, others in shared.items()} == {"a": {"b"}, "b": {"a"}, "c": set()}


def test_rows_that_were_pruned_leave_the_averages(store: StateStore) -> None:
    finish(store, begin(store, "n1"), seconds=1.0)
    measures.update_averages(store)
    with store.begin() as connection:
        connection.execute(sa.delete(transfers))
    assert measures.update_averages(store) == 0
    finish(store, begin(store, "n1"), seconds=1.0)
    assert measures.update_averages(store) == 1
