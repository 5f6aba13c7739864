"""The tables of pandas hold what the state database does, with times, sums and percentiles."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from ringrift_sync_dagster.demo.ratings import make_matches, ratings_by_hand
from ringrift_sync_dagster.state import frames
from ringrift_sync_dagster.state.changes import Change, add_changes
from ringrift_sync_dagster.state.manifest import Manifest
from ringrift_sync_dagster.state.receipts import ArtifactRow, Receipt, add_receipt
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.transfers import finish, start_transfer

NOON = 1_770_033_600.0
CONFIG = "hex8_2p"


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    return StateStore.open(f"sqlite:///{tmp_path}/state.db")


def change(number: int, node: str, at: float, new: int, lag: float | None = None) -> Change:
    return Change(f"c{number}", at, "games", "up", CONFIG, node, games_new=new, lag_seconds=lag)


def test_locations_tell_how_many_verified_copies_there_are(store: StateStore) -> None:
    for sha256, nodes in (("a" * 64, ("n1", "n2")), ("b" * 64, ("n1",))):
        for node in nodes:
            row = ArtifactRow(sha256, "models", 7, 0, CONFIG, "n1", NOON)
            add_receipt(store, Receipt(sha256, node, f"models/{sha256[:3]}.pth", 7, NOON), row)

    frame = Manifest(store).frame()
    narrowed = Manifest(store).frame(node="n1", sha256="aa")

    assert sorted(frame["copies"]) == [1, 2, 2]
    assert list(narrowed["path"]) == ["models/aaa.pth"]
    assert narrowed["verified_at"].iloc[0] == pd.Timestamp(NOON, unit="s", tz="UTC")
    assert Manifest(store).copies(CONFIG) == {"a" * 64: 2, "b" * 64: 1}


def test_games_are_counted_by_config_node_and_day(store: StateStore) -> None:
    day = 86_400.0
    add_changes(
        store,
        [change(1, "n1", NOON, 3, 1.0), change(2, "n1", NOON + 60, 4, 3.0), change(3, "n1", NOON + day, 5, 2.0),
         change(4, "n2", NOON, 1), change(5, "n2", NOON, 0)],
    )  # fmt: skip

    found = frames.games_by_day(store)

    assert found[["node", "games"]].to_numpy().tolist() == [["n1", 7], ["n1", 5], ["n2", 1]]
    lag = frames.lag(store)
    assert lag.to_dict("records") == [{"config": CONFIG, "merges": 3, "p50": 2.0, "p90": 2.8, "p99": 2.98, "max": 3.0}]


def test_throughput_is_that_of_finished_transfers_by_transport_and_hour(store: StateStore) -> None:
    for transport, moved, ended in (("p2p", 100, True), ("p2p", 300, True), ("rsync", 50, True), ("rsync", 9, False)):
        number = start_transfer(
            store, artifact="a" * 64, node="n1", direction="fetch", transport=transport, size_bytes=moved
        )
        if ended:
            finish(store, number, seconds=2.0, rungs=[{"transport": transport, "bytes_moved": moved}])

    found = frames.throughput(store).set_index("transport")

    columns = ["transfers", "bytes", "seconds", "bytes_per_second"]
    assert found.loc[["p2p"], columns].to_numpy().tolist() == [[2, 400, 4.0, 100.0]]
    assert found.loc["rsync", "bytes"] == 50
    assert len(frames.transfers(store)) == 4


def test_an_empty_state_gives_empty_tables_with_their_columns(store: StateStore, tmp_path: Path) -> None:
    found = {"locations": Manifest(store).frame(), **frames.report(store, tmp_path / "none.db")}

    assert all(frame.empty and len(frame.columns) > 3 for frame in found.values()), found


def test_ratings_are_those_of_the_database(tmp_path: Path) -> None:
    from ringrift_sync_dagster.demo.ratings import write_matches  # noqa: PLC0415
    from tests.node.test_matches import Owner  # noqa: PLC0415 - the owner of the kit's tests

    owner, matches = Owner(tmp_path), make_matches("frame", CONFIG, 30)
    owner.take(write_matches(tmp_path / "n.db", matches))

    frame = frames.ratings(owner.path)

    by_hand = ratings_by_hand(matches)
    assert dict(zip(frame["participant_id"], frame["rating"], strict=True)) == pytest.approx(
        {name: rating for name, (rating, _) in by_hand.items()}
    )
    assert frame["rating"].is_monotonic_decreasing


@pytest.mark.parametrize("content", [b"", b"no database" * 1000])
def test_a_database_of_ratings_that_cannot_be_read_costs_no_other_table(
    store: StateStore, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "elo.db").write_bytes(content)

    found = frames.report(store, tmp_path / "elo.db")

    assert found["ratings"].empty
    assert set(found) == {"transfers", "throughput", "games", "lag", "ratings"}


def test_nobody_loads_pandas_who_wants_no_table() -> None:
    names = "sys, ringrift_sync_dagster.state.manifest, ringrift_sync_dagster.cli.main"
    code = f"import {names}; print('pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
