"""A change is written once, and is pending until Dagster has it."""

from __future__ import annotations

import threading

from ringrift_sync_dagster.state.changes import (
    Change,
    add_changes,
    mark_recorded,
    pending,
    pending_groups,
    recent_changes,
)
from ringrift_sync_dagster.state.store import StateStore


def _change(change_id: str, *, config: str = "hex8_2p", node: str = "vast-1", data_type: str = "games") -> Change:
    return Change(
        change_id, 7.5, data_type, "up", config, node, artifact="a" * 64, source_path="data/games/selfplay.db",
        games_new=3, games_same=1, size_bytes=2**40, seconds=0.25, transport="p2p_http", canonical_games=12,
        lag_seconds=1.5, checks={"no_orphans": {"passed": True, "rows": [1, 2]}}, trigger="cli",
    )  # fmt: skip


def test_a_change_comes_back_as_it_was_written(store: StateStore) -> None:
    change = _change("c1")
    assert add_changes(store, [change]) == 1
    [found] = pending(store)
    assert found.id > 0
    assert {**_fields(found), "id": 0} == _fields(change)


def _fields(change: Change) -> dict[str, object]:
    return {name: getattr(change, name) for name in Change.__slots__}


def test_the_same_change_again_is_one_row(store: StateStore) -> None:
    assert add_changes(store, [_change("c1"), _change("c2")]) == 2
    assert add_changes(store, [_change("c2"), _change("c3")]) == 1
    assert add_changes(store, []) == 0
    assert [change.change_id for change in pending(store)] == ["c1", "c2", "c3"]


def test_writers_at_the_same_time_write_each_change_once(store: StateStore) -> None:
    added: list[int] = []
    changes = [_change(f"c{i}") for i in range(20)]
    threads = [threading.Thread(target=lambda: added.append(add_changes(store, changes))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(added) == 20
    assert len(pending(store)) == 20


def test_a_change_is_pending_until_it_is_recorded_and_the_first_record_stays(store: StateStore) -> None:
    add_changes(store, [_change("c1"), _change("c2")])
    assert mark_recorded(store, ["c1"], "run-1") == 1
    assert mark_recorded(store, ["c1", "unknown"], "run-2") == 0
    assert [change.change_id for change in pending(store)] == ["c2"]
    recorded = recent_changes(store)[-1]
    assert (recorded.change_id, recorded.recorded_by) == ("c1", "run-1")
    assert recorded.recorded_at is not None


def test_many_changes_are_marked_at_once(store: StateStore) -> None:
    ids = [f"c{i:04}" for i in range(1200)]
    add_changes(store, [_change(change_id) for change_id in ids])
    assert mark_recorded(store, ids, "run-1") == 1200
    assert mark_recorded(store, [], "run-1") == 0
    assert pending(store) == []


def test_pending_changes_are_grouped_by_data_type_and_partition(store: StateStore) -> None:
    add_changes(
        store,
        [
            _change("c1"),
            _change("c2", node="vast-2"),
            _change("c3"),
            _change("c4", config="square8_2p"),
            _change("c5", data_type="elo"),
        ],
    )
    groups = {(group.data_type, group.config, group.node): group.change_ids for group in pending_groups(store)}
    assert groups == {
        ("elo", "hex8_2p", "vast-1"): ("c5",),
        ("games", "hex8_2p", "vast-1"): ("c1", "c3"),
        ("games", "hex8_2p", "vast-2"): ("c2",),
        ("games", "square8_2p", "vast-1"): ("c4",),
    }


def test_pending_is_bounded_and_oldest_first(store: StateStore) -> None:
    add_changes(store, [_change(f"c{i}") for i in range(5)])
    assert [change.change_id for change in pending(store, limit=2)] == ["c0", "c1"]
    assert [change.change_id for change in recent_changes(store, limit=2)] == ["c4", "c3"]
