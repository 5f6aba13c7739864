from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringrift_sync_dagster.node import recovery
from ringrift_sync_dagster.node.errors import KitError
from ringrift_sync_dagster.node.reader import open_source, resolve_source, source_uri
from tests.node.kit_samples import Holder, add_games, count, leave_hot_journal, leave_log, make_database

ONE = [("g1", "hex8", 2, "completed")]
NOBODY = 65534


@pytest.fixture
def scratch(tmp_path: Path) -> str:
    return str(tmp_path / "scratch")


@contextlib.contextmanager
def not_writable(folder: Path) -> Iterator[None]:
    """Take away the right to write into a folder; as root, by becoming nobody for the time."""
    was_root = os.geteuid() == 0
    folder.chmod(0o555)
    if was_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if was_root:
            os.seteuid(0)
        folder.chmod(0o755)


@pytest.fixture
def shared() -> Iterator[Path]:
    """Give a folder that every user reaches, with a scratch folder in it that every user may write."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "data").mkdir()
        (folder / "scratch").mkdir()
        (folder / "scratch").chmod(0o777)
        yield folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def leftovers(scratch: str) -> list[str]:
    return names(Path(scratch) / "tmp")


@pytest.mark.parametrize("name", ["a?b#c%20d.db", "with blank.db", "line\nend.db", "ünïcode.db", "\udcff.db", "-rf.db"])
def test_any_file_name_can_be_opened(tmp_path: Path, scratch: str, name: str) -> None:
    database = make_database(tmp_path / name, ONE)

    with open_source(str(database), scratch) as conn:
        assert count(conn) == 1
    with contextlib.closing(sqlite3.connect(source_uri(str(database)), uri=True)) as conn:
        assert count(conn) == 1
    assert names(tmp_path) == [name]


def test_a_live_database_under_wal_is_read_beside_its_writer_and_left_as_it_was(tmp_path: Path, scratch: str) -> None:
    database = make_database(tmp_path / "x.db", wal=True)
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as writer:
        add_games(writer, ONE)
        writer.execute("BEGIN IMMEDIATE")
        add_games(writer, [("g2", "hex8", 2, "completed")])
        log = Path(f"{database}-wal").stat()
        with open_source(str(database), scratch) as conn:
            assert count(conn) == 1
        writer.execute("COMMIT")
        with open_source(str(database), scratch) as conn:
            assert count(conn) == 2
            assert conn.execute("PRAGMA journal_mode").fetchone() == ("wal",)

    assert log.st_size > 32


def test_nothing_can_be_written_through_a_source(tmp_path: Path, scratch: str) -> None:
    database = make_database(tmp_path / "x.db", ONE)

    with pytest.raises(KitError), open_source(str(database), scratch) as conn:
        conn.execute("DELETE FROM games")


def test_text_that_is_not_utf8_arrives(tmp_path: Path, scratch: str) -> None:
    database = make_database(tmp_path / "x.db")
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as conn:
        conn.execute("INSERT INTO schema_metadata VALUES ('k', CAST(X'61FF62' AS TEXT))")

    with open_source(str(database), scratch) as conn:
        assert conn.execute("SELECT value FROM schema_metadata").fetchone() == ("a\udcffb",)


def test_an_empty_file_is_an_empty_database(tmp_path: Path, scratch: str) -> None:
    (tmp_path / "x.db").touch()

    with open_source(str(tmp_path / "x.db"), scratch) as conn:
        assert conn.execute("SELECT COUNT(*) FROM sqlite_master").fetchone() == (0,)


def test_what_cannot_be_read_is_told_by_its_code(tmp_path: Path, scratch: str) -> None:
    whole = make_database(tmp_path / "whole.db", [(f"g{number}", "hex8", 2, "completed") for number in range(300)])
    (tmp_path / "text.db").write_text("no database at all, whatever its name may say\n" * 50)
    (tmp_path / "cut.db").write_bytes(whole.read_bytes()[:20_000])
    (tmp_path / "folder.db").mkdir()
    os.mkfifo(tmp_path / "pipe.db")
    expected = {
        "text": "not_a_database",
        "cut": "corrupt",
        "folder": "not_a_database",
        "pipe": "not_a_database",
        "no": "missing",
    }

    for name, code in expected.items():
        with pytest.raises(KitError) as refused, open_source(str(tmp_path / f"{name}.db"), scratch) as conn:
            conn.execute("SELECT COUNT(*), MAX(move_json) FROM game_moves").fetchall()
        assert (name, refused.value.code) == (name, code)


def test_a_missing_table_is_told_and_a_wrong_statement_is_the_callers_fault(tmp_path: Path, scratch: str) -> None:
    database = make_database(tmp_path / "x.db")

    with pytest.raises(KitError) as refused, open_source(str(database), scratch) as conn:
        conn.execute("SELECT * FROM missing")
    assert refused.value.code == "no_games_table"
    with pytest.raises(sqlite3.ProgrammingError), open_source(str(database), scratch) as conn:
        conn.execute("SELECT ?", ())


def test_a_database_of_another_user_is_unreadable(shared: Path) -> None:
    database = make_database(shared / "data/x.db", ONE)
    database.chmod(0o000)

    with not_writable(shared / "data"), pytest.raises(KitError) as refused, open_source(str(database), str(shared)):
        pass
    assert refused.value.code == "unreadable"


def test_a_writer_that_holds_the_whole_database_is_waited_for_only_so_long(tmp_path: Path, scratch: str) -> None:
    database = make_database(tmp_path / "x.db", ONE)

    with Holder(database, "BEGIN EXCLUSIVE"):
        with pytest.raises(KitError) as refused, open_source(str(database), scratch, busy_seconds=0.05):
            pass
        assert refused.value.code == "locked"
    with open_source(str(database), scratch) as conn:
        assert count(conn) == 1


def test_a_hot_journal_is_rolled_back_in_a_copy_and_the_source_stays_as_it_is(tmp_path: Path, scratch: str) -> None:
    database = make_database(tmp_path / "x.db", [(f"g{number}", "hex8", 2, "completed") for number in range(50)])
    leave_hot_journal(database)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with (
        pytest.raises(sqlite3.OperationalError),
        contextlib.closing(sqlite3.connect(source_uri(str(database)), uri=True)) as conn,
    ):
        count(conn)

    with open_source(str(database), scratch) as conn:
        assert count(conn) == 50
        assert conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert conn.execute("SELECT COUNT(*) FROM sqlite_master WHERE name = 'ballast'").fetchone() == (0,)

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    assert leftovers(scratch) == []


def test_a_log_without_shared_memory_in_a_folder_that_we_cannot_write_is_read_from_a_copy(shared: Path) -> None:
    database = make_database(shared / "data/x.db", ONE, wal=True)
    leave_log(database, "g2")
    Path(f"{database}-shm").unlink()

    with not_writable(shared / "data"), open_source(str(database), str(shared / "scratch")) as conn:
        assert count(conn) == 2
    assert leftovers(str(shared / "scratch")) == []
    assert names(shared / "data") == ["x.db", "x.db-wal"]


def test_shared_memory_of_a_dead_writer_is_no_lock(shared: Path) -> None:
    database = make_database(shared / "data/x.db", ONE, wal=True)
    leave_log(database, "g2")

    with not_writable(shared / "data"), open_source(str(database), str(shared / "scratch")) as conn:
        assert count(conn) == 2


def test_a_database_that_somebody_holds_is_not_copied(tmp_path: Path, scratch: str) -> None:
    database = make_database(tmp_path / "x.db", ONE)
    under_wal = make_database(tmp_path / "y.db", ONE, wal=True)

    with Holder(database, "BEGIN IMMEDIATE"), Holder(under_wal, "SELECT COUNT(*) FROM games"):
        for path in (database, under_wal):
            assert recovery.held_by_another_process(str(path))
            with pytest.raises(KitError) as refused, recovery.recovered_copy(str(path), scratch):
                pass
            assert refused.value.code == "locked"
    assert not recovery.held_by_another_process(str(database))
    assert not recovery.held_by_another_process(str(under_wal))
    assert leftovers(scratch) == []


def test_a_database_that_this_process_reads_is_not_copied_so_that_its_locks_stay(tmp_path: Path, scratch: str) -> None:
    database = make_database(tmp_path / "x.db", ONE)

    with open_source(str(database), scratch) as conn:
        conn.execute("BEGIN")
        assert count(conn) == 1
        with pytest.raises(KitError, match="this process reads"), recovery.recovered_copy(str(database), scratch):
            pass
        with Holder(database, "BEGIN IMMEDIATE", "INSERT INTO schema_metadata VALUES ('a', 'b')"):
            assert count(conn) == 1
    with recovery.recovered_copy(str(database), scratch) as copy:
        assert Path(copy).exists()


def test_the_source_can_be_attached_while_it_is_resolved(tmp_path: Path, scratch: str) -> None:
    database = make_database(tmp_path / "x.db", ONE)
    leave_hot_journal(database)

    with (
        resolve_source(str(database), scratch) as usable,
        contextlib.closing(sqlite3.connect(":memory:", uri=True)) as conn,
    ):
        assert usable != str(database)
        conn.execute("ATTACH ? AS src", (source_uri(usable),))
        assert conn.execute("SELECT COUNT(*) FROM src.games").fetchone() == (1,)


def test_an_error_of_the_caller_is_not_blamed_on_the_copy(tmp_path: Path, scratch: str) -> None:
    database = make_database(tmp_path / "x.db", ONE)
    leave_hot_journal(database)

    with pytest.raises(PermissionError), open_source(str(database), scratch):
        raise PermissionError
    assert leftovers(scratch) == []


def test_the_copy_of_a_killed_process_is_removed_by_the_next(tmp_path: Path, scratch: str) -> None:
    database = make_database(tmp_path / "x.db", ONE)
    leave_hot_journal(database)
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], check=True, capture_output=True)
    tmp = Path(scratch) / "tmp"
    for owner in (gone.stdout.decode().strip(), str(os.getpid())):
        (tmp / f"recovered-{owner}-x").mkdir(parents=True)

    with open_source(str(database), scratch):
        pass
    assert leftovers(scratch) == [f"recovered-{os.getpid()}-x"]


def test_a_journal_that_rolls_back_to_nonsense_is_corrupt(tmp_path: Path, scratch: str) -> None:
    database = make_database(tmp_path / "x.db", [(f"g{number}", "hex8", 2, "completed") for number in range(50)])
    leave_hot_journal(database)
    database.write_bytes(b"\0" * 100 + database.read_bytes()[100:])
    Path(f"{database}-journal").write_bytes(Path(f"{database}-journal").read_bytes()[:520])

    with pytest.raises(KitError) as refused, open_source(str(database), scratch):
        pass
    assert refused.value.code in {"corrupt", "not_a_database"}
