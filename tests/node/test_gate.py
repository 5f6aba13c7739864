from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
from pathlib import Path

import pytest

from ringrift_sync_dagster.node.gate import change_token, file_token, settled
from tests.node.kit_samples import make_database

_opened: list[str] | None = None


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if _opened is not None and event == "open":
        _opened.append(str(arguments[0]))


sys.addaudithook(_watch)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return make_database(tmp_path / "hex8_2p.db", wal=True)


def test_an_untouched_database_keeps_its_token(database: Path) -> None:
    assert change_token(str(database)) == change_token(str(database))


def test_a_commit_that_only_the_log_holds_changes_the_token(database: Path) -> None:
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as conn:
        before = change_token(str(database))
        conn.execute("INSERT INTO schema_metadata VALUES ('a', 'b')")

        assert change_token(str(database)) != before


def test_a_log_that_starts_again_with_the_same_size_and_time_changes_the_token(database: Path) -> None:
    wal = Path(f"{database}-wal")
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as conn:
        conn.execute("INSERT INTO schema_metadata VALUES ('a', '1')")
        conn.execute("PRAGMA wal_checkpoint(RESTART)")
        os.utime(wal, ns=(1, 1))
        before = change_token(str(database))
        size = wal.stat().st_size
        conn.execute("UPDATE schema_metadata SET value = '2'")
        os.utime(wal, ns=(1, 1))

        assert wal.stat().st_size == size
        assert change_token(str(database)) != before


def test_a_journal_and_a_replaced_file_change_the_token(tmp_path: Path) -> None:
    database = make_database(tmp_path / "hex8_2p.db")
    first = change_token(str(database))
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as conn:
        conn.execute("BEGIN IMMEDIATE")
        conn.execute("INSERT INTO schema_metadata VALUES ('a', 'b')")
        with_journal = change_token(str(database))
        conn.execute("ROLLBACK")
    data, times = database.read_bytes(), database.stat()
    other = tmp_path / "other"
    other.write_bytes(data)
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(database)

    assert len({first, with_journal, change_token(str(database))}) == 3


def test_an_empty_log_that_a_reader_leaves_behind_changes_nothing(database: Path) -> None:
    before = change_token(str(database))
    Path(f"{database}-wal").touch()

    assert change_token(str(database)) == before


def test_neither_the_main_file_nor_the_shared_memory_is_ever_opened(database: Path) -> None:
    global _opened  # noqa: PLW0603
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as conn:
        conn.execute("INSERT INTO schema_metadata VALUES ('a', 'b')")
        _opened = []
        try:
            change_token(str(database))
            settled(str(database), 0.0)
        finally:
            opened, _opened = set(_opened), None

    assert opened == {f"{database}-wal"}


def test_a_database_is_settled_two_seconds_after_its_last_write(database: Path) -> None:
    os.utime(database, (1000.0, 1000.0))
    assert not settled(str(database), 1001.9)
    assert settled(str(database), 1002.1)
    assert not settled(str(database), 990.0)

    wal = Path(f"{database}-wal")
    wal.write_bytes(b"x" * 32)
    os.utime(wal, (1005.0, 1005.0))
    assert not settled(str(database), 1006.0)
    assert settled(str(database), 1007.1)


def test_what_is_no_database_has_a_token_too(tmp_path: Path) -> None:
    (tmp_path / "folder.db").mkdir()
    (tmp_path / "x.db-wal").mkdir()
    tokens = {change_token(str(tmp_path / name)) for name in ("missing.db", "folder.db", "x.db", "a\0b")}

    assert len(tokens) == 3  # The missing ones are alike; a folder in the log's place is told apart.
    assert file_token((tmp_path / "folder.db").stat())
