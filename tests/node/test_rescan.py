from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringrift_sync_dagster.node.roots import Roots
from ringrift_sync_dagster.node.scan import Scanner
from tests.node.kit_samples import Holder, add_games, make_database

NOW = 2_000_000_000.0
ONE = [("g1", "hex8", 2, "completed")]
_connected: list[str] | None = None


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if _connected is not None and event == "sqlite3.connect":
        _connected.append(str(arguments[0]))


sys.addaudithook(_watch)


@contextlib.contextmanager
def connections() -> Iterator[list[str]]:
    """Give the databases that this process opens meanwhile, the scan's own cache left out."""
    global _connected  # noqa: PLW0603
    found: list[str] = []
    recorded: list[str] = []
    _connected = recorded
    try:
        yield found
    finally:
        _connected = None
        found += [name for name in recorded if "cache.db" not in name]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "node/data/games").mkdir(parents=True)
    return tmp_path / "node"


def test_an_unchanged_database_is_opened_once_even_by_the_next_process(root: Path, tmp_path: Path) -> None:
    for name in ("hex8_2p", "hex8_3p", "hex8_4p"):
        make_database(root / f"data/games/{name}.db", ONE, wal=True)
    (root / "data/games/bad.db").write_text("no database" * 100)
    roots, cache = Roots([str(root)]), str(tmp_path / "cache.db")
    scanner = Scanner(roots, cache)
    first = scanner.scan(NOW)

    with connections() as opened:
        assert scanner.scan(NOW + 60) == first
        assert Scanner(roots, cache).scan(NOW + 120) == first
    assert opened == []


def test_only_the_database_that_changed_is_opened_again(root: Path, tmp_path: Path) -> None:
    changing = make_database(root / "data/games/hex8_2p.db", ONE, wal=True)
    make_database(root / "data/games/hex8_3p.db", ONE, wal=True)
    scanner = Scanner(Roots([str(root)]), str(tmp_path / "cache.db"))
    scanner.scan(NOW)
    with contextlib.closing(sqlite3.connect(changing, isolation_level=None)) as writer:
        add_games(writer, [("g2", "hex8", 2, "completed")])

    with connections() as opened:
        (entry, _) = scanner.scan(NOW)
    assert entry["games"] == {"hex8_2p": 2}
    assert {name.split("?")[0] for name in opened} == {f"file:{changing}"}


def test_a_write_behind_the_same_token_is_seen_because_a_fresh_file_is_not_trusted(root: Path) -> None:
    database = make_database(root / "data/games/hex8_2p.db", ONE)
    stamp = (1000.0, 1000.0)
    os.utime(database, stamp)
    scanner = Scanner(Roots([str(root)]))
    assert scanner.scan(1001.0)[0]["games"] == {"hex8_2p": 1}
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as writer:
        writer.execute("UPDATE games SET game_status = 'active'")
    os.utime(database, stamp)  # The same size, inode and time: a clock that ticks slower than a writer writes.

    with connections() as opened:
        assert scanner.scan(1003.0)[0]["games"] == {}
        assert opened == []
    assert len(opened) > 0
    with connections() as opened:
        assert scanner.scan(1004.0)[0]["games"] == {}
    assert opened == []


def test_a_file_stamped_in_the_future_is_trusted_after_it_stood_still_by_our_clock(root: Path) -> None:
    database = make_database(root / "data/games/hex8_2p.db", ONE)
    os.utime(database, (9000.0, 9000.0))
    scanner = Scanner(Roots([str(root)]))

    opened_at = []
    for now in (1000.0, 1001.0, 1003.0, 1004.0):
        with connections() as opened:
            scanner.scan(now)
        opened_at.append(bool(opened))
    assert opened_at == [True, True, True, False]


@pytest.mark.parametrize("damage", ["text", "folder", "version", "facts", "nowhere"])
def test_a_cache_that_is_of_no_use_is_only_slower(root: Path, tmp_path: Path, damage: str) -> None:
    make_database(root / "data/games/hex8_2p.db", ONE)
    cache = tmp_path / "cache.db"
    roots = Roots([str(root)])
    first = Scanner(roots, str(cache)).scan(NOW)
    if damage == "text":
        cache.write_text("rubbish" * 1000)
    elif damage == "folder":
        cache.unlink()
        cache.mkdir()
    elif damage == "facts":
        with contextlib.closing(sqlite3.connect(cache, isolation_level=None)) as conn:
            conn.execute("UPDATE seen SET facts = '{}'")
    elif damage == "nowhere":
        cache = Path("/proc/no/such/cache.db")
    else:
        with contextlib.closing(sqlite3.connect(cache, isolation_level=None)) as conn:
            conn.execute("UPDATE seen SET kit = 'older', facts = 'x'")

    assert Scanner(roots, str(cache), str(tmp_path)).scan(NOW) == first
    with connections() as opened:
        assert Scanner(roots, str(cache), str(tmp_path)).scan(NOW) == first
    assert (opened == []) is (damage in {"text", "version", "facts"})


def test_a_cache_that_another_process_holds_is_left_alone(root: Path, tmp_path: Path) -> None:
    make_database(root / "data/games/hex8_2p.db", ONE)
    cache = tmp_path / "cache.db"
    roots = Roots([str(root)])
    first = Scanner(roots, str(cache)).scan(NOW)

    with Holder(cache, "BEGIN EXCLUSIVE"):
        assert Scanner(roots, str(cache)).scan(NOW) == first
    with connections() as opened:
        assert Scanner(roots, str(cache)).scan(NOW) == first
    assert opened == []


def test_a_database_that_is_gone_is_forgotten(root: Path, tmp_path: Path) -> None:
    database = make_database(root / "data/games/hex8_2p.db", ONE)
    cache = tmp_path / "cache.db"
    scanner = Scanner(Roots([str(root)]), str(cache))
    scanner.scan(NOW)
    database.unlink()

    assert scanner.scan(NOW) == []
    with contextlib.closing(sqlite3.connect(cache)) as conn:
        assert conn.execute("SELECT COUNT(*) FROM seen").fetchone() == (0,)


def test_a_rescan_of_sixteen_thousand_files_and_five_hundred_databases_is_cheap(root: Path, tmp_path: Path) -> None:
    template = make_database(tmp_path / "template.db").read_bytes()
    for session in range(500):
        folder = root / f"data/selfplay/p2p/hex8_2p/s{session}"
        folder.mkdir(parents=True)
        (folder / "games.db").write_bytes(template)
        for number in range(32):
            (folder / f"games_{number}.jsonl").touch()
    scanner = Scanner(Roots([str(root)]), str(tmp_path / "cache.db"))
    assert len(scanner.scan(NOW)) == 16_500

    spent = []
    for _ in range(5):
        begin = time.process_time()
        scanner.scan(NOW)
        spent.append(time.process_time() - begin)
    assert min(spent) < 0.25
