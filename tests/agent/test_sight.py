"""What is seen of databases without opening them."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from ringrift_sync_dagster.agent import sight
from ringrift_sync_dagster.agent.sight import Sight
from ringrift_sync_dagster.demo.recorder import Recorder
from ringrift_sync_dagster.demo.schemas import Dialect
from ringrift_sync_dagster.node import gate
from ringrift_sync_dagster.node.roots import Roots
from ringrift_sync_dagster.node.scan import Scanner
from ringrift_sync_dagster.settings import clock
from tests.agent.through_parts import CONFIG, DATABASE
from tests.node.merging import game


class Field:
    """A node's directory, its sight, and the kit's scan of it."""

    def __init__(self, folder: Path) -> None:
        self.root, self.scratch = folder / "node", folder / "scratch"
        (self.root / DATABASE).parent.mkdir(parents=True)
        self.scratch.mkdir()
        self.sight = Sight([str(self.root)], 0.0)

    def scan(self) -> None:
        before, started = self.sight.begin_scan(), clock.monotonic()
        entries = Scanner(Roots([str(self.root)]), scratch=str(self.scratch)).scan(time.time())
        self.sight.end_scan(started)
        self.sight.take_in(entries)
        self.sight.watch_folders(before)

    def play(self, name: str, game_id: str) -> None:
        with Recorder(self.root / name, Dialect.V18) as recorder:
            recorder.record_all([game(game_id, config=CONFIG)])

    def is_scan_due(self) -> bool:
        self.sight.look()
        return self.sight.scan_is_due


@pytest.fixture
def field(tmp_path: Path) -> Field:
    return Field(tmp_path)


@pytest.mark.parametrize(
    "path",
    [
        DATABASE, f"./{DATABASE}", "data//games/selfplay.db", "data/games/../games/selfplay.db", "{root}/" + DATABASE,
        "{root}/data/linked/selfplay.db", "data/linked/selfplay.db", "{above}/selfplay.db",
        "{above}/../games/selfplay.db",
    ],
)  # fmt: skip
def test_any_path_of_a_database_leads_to_its_name(field: Field, tmp_path: Path, path: str) -> None:
    (field.root / "data" / "linked").symlink_to(field.root / "data" / "games")
    above = tmp_path / "above"
    above.symlink_to(field.root / "data" / "games")
    field.play(DATABASE, "first")
    field.scan()

    assert field.sight.name_of(path.format(root=field.root, above=above)) == DATABASE
    assert field.sight.name_of("data/games/none.db") == field.sight.name_of("/etc/passwd") == ""


@pytest.mark.parametrize("place", ["data/games/run 7", "data/selfplay/hex8_2p/run-7/deep", "data/games"])
def test_a_database_in_any_directory_is_missed_by_no_scan(field: Field, place: str) -> None:
    (field.root / place).mkdir(parents=True, exist_ok=True)
    field.scan()
    assert not field.is_scan_due()

    field.play(f"{place}/games.db", "first")

    assert field.is_scan_due(), "the directory changed, and nothing else was there to tell"
    field.scan()
    assert [due.path for due in field.sight.look()] == [f"{place}/games.db"]


def test_where_there_are_too_many_directories_to_look_at_scans_come_oftener(
    field: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(clock, "monotonic", lambda: now)
    field.scan()
    now += 10.0
    assert not field.sight.scan_is_due
    monkeypatch.setattr(sight, "_MOST_FOLDERS", 8)
    for number in range(9):
        (field.root / "data/games" / str(number)).mkdir()
    field.scan()
    assert len(field.sight._folders) == 8
    now += 10.0
    assert field.sight.scan_is_due


def test_a_scan_that_nothing_asks_for_comes_all_the_same(field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    field.scan()
    now = time.monotonic() + 60.0
    monkeypatch.setattr(clock, "monotonic", lambda: now)

    assert field.sight.scan_is_due


def test_what_was_read_is_due_again_only_when_it_changed(field: Field) -> None:
    field.play(DATABASE, "first")
    field.scan()
    watched = field.sight.watched[DATABASE]
    ((_, token, _),) = field.sight.look()
    watched.token, watched.sure = token, True
    assert field.sight.look() == []

    field.play(DATABASE, "second")

    assert [due.path for due in field.sight.look()] == [DATABASE]
    assert field.sight.look(DATABASE) == field.sight.look()


def test_a_look_tells_what_the_gate_tells_through_all_that_happens_to_a_database(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    watched = sight.Watched(str(path))

    def same() -> str:
        token, newest = gate.look(str(path))
        assert watched.look() == (token, newest) == watched.look()
        return token

    seen = [same()]
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("PRAGMA journal_mode=WAL")
        conn.execute("CREATE TABLE one (x)")
        seen.append(same())
        conn.execute("INSERT INTO one VALUES (1)")
        seen.append(same())
        conn.execute("PRAGMA wal_checkpoint(RESTART)")
        conn.execute("INSERT INTO one VALUES (2)")  # the log begins again at its front: only its salts tell
        os.utime(f"{path}-wal", ns=(0, 0))
        seen.append(same())
    seen.append(same())
    path.unlink()
    seen.append(same())

    assert len(set(seen)) == len(seen) - 1  # it was not there at the beginning, and is not at the end
    assert seen[0] == seen[-1]
