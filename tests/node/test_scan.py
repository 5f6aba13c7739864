from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from ringrift_sync_dagster.node.errors import KitError
from ringrift_sync_dagster.node.roots import Roots
from ringrift_sync_dagster.node.scan import Scanner
from ringrift_sync_dagster.node.schema import store_ddl
from tests.node.kit_samples import Holder, add_games, leave_hot_journal, leave_log, make_database

NOW = 2_000_000_000.0
ONE = [("g1", "hex8", 2, "completed")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "node/data/games").mkdir(parents=True)
    return tmp_path / "node"


def scan(root: Path, *extra: Path, now: float = NOW) -> dict[str, dict[str, Any]]:
    entries = Scanner(Roots([str(root), *map(str, extra)]), scratch=str(root.parent / "scratch")).scan(now)
    json.dumps(entries).encode("utf-8")
    assert [entry["path"] for entry in entries] == sorted(entry["path"] for entry in entries)
    found = {entry["path"]: entry for entry in entries}
    assert len(found) == len(entries)
    return found


def codes(found: dict[str, dict[str, Any]]) -> dict[str, str | None]:
    return {path: entry["error"] and entry["error"]["code"] for path, entry in found.items()}


def test_an_entry_tells_what_a_database_holds(root: Path) -> None:
    games = [
        ("g1", "hex8", 2, "completed"),
        ("g2", "HEX8", "2", " Finished "),
        ("g3", "sq8", 3, "COMPLETED"),
        ("g4", "hex8", 2, "active"),
        ("g5", "chess", 2, "completed"),
        ("g6", "chess", 2, "abandoned"),
    ]
    database = make_database(root / "data/games/selfplay.db", games)
    os.utime(database, (1000, 1000))

    (entry,) = scan(root).values()
    token = entry.pop("token")
    assert isinstance(token, str)
    assert entry == {
        "path": "data/games/selfplay.db",
        "data_type": "games",
        "kind": "selfplay",
        "config": None,
        "collectable": True,
        "bytes": database.stat().st_size,
        "mtime_ns": 1000 * 10**9,
        "error": None,
        "games": {"hex8_2p": 2, "square8_3p": 1},
        "unfinished": 2,
        "unknown_config": 1,
        "marker": None,
        "schema_version": None,
    }


def test_files_of_every_data_type_are_found_with_one_name_each(root: Path) -> None:
    for name in (
        "data/training/hex8_2p.npz",
        "models/candidate_hex8_2p.pth",
        "data/unified_elo.db",
        "data/model_registry/registry.db",
        "data/selfplay/p2p/hex8_2p/s1/games_1.jsonl",
        "data/selfplay/p2p/hex8_2p/s1/games_1.jsonl.tmp",
        "data/incoming/vast-1/abc.db",
        "data/.ringrift-sync/scan-cache.db",
        "venv/lib/hex8_2p.npz",
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"bytes")

    found = scan(root)

    assert {path: (entry["data_type"], entry["collectable"]) for path, entry in found.items()} == {
        "data/model_registry/registry.db": ("registry", True),
        "data/selfplay/p2p/hex8_2p/s1/games_1.jsonl": ("games", False),
        "data/training/hex8_2p.npz": ("npz", True),
        "data/unified_elo.db": ("elo", True),
        "models/candidate_hex8_2p.pth": ("models", True),
    }
    assert all("games" not in entry and entry["bytes"] == 5 for entry in found.values())


def test_games_that_only_the_log_holds_are_counted(root: Path) -> None:
    database = make_database(root / "data/games/hex8_2p.db", wal=True)
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as writer:
        writer.execute("PRAGMA wal_autocheckpoint=0")
        add_games(writer, ONE)
        os.utime(database, (1000, 1000))
        found = scan(root)["data/games/hex8_2p.db"]

    assert found["games"] == {"hex8_2p": 1}
    assert found["mtime_ns"] > 1000 * 10**9


def test_a_file_that_we_wrote_is_not_collected_again(root: Path) -> None:
    database = make_database(root / "data/games/synced/hex8_2p.db", ONE)
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as conn:
        for statement in store_ddl():
            conn.execute(statement)
        conn.execute("INSERT INTO ringrift_store VALUES ('store_id', 's-1')")

    found = scan(root)["data/games/synced/hex8_2p.db"]

    assert (found["marker"], found["collectable"], found["games"]) == ("s-1", False, {"hex8_2p": 1})


def test_every_schema_version_is_read(root: Path) -> None:
    for version in range(1, 20):
        path = root / f"data/games/v{version}.db"
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as conn:
            conn.execute("CREATE TABLE schema_metadata (key TEXT PRIMARY KEY, value TEXT)")
            conn.execute("INSERT INTO schema_metadata VALUES ('schema_version', ?)", (str(version),))
            extra = "".join(f", extra_{number} TEXT" for number in range(version))
            conn.execute(f"CREATE TABLE Games (num_players INTEGER, game_status TEXT, board_type TEXT, game_id{extra})")
            conn.execute("CREATE TABLE game_moves (game_id TEXT, move_index INTEGER)")
            conn.execute(
                "INSERT INTO games (game_id, board_type, num_players, game_status) VALUES (1, 'hex8', 2, 'completed')"
            )

    found = scan(root)

    assert sorted(entry["schema_version"] for entry in found.values()) == list(range(1, 20))
    assert all(entry["error"] is None and entry["games"] == {"hex8_2p": 1} for entry in found.values())


def test_a_bad_file_is_an_entry_with_an_error_and_stops_no_other(root: Path) -> None:
    games = root / "data/games"
    whole = make_database(games / "whole.db", [(f"g{number}", "hex8", 2, "completed") for number in range(300)])
    (games / "cut.db").write_bytes(whole.read_bytes()[:4096])
    (games / "empty.db").touch()
    (games / "text.db").write_text("this is no database\n" * 100)
    (games / "folder.db").mkdir()
    os.mkfifo(games / "pipe.db")
    for name, tables in {
        "nothing": [],
        "metadata": ["games (game_id, board_type, num_players, game_status)"],
        "old": ["games (game_id, board_type)", "game_moves (game_id)"],
    }.items():
        with contextlib.closing(sqlite3.connect(games / f"{name}.db", isolation_level=None)) as conn:
            conn.execute("CREATE TABLE other (a)")
            for table in tables:
                conn.execute(f"CREATE TABLE {table}")
    with contextlib.closing(sqlite3.connect(games / "view.db", isolation_level=None)) as conn:
        conn.execute("CREATE TABLE game_moves (game_id)")
        columns = "1 AS game_id, 'hex8' AS board_type, 2 AS num_players, 'completed' AS game_status"
        conn.execute(f"CREATE VIEW games AS SELECT {columns}")
    (games / "gone.db").symlink_to("nowhere.db")

    found = scan(root)

    assert {path.rpartition("/")[2]: code for path, code in codes(found).items()} == {
        "cut.db": "corrupt",
        "empty.db": "no_games_table",
        "folder.db": "not_a_database",
        "gone.db": "missing",
        "metadata.db": "no_games_table",
        "nothing.db": "no_games_table",
        "old.db": "no_games_table",
        "pipe.db": "not_a_database",
        "text.db": "not_a_database",
        "view.db": "no_games_table",
        "whole.db": None,
    }
    assert all(entry["games"] == {} and not entry["collectable"] for entry in found.values() if entry["error"])
    assert found["data/games/whole.db"]["games"] == {"hex8_2p": 300}


def test_a_locked_database_is_told_now_and_read_at_the_next_scan(root: Path) -> None:
    database = make_database(root / "data/games/hex8_2p.db", ONE)
    other = make_database(root / "data/games/hex8_3p.db", ONE)
    scanner = Scanner(Roots([str(root)]))
    with Holder(database, "BEGIN EXCLUSIVE"):
        first = scanner.scan(NOW)
    second = scanner.scan(NOW)

    assert [entry["error"] and entry["error"]["code"] for entry in first] == ["locked", None]
    assert [entry["games"] for entry in second] == [{"hex8_2p": 1}, {"hex8_2p": 1}]
    assert other.exists()


def test_databases_whose_writer_died_are_counted(root: Path) -> None:
    leave_hot_journal(make_database(root / "data/games/journal.db", ONE))
    leave_log(make_database(root / "data/games/log.db", ONE, wal=True), "g2")

    found = scan(root)

    assert [(entry["games"], entry["unfinished"]) for entry in found.values()] == [
        ({"hex8_2p": 1}, 0),
        ({"hex8_2p": 1}, 1),
    ]


def test_a_name_that_is_not_utf8_is_reported(root: Path) -> None:
    make_database(root / "data/games/hex8_2p\udcff.db", ONE)
    (root / "data/games/notes\udcff.txt").touch()

    assert codes(scan(root)) == {"data/games/hex8_2p\\xff.db": "unreadable"}


def test_links_inside_the_roots_are_followed_once(root: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    make_database(root / "data/selfplay/run/games.db", ONE)
    make_database(disk / "more/hex8_2p.db", ONE)
    (root / "data/games/again").symlink_to(root / "data/selfplay/run")
    (root / "data/games/same.db").symlink_to(root / "data/selfplay/run/games.db")
    (root / "data/games/loop").symlink_to(root / "data")
    (root / "data/games/self").symlink_to(root / "data/games/self")
    (root / "data/training").symlink_to(disk)
    (root / "models").mkdir()
    (root / "models/canonical_hex8_2p.pth").write_bytes(b"model")
    (root / "models/ringrift_best_hex8_2p.pth").symlink_to("canonical_hex8_2p.pth")
    (root / "shelf").mkdir()
    make_database(root / "shelf/hex8_3p.db", ONE)
    (root / "data/games/shelf").symlink_to("../../shelf")

    found = scan(root, disk)

    assert codes(found) == dict.fromkeys(
        (
            "@1/more/hex8_2p.db",
            "data/games/shelf/hex8_3p.db",
            "data/selfplay/run/games.db",
            "models/canonical_hex8_2p.pth",
            "models/ringrift_best_hex8_2p.pth",
        )
    )
    assert found["models/ringrift_best_hex8_2p.pth"]["bytes"] == 5


def test_a_link_out_of_the_roots_is_told_and_not_followed(root: Path, tmp_path: Path) -> None:
    make_database(tmp_path / "elsewhere/hex8_2p.db", ONE)
    (root / "data/selfplay").symlink_to(tmp_path / "elsewhere")
    (root / "data/games/x.db").symlink_to(tmp_path / "elsewhere/hex8_2p.db")
    (root / "venv").symlink_to(tmp_path / "elsewhere")

    found = scan(root)

    assert codes(found) == {"data/games/x.db": "outside", "data/selfplay": "outside"}
    assert not any(entry["collectable"] for entry in found.values())


def test_a_node_without_its_root_is_an_error_and_unmounted_storage_an_entry(root: Path, tmp_path: Path) -> None:
    with pytest.raises(KitError) as refused:
        scan(tmp_path / "nowhere")
    assert refused.value.code == "missing"
    assert codes(scan(root, tmp_path / "unmounted")) == {"@1": "missing"}


def test_scanning_leaves_the_sources_as_they_were(root: Path) -> None:
    make_database(root / "data/games/hex8_2p.db", ONE)
    before = {path.name: path.read_bytes() for path in (root / "data/games").iterdir()}

    scan(root)
    assert {path.name: path.read_bytes() for path in (root / "data/games").iterdir()} == before
