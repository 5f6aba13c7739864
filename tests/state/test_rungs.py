"""The rung that worked last is tried first for 15 minutes, and then the ladder begins at its top again."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from ringrift_sync_dagster.state import store as store_module
from ringrift_sync_dagster.state.rungs import REMEMBERED_SECONDS, remember, remembered
from ringrift_sync_dagster.state.schema import rungs
from ringrift_sync_dagster.state.store import StateStore


def _elapse(store: StateStore, seconds: float) -> None:
    with store.begin() as connection:
        connection.execute(sa.update(rungs).values(until=rungs.c.until - seconds))


def test_the_last_one_that_worked_is_remembered_per_node(store: StateStore) -> None:
    assert remembered(store, "vast-1") == ""
    remember(store, "vast-1", "rsync")
    remember(store, "vast-2", "p2p_http")
    remember(store, "vast-1", "base64")
    assert (remembered(store, "vast-1"), remembered(store, "vast-2")) == ("base64", "p2p_http")


def test_it_is_forgotten_after_15_minutes_although_it_goes_on_working(store: StateStore) -> None:
    assert REMEMBERED_SECONDS == 900
    remember(store, "vast-1", "rsync")
    _elapse(store, 890.0)
    remember(store, "vast-1", "rsync")
    assert remembered(store, "vast-1") == "rsync"
    _elapse(store, 11.0)
    assert remembered(store, "vast-1") == ""
    remember(store, "vast-1", "rsync")
    assert remembered(store, "vast-1") == "rsync"


def test_a_restart_of_the_machine_forgets_it(store: StateStore) -> None:
    remember(store, "vast-1", "rsync")
    with store.begin() as connection:
        connection.execute(sa.update(rungs).values(epoch="the boot before", until=1e12))
    assert remembered(store, "vast-1") == ""


def test_remembering_the_same_one_again_writes_nothing(
    tmp_path: Path, sqlite_store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(sqlite_store, "vast-1", "rsync")
    monkeypatch.setattr(store_module, "BUSY_SECONDS", 0.01)
    with StateStore(sqlite_store.url) as impatient, sqlite_store.begin():
        remember(impatient, "vast-1", "rsync")
