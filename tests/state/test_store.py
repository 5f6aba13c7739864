"""Opening, creating and sharing the state database."""

from __future__ import annotations

import os
import pickle
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from ringrift_sync_dagster.errors import StateError
from ringrift_sync_dagster.state import schema
from ringrift_sync_dagster.state import store as store_module
from ringrift_sync_dagster.state.nodes import node_rows, seen
from ringrift_sync_dagster.state.store import StateStore

StartProgram = Callable[..., "subprocess.Popen[str]"]

OPEN_AT_ONCE = """
import pathlib, sys, time
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.nodes import seen
url, name, go = sys.argv[1:]
print("ready", flush=True)
while not pathlib.Path(go).exists():
    time.sleep(0.001)
with StateStore.open(url) as store:
    seen(store, name, at=1.0)
print("opened", flush=True)
"""


def test_a_new_database_gets_its_directory_all_tables_and_the_newest_revision(store: StateStore) -> None:
    with store.read() as connection:
        assert set(sa.inspect(connection).get_table_names()) == set(schema.metadata.tables)
        assert connection.execute(sa.select(schema.version.c.version_num)).scalar_one() == schema.REVISION


def test_opening_again_changes_nothing(url: str) -> None:
    with StateStore.open(url) as first:
        seen(first, "vast-1", at=1.0)
    with StateStore.open(url) as second:
        assert [row.name for row in node_rows(second)] == ["vast-1"]


def test_eight_processes_may_open_a_new_database_at_once(url: str, tmp_path: Path, start_program: StartProgram) -> None:
    go = tmp_path / "go"
    processes = [start_program(OPEN_AT_ONCE, url, f"node-{i}", str(go)) for i in range(8)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    go.touch()

    assert [process.communicate(timeout=60)[0] for process in processes] == ["opened\n"] * 8
    with StateStore.open(url) as store:
        assert [row.name for row in node_rows(store)] == [f"node-{i}" for i in range(8)]


def test_a_write_that_raises_leaves_nothing(store: StateStore) -> None:
    def fail() -> None:
        with store.begin() as connection:
            connection.execute(sa.insert(schema.leases).values(name="x"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with store.read() as connection:
        assert connection.execute(sa.select(schema.leases)).all() == []


def test_a_reader_sees_one_state_while_somebody_writes(store: StateStore) -> None:
    count = sa.select(sa.func.count()).select_from(schema.nodes)
    with store.read() as connection:
        assert connection.execute(count).scalar_one() == 0
        writer = threading.Thread(target=seen, args=(store, "vast-1"), kwargs={"at": 1.0})
        writer.start()
        writer.join()
        assert connection.execute(count).scalar_one() == 0
    with store.read() as connection:
        assert connection.execute(count).scalar_one() == 1


def test_threads_share_a_store(store: StateStore) -> None:
    threads = [threading.Thread(target=seen, args=(store, f"node-{i}"), kwargs={"at": 1.0}) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(node_rows(store)) == 16


def test_a_forked_child_opens_connections_of_its_own(store: StateStore) -> None:
    seen(store, "parent-1", at=1.0)
    inherited = store.engine
    child = os.fork()
    if child == 0:
        status = 1
        try:
            seen(store, "child", at=1.0)
            status = 0 if store.engine is not inherited else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    seen(store, "parent-2", at=1.0)
    assert [row.name for row in node_rows(store)] == ["child", "parent-1", "parent-2"]
    assert store.engine is inherited


def test_a_store_travels_to_a_spawned_process_as_its_url(store: StateStore) -> None:
    seen(store, "vast-1", at=1.0)
    with pickle.loads(pickle.dumps(store)) as copy:  # noqa: S301 - our own bytes
        assert [row.name for row in node_rows(copy)] == ["vast-1"]


def test_sqlite_syncs_every_commit_and_keeps_readers_apart_from_the_writer(sqlite_store: StateStore) -> None:
    with sqlite_store.read() as connection:
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    assert pragmas == ["wal", 2, 1, 10_000]


def test_a_writer_that_waits_ten_seconds_in_vain_says_so(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "BUSY_SECONDS", 0.05)
    expected = pytest.raises(StateError, match=r"state\.db: another process has been writing")
    with StateStore.open(sqlite_url) as store, store.begin(), expected:
        seen(store, "vast-1", at=1.0)


def test_a_file_that_is_no_database_is_refused_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"hello, this is a text " * 500)
    before = path.read_bytes()
    with pytest.raises(StateError, match=r"state\.db: it is not a SQLite file: move it away"):
        StateStore.open(f"sqlite:///{path}")
    assert path.read_bytes() == before


def test_a_damaged_database_is_refused_with_what_to_do(sqlite_url: str, tmp_path: Path) -> None:
    with StateStore.open(sqlite_url) as store:
        seen(store, "vast-1", at=1.0)
    path = tmp_path / "state.db"
    with path.open("r+b") as stream:
        stream.seek(100)
        stream.write(b"\xff" * (path.stat().st_size - 100))
    with pytest.raises(StateError, match=r"state\.db: it is damaged: move it away"):
        StateStore.open(sqlite_url)


def test_a_games_database_gets_no_tables_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "canonical_hex8_2p.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE games (game_id TEXT PRIMARY KEY)")
    connection.close()
    with pytest.raises(StateError, match=r"canonical_hex8_2p\.db is not a state database: it has a table games"):
        StateStore.open(f"sqlite:///{path}")
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall() == [("games",)]
    connection.close()


def test_a_database_of_a_newer_version_is_refused(store: StateStore, url: str) -> None:
    with store.begin() as connection:
        connection.execute(sa.update(schema.version).values(version_num="9999"))
    with pytest.raises(StateError, match=r"revision 9999.*upgrade this installation"):
        StateStore.open(url)


def test_a_file_that_was_replaced_by_a_restored_copy_is_used_from_the_next_transaction_on(
    sqlite_url: str, tmp_path: Path
) -> None:
    file, copy = Path(sqlite_url.removeprefix("sqlite:///")), tmp_path / "copy.db"
    with StateStore.open(sqlite_url) as store, StateStore.open(f"sqlite:///{copy}") as restored:
        seen(store, "before-1", at=1.0)
        seen(restored, "restored-1", at=1.0)
        restored.close()
        for suffix in ("-wal", "-shm"):
            Path(f"{file}{suffix}").unlink(missing_ok=True)
        copy.replace(file)
        seen(store, "after-1", at=2.0)
        assert [row.name for row in node_rows(store)] == ["after-1", "restored-1"]
    with StateStore.open(sqlite_url) as again:
        assert [row.name for row in node_rows(again)] == ["after-1", "restored-1"]


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match=r"file/state\.db: cannot create the directory"):
        StateStore.open(f"sqlite:///{tmp_path}/file/state.db")


@pytest.mark.parametrize(
    "url, message",
    [
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("state.db", "is not a database URL"),
        ("mysql://localhost/x", "cannot live in mysql"),
    ],
)
def test_a_url_that_cannot_hold_shared_state_is_refused(url: str, message: str) -> None:
    with pytest.raises(StateError, match=message):
        StateStore.open(url)


@pytest.mark.cluster
def test_a_server_that_does_not_answer_is_named_without_the_password() -> None:
    pytest.importorskip("psycopg2")
    with pytest.raises(StateError, match=r"127\.0\.0\.1:1/state: the server does not answer") as raised:
        StateStore.open("postgresql://me:secret@127.0.0.1:1/state")
    assert "secret" not in str(raised.value)


def test_importing_the_store_imports_nothing_heavy_but_sqlalchemy_and_pydantic() -> None:
    program = (
        "import sys;"
        "from ringrift_sync_dagster.state import changes, leases, manifest, nodes, receipts, store, transfers;"
        "print(sorted({'alembic', 'dagster', 'pandas', 'psycopg2', 'yaml', 'requests'} & set(sys.modules)))"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    assert subprocess.check_output([sys.executable, "-c", program], text=True, env=env) == "[]\n"
