"""A writer dies at any moment: what it had finished is collected, nothing else is, and its files stay as they are."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ringrift_sync_dagster.demo.content import fingerprint, read_games
from ringrift_sync_dagster.node import recovery
from tests.live.follower import Follower, halted
from tests.live.watching import Ledger, Writer
from tests.live.writers import Plan

ROLLBACK = ("DELETE", "TRUNCATE", "PERSIST")
NOBODY = 65534
COMPLETE = (
    "SELECT game_id FROM games g WHERE game_status = 'completed'"
    " AND total_moves <= (SELECT COUNT(*) FROM game_moves m WHERE m.game_id = g.game_id)"
)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every user reaches, with one for the store that every user may write."""
    with tempfile.TemporaryDirectory() as name:
        for folder, mode in (("", 0o755), ("data", 0o755), ("store", 0o777)):
            (Path(name) / folder).mkdir(exist_ok=True)
            (Path(name) / folder).chmod(mode)
        yield Path(name)


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


def die(plan: Plan) -> Writer:
    """Let a writer die inside a transaction of which a part is on the disk."""
    with Writer(plan) as writer:
        writer.process.wait(20)
        writer.ledger.read()
    assert writer.process.returncode == -signal.SIGKILL
    return writer


def files(database: Path) -> dict[str, bytes]:
    """The database and what lies beside it; shared memory is no data."""
    found = database.parent.glob(f"{database.name}*")
    return {path.name: path.read_bytes() for path in found if not path.name.endswith("-shm")}


def finished(database: Path) -> dict[str, str]:
    """What the database itself has as finished and complete, asked when nobody else has it."""
    with contextlib.closing(sqlite3.connect(database)) as conn:
        over = [row[0] for row in conn.execute(COMPLETE)]
        return {game_id: fingerprint(rows) for game_id, rows in read_games(conn, over)}


@pytest.mark.parametrize("page_size", [512, 65536])
@pytest.mark.parametrize("journal", ROLLBACK)
def test_behind_a_hot_journal_lie_all_finished_games_and_nothing_of_the_torn_commit(
    tmp_path: Path, journal: str, page_size: int
) -> None:
    database = tmp_path / "n.db"
    first = die(Plan(str(database), f"{tmp_path}/ledger", journal, page_size, pause_seconds=0, die_in_commit=12))
    before = files(database)
    assert len(before["n.db-journal"]) > 512  # hot
    follower = Follower(tmp_path / "store", database)
    follower.until_empty()

    assert len(first.ledger.final) == 12
    assert follower.canonical() == first.ledger.final
    assert files(database) == before
    assert not list((tmp_path / "store" / "scratch" / "tmp").iterdir())

    with Writer(Plan(str(database), f"{tmp_path}/ledger", journal, seed="next", pause_seconds=0)) as second:
        second.wait_for(lambda ledger: len(ledger.final) >= 20)
        second.stop()
    follower.until_empty()
    assert follower.canonical() == second.ledger.final


def test_a_writer_that_dies_between_our_first_look_and_the_read_is_left_to_the_next_cycle(tmp_path: Path) -> None:
    database = tmp_path / "n.db"
    plan = Plan(str(database), f"{tmp_path}/ledger", "DELETE", pause_seconds=0)
    with Writer(plan) as writer:
        writer.wait_for(lambda ledger: len(ledger.final) >= 5)
        writer.stop()
    follower = Follower(tmp_path / "store", database)
    with halted("ATTACH DATABASE", lambda: die(replace(plan, seed="next", die_in_commit=2))):
        assert not follower.cycle()
    assert follower.refused == {"changed": 1}
    follower.until_empty()

    assert follower.canonical() == writer.ledger.read().final


@pytest.mark.parametrize("shared_memory", ["kept", "removed"])
def test_behind_a_log_lie_all_finished_games_with_or_without_its_shared_memory(
    tmp_path: Path, shared_memory: str
) -> None:
    database = tmp_path / "n.db"
    writer = die(Plan(str(database), f"{tmp_path}/ledger", pause_seconds=0, die_in_commit=12))
    if shared_memory == "removed":
        Path(f"{database}-shm").unlink()
    before = files(database)
    assert len(before["n.db-wal"]) > 32
    follower = Follower(tmp_path / "store", database)
    follower.until_empty()

    assert follower.canonical() == writer.ledger.final
    assert len(writer.ledger.final) == 12
    assert files(database) == before


def test_a_log_without_shared_memory_in_a_folder_that_we_may_not_write_is_read_from_a_copy(shared: Path) -> None:
    database = shared / "data" / "n.db"
    writer = die(Plan(str(database), f"{shared}/data/ledger", pause_seconds=0, die_in_commit=12))
    Path(f"{database}-shm").unlink()
    before = files(database)
    with not_writable(shared / "data"):
        follower = Follower(shared / "store", database)
        follower.until_empty()

    assert follower.canonical() == writer.ledger.final
    assert files(database) == before
    assert not recovery.held_by_another_process(str(database))


@pytest.mark.parametrize("journal", [*ROLLBACK, "WAL"])
def test_writers_that_are_killed_one_after_the_other_lose_and_double_nothing(tmp_path: Path, journal: str) -> None:
    database = tmp_path / "n.db"
    follower = Follower(tmp_path / "store", database)
    ledger = Ledger(tmp_path / "ledger")
    for life, games in enumerate((3, 9, 14, 22)):
        plan = Plan(str(database), f"{tmp_path}/ledger", journal, seed=f"life {life}", pause_seconds=0.0003)
        with Writer(plan) as writer:
            writer.wait_for(lambda ledger, games=games: len(ledger.final) >= games)  # type: ignore[misc]
            follower.cycle()
            writer.wait_for(lambda ledger, games=games: len(ledger.final) >= games + 2)  # type: ignore[misc]
            writer.kill()
        if life == 1 and journal == "WAL":
            Path(f"{database}-shm").unlink()
        follower.until_empty()  # of what the dead one left
        known = follower.canonical().items()
        assert ledger.read().final.items() <= known
        assert known <= ledger.played

    assert follower.packed() <= ledger.played
    assert follower.canonical() == finished(database)
