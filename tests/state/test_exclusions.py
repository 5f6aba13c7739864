"""Nodes that fail again and again are left out for a while that grows and ends; a success ends it at once."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from ringrift_sync_dagster.state import exclusions, nodes
from ringrift_sync_dagster.state.schema import exclusions as table
from ringrift_sync_dagster.state.store import StateStore


def fail_once(store: StateStore, node: str = "n1") -> list[str]:
    nodes.failed(store, node, "no answer", at=1.0)
    return exclusions.surveyed(store, answered=[], failed={node: "no answer"})


def elapse(store: StateStore, seconds: float) -> None:
    with store.begin() as connection:
        connection.execute(sa.update(table).values(until=table.c.until - seconds))


def test_the_third_failure_in_a_row_excludes_for_a_minute_and_it_ends_by_itself(store: StateStore) -> None:
    assert [fail_once(store) for _ in range(3)] == [[], [], ["n1"]]
    excluded = exclusions.current(store)["n1"]
    assert 55 < excluded.seconds_left <= 60
    assert "no answer" in excluded.reason
    elapse(store, 60)
    assert exclusions.current(store) == {}


def test_what_fails_while_it_is_excluded_is_no_worse_and_after_it_each_is_twice_as_long(store: StateStore) -> None:
    for _ in range(10):
        fail_once(store)
    lengths = []
    for _ in range(6):
        lengths.append(round(exclusions.current(store)["n1"].seconds_left, -1))
        elapse(store, 600)
        fail_once(store)
    assert lengths == [60, 120, 240, 480, 600, 600]


def test_an_answer_ends_it_and_forgets_the_failures(store: StateStore) -> None:
    nodes.seen(store, "n1", at=1.0, extra={"kept": 1})
    for _ in range(3):
        fail_once(store)
    exclusions.surveyed(store, answered=["n1"], failed={})
    assert exclusions.current(store) == {}
    assert fail_once(store) == []
    exclusions.surveyed(store, answered=["n1"], failed={})
    row = nodes.node_row(store, "n1")
    assert row is not None
    assert row.extra == {"kept": 1}


def test_a_person_may_end_it(store: StateStore) -> None:
    exclusions.exclude(store, "n1", "by hand", 1e6)
    assert exclusions.current(store)["n1"].seconds_left <= 600
    assert exclusions.lift(store, "n1")
    assert not exclusions.lift(store, "n1")
    assert exclusions.current(store) == {}


def test_one_of_an_earlier_boot_has_expired(store: StateStore) -> None:
    exclusions.exclude(store, "n1", "before the restart", 600)
    with store.begin() as connection:
        connection.execute(sa.update(table).values(epoch="another boot"))
    assert exclusions.current(store) == {}


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("inf"), float("nan")])
def test_a_time_that_does_not_end_is_refused(store: StateStore, seconds: float) -> None:
    with pytest.raises(ValueError, match="ends"):
        exclusions.exclude(store, "n1", "for good", seconds)


@given(st.integers(0, 10**9))
def test_no_number_of_failures_excludes_for_longer_than_ten_minutes(failures: int) -> None:
    seconds = exclusions.exclusion_seconds(failures)
    assert 0 <= seconds <= exclusions.LONGEST_SECONDS
    assert (seconds > 0) == (failures >= 3)
    assert exclusions.exclusion_seconds(failures + 1) >= seconds
