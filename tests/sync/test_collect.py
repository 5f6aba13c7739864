"""Collecting: finished games of live nodes arrive once, whatever is in the way."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from ringrift_sync_dagster.demo.recorder import Recorder
from ringrift_sync_dagster.demo.schemas import Dialect
from ringrift_sync_dagster.errors import CollectFailedError, ConfigError, LocalToolError
from ringrift_sync_dagster.settings.settings import load_settings
from ringrift_sync_dagster.state.changes import pending
from ringrift_sync_dagster.state.manifest import Manifest
from ringrift_sync_dagster.state.receipts import receipts_of
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.transfers import TransferState, transfer_rows
from ringrift_sync_dagster.storage.quarantine import Quarantine
from ringrift_sync_dagster.sync.collect import collect
from ringrift_sync_dagster.sync.runtime import Runtime
from tests.node.merging import game
from tests.sync.conftest import Field

A, B = "vast-900001", "runpod-a1"
BUSY_SECONDS = 150  # seconds that three processes may take on a machine that is busy with other tests


def ids(field_: Field, config: str) -> list[str]:
    with contextlib.closing(sqlite3.connect(field_.canonical(config))) as conn:
        return [row[0] for row in conn.execute("SELECT game_id FROM games ORDER BY 1")]


def litter(field_: Field) -> list[Path]:
    """Files that a finished pass must not leave."""
    data = field_.base / "root" / "data"
    found = [*(data / "incoming").rglob("*"), *(data / ".ringrift-sync").rglob("*")]
    return [path for path in found if path.is_file()]


def test_finished_games_of_two_nodes_arrive_and_a_second_pass_finds_nothing(field_: Field) -> None:
    config = "hex8_3p"
    field_.play(A, "data/games/selfplay.db", *(game(f"a{n}", config=config) for n in range(5)))
    field_.play(B, "data/games/selfplay.db", *(game(f"b{n}", config=config) for n in range(4)), dialect=Dialect.V12)

    first, second = field_.collect(config), field_.collect(config)

    assert {outcome.partition.node: outcome.games_new for outcome in first.outcomes} == {A: 5, B: 4}
    assert ids(field_, config) == sorted([*(f"a{n}" for n in range(5)), *(f"b{n}" for n in range(4))])
    assert [outcome.changed for outcome in second.outcomes] == [False, False]
    assert litter(field_) == []
    first.raise_if_failed()


def test_a_pass_leaves_receipts_changes_transfers_and_locations(field_: Field) -> None:
    config = "hex8_4p"
    field_.play(A, "data/games/x.db", game("g1", config=config))
    field_.one(config, A)

    with StateStore.open(field_.settings.state_url) as state:
        (change,) = pending(state)
        (transfer,) = transfer_rows(state)
        (receipt,) = receipts_of(state, change.artifact)
        locations = Manifest(state).get_data_locations(config)
    assert (change.config, change.node, change.games_new, change.canonical_games) == (config, A, 1, 1)
    assert change.checks["no_moveless_games"] is True
    assert (transfer.state, transfer.artifact) == (TransferState.DONE, change.artifact)
    assert receipt.node == "hub-1"
    assert ("data/games/x.db", A) in [(place.path, place.node) for place in locations]


def test_games_that_finish_during_the_passes_all_arrive(field_: Field) -> None:
    config = "square8_2p"
    database = field_.play(A, "data/games/live.db", game("g0", config=config))
    with Recorder(database, Dialect.V18) as writer:
        for number in range(1, 6):
            one = game(f"g{number}", config=config, length=12)
            writer.begin(one)
            writer.play(one, 0, 6)
            field_.one(config, A)
            writer.play(one, 6, 6)
            writer.finish(one)
    field_.one(config, A)

    assert ids(field_, config) == [f"g{number}" for number in range(6)]


def test_a_database_of_mixed_configs_feeds_each_canonical_database(field_: Field) -> None:
    field_.play(A, "data/games/mixed.db", game("p", config="square8_3p"), game("q", config="square8_4p"))

    field_.collect("square8_3p", "square8_4p", nodes=(A,))

    assert (ids(field_, "square8_3p"), ids(field_, "square8_4p")) == (["p"], ["q"])


def test_a_vacuumed_shuffled_or_replaced_source_is_listed_and_only_what_is_missing_moves(field_: Field) -> None:
    config = "square19_2p"
    database = field_.play(A, "data/games/x.db", *(game(f"g{n}", config=config) for n in range(6)))
    field_.one(config, A)
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as conn:
        conn.execute("UPDATE games SET rowid = rowid + 100")
    field_.play(A, "data/games/x.db", game("g6", config=config))

    outcome = field_.one(config, A)

    assert (outcome.games_new, outcome.games_same, outcome.packs) == (1, 0, 1)
    assert len(ids(field_, config)) == 7
    assert field_.one(config, A).packs == 0


def test_short_games_are_set_aside_after_their_time_and_told_once(field_: Field) -> None:
    config = "square19_3p"
    field_.settings = field_.settings.model_copy(update={"short_after_seconds": 0.0})
    field_.play(
        A, "data/games/old.db", game("ok", config=config), game("cut", length=3, config=config), dialect=Dialect.V12
    )

    outcomes = [field_.one(config, A) for _ in range(3)]

    assert [[aside.reason for aside in outcome.set_aside] for outcome in outcomes] == [["short"], [], []]
    (entry,) = Quarantine(field_.base / "root" / "data" / "quarantine").entries()
    assert (entry.node, entry.reason, entry.name.split("~")[0]) == (A, "short", "cut")
    assert ids(field_, config) == ["ok"]


def test_a_lost_or_restored_canonical_store_asks_again_for_what_it_lacks(field_: Field, tmp_path: Path) -> None:
    config = "square19_4p"
    field_.play(A, "data/games/x.db", *(game(f"g{n}", config=config) for n in range(3)))
    field_.one(config, A)
    yesterday = tmp_path / "yesterday.db"
    with contextlib.closing(sqlite3.connect(field_.canonical(config))) as conn:
        conn.execute("VACUUM INTO ?", (str(yesterday),))
    field_.play(A, "data/games/x.db", *(game(f"g{n}", config=config) for n in range(3, 5)))
    field_.one(config, A)

    for path in field_.canonical(config).parent.glob("canonical_*"):
        path.unlink()
    lost = field_.one(config, A)
    for path in field_.canonical(config).parent.glob("canonical_*"):
        path.unlink()
    shutil.copy(yesterday, field_.canonical(config))
    restored = field_.one(config, A)

    assert (lost.games_new, restored.games_new) == (5, 2)
    assert ids(field_, config) == [f"g{n}" for n in range(5)]


def test_a_lost_state_database_costs_nothing_but_a_look(field_: Field) -> None:
    config = "hexagonal_2p"
    field_.play(A, "data/games/x.db", game("g1", config=config))
    field_.one(config, A)
    for path in field_.base.glob("state.db*"):
        path.unlink()

    outcome = field_.one(config, A)

    assert (outcome.games_new, outcome.failure) == (0, None)
    assert ids(field_, config) == ["g1"]


@pytest.mark.parametrize(
    "name, data, code",
    [
        ("cut.db", b"SQLite format 3\0" + bytes(50), "not_a_database"),
        ("noise.db", bytes(range(256)) * 64, "not_a_database"),
        ("empty.db", b"", "no_games_table"),
    ],
)
def test_a_bad_database_is_noted_and_the_others_arrive(field_: Field, name: str, data: bytes, code: str) -> None:
    config = "hexagonal_3p"
    field_.put(A, f"data/games/{name}", data)
    field_.play(A, "data/games/good.db", game("g1", config=config))

    report = field_.collect(config, nodes=(A,))

    assert (f"data/games/{name}", code) in [(note.path, note.code) for note in report.notes]
    assert report.outcomes[0].games_new == 1
    assert report.failures == ()


def test_a_node_that_is_gone_fails_its_own_partitions_only(field_: Field) -> None:
    config = "hexagonal_4p"
    field_.play(A, "data/games/x.db", game("g1", config=config))

    report = field_.collect(config, nodes=(A, "nebius-t1"))

    by_node = {outcome.partition.node: outcome for outcome in report.outcomes}
    assert by_node[A].games_new == 1
    failure = by_node["nebius-t1"].failure
    assert failure is not None
    assert "nebius-t1" in str(failure)
    with pytest.raises(CollectFailedError, match=r"hexagonal_4p\|nebius-t1"):
        report.raise_if_failed()


def test_unknown_names_are_refused_before_anything_starts(field_: Field) -> None:
    with pytest.raises(ConfigError, match="'hex9_2p' is no config"):
        field_.collect("hex9_2p")
    with pytest.raises(ConfigError, match="no such node"):
        field_.collect("hex8_2p", nodes=("vast-0",))


def test_a_missing_token_says_how_to_make_one(field_: Field) -> None:
    settings = load_settings(**{**field_.settings.model_dump(), "token_file": field_.base / "none.jwt"})
    with Runtime.open(settings) as runtime:
        (outcome,) = collect(runtime, configs=["hex8_2p"], nodes=[A]).outcomes

    assert outcome.failure is not None
    assert (outcome.failure.error, "ringrift-sync token" in outcome.failure.message) == (LocalToolError.__name__, True)


@pytest.mark.timeout(BUSY_SECONDS + 30)
def test_two_processes_that_collect_at_the_same_time_bring_each_game_once(field_: Field) -> None:
    config = "hex8_2p"
    field_.play(A, "data/games/x.db", *(game(f"g{n:03d}", config=config) for n in range(120)))

    running = [
        subprocess.Popen([sys.executable, "-c", COLLECT, config, A, ""], env=environment(field_)) for _ in range(3)
    ]

    try:
        assert [process.wait(BUSY_SECONDS) for process in running] == [0, 0, 0]
    finally:
        for process in running:  # none goes on collecting while the next test runs
            process.kill()
            process.wait()

    assert len(ids(field_, config)) == 120
    assert litter(field_) == []
    with StateStore.open(field_.settings.state_url) as state:
        assert sum(change.games_new for change in pending(state)) == 120


COLLECT = """
import faulthandler, os, signal, sys
from ringrift_sync_dagster.node import faults
from ringrift_sync_dagster.settings.settings import load_settings
from ringrift_sync_dagster.sync.collect import collect
from ringrift_sync_dagster.sync.runtime import Runtime
def die(point):
    if point == sys.argv[3]:
        os.kill(os.getpid(), signal.SIGKILL)
faults.hook = die
faulthandler.dump_traceback_later(45)  # on a machine that is busy it may take its time; where, is then told
with Runtime.open(load_settings()) as runtime:
    collect(runtime, configs=[sys.argv[1]], nodes=[sys.argv[2]]).raise_if_failed()
"""
POINTS = [
    pytest.param("install.synced", marks=pytest.mark.cluster),
    pytest.param("install.renamed", marks=pytest.mark.cluster),
    pytest.param("install.durable", marks=pytest.mark.cluster),
    pytest.param("collect.fetched", marks=pytest.mark.cluster),
    pytest.param("merge.inserted", marks=pytest.mark.cluster),
    "merge.before_commit",
    "merge.after_commit",
    pytest.param("quarantine.data", marks=pytest.mark.cluster),
    pytest.param("intake.set_aside", marks=pytest.mark.cluster),
    pytest.param("intake.before_receipt", marks=pytest.mark.cluster),
    pytest.param("intake.receipt", marks=pytest.mark.cluster),
    pytest.param("changes.copied", marks=pytest.mark.cluster),
    pytest.param("intake.delivered", marks=pytest.mark.cluster),
    pytest.param("intake.removed", marks=pytest.mark.cluster),
]


def environment(field_: Field) -> dict[str, str]:
    settings = field_.settings
    return {
        **os.environ,
        "RINGRIFT_SYNC_HOME": str(settings.home),
        "RINGRIFT_SYNC_HOSTS": str(settings.hosts),
        "RINGRIFT_SYNC_ROOT": str(settings.root),
        "RINGRIFT_SYNC_STATE_URL": settings.state_url,
        "RINGRIFT_SYNC_TOKEN_FILE": str(settings.token_file),
    }


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_step_the_next_pass_ends_exact(field_: Field, point: str) -> None:
    """Nothing is lost, doubled or left lying about, and Dagster will be told of every game exactly once."""
    config = "hex8_2p"
    revisions = [game("r", length=length, config=config, rng_seed=1, created_at="2026-03-01") for length in (6, 9)]
    field_.play(A, "data/games/one.db", *(game(f"g{n}", config=config) for n in range(4)), revisions[0])
    field_.play(A, "data/games/two.db", revisions[1], game("g9", config=config))

    killed = subprocess.run([sys.executable, "-c", COLLECT, config, A, point], env=environment(field_), check=False)
    field_.one(config, A)

    assert killed.returncode == -signal.SIGKILL
    assert ids(field_, config) == ["g0", "g1", "g2", "g3", "g9", "r"]
    assert litter(field_) == []
    (entry,) = Quarantine(field_.base / "root" / "data" / "quarantine").entries()
    assert entry.name.startswith("r~")
    with StateStore.open(field_.settings.state_url) as state:
        changes = pending(state)
        assert sum(change.games_new + change.games_revised for change in changes) == 7
        assert len({change.change_id for change in changes}) == len(changes)
        assert not transfer_rows(state, running=True)
