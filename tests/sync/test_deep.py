"""Annotations that come after a game was collected: the slow look finds them, once, and takes its time."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from ringrift_sync_dagster.settings.clock import wall
from ringrift_sync_dagster.state.deep_scans import DeepScan, deep_scan, remember
from ringrift_sync_dagster.state.store import StateStore
from tests.node.merging import game
from tests.sync.conftest import Field
from tests.sync.test_collect import A

CONFIG = "hex8_2p"
B = "runpod-a1"
PATH = f"data/games/selfplay_{CONFIG}.db"


def often(field_: Field) -> None:
    """A look with each pass, at whatever cost."""
    quick = {"deep_scan_interval": 1e-6, "deep_scan_share": 1.0}
    field_.settings = field_.settings.model_copy(update=quick)


def annotate(database: Path, game_id: str, **columns: object) -> None:
    with contextlib.closing(sqlite3.connect(database)) as conn, conn:
        for name, value in columns.items():
            conn.execute(f"UPDATE games SET {name} = ? WHERE game_id = ?", (value, game_id))


def annotation(field_: Field, game_id: str) -> tuple[object, ...]:
    with contextlib.closing(sqlite3.connect(field_.canonical(CONFIG))) as conn:
        query = "SELECT quality_score, parity_status, parity_checked_at FROM games WHERE game_id = ?"
        return tuple(conn.execute(query, (game_id,)).fetchone())


def scan_of(field_: Field, node: str = A) -> DeepScan | None:
    with StateStore.open(field_.settings.state_url) as state:
        return deep_scan(state, node, PATH, CONFIG)


def test_what_was_found_out_about_a_game_after_it_was_collected_arrives(field_: Field) -> None:
    often(field_)
    database = field_.play(A, PATH, *(game(f"g{number}", config=CONFIG) for number in range(3)))
    field_.one(CONFIG, A)
    annotate(database, "g1", parity_status="passed", parity_checked_at="2026-05-05", quality_score=1.5)

    late = field_.one(CONFIG, A)
    again = field_.one(CONFIG, A)

    assert (late.annotated, late.games_new) == (1, 0)
    assert annotation(field_, "g1") == (1.5, "passed", "2026-05-05")
    assert (again.annotated, again.packs) == (0, 0)


def test_an_annotation_that_knows_less_than_ours_is_ordered_once(field_: Field) -> None:
    often(field_)
    one = game("g", config=CONFIG)
    first, second = (field_.play(node, PATH, one) for node in (A, B))
    annotate(first, "g", parity_status="passed", parity_checked_at="2026-05-05")
    field_.one(CONFIG, A)
    field_.one(CONFIG, B)
    annotate(second, "g", parity_status="failed", parity_checked_at="2026-05-04")

    ordered = [field_.one(CONFIG, B).packs for _ in range(3)]

    assert ordered == [1, 0, 0]
    assert annotation(field_, "g")[1:] == ("passed", "2026-05-05")


def test_a_look_comes_once_in_six_hours(field_: Field) -> None:
    database = field_.play(A, PATH, game("g", config=CONFIG))
    field_.one(CONFIG, A)
    first = scan_of(field_)
    annotate(database, "g", quality_score=1.5)
    field_.one(CONFIG, A)

    assert first is not None
    assert first.finished_at is not None
    assert scan_of(field_) == first
    with StateStore.open(field_.settings.state_url) as state:
        long_ago = wall() - 7 * 3600
        remember(state, DeepScan(A, PATH, CONFIG, {}, 0.1, long_ago, long_ago, long_ago))
    assert field_.one(CONFIG, A).annotated == 1


@pytest.mark.parametrize("ended", [True, False])
def test_a_clock_that_was_set_back_does_not_put_off_the_look(field_: Field, ended: bool) -> None:  # noqa: FBT001 - a parameter
    field_.play(A, PATH, game("g", config=CONFIG))
    field_.one(CONFIG, A)
    future, worked = wall() + 10 * 365 * 86400, 0.0 if ended else 1e-9
    with StateStore.open(field_.settings.state_url) as state:
        remember(state, DeepScan(A, PATH, CONFIG, {}, worked, future, future, future if ended else None))

    field_.one(CONFIG, A)
    field_.one(CONFIG, A)

    found = scan_of(field_)
    assert found is not None
    assert found.finished_at is not None
    assert found.finished_at < future


def test_a_look_that_has_used_its_share_waits_and_goes_on_where_it_stopped(field_: Field) -> None:
    database = field_.play(A, PATH, *(game(f"g{number}", config=CONFIG) for number in range(3)))
    field_.one(CONFIG, A)
    annotate(database, "g2", quality_score=1.5)
    now = wall()
    with StateStore.open(field_.settings.state_url) as state:
        remember(state, DeepScan(A, PATH, CONFIG, {}, 10.0, now - 100, now))  # 10 s of 100: more than 5 %

    assert field_.one(CONFIG, A).annotated == 0
    with StateStore.open(field_.settings.state_url) as state:
        remember(state, DeepScan(A, PATH, CONFIG, {}, 10.0, now - 1_000, now))
    assert field_.one(CONFIG, A).annotated == 1
    found = scan_of(field_)
    assert found is not None
    assert found.finished_at is not None
    assert found.worked_seconds > 10


def test_rows_that_move_during_a_look_begin_it_again(field_: Field) -> None:
    field_.play(A, PATH, game("g", config=CONFIG))
    field_.one(CONFIG, A)
    with StateStore.open(field_.settings.state_url) as state:
        nowhere = {
            "v": 1, "inode": 1, "rowid": 99, "game_id": "gone", "digest": None, "token": "", "waiting": {},
            "crowded": False,
        }  # fmt: skip
        remember(state, DeepScan(A, PATH, CONFIG, nowhere, 0.0, wall() - 1_000, wall()))

    assert field_.one(CONFIG, A).failure is None
    found = scan_of(field_)
    assert found is not None
    assert found.finished_at is not None
