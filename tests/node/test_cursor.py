"""How far a reader is: nothing is packed twice because self-play gave games up, and nothing is passed by for it."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from ringrift_sync_dagster.demo.recorder import Recorder
from ringrift_sync_dagster.demo.schemas import Dialect
from ringrift_sync_dagster.node import cursor as cursors
from ringrift_sync_dagster.node.listing import list_games
from tests.node.merging import CONFIG, NAME, Shop, game, give_up, record

OTHER = "square8_2p"
PLAYED = ["play", "play other", "begin", "begin", "begin other", "finish", "finish newest", "read", "read", "read one"]
GIVEN_UP = ["give up", "give up newest", "give up newest", "give up all"]
REBUILT = ["vacuum", "replaced", "lose newest", "lose any"]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


class Walk:
    """A database in which games begin, end and vanish, and a reader that packs them by itself."""

    def __init__(self, folder: Path) -> None:
        self.shop, self.database = Shop(folder), folder / "node.db"
        self.begun, self.lost = list[str](), set[str]()
        self.cursor: dict[str, Any] | None = None
        self.told = list[str]()
        self.listings = self.count = 0
        record(self.database, game("first"))

    def do(self, step: str, chance: random.Random) -> None:
        self.count += 1
        key, config = str(self.count), OTHER if step.endswith("other") else CONFIG
        match step.split(maxsplit=1)[0]:
            case "play":
                record(self.database, game(key, config=config))
            case "begin":
                begun = f"b{key}o" if config == OTHER else f"b{key}"
                with Recorder(self.database, Dialect.V18) as recorder:
                    recorder.begin(game(begun, config=config))
                self.begun.append(begun)
            case "finish" if self.begun:
                self.finish(self.one_begun(step, chance))
            case "give" if self.begun:
                for _ in range(len(self.begun) if "all" in step else 1):
                    give_up(
                        self.database, self.begun.pop(-1 if "newest" in step else chance.randrange(len(self.begun)))
                    )
            case "read":
                self.read(max_games=1 if "one" in step else 2_000)
            case "vacuum" | "replaced" | "lose":
                self.rebuild(step)

    def one_begun(self, step: str, chance: random.Random) -> str:
        return self.begun.pop(-1 if "newest" in step else chance.randrange(len(self.begun)))

    def finish(self, game_id: str) -> None:
        made = game(game_id, config=OTHER if game_id.endswith("o") else CONFIG)
        with Recorder(self.database, Dialect.V18) as recorder:
            recorder.play(made, 0, len(made.moves))
            recorder.finish(made)

    def rebuild(self, step: str) -> None:
        """Do what moves rows, or takes finished ones away."""
        with contextlib.closing(sqlite3.connect(self.database, isolation_level=None)) as conn:
            conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            conn.execute("VACUUM" if step == "vacuum" else "SELECT 1")
            order = "rowid DESC" if step == "lose newest" else "RANDOM()"
            query = f"SELECT game_id FROM games WHERE game_status = 'completed' ORDER BY {order} LIMIT 1"
            lost = [row[0] for row in conn.execute(query)] if step.startswith("lose") else []
        for game_id in lost:
            give_up(self.database, game_id)
        self.lost.update(lost)
        other = self.database.with_name("other.db")
        if step == "replaced":
            shutil.copyfile(self.database, other)
            other.replace(self.database)

    def read(self, max_games: int = 2_000) -> None:
        """Read on as an agent does."""
        more = True
        while more:
            result = self.shop.pack(self.database, cursor=self.cursor, tell=True, max_games=max_games)
            if result["mode"] == "listing_needed":
                self.listings += 1
                result = self.shop.pack(self.database, tell=True, max_games=max_games)
            self.cursor, more = result["cursor"], result["more"]
            shutil.rmtree(self.shop.folder / "scratch" / "artifacts")  # nobody asks for a pack again
            self.told += [row[0] for row in result["told"]]

    def finished(self) -> set[str]:
        query = "SELECT game_id FROM games WHERE game_status = 'completed' AND board_type = 'hex8'"
        with contextlib.closing(sqlite3.connect(self.database)) as conn:
            return {row[0] for row in conn.execute(query)}


@pytest.mark.parametrize("seed", range(4))
def test_games_that_are_given_up_cost_nothing_and_hide_nothing(seed: int, tmp_path: Path) -> None:
    chance, walk = random.Random(seed), Walk(tmp_path)
    for _ in range(70):
        step = chance.choice(PLAYED + GIVEN_UP)
        walk.do(step, chance)
        if step.startswith("read"):
            assert walk.finished() <= set(walk.told)
    walk.read()

    assert sorted(walk.told) == sorted(walk.finished())  # each of them once
    assert walk.listings == 0


@pytest.mark.parametrize("seed", range(4))
def test_rows_that_move_or_go_hide_nothing(seed: int, tmp_path: Path) -> None:
    chance, walk = random.Random(seed), Walk(tmp_path)
    for _ in range(70):
        step = chance.choice(PLAYED + GIVEN_UP + REBUILT)
        walk.do(step, chance)
        if step.startswith("read"):
            assert walk.finished() <= set(walk.told)
    walk.read()

    assert walk.finished() <= set(walk.told) <= walk.finished() | walk.lost
    assert walk.listings > 0


def test_the_game_that_takes_the_rowid_of_one_that_was_given_up_is_seen(shop: Shop, tmp_path: Path) -> None:
    database = record(tmp_path / "n.db", game("old"))
    with Recorder(database, Dialect.V18) as recorder:
        recorder.begin(game("given up"))
        before = shop.pack(database)
        give_up(database, "given up")
        recorder.record_all([game("next")])

    result = shop.pack(database, cursor=before["cursor"], tell=True)

    assert (before["cursor"]["rowid"], list(before["cursor"]["waiting"])) == (1, ["given up"])
    assert ([row[0] for row in result["told"]], result["cursor"]["rowid"], result["waiting"]) == (["next"], 2, 0)


def test_a_cursor_of_an_earlier_version_that_stands_on_a_game_given_up_is_read_anew_once(
    shop: Shop, tmp_path: Path
) -> None:
    database = record(tmp_path / "n.db", game("old"))
    with Recorder(database, Dialect.V18) as recorder:
        recorder.begin(game("given up"))
        earlier = {**shop.pack(database)["cursor"], "rowid": 2, "game_id": "given up", "digest": None}
        assert shop.pack(database, cursor=earlier)["mode"] == "incremental"
        give_up(database, "given up")
        recorder.begin(game("next"))

        assert shop.pack(database, cursor=earlier)["mode"] == "listing_needed"
        cursor = shop.pack(database)["cursor"]
        give_up(database, "next")

    assert shop.pack(database, cursor=cursor)["mode"] == "incremental"


def test_games_that_go_on_for_ever_are_not_looked_at_for_ever(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cursors, "TAIL_ROWS", 100)
    database = record(tmp_path / "n.db", game("old"))
    with Recorder(database, Dialect.V18) as recorder:
        for number in range(320):
            recorder.begin(game(f"b{number}", config=OTHER))
        found = shop.pack(database)
        assert 1 + 320 - 200 <= found["cursor"]["rowid"] <= 1 + 320 - 100
        for number in range(300, 320):
            give_up(database, f"b{number}")
        recorder.record_all([game("new")])

    result = shop.pack(database, cursor=found["cursor"], tell=True)
    assert [row[0] for row in result["told"]] == ["new"]


def test_a_listing_goes_on_although_games_are_given_up_between_its_pages(tmp_path: Path) -> None:
    database, scratch = record(tmp_path / "n.db", game("g1"), game("g2")), str(tmp_path / "scratch")
    with Recorder(database, Dialect.V18) as recorder:
        recorder.begin(game("given up"))
        page = list_games(str(database), NAME, scratch, CONFIG, None, 5, 0.0)
        give_up(database, "given up")
        recorder.record_all([game("g3")])

    rest = list_games(str(database), NAME, scratch, CONFIG, cursors.parse(page["cursor"]), 5, 0.0)

    assert [[row[0] for row in one["games"]] for one in (page, rest)] == [["g1", "g2"], ["g3"]]


def test_rows_whose_id_is_no_text_hide_none_behind_them(shop: Shop, tmp_path: Path) -> None:
    database = record(tmp_path / "n.db", game("first"))
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as conn:
        others = ", ".join(row[1] for row in conn.execute("PRAGMA table_info(games)") if row[1] != "game_id")
        conn.execute("UPDATE games SET game_status = 'active'")
        for number in range(200):
            statement = f"INSERT INTO games (game_id, {others}) SELECT ?, {others} FROM games LIMIT 1"
            conn.execute(statement, (bytes([number, 255]),))
        conn.execute("UPDATE games SET game_status = 'completed' WHERE game_id = 'first'")
    record(database, game("last"))

    result = shop.pack(database, tell=True)

    assert sorted(row[0] for row in result["told"]) == ["first", "last"]
    assert not result["more"]
