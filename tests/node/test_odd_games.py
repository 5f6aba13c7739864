"""A game with a strange value in its row costs nobody else a thing."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from ringrift_sync_dagster.demo.schemas import Dialect
from ringrift_sync_dagster.node.digest import renamed_id
from tests.node.merging import Shop, game, record


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.mark.parametrize("value", [6.5, "abc", b"\x00\xff", None, -3, "12 moves"])
def test_a_number_of_moves_that_is_none_is_read_as_the_least(shop: Shop, value: object) -> None:
    database = record(shop.folder / "n.db", *(game(f"g{number}") for number in range(4)), dialect=Dialect.V12)
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as conn:
        conn.execute("CREATE TABLE loose AS SELECT * FROM games")  # a table without types or NOT NULL
        conn.execute("DROP TABLE games")
        conn.execute("ALTER TABLE loose RENAME TO games")
        conn.execute("UPDATE games SET total_moves = ? WHERE game_id = 'g1'", (value,))

    merged = shop.collect(database)

    assert (merged.new, merged.asides) == (4, ())


def test_a_game_whose_second_id_is_taken_is_set_aside_and_the_others_enter(shop: Shop) -> None:
    one, other = game("g", rng_seed=1), game("g", rng_seed=2)
    for number, each in enumerate((one, other)):
        shop.collect(record(shop.folder / f"{number}.db", each))
    second = max(found.identity for found in shop.content().values())
    store = Shop(shop.folder / "again")
    store.folder.mkdir()
    store.collect(record(store.folder / "taken.db", game("native", game_id=renamed_id("g", second))))

    store.collect(record(store.folder / "0.db", one))
    merged = store.collect(record(store.folder / "1.db", other, game("h")))

    assert [(aside.game_id, aside.reason) for aside in store.asides] == [("g", "id_taken")]
    assert (merged.new, merged.games, store.value("SELECT COUNT(*) FROM games")) == (1, 3, 3)
    assert store.rows("PRAGMA foreign_key_check") == []
