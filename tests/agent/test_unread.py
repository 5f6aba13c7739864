"""What a node cannot read is told, is never called durable, and holds up nothing else."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringrift_sync_dagster.agent.asking import write_through
from ringrift_sync_dagster.demo.recorder import Recorder
from ringrift_sync_dagster.demo.schemas import Dialect
from tests.agent.agents import AgentProcess, wait_until
from tests.agent.conftest import StartAgent
from tests.agent.through_parts import CONFIG, DATABASE, SPOT, Field, arrived, status, wait_for, wait_until_empty
from tests.node.merging import game

LOCKED = "data/games/locked.db"
_MANY = 1_500  # games, which no agent reads and pushes in a tenth of a second


@pytest.fixture
def field(start_agent: StartAgent, tmp_path: Path) -> Field:
    return Field(start_agent, tmp_path)


@contextlib.contextmanager
def locked(path: Path, *more: str) -> Iterator[None]:
    """Hold a database as a writer does that uses no write-ahead log, with games that it committed meanwhile."""
    aside = path.parents[3] / "aside.db"
    with Recorder(aside, Dialect.V18) as recorder:
        recorder.record_all([game(key, config=CONFIG) for key in more])
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=60)) as conn:
        conn.execute("PRAGMA journal_mode=DELETE")
        conn.execute("ATTACH ? AS aside", (str(aside),))
        conn.execute("PRAGMA main.locking_mode=EXCLUSIVE")
        conn.execute("BEGIN EXCLUSIVE")
        names = conn.execute("SELECT name FROM aside.sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
        for name in sorted((row[0] for row in names.fetchall()), key="games".__eq__):  # a finished game needs its moves
            conn.execute(f'INSERT OR IGNORE INTO main."{name}" SELECT * FROM aside."{name}"')
        conn.execute("COMMIT")  # in this mode the lock stays
        yield


def drain(spot: AgentProcess, seconds: float) -> dict[str, Any]:
    """Give what a drain of an agent says."""
    answer: dict[str, Any] = spot.request("POST", "/v1/drain", json={"seconds": seconds}).json()
    return answer


def test_a_drain_whose_time_was_too_short_to_read_all_says_so(field: Field) -> None:
    owner = field.receiver()
    spot = field.spot(owner, watch_seconds=60.0)
    field.play(*(f"g{number}" for number in range(_MANY)))

    left = drain(spot, 0.1)

    assert not left["drained"]
    assert left["unread"] == "the time was too short to read all databases"
    assert "not saved" in spot.log.read_text()
    assert drain(spot, 60.0)["drained"]
    assert len(arrived(owner)) == _MANY


def test_a_database_that_somebody_locks_is_told_and_read_as_soon_as_it_can_be(field: Field) -> None:
    owner = field.receiver()
    spot = field.spot(owner)
    field.play("before", database=LOCKED)
    wait_for(owner, "before")
    wait_until_empty(spot)
    with locked(field.folder / SPOT / LOCKED, "hidden"):
        wait_until(lambda: status(spot)["unread"]["databases"] == 1)
        told = status(spot)["unread"]
        assert told["why"] == f"{LOCKED}: database is locked"
        assert told["oldest_age_seconds"] >= 5
        assert "ringrift_agent_unread_databases 1.0" in spot.request("GET", "/metrics").text
        left = drain(spot, 0.5)
        assert (left["drained"], left["games"], left["unread"]) == (False, 0, f"{LOCKED}: database is locked")

        field.play("other", database="data/games/new.db")
        wait_for(owner, "other")
        assert "hidden" not in arrived(owner)

    wait_for(owner, "hidden")
    assert drain(spot, 10.0)["drained"]
    assert status(spot)["unread"]["databases"] == 0


def test_questions_about_a_locked_database_hold_up_no_other_one(field: Field) -> None:
    owner = field.receiver()
    spot = field.spot(owner)
    field.play("before", database=LOCKED)
    wait_for(owner, "before")
    field.play("w0")
    wait_for(owner, "w0")
    token, ended, answers = field.folder / SPOT / "token.jwt", threading.Event(), list[bool]()

    def ask() -> None:
        while not ended.is_set():
            saved = write_through("hidden", LOCKED, timeout=0.2, url=spot.url, token_file=token)
            answers.append(saved.durable)

    askers = [threading.Thread(target=ask) for _ in range(3)]
    with locked(field.folder / SPOT / LOCKED, "hidden"):
        for asker in askers:
            asker.start()
        try:
            for number in range(1, 4):
                field.play(f"w{number}")
                wait_for(owner, f"w{number}")
            assert write_through("w3", DATABASE, timeout=10.0, url=spot.url, token_file=token).durable
        finally:
            ended.set()
            for asker in askers:
                asker.join()
    assert answers
    assert not any(answers)
    wait_for(owner, "hidden")


def test_a_damaged_database_is_named_until_it_is_whole_again(field: Field) -> None:
    owner = field.receiver()
    spot = field.spot(owner)
    field.play("first")
    wait_for(owner, "first")
    path = field.folder / SPOT / DATABASE
    whole = path.read_bytes()
    path.write_bytes(bytes(100) + whole[100:])

    wait_until(lambda: status(spot)["unread"]["databases"] == 1)

    told = status(spot)["unread"]
    assert "not a database" in told["why"]
    left = drain(spot, 0.5)
    assert not left["drained"]
    assert left["unread"].startswith(f"{DATABASE}: ")
    assert f"games cannot be read path={DATABASE}" in spot.log.read_text()
    path.write_bytes(whole)
    field.play("second")
    wait_for(owner, "second")
    assert drain(spot, 10.0)["drained"]


def test_a_link_that_leads_out_of_the_roots_is_named(field: Field) -> None:
    owner = field.receiver()
    outside = field.folder / "outside.db"
    with Recorder(outside, Dialect.V18) as recorder:
        recorder.record_all([game("far", config=CONFIG)])
    field.play("near")
    (field.folder / SPOT / "data/games/link.db").symlink_to(outside)
    spot = field.spot(owner)
    wait_for(owner, "near")

    left = drain(spot, 0.5)

    assert not left["drained"]
    assert "data/games/link.db" in left["unread"]
    assert arrived(owner) == ["near"]
