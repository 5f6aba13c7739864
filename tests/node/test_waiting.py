"""Games that wait to be complete never keep others from being collected, however many there are."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path

import pytest

from ringrift_sync_dagster.demo.recorder import Recorder
from ringrift_sync_dagster.demo.schemas import Dialect
from ringrift_sync_dagster.node import cursor as cursors
from ringrift_sync_dagster.node import pack as packs
from ringrift_sync_dagster.node import packfile
from tests.node.merging import Shop, game, record

LIMIT = 120


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A small limit, so that a database is full of waiting games soon."""
    monkeypatch.setattr(packs, "WAITING_LIMIT", LIMIT)
    monkeypatch.setattr(cursors, "WAITING_LIMIT", LIMIT)
    monkeypatch.setattr(cursors, "TOLD_AT_ONCE", 50)
    return Shop(tmp_path)


def moveless(path: Path, status: str, count: int) -> None:
    """Add games without moves."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.executemany(
            "INSERT INTO games (game_id, board_type, num_players, game_status, total_moves, total_turns, created_at,"
            " schema_version) VALUES (?, 'hex8', 2, ?, 0, 0, '2026-01-01', 12)",
            [(f"{status}-{number}", status) for number in range(count)],
        )


def ids(shop: Shop, artifact: str) -> list[str]:
    with packfile.open_pack(str(shop.inflated(artifact))) as conn:
        return [row[0] for row in conn.execute("SELECT game_id FROM pack_games ORDER BY 1")]


def test_short_games_that_fill_the_list_make_room_when_they_were_told(shop: Shop) -> None:
    database = record(shop.folder / "n.db", game("first"), dialect=Dialect.V12)
    moveless(database, "completed", LIMIT * 3)
    record(database, game("last"), dialect=Dialect.V12)

    now, cursor, packed = time.time(), None, set()
    for _ in range(60):
        now += 700  # longer than the stillness that is asked for
        result = shop.pack(database, cursor=cursor, now=now)
        packed |= set(ids(shop, result["artifact"])) if result["artifact"] else set()
        cursor = result["cursor"]
        if result["short"]:
            cursor = shop.pack(database, cursor=cursor, now=now, ids=tuple(result["short"]), aside=True)["cursor"]
        elif not result["more"]:
            break

    assert packed == {"first", "last"}


def test_games_that_go_on_for_ever_cost_a_listing_and_no_game(shop: Shop) -> None:
    database = record(shop.folder / "n.db", game("first"), dialect=Dialect.V12)
    moveless(database, "active", LIMIT * 3)
    record(database, game("last"), dialect=Dialect.V12)

    result = shop.pack(database)

    assert ids(shop, result["artifact"]) == ["first", "last"]
    assert result["cursor"]["crowded"] is True
    assert shop.pack(database, cursor=result["cursor"])["mode"] == "listing_needed"


def test_a_told_game_that_moves_again_keeps_its_place_in_a_full_list(shop: Shop) -> None:
    """Only what stands as it was told makes room; a game whose moves came late after all is still collected."""
    late = game("late", length=8)
    database = record(shop.folder / "n.db", dialect=Dialect.V12)
    moveless(database, "completed", LIMIT // 2)
    with Recorder(database, Dialect.V12) as writer:
        writer.begin(late)
        writer.play(late, 0, 3)
        writer.finish(late)
        now = time.time()
        cursor = shop.pack(database, now=now)["cursor"]
        while short := shop.pack(database, cursor=cursor, now=now + 700)["short"]:
            told = shop.pack(database, cursor=cursor, now=now + 700, ids=tuple(short), aside=True)
            cursor = told["cursor"]
        writer.play(late, 3, 2)
        moveless(database, "active", LIMIT * 3)
        cursor = shop.pack(database, cursor=cursor, now=now + 800)["cursor"]
        assert cursor["waiting"]["late"][1] == 5
        assert len(cursor["waiting"]) >= LIMIT
