"""What agents say of themselves: told once as an event; and a wish that stands until it is taken back."""

from __future__ import annotations

from ringrift_sync_dagster.state.events import newest_events
from ringrift_sync_dagster.state.node_reports import (
    TELL_AGAIN_SECONDS,
    NodeReport,
    end_wish,
    report_in,
    take_report,
    trouble_in,
    wish_drain,
)
from ringrift_sync_dagster.state.nodes import node_row, node_rows, seen
from ringrift_sync_dagster.state.store import StateStore

FULL = NodeReport(stopped_by="the outbox is full")


def trouble(store: StateStore) -> str:
    row = node_row(store, "vast-1")
    assert row is not None
    return trouble_in(row)


def test_that_an_outbox_is_full_is_told_once_until_it_was_not_for_a_while(store: StateStore) -> None:
    for now in (1000.0, 1005.0):
        take_report(store, "vast-1", FULL, now, games=3)
    (event,) = newest_events(store, ["DISK_SPACE_LOW"])
    assert (event.payload["node"], event.payload["details"]) == ("vast-1", {"reason": "the outbox is full", "games": 3})
    assert trouble(store) == "new games stay in their databases: the outbox is full"

    take_report(store, "vast-1", NodeReport(), 1010.0)
    assert trouble(store) == ""
    take_report(store, "vast-1", FULL, 1015.0)
    assert len(newest_events(store, ["DISK_SPACE_LOW"])) == 1
    take_report(store, "vast-1", NodeReport(), 1020.0)
    take_report(store, "vast-1", FULL, 1000.0 + TELL_AGAIN_SECONDS)
    assert len(newest_events(store, ["DISK_SPACE_LOW"])) == 2


def test_a_node_in_good_times_costs_no_row(store: StateStore) -> None:
    assert take_report(store, "vast-1", NodeReport(), 1.0) is None
    assert node_rows(store) == []


def test_a_wish_stands_until_it_is_taken_back_and_other_facts_stay(store: StateStore) -> None:
    seen(store, "vast-1", at=1.0, extra={"kept": 1})
    assert end_wish(store, "vast-1") is False
    first = wish_drain(store, "vast-1", 5.0, 2.0)
    second = wish_drain(store, "vast-1", 7.0, 3.0)
    assert first.id != second.id
    assert take_report(store, "vast-1", NodeReport(), 4.0) == second
    assert trouble(store) == "to be drained: takes no bulk until --resume"
    ended = NodeReport(draining=True, drain={"id": second.id, "drained": True, "unread": "", "error": ""})
    assert take_report(store, "vast-1", ended, 5.0) == second
    row = node_row(store, "vast-1")
    assert row is not None
    assert (report_in(row), row.extra["kept"]) == (ended, 1)
    assert trouble(store) == "drained: takes no bulk until --resume"
    assert (end_wish(store, "vast-1"), end_wish(store, "vast-1")) == (True, False)
    assert take_report(store, "vast-1", NodeReport(), 6.0) is None
