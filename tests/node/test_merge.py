"""Merging packs into a canonical database: rows, provenance, cursor and change, whole or not at all."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from ringrift_sync_dagster.demo.schemas import Dialect, open_games_database
from ringrift_sync_dagster.node import canonical
from ringrift_sync_dagster.node.errors import KitError
from ringrift_sync_dagster.node.roots import Roots
from ringrift_sync_dagster.node.scan import Scanner
from ringrift_sync_dagster.node.schema import TABLES
from tests.node.merging import CONFIG, NAME, Shop, bring, game, record


def test_a_new_canonical_database_has_schema_18_with_triggers_and_indices(shop: Shop) -> None:
    bring(shop, game("g1"))

    assert shop.value("SELECT value FROM schema_metadata WHERE key = 'schema_version'") == "18"
    triggers = {row[0] for row in shop.rows("SELECT name FROM sqlite_master WHERE type = 'trigger'")}
    assert triggers == {"enforce_moves_on_complete", "enforce_moves_on_insert"}
    assert shop.value("SELECT COUNT(*) FROM sqlite_master WHERE type = 'index' AND name = 'idx_games_config'") == 1
    assert shop.value("PRAGMA journal_mode") == "wal"
    assert shop.value("PRAGMA integrity_check") == "ok"


def test_every_row_arrives_as_it_was(shop: Shop) -> None:
    database = record(shop.folder / "n.db", game("g1", length=24), game("g2"))
    shop.collect(database)

    with contextlib.closing(sqlite3.connect(database)) as source:
        for table in TABLES:
            if table.packed:
                query = f"SELECT {', '.join(table.names())} FROM {table.name} ORDER BY {', '.join(table.key)}"
                assert shop.rows(query) == source.execute(query).fetchall(), table.name


def test_a_merge_writes_provenance_cursor_and_change_with_the_rows(shop: Shop) -> None:
    database = record(shop.folder / "n.db", game("g1"))
    result = shop.pack(database)

    merged = shop.merge(result["artifact"], "vast-1", result["cursor"])

    provenance = "SELECT game_id, artifact, node FROM ringrift_provenance"
    assert shop.rows(provenance) == [("g1", result["artifact"], "vast-1")]
    assert shop.value("SELECT change_id FROM ringrift_provenance") == shop.value(
        "SELECT change_id FROM ringrift_changes"
    )
    with canonical.opened(str(shop.canonical)) as conn:
        assert canonical.read_cursor(conn, "vast-1", NAME, "hex8_2p") == result["cursor"]
        ((sequence, summary),) = canonical.unsent_changes(conn)
        assert (summary["games_new"], summary["canonical_games"]) == (1, 1)
        canonical.mark_sent(conn, sequence)
        assert canonical.unsent_changes(conn) == []
    assert (merged.new, merged.games, merged.generation) == (1, 1, 1)


def test_merging_a_pack_again_changes_nothing(shop: Shop) -> None:
    result = shop.pack(record(shop.folder / "n.db", game("g1"), game("g2")))
    shop.merge(result["artifact"])
    before = shop.content()

    again = shop.merge(result["artifact"])

    assert (again.new, again.same, again.changed) == (0, 2, False)
    assert shop.content() == before


def test_the_same_game_of_two_nodes_is_one_game(shop: Shop) -> None:
    bring(shop, game("g1"))
    merged = bring(shop, game("g1"), node="vast-2")

    assert (merged.new, merged.same, merged.games) == (0, 1, 1)


@pytest.mark.parametrize("dialect", [Dialect.V18, Dialect.V12])
def test_a_canonical_database_that_upstream_made_is_adopted(shop: Shop, dialect: Dialect) -> None:
    record(shop.canonical, game("old1"), game("old2"), dialect=dialect)

    merged = bring(shop, game("old1"), game("new"), game("old2", length=9))

    assert (merged.new, merged.same) == (1, 1)
    assert merged.games == shop.value("SELECT COUNT(*) FROM games")
    assert merged.revised + merged.renamed == 1
    assert shop.value("SELECT value FROM schema_metadata WHERE key = 'schema_version'") == "18"


def test_the_order_of_columns_in_a_canonical_database_means_nothing(shop: Shop) -> None:
    with contextlib.closing(sqlite3.connect(shop.canonical, isolation_level=None)) as conn:
        for table in TABLES:
            columns = ", ".join(reversed(table.names()))
            conn.execute(f"CREATE TABLE {table.name} ({columns}, PRIMARY KEY ({', '.join(table.key)}))")
    record(shop.canonical, game("old"))

    merged = bring(shop, game("old"), game("new"))

    assert (merged.new, merged.same, merged.games) == (1, 1, 2)
    assert not shop.asides


def test_a_canonical_database_with_the_old_name_of_move_number_is_refused(shop: Shop) -> None:
    open_games_database(shop.canonical, Dialect.V12_MOVE_INDEX).close()

    with pytest.raises(KitError, match="move_index") as caught:
        bring(shop, game("g1"))
    assert caught.value.code == "old_dialect"


def test_a_database_that_we_wrote_is_marked_and_never_collected_again(shop: Shop, tmp_path: Path) -> None:
    bring(shop, game("g1"))
    node = tmp_path / "node"
    (node / "data" / "games").mkdir(parents=True)
    shutil.copy(shop.canonical, node / "data" / "games" / "looks_like_selfplay.db")

    (entry,) = Scanner(Roots([str(node)]), None).scan(0.0)

    assert entry["marker"] == shop.value("SELECT value FROM ringrift_store WHERE key = 'store_id'")
    assert entry["collectable"] is False


def test_a_lost_store_has_another_id_and_no_cursor(shop: Shop) -> None:
    database = record(shop.folder / "n.db", game("g1"))
    first = shop.collect(database)
    for path in shop.folder.glob("canonical_*"):
        path.unlink()

    second = shop.collect(database)

    assert second.store_id != first.store_id
    assert (second.new, second.games) == (1, 1)


KILLED = """
import json, os, signal, sys
from pathlib import Path
from ringrift_sync_dagster.node import faults
from tests.node.merging import Shop
def die(point):
    if point == sys.argv[3]:
        os.kill(os.getpid(), signal.SIGKILL)
faults.hook = die
Shop(Path(sys.argv[1])).merge(sys.argv[2], cursor=json.loads(sys.argv[4]))
"""


@pytest.mark.parametrize("point, after", [("merge.inserted", 0), ("merge.before_commit", 0), ("merge.after_commit", 2)])
def test_a_merge_that_is_killed_is_wholly_there_or_not_at_all(shop: Shop, point: str, after: int) -> None:
    bring(shop, game("old"))
    result = shop.pack(record(shop.folder / "n.db", game("g1"), game("g2")))

    program = [sys.executable, "-c", KILLED, str(shop.folder), result["artifact"], point, json.dumps(result["cursor"])]
    done = subprocess.run(program, check=False)

    assert done.returncode == -signal.SIGKILL
    assert shop.value("SELECT COUNT(*) FROM games") == 1 + after
    assert shop.value("SELECT COUNT(*) FROM ringrift_provenance") == 1 + after
    assert shop.value("SELECT COUNT(*) FROM ringrift_changes") == 1 + after // 2
    with canonical.opened(str(shop.canonical)) as conn:  # the cursor is there exactly when the rows are
        assert (canonical.read_cursor(conn, "vast-1", NAME, CONFIG) == result["cursor"]) is (after == 2)
    merged = shop.merge(result["artifact"])
    assert (merged.new, merged.same, merged.games) == (2 - after, after, 3)
