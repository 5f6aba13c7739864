"""Matches and registry rows between real agents and an owner: up, down, again, damaged, and killed at every step."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.demo.ratings import MatchDialect, make_matches, ratings_by_hand, write_matches
from ringrift_sync_dagster.demo.registry_rows import RegisteredVersion, write_registry
from ringrift_sync_dagster.state.changes import pending
from ringrift_sync_dagster.state.placements import placement_of
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.storage.quarantine import Quarantine
from ringrift_sync_dagster.sync.collect import Request, move
from ringrift_sync_dagster.sync.report import CollectReport
from ringrift_sync_dagster.sync.runtime import Runtime
from tests.sync.conftest import Field
from tests.sync.test_collect import A, environment, litter

CONFIG = "hex8_2p"
ELO = "data/unified_elo.db"
REGISTRY = "data/model_registry/registry.db"


def passed(field_: Field, data_type: DataType, *configs: str, down: bool = True) -> CollectReport:
    """One pass of one data type over both nodes."""
    with Runtime.open(field_.settings) as runtime:
        return move(runtime, Request([data_type], configs or (CONFIG,), field_.nodes, "test", down=down))[data_type]


def rows(database: Path, query: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(database)) as conn:
        return conn.execute(query).fetchall()


def ratings(database: Path) -> dict[str, float]:
    return dict(rows(database, "SELECT participant_id, rating FROM elo_ratings WHERE num_players = 2"))


@pytest.fixture
def elo(field_: Field) -> tuple[Path, Path, Path]:
    """Elo databases of both nodes, in two dialects and with a match that both have; and the owner's."""
    first, second = (field_.cluster.node_root(node) / ELO for node in field_.nodes)
    for database in (first, second):
        for suffix in ("", "-wal", "-shm"):
            Path(f"{database}{suffix}").unlink(missing_ok=True)
    matches = make_matches("field", CONFIG, 60)
    write_matches(first, matches[:35])
    write_matches(second, matches[30:], MatchDialect.MODEL_ID)
    return first, second, field_.base / "root" / ELO


def test_matches_of_both_nodes_arrive_and_each_gets_what_it_lacks(field_: Field, elo: tuple[Path, Path, Path]) -> None:
    report = passed(field_, DataType.ELO)

    assert not report.failures
    expected = {
        name: pytest.approx(both[0]) for name, both in ratings_by_hand(make_matches("field", CONFIG, 60)).items()
    }
    for database in elo:
        assert rows(database, "SELECT COUNT(*), COUNT(DISTINCT game_id) FROM match_history") == [(60, 60)]
        assert ratings(database) == expected
    assert {outcome.partition.node: outcome.counts["brought"] for outcome in report.outcomes} == {
        field_.nodes[0]: 25,
        field_.nodes[1]: 30,
    }
    assert litter(field_) == []
    with StateStore.open(field_.settings.state_url) as state:
        found = pending(state)
        assert sorted((c.direction, c.counts.get("matches_new", 0), c.counts.get("brought", 0)) for c in found)[:2] == [
            ("down", 0, 25),
            ("down", 0, 30),
        ]
        assert sum(change.counts.get("matches_new", 0) for change in found) == 60
        assert all(change.data_type == "elo" and change.config == CONFIG for change in found)


def test_what_has_not_changed_is_not_asked_for_again(field_: Field, elo: tuple[Path, Path, Path]) -> None:
    reports = [passed(field_, DataType.ELO) for _ in range(3)]  # what was brought makes the nodes look changed once
    last = reports[-1]

    assert not any(report.failures or report.notes for report in reports)
    assert elo[2].exists()
    assert [(outcome.changed, outcome.bytes_moved) for outcome in last.outcomes] == [(False, 0), (False, 0)]
    with StateStore.open(field_.settings.state_url) as state:
        for node in field_.nodes:
            placement = placement_of(state, node, "elo", CONFIG)
            assert placement is not None
            assert (placement.detail["missing_up"], placement.detail["missing_down"]) == (0, 0)


def test_new_matches_travel_alone(field_: Field, elo: tuple[Path, Path, Path]) -> None:
    passed(field_, DataType.ELO)
    write_matches(elo[0], make_matches("later", CONFIG, 3))
    report = passed(field_, DataType.ELO)

    assert sum(outcome.counts.get("matches_new", 0) for outcome in report.outcomes) == 3
    assert rows(elo[1], "SELECT COUNT(*) FROM match_history") == [(63,)]


def test_a_lost_owner_s_database_is_made_again(field_: Field, elo: tuple[Path, Path, Path]) -> None:
    passed(field_, DataType.ELO)
    before = ratings(elo[2])
    for suffix in ("", "-wal", "-shm"):
        Path(f"{elo[2]}{suffix}").unlink(missing_ok=True)
    passed(field_, DataType.ELO)

    assert ratings(elo[2]) == before


def test_a_damaged_database_fails_its_partition_is_listed_and_stops_nobody(
    field_: Field, elo: tuple[Path, Path, Path]
) -> None:
    for suffix in ("-wal", "-shm"):
        Path(f"{elo[0]}{suffix}").unlink(missing_ok=True)
    elo[0].write_bytes(b"SQLite format 3\0" + os.urandom(5000))
    report = passed(field_, DataType.ELO)

    (failure,) = report.failures
    assert failure.partition.node == field_.nodes[0]
    assert ELO in failure.message
    assert rows(elo[2], "SELECT COUNT(*) FROM match_history") == [(30,)]
    elo[0].unlink()


@pytest.fixture
def registry(field_: Field) -> tuple[Path, Path, Path]:
    first, second = (field_.cluster.node_root(node) / REGISTRY for node in field_.nodes)
    for database in (first, second):
        for suffix in ("", "-wal", "-shm"):
            Path(f"{database}{suffix}").unlink(missing_ok=True)
    model = f"canonical_{CONFIG}"
    write_registry(first, [RegisteredVersion(model, 1, "1", (("staging", "2026-01-01"), ("production", "2026-01-03")))])
    write_registry(
        second,
        [
            RegisteredVersion(model, 2, "2", (("rejected", "2026-01-02"),)),
            RegisteredVersion("nightly", 1, "n", (("staging", "2026-01-02"),)),
        ],
    )
    return first, second, field_.base / "root" / REGISTRY


def test_registries_become_one_everywhere_and_rows_of_no_config_are_noted(
    field_: Field, registry: tuple[Path, Path, Path]
) -> None:
    report = passed(field_, DataType.REGISTRY)

    assert not report.failures
    query = "SELECT model_id, version, stage FROM versions WHERE model_id LIKE 'canonical%' ORDER BY 2"
    model = f"canonical_{CONFIG}"
    for database in registry:
        assert rows(database, query) == [(model, 1, "production"), (model, 2, "rejected")]
    assert rows(registry[2], "SELECT stage FROM versions WHERE model_id = 'nightly'") == [("staging",)]
    assert [note.code for note in report.notes] == ["no_config"]


def test_a_version_with_two_hashes_is_in_quarantine_and_the_check_says_so(
    field_: Field, registry: tuple[Path, Path, Path]
) -> None:
    write_registry(registry[1], [RegisteredVersion(f"canonical_{CONFIG}", 1, "another")])
    report = passed(field_, DataType.REGISTRY, down=False)

    asides = [aside.reason for outcome in report.outcomes for aside in outcome.set_aside]
    assert asides == ["version_conflict"]
    (entry,) = Quarantine(field_.base / "root" / "data" / "quarantine").entries()
    assert entry.reason == "version_conflict"
    with StateStore.open(field_.settings.state_url) as state:
        assert [c.checks["no_version_conflicts"] for c in pending(state) if c.set_aside] == [False]


MOVE = """
import os, signal, sys
from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.node import faults
from ringrift_sync_dagster.settings.settings import load_settings
from ringrift_sync_dagster.sync.collect import Request, move
from ringrift_sync_dagster.sync.runtime import Runtime
def die(point):
    if point == sys.argv[4]:
        os.kill(os.getpid(), signal.SIGKILL)
faults.hook = die
with Runtime.open(load_settings()) as runtime:
    for report in move(runtime, Request([DataType(sys.argv[1])], [sys.argv[2]], [sys.argv[3]], "test")).values():
        report.raise_if_failed()
"""
POINTS = [
    pytest.param("install.renamed", marks=pytest.mark.cluster),
    pytest.param("collect.fetched", marks=pytest.mark.cluster),
    pytest.param("union.merged", marks=pytest.mark.cluster),
    pytest.param("quarantine.data", marks=pytest.mark.cluster),
    pytest.param("rows.set_aside", marks=pytest.mark.cluster),
    pytest.param("union.before_commit", marks=pytest.mark.cluster),
    pytest.param("union.after_commit", marks=pytest.mark.cluster),
    "union.settled",
    pytest.param("rows.before_receipt", marks=pytest.mark.cluster),
    "rows.receipt",
    pytest.param("changes.copied", marks=pytest.mark.cluster),
    pytest.param("rows.delivered", marks=pytest.mark.cluster),
    pytest.param("rows.removed", marks=pytest.mark.cluster),
]


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_step_the_next_pass_ends_exact(field_: Field, elo: tuple[Path, Path, Path], point: str) -> None:
    """Nothing is lost, counted twice or left lying about, and Dagster will be told of every match exactly once."""
    with contextlib.closing(sqlite3.connect(elo[0], isolation_level=None)) as conn:
        conn.execute("UPDATE match_history SET participant_b = participant_a, participant_ids = NULL WHERE id = 3")

    command = [sys.executable, "-c", MOVE, "elo", CONFIG, A, point]
    killed = subprocess.run(command, env=environment(field_), check=False)
    passed(field_, DataType.ELO, down=False)

    assert killed.returncode == -signal.SIGKILL
    assert rows(elo[2], "SELECT COUNT(*) FROM match_history") == [(59,)]
    assert litter(field_) == []
    (entry,) = Quarantine(field_.base / "root" / "data" / "quarantine").entries()
    assert entry.reason == "bad_participants"
    with StateStore.open(field_.settings.state_url) as state:
        changes = [change for change in pending(state) if change.direction == "up"]
        assert sum(change.counts.get("matches_new", 0) for change in changes) == 59
    with Runtime.open(field_.settings) as runtime:
        assert runtime.rows.store.due("matches") == {}
        assert runtime.rows.store.ratings_hold(CONFIG)
