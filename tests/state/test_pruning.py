"""Old rows go; what is decided from, and what a subscriber has not read, stays."""

from __future__ import annotations

import sqlalchemy as sa

from ringrift_sync_dagster.core.retention import DAY
from ringrift_sync_dagster.state import schema
from ringrift_sync_dagster.state.changes import Change, add_changes, mark_recorded
from ringrift_sync_dagster.state.pruning import prune
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.transfers import finish, start_transfer

NOW = 1_800_000_000.0


def count(store: StateStore, table: sa.Table) -> int:
    with store.read() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


def insert(store: StateStore, table: sa.Table, *rows: dict[str, object]) -> None:
    with store.begin() as connection:
        connection.execute(sa.insert(table), list(rows))


def test_events_go_when_they_are_old_and_every_subscriber_has_read_them(store: StateStore) -> None:
    ages = [30, 20, 10, 1]
    insert(store, schema.events, *({"at": NOW - age * DAY, "type": "X", "payload": {}} for age in ages))
    insert(store, schema.event_cursors, {"subscriber": "slow", "event_id": 2, "at": NOW})

    assert prune(store, NOW, dry_run=True)["events"] == 2
    assert prune(store, NOW)["events"] == 2
    with store.begin() as connection:
        connection.execute(sa.delete(schema.event_cursors))
    assert prune(store, NOW)["events"] == 1
    assert count(store, schema.events) == 1


def test_recorded_changes_go_but_the_newest_of_each_partition_and_what_waits(store: StateStore) -> None:
    changes = [
        Change(f"c{number}", NOW - age * DAY, "games", "up", "hex8_2p", node, checks=checks)
        for number, (age, node, checks) in enumerate(
            [(50, "a", {"x": True}), (45, "a", {"x": True}), (40, "a", {}), (60, "b", {}), (50, "c", {}), (1, "c", {})]
        )
    ]
    add_changes(store, changes)
    mark_recorded(store, ["c0", "c1", "c2", "c3", "c5"], "run")

    # c1 is the newest of a with verdicts, c2 its newest, c3 b's only one, c4 is not recorded, c5 is young.
    assert prune(store, NOW)["changes"] == 1
    assert count(store, schema.changes) == 5


def test_transfers_marks_and_forecasts_go_by_age(store: StateStore) -> None:
    ids = [
        start_transfer(store, artifact=f"{n:064x}", node="a", direction="fetch", transport="x", size_bytes=1)
        for n in range(4)
    ]
    for transfer_id in ids[:3]:
        finish(store, transfer_id)
    with store.begin() as connection:
        connection.execute(sa.update(schema.transfers).values(finished_at=NOW - 8 * DAY))
    insert(
        store,
        schema.marks,
        *({"strategy": "s", "owner": "o", "mark": 0.0, "began_at": NOW - age * DAY} for age in (8, 1)),
    )
    insert(store, schema.forecasts, {"at": NOW - 31 * DAY}, {"at": NOW - 29 * DAY})

    found = prune(store, NOW)

    assert found == {"transfers": 2, "events": 0, "changes": 0, "marks": 1, "forecasts": 1, "risks": 0}
    assert prune(store, NOW) == dict.fromkeys(found, 0)
    assert count(store, schema.transfers) == 2


def test_receipts_stay_for_ever(store: StateStore) -> None:
    insert(store, schema.receipts, {"sha256": "0" * 64, "node": "a", "path": "p", "verified_at": 0.0})

    prune(store, NOW)

    assert count(store, schema.receipts) == 1


def test_what_nodes_said_goes_when_they_are_gone_for_long_and_nothing_is_open(store: StateStore) -> None:
    old, young = NOW - 31 * DAY, NOW - 29 * DAY
    common = {"bytes": 0, "ids": [], "outbox_bytes": 0, "outbox_packs": 0}
    insert(
        store, schema.risks,
        {"node": "left", "games": 0, "at": old, "lost_at": None, **common},
        {"node": "lost", "games": 3, "at": old, "lost_at": old, **common},
        {"node": "lost lately", "games": 3, "at": old, "lost_at": young, **common},
        {"node": "silent with games", "games": 3, "at": old, "lost_at": None, **common},
        {"node": "young", "games": 0, "at": young, "lost_at": None, **common},
    )  # fmt: skip

    assert prune(store, NOW)["risks"] == 2
    with store.read() as connection:
        left = set(connection.execute(sa.select(schema.risks.c.node)).scalars())
    assert left == {"lost lately", "silent with games", "young"}
