"""What a store remembers of a reader that pushes by itself: never more than has come, and no less than it may."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from ringrift_sync_dagster.demo.recorder import Recorder
from ringrift_sync_dagster.demo.schemas import Dialect
from ringrift_sync_dagster.node import packfile
from ringrift_sync_dagster.node.cursor import WAITING_LIMIT, Cursor, Waiting
from ringrift_sync_dagster.node.packfile import Declared
from ringrift_sync_dagster.node.pushed import taken_over
from tests.node.merging import NAME, Shop, game, give_up

PLAYING = Waiting(finished=False, moves=3, since=0.0, reported=False)
SHORT = PLAYING._replace(finished=True)


def at(rowid: int, *waiting: str, inode: int = 1) -> Cursor:
    return Cursor(inode, rowid, f"g{rowid}", None, "", dict.fromkeys(waiting, PLAYING))


def declared(after: Cursor | None, behind: Cursor) -> Declared:
    return Declared(NAME, after, behind)


def test_a_pack_that_goes_on_where_the_store_is_counts() -> None:
    assert taken_over(at(3, "w"), declared(at(3, "w"), at(5, "w")), ["g4", "g5"]) == at(5, "w")
    assert taken_over(at(3, "w"), declared(at(3, "w"), at(5)), ["g4", "g5", "w"]) == at(5)
    assert taken_over(None, declared(None, at(5)), ["g1"]) == at(5)


def test_a_pass_may_have_read_on_meanwhile() -> None:
    assert taken_over(at(4, "n"), declared(at(3), at(6, "n")), ["g6"]) == at(6, "n")


def test_a_pack_behind_one_that_has_not_come_does_not_count() -> None:
    assert taken_over(at(3), declared(at(5), at(7)), ["g6", "g7"]) is None
    assert taken_over(None, declared(at(5), at(7)), ["g6", "g7"]) is None
    assert taken_over(at(3), declared(at(3)._replace(game_id="other"), at(5)), ["g4", "g5"]) is None


def test_what_waits_here_alone_waits_on_until_a_pass_asks_for_it() -> None:
    """It was given up at the node, or an earlier pack, which has not come, has it: a pass must not be content."""
    behind = at(5, "new")._replace(token="up to here")

    found = taken_over(at(3, "w"), declared(at(3), behind), ["g4", "g5"])

    assert found == at(5, "w", "new")
    assert taken_over(at(3, "w"), declared(at(3, "w"), behind), ["g4", "g5"]) == behind


def test_no_more_wait_here_than_a_cursor_holds() -> None:
    stored = at(3, *(f"w{number}" for number in range(WAITING_LIMIT)))

    assert taken_over(stored, declared(at(3), at(5, "new")), ["g4", "g5"]) is None


def test_a_pack_that_comes_late_takes_nothing_back() -> None:
    assert taken_over(at(9), declared(at(3), at(5)), ["g4"]) is None
    assert taken_over(at(9), declared(None, at(5)), ["g4"]) is None


def test_another_file_counts_from_its_beginning_only() -> None:
    assert taken_over(at(9), declared(None, at(2, inode=2)), ["g1"]) == at(2, inode=2)
    assert taken_over(at(9), declared(at(1, inode=2), at(2, inode=2)), ["g1"]) is None


def test_a_short_game_that_the_reader_told_itself_is_still_to_be_asked_for() -> None:
    behind = at(5)._replace(waiting={"old": SHORT._replace(reported=True), "new": SHORT._replace(reported=True)})
    stored = at(3)._replace(waiting={"old": SHORT._replace(reported=True)})

    found = taken_over(stored, declared(at(3, "old"), behind), [])

    assert found is not None
    assert {game_id: entry.reported for game_id, entry in found.waiting.items()} == {"old": True, "new": False}


STEPS = ["play", "begin", "finish", "read", "read", "read", "merge", "merge other", "merge other", "pass"]
ABORTS = ["begin", "begin", "give up", "give up newest"]


@pytest.mark.parametrize("seed", range(6))
def test_whatever_arrives_when_the_cursor_hides_no_game(seed: int, tmp_path: Path) -> None:
    chance, world = random.Random(seed), World(tmp_path)
    for _ in range(60):
        world.do(chance.choice(STEPS + ABORTS * (seed % 2)), chance)
        assert world.hidden() == set()
    world.do("pass", chance)
    assert world.canonical() == world.finished


def test_a_game_that_waited_and_came_in_a_pack_that_is_missing_is_not_passed_by(tmp_path: Path) -> None:
    chance, world = random.Random(0), World(tmp_path)
    for step in ("begin", "play", "read", "merge", "finish", "read", "play", "read"):
        world.do(step, chance)
    missing = world.packs.pop(0)

    world.do("merge", chance)

    assert world.hidden() == set()
    world.shop.push(missing)
    assert world.canonical() == world.finished


def test_a_game_that_was_given_up_keeps_the_store_from_nothing(tmp_path: Path) -> None:
    """Where its reader told of the game once, the packs behind it still move the cursor of the store."""
    chance, world = random.Random(0), World(tmp_path)
    for step in ("begin", "play", "read", "merge", "give up", "read", "play", "read", "merge"):
        world.do(step, chance)

    assert world.canonical() == world.finished
    stored = world.shop.stored()
    assert stored is not None
    assert (stored["rowid"], list(stored["waiting"]), stored["token"]) == (4, ["b1"], "")
    world.do("pass", chance)
    stored = world.shop.stored()
    assert stored is not None
    assert (stored["rowid"], stored["waiting"]) == (4, {"b1": [False, 0, stored["waiting"]["b1"][2], False]})


class World:
    """A database that is played into, a reader that packs by itself, and a store that gets its packs in any order."""

    def __init__(self, folder: Path) -> None:
        self.shop = Shop(folder)
        self.database = folder / "node.db"
        self.recorder = Recorder(self.database, Dialect.V18)
        self.recorder.record_all([game("first")])
        self.finished, self.begun = {"first"}, list[str]()
        self.reader: dict[str, Any] | None = None
        self.packs = list[str]()
        self.count = 0

    def do(self, step: str, chance: random.Random) -> None:
        self.count += 1
        match step:
            case "play":
                self.recorder.record_all([game(f"g{self.count}")])
                self.finished.add(f"g{self.count}")
            case "begin":
                made = game(f"b{self.count}")
                self.recorder.begin(made)
                self.begun.append(made.game_id)
            case "finish" if self.begun:
                made = game(self.begun.pop(chance.randrange(len(self.begun))))
                self.recorder.play(made, 0, len(made.moves))
                self.recorder.finish(made)
                self.finished.add(made.game_id)
            case "give up" | "give up newest" if self.begun:
                give_up(self.database, self.begun.pop(-1 if "newest" in step else chance.randrange(len(self.begun))))
            case "read":
                result = self.shop.pack(self.database, cursor=self.reader)
                assert result["mode"] == "incremental"
                self.reader = result["cursor"]
                if result["games"]:
                    self.packs.append(result["artifact"])
            case "merge" | "merge other" if self.packs:
                self.shop.push(self.packs.pop(chance.randrange(len(self.packs)) if "other" in step else 0))
            case "pass":
                while (result := self.shop.pack(self.database, cursor=self.shop.stored()))["games"]:
                    self.shop.merge(result["artifact"], cursor=result["cursor"])

    def canonical(self) -> set[str]:
        return set(self.shop.content()) if self.shop.canonical.exists() else set()

    def hidden(self) -> set[str]:
        """Finished games that the store has not, and that a pass from its cursor would not bring."""
        self.count += 1
        many = 1_000 + self.count  # another request each time: the answer to an earlier one is kept
        result = self.shop.pack(self.database, cursor=self.shop.stored(), tell=True, max_games=many)
        assert result["mode"] == "incremental"
        return self.finished - self.canonical() - {one[0] for one in result.get("told", ())}


def test_every_pack_says_where_its_reader_began(shop: Shop) -> None:
    world = World(shop.folder / "w")
    first = world.shop.pack(world.database)
    world.recorder.record_all([game("second")])
    second = world.shop.pack(world.database, cursor=first["cursor"])

    with packfile.open_pack(str(world.shop.inflated(second["artifact"]))) as conn:
        found = packfile.declared(packfile.read_meta(conn))

    assert found is not None
    assert found.after is not None
    assert (found.path, found.after.as_json(), found.cursor.as_json()) == (NAME, first["cursor"], second["cursor"])
