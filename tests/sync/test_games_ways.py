"""What else games do: evaluation games apart, canonical games down to nodes that train, and recovery."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.errors import RemoteCallError
from ringrift_sync_dagster.node.digest import digests
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.state.changes import pending
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.transfers import transfer_rows
from ringrift_sync_dagster.sync.collect import Request, move
from ringrift_sync_dagster.sync.games import synced_path
from ringrift_sync_dagster.sync.report import CollectReport
from ringrift_sync_dagster.sync.runtime import Runtime
from tests.node.merging import game
from tests.sync.conftest import Field
from tests.sync.test_collect import A, litter

CONFIG = "hex8_2p"
B = "runpod-a1"


def passed(
    field_: Field,
    *nodes: str,
    up: bool = True,
    down: bool = False,
    to: tuple[str, ...] = (),
    recover: bool = False,
) -> CollectReport:
    request = Request(
        [DataType.GAMES], [CONFIG], nodes or field_.nodes, "test", up=up, down=down, to=to, recover=recover
    )
    with Runtime.open(field_.settings) as runtime:
        return move(runtime, request)[DataType.GAMES]


def games(database: Path) -> dict[str, str]:
    """Ids and identity digests of the games in a database."""
    if not database.exists():
        return {}
    with contextlib.closing(sqlite3.connect(database)) as conn:
        return {found.game_id: found.identity for found in digests(conn)}


def copy_of(field_: Field, node: str) -> Path:
    return field_.cluster.node_root(node) / synced_path(CONFIG)


def some(prefix: str, count: int) -> list:  # type: ignore[type-arg]
    return [game(f"{prefix}{number}", config=CONFIG) for number in range(count)]


def test_evaluation_games_go_into_a_database_of_their_own_at_low_priority(field_: Field) -> None:
    field_.play(A, f"data/games/selfplay_{CONFIG}.db", *some("played", 3))
    field_.play(A, f"data/games/tournament_{CONFIG}.db", *some("judged", 4))

    report = passed(field_, A)
    again = passed(field_, A)

    root = field_.base / "root" / "data/games"
    assert sorted(games(root / f"canonical_{CONFIG}.db")) == ["played0", "played1", "played2"]
    assert sorted(games(root / f"eval_{CONFIG}.db")) == ["judged0", "judged1", "judged2", "judged3"]
    (outcome,) = report.outcomes
    assert (outcome.games_new, dict(outcome.counts), outcome.canonical_games) == (3, {"evaluation_games": 4}, 3)
    assert not again.outcomes[0].changed
    assert litter(field_) == []
    with StateStore.open(field_.settings.state_url) as state:
        assert sorted(row.priority for row in transfer_rows(state, limit=10)) == ["background", "normal"]
        assert sum(change.counts.get("evaluation_games", 0) for change in pending(state)) == 4
        assert sum(change.games_new for change in pending(state)) == 3


def test_a_node_that_trains_gets_the_canonical_games_that_it_lacks_and_nobody_collects_them_again(
    field_: Field,
) -> None:
    field_.settings = field_.settings.model_copy(update={"pack_max_games": 4})
    field_.play(A, f"data/games/selfplay_{CONFIG}.db", *some("a", 10))

    first = passed(field_, down=True, to=(B,))
    field_.play(A, f"data/games/selfplay_{CONFIG}.db", *some("later", 2))
    second = passed(field_, down=True, to=(B,))
    third = passed(field_, down=True, to=(B,))

    canonical = games(field_.base / "root" / f"data/games/canonical_{CONFIG}.db")
    assert len(canonical) == 12
    assert games(copy_of(field_, B)) == canonical
    brought = [
        sum(outcome.counts.get("brought", 0) for outcome in report.outcomes if outcome.partition.node == B)
        for report in (first, second, third)
    ]
    assert brought == [10, 2, 0]
    assert not first.failures
    assert all(
        outcome.games_new == 0
        for report in (second, third)
        for outcome in report.outcomes
        if outcome.partition.node == B
    )
    with StateStore.open(field_.settings.state_url) as state:
        down = [change for change in pending(state) if change.direction == "down" and change.node == B]
    assert [change.counts["brought"] for change in down] == [10, 2]


def test_a_longer_revision_follows_to_the_node(field_: Field) -> None:
    short, long = (game("r", length=length, config=CONFIG, rng_seed=1, created_at="2026-03-01") for length in (6, 9))
    field_.play(A, "data/games/one.db", short)
    passed(field_, A, down=True, to=(B,))
    field_.play(A, "data/games/two.db", long)
    passed(field_, A, down=True, to=(B,))

    canonical = games(field_.base / "root" / f"data/games/canonical_{CONFIG}.db")
    assert list(canonical) == ["r"]
    assert games(copy_of(field_, B)) == canonical


def test_a_copy_that_was_lost_is_brought_again_whole(field_: Field) -> None:
    field_.play(A, f"data/games/selfplay_{CONFIG}.db", *some("a", 5))
    passed(field_, down=True, to=(B,))
    for suffix in ("", "-wal", "-shm"):
        Path(f"{copy_of(field_, B)}{suffix}").unlink(missing_ok=True)
    passed(field_, down=True, to=(B,))

    assert len(games(copy_of(field_, B))) == 5


def test_a_copy_that_was_replaced_by_an_older_one_of_itself_is_brought_what_it_lacks(field_: Field) -> None:
    field_.play(A, f"data/games/selfplay_{CONFIG}.db", *some("a", 5))
    passed(field_, down=True, to=(B,))
    copy, older = copy_of(field_, B), field_.base / "older.db"
    with contextlib.closing(sqlite3.connect(copy)) as source, contextlib.closing(sqlite3.connect(older)) as target:
        source.backup(target)
    field_.play(A, f"data/games/selfplay_{CONFIG}.db", *some("later", 3))
    for _ in range(2):  # the second one finds nothing, and remembers so
        passed(field_, down=True, to=(B,))
    for suffix in ("", "-wal", "-shm"):
        Path(f"{copy}{suffix}").unlink(missing_ok=True)
    older.rename(copy)

    passed(field_, down=True, to=(B,))

    assert len(games(copy)) == 8


def test_what_a_pass_did_not_bring_of_many_packs_the_next_one_brings(field_: Field) -> None:
    field_.settings = field_.settings.model_copy(update={"pack_max_games": 2, "max_packs_down": 2})
    field_.play(A, f"data/games/selfplay_{CONFIG}.db", *some("a", 7))

    first = passed(field_, down=True, to=(B,))
    passed(field_, down=True, to=(B,))

    assert "unfinished" in {note.code for note in first.notes}
    assert len(games(copy_of(field_, B))) == 7


def test_after_the_owner_lost_everything_recovery_brings_it_back_from_the_nodes(field_: Field) -> None:
    database = field_.play(A, f"data/games/selfplay_{CONFIG}.db", *some("a", 6))
    passed(field_, down=True, to=(B,))
    before = games(field_.base / "root" / f"data/games/canonical_{CONFIG}.db")
    for path in (*(field_.base / "root/data/games").glob("*"), *field_.base.glob("state.db*"), database):
        path.unlink(missing_ok=True)

    usual = passed(field_)
    assert games(field_.base / "root" / f"data/games/canonical_{CONFIG}.db") == {}
    recovered = passed(field_, recover=True)

    assert sum(outcome.games_new for outcome in usual.outcomes) == 0
    assert sum(outcome.games_new for outcome in recovered.outcomes) == 6
    assert games(field_.base / "root" / f"data/games/canonical_{CONFIG}.db") == before


def test_games_are_applied_to_our_own_copy_and_to_nothing_else(field_: Field) -> None:
    field_.play(A, f"data/games/selfplay_{CONFIG}.db", *some("a", 2))
    theirs = field_.play(B, synced_path(CONFIG), *some("theirs", 1))
    before = games(theirs)
    report = passed(field_, down=True, to=(B,))

    failures = [failure for failure in report.failures if failure.partition.node == B]
    assert len(failures) == 1
    assert "did not write" in failures[0].message
    assert games(theirs) == before
    with Runtime.open(field_.settings) as runtime:
        transport = runtime.transport_to(runtime.inventory.nodes[B])
        arguments = {"kind": "games", "config": CONFIG, "node": "hub-1", "artifact": "0" * 64}
        for path in (f"data/games/selfplay_{CONFIG}.db", "data/games/synced/canonical_hex8_4p.db", "../x.db"):
            with pytest.raises(RemoteCallError, match="only"):
                transport.call("apply", {**arguments, "path": path}, deadline=Deadline.after(20))
        transport.close()
