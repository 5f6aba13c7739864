"""What nodes told: deltas, mixed databases, and many files."""

from __future__ import annotations

import time
from typing import Any

import pytest

from ringrift_sync_dagster.state.events import events_since
from ringrift_sync_dagster.state.nodes import (
    Applied,
    apply_manifest,
    failed,
    files_of,
    node_row,
    node_rows,
    seen,
)
from ringrift_sync_dagster.state.store import StateStore


def _entry(path: str = "data/games/selfplay.db", **changes: object) -> dict[str, Any]:
    return {
        "path": path, "data_type": "games", "kind": "selfplay", "config": "hex8_2p", "collectable": True,
        "bytes": 4096, "mtime_ns": 1_700_000_000_123_456_789, "token": "t1", "games": {"hex8_2p": 3}, "unfinished": 1,
        "unknown_config": 0, "marker": None, "error": None, **changes,
    }  # fmt: skip


def _manifest(
    token: str, *entries: dict[str, Any], full: bool = False, removed: tuple[str, ...] = ()
) -> dict[str, Any]:
    return {"token": token, "full": full, "entries": list(entries), "removed": list(removed)}


def _rows(store: StateStore, node: str = "vast-1") -> list[tuple[str, str, int | None]]:
    return [(file.path, file.config, file.games) for file in files_of(store, node)]


def test_a_node_that_answered_is_up_and_keeps_what_was_known(store: StateStore) -> None:
    seen(store, "vast-1", at=5.0, transport="p2p_http", agent_version="0.1.0", extra={"at_risk": {"games": 3}})
    seen(store, "vast-1", at=6.0)
    row = node_row(store, "vast-1")
    assert row is not None
    assert (row.status, row.last_seen_at, row.transport, row.agent_version) == ("up", 6.0, "p2p_http", "0.1.0")
    assert row.extra == {"at_risk": {"games": 3}}


def test_a_node_that_failed_is_down_and_its_files_stay(store: StateStore) -> None:
    apply_manifest(store, "vast-1", _manifest("T1", _entry(), full=True), since="", at=5.0)
    failed(store, "vast-1", "no route", at=8.0)
    row = node_row(store, "vast-1")
    assert row is not None
    assert (row.status, row.last_error, row.last_error_at, row.last_seen_at) == ("down", "no route", 8.0, 5.0)
    assert len(files_of(store, "vast-1")) == 1
    seen(store, "vast-1", at=9.0)
    again = node_row(store, "vast-1")
    assert again is not None
    assert (again.status, again.last_error) == ("up", "no route")


def test_a_node_that_goes_or_comes_is_told_once(store: StateStore) -> None:
    seen(store, "vast-1", at=100.0)
    failed(store, "vast-1", "no answer", at=200.0)
    failed(store, "vast-1", "still none", at=300.0)
    seen(store, "vast-1", at=400.0, transport="rsync")
    seen(store, "vast-1", at=500.0)

    (gone, back) = events_since(store)
    assert (gone.type, gone.payload["error"], gone.payload["last_seen_at"]) == (
        "SYNC_NODE_UNREACHABLE", "no answer", 100.0,
    )  # fmt: skip
    assert (back.type, back.payload["transport"], back.payload["down_since"]) == ("NODE_RECOVERED", "rsync", 300.0)


def test_nodes_are_listed_by_name_and_an_unknown_one_is_none(store: StateStore) -> None:
    failed(store, "b", "x", at=1.0)
    seen(store, "a", at=1.0)
    assert [row.name for row in node_rows(store)] == ["a", "b"]
    assert node_row(store, "c") is None


def test_a_full_manifest_replaces_what_was_told(store: StateStore) -> None:
    first = _manifest("T1", _entry("a.db"), _entry("b.db"), full=True)
    assert apply_manifest(store, "vast-1", first, since="", at=5.0, transport="ssh") == Applied(
        accepted=True, written=2, removed=0
    )
    second = _manifest("T2", _entry("b.db"), _entry("c.db"), full=True)
    assert apply_manifest(store, "vast-1", second, since="T1", at=6.0) == Applied(accepted=True, written=1, removed=1)
    assert _rows(store) == [("b.db", "hex8_2p", 3), ("c.db", "hex8_2p", 3)]
    row = node_row(store, "vast-1")
    assert row is not None
    assert (row.manifest_token, row.manifest_at, row.transport) == ("T2", 6.0, "ssh")


def test_a_delta_touches_only_what_it_names(store: StateStore) -> None:
    start = _manifest("T1", _entry("a.db"), _entry("b.db"), _entry("c.db"), full=True)
    apply_manifest(store, "vast-1", start, since="", at=5.0)
    delta = _manifest("T2", _entry("b.db", token="t2", games={"hex8_2p": 9}), removed=("c.db",))
    assert apply_manifest(store, "vast-1", delta, since="T1", at=6.0) == Applied(accepted=True, written=1, removed=1)
    assert _rows(store) == [("a.db", "hex8_2p", 3), ("b.db", "hex8_2p", 9)]
    assert [file.seen_at for file in files_of(store, "vast-1")] == [5.0, 6.0]


def test_a_delta_made_from_another_token_is_not_accepted(store: StateStore) -> None:
    apply_manifest(store, "vast-1", _manifest("T2", _entry("a.db"), full=True), since="", at=5.0)
    late = _manifest("T3", _entry("b.db"))
    assert apply_manifest(store, "vast-1", late, since="T1", at=6.0) == Applied(accepted=False)
    assert _rows(store) == [("a.db", "hex8_2p", 3)]
    row = node_row(store, "vast-1")
    assert row is not None
    assert (row.manifest_token, row.last_seen_at) == ("T2", 6.0)


def test_the_same_manifest_again_writes_no_file(store: StateStore) -> None:
    manifest = _manifest("T1", _entry("a.db"), _entry("b.db", games={}), full=True)
    apply_manifest(store, "vast-1", manifest, since="", at=5.0)
    assert apply_manifest(store, "vast-1", manifest, since="T1", at=6.0) == Applied(accepted=True)


def test_a_mixed_database_has_one_row_for_each_config_and_loses_those_that_it_no_longer_has(store: StateStore) -> None:
    mixed = _entry("mixed.db", config=None, games={"hex8_2p": 3, "square8_2p": 4})
    apply_manifest(store, "vast-1", _manifest("T1", mixed, full=True), since="", at=5.0)
    assert _rows(store) == [("mixed.db", "hex8_2p", 3), ("mixed.db", "square8_2p", 4)]
    smaller = _entry("mixed.db", config=None, games={"square8_2p": 5})
    apply_manifest(store, "vast-1", _manifest("T2", smaller), since="T1", at=6.0)
    assert _rows(store) == [("mixed.db", "square8_2p", 5)]


def test_files_without_games_and_files_with_errors_have_their_rows(store: StateStore) -> None:
    model = _entry("models/best.pth", data_type="models", kind="best", config=None)
    del model["games"]
    broken = _entry("broken.db", games=None, error={"code": "corrupt", "message": "page 3"})
    empty = _entry("empty.db", games={})
    apply_manifest(store, "vast-1", _manifest("T1", model, broken, empty, full=True), since="", at=5.0)
    assert _rows(store) == [("broken.db", "hex8_2p", None), ("empty.db", "hex8_2p", 0), ("models/best.pth", "", None)]
    assert files_of(store, "vast-1")[0].error == "corrupt: page 3"
    assert [file.path for file in files_of(store, "vast-1", "models")] == ["models/best.pth"]


def test_nodes_do_not_touch_each_others_files(store: StateStore) -> None:
    for node in ("vast-1", "vast-2"):
        apply_manifest(store, node, _manifest("T1", _entry("a.db"), full=True), since="", at=5.0)
    apply_manifest(store, "vast-1", _manifest("T2", full=True), since="T1", at=6.0)
    assert _rows(store) == []
    assert _rows(store, "vast-2") == [("a.db", "hex8_2p", 3)]


@pytest.mark.parametrize(
    "entries",
    [
        [{"path": "a.db"}],
        [_entry("a.db"), _entry("a.db")],
        [_entry("a.db", games=[1])],
        [_entry("a.db", bytes="many")],
        ["a.db"],
    ],
)
def test_an_unusable_manifest_is_refused_and_changes_nothing(store: StateStore, entries: list[Any]) -> None:
    apply_manifest(store, "vast-1", _manifest("T1", _entry("good.db"), full=True), since="", at=5.0)
    with pytest.raises(ValueError, match=r"vast-1: (an entry of its manifest is not usable|its manifest names a\.db)"):
        apply_manifest(store, "vast-1", _manifest("T2", *entries, full=True), since="T1", at=6.0)
    assert _rows(store) == [("good.db", "hex8_2p", 3)]


def test_a_name_that_cannot_name_a_node_is_refused(store: StateStore) -> None:
    with pytest.raises(ValueError, match="cannot name a node"):
        seen(store, "a|b", at=1.0)
    assert node_rows(store) == []


def test_sixteen_thousand_files_are_taken_over_in_seconds_and_a_small_delta_at_once(store: StateStore) -> None:
    entries = [_entry(f"data/games/selfplay_{i}.db", bytes=i) for i in range(16_000)]
    begun = time.monotonic()
    assert apply_manifest(store, "n", _manifest("T1", *entries, full=True), since="", at=1.0).written == 16_000
    assert time.monotonic() - begun < 20
    begun = time.monotonic()
    delta = _manifest("T2", _entry("data/games/selfplay_7.db"), removed=("data/games/selfplay_8.db",))
    assert apply_manifest(store, "n", delta, since="T1", at=2.0) == Applied(accepted=True, written=1, removed=1)
    assert time.monotonic() - begun < 1
    wide = _manifest("T3", *(_entry(f"data/games/selfplay_{i}.db", bytes=1) for i in range(2, 3002)))
    assert apply_manifest(store, "n", wide, since="T2", at=3.0).written == 3000
    assert len(files_of(store, "n")) == 16_000
