"""What expires is counted in a clock that nobody sets, and a number of another epoch has always expired."""

from __future__ import annotations

import time

import pytest

from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state import ticks
from ringrift_sync_dagster.state.store import StateStore


def test_a_file_counts_the_seconds_of_this_boot(sqlite_store: StateStore) -> None:
    before = clock.boottime()
    with sqlite_store.read() as connection:
        moment = ticks.moment(connection)
    assert before <= moment.seconds <= clock.boottime()
    assert moment.epoch == clock.boot_id()


@pytest.mark.cluster
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_server_counts_by_its_own_clock_for_all_machines(store: StateStore) -> None:
    with store.read() as connection:
        first = ticks.moment(connection)
        time.sleep(0.01)
        second = ticks.moment(connection)
    assert first.epoch == second.epoch == ticks.DATABASE_EPOCH
    assert 0.01 <= second.seconds - first.seconds < 5


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_a_wall_clock_that_jumps_changes_no_moment(
    store: StateStore, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    with store.read() as connection:
        before = ticks.now(connection)
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + jump)
        assert 0 <= ticks.now(connection) - before < 5


@pytest.mark.parametrize(
    "until, epoch, left", [(107.5, "e", 7.5), (100.0, "e", 0.0), (99.0, "e", 0.0), (None, "e", 0.0), (1e9, "f", 0.0)]
)
def test_what_is_past_missing_or_of_another_epoch_has_expired(until: float | None, epoch: str, left: float) -> None:
    assert ticks.Moment(100.0, "e").left(until, epoch) == left
