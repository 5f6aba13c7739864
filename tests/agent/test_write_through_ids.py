"""What is said to be durable is the game that the database holds now, whatever had its id before."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ringrift_sync_dagster.agent.asking import write_through
from ringrift_sync_dagster.demo.recorder import Recorder
from ringrift_sync_dagster.demo.schemas import Dialect
from tests.agent.conftest import StartAgent
from tests.agent.through_parts import DATABASE, SPOT, Field, arrived
from tests.node.merging import game

pytestmark = pytest.mark.cluster


def revised_in_its_row(database: Path) -> None:
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE games SET winner = 1 - COALESCE(winner, 0) WHERE game_id = 'g1'")


def replaced_with_its_database(database: Path) -> None:
    for path in database.parent.glob(f"{database.name}*"):
        path.unlink()
    with Recorder(database, Dialect.V18) as recorder:
        recorder.record_all([game("g1", length=9), game("g2")])


@pytest.mark.parametrize("change", [revised_in_its_row, replaced_with_its_database])
def test_another_game_of_an_id_that_is_durable_is_not_called_so(
    start_agent: StartAgent, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    field = Field(start_agent, tmp_path)
    owner = field.receiver()
    spot = field.spot(owner, watch_seconds=60.0)
    asked: dict[str, Any] = {"url": spot.url, "token_file": tmp_path / SPOT / "token.jwt"}
    field.play("g1", "g2")
    assert write_through("g1", DATABASE, timeout=15, **asked)
    owner.stop()
    change(tmp_path / SPOT / DATABASE)

    assert not write_through("g1", DATABASE, timeout=1, **asked)
    assert write_through("g2", DATABASE, timeout=1, **asked)
    owner.start()
    assert write_through("g1", DATABASE, timeout=15, **asked)
    assert arrived(owner).count("g1") == 2
