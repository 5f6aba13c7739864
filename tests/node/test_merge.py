"""Merging packs: a union by content that does not depend on order, and never loses a game."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringrift_sync_dagster.demo.content import Row
from ringrift_sync_dagster.demo.games import Game
from ringrift_sync_dagster.demo.schemas import Dialect, open_games_database
from ringrift_sync_dagster.node import canonical, packfile
from ringrift_sync_dagster.node.errors import KitError
from ringrift_sync_dagster.node.merge import Merged
from ringrift_sync_dagster.node.roots import Roots
from ringrift_sync_dagster.node.scan import Scanner
from ringrift_sync_dagster.node.schema import TABLES
from tests.node.merging import CONFIG, NAME, Shop, first_row, game, record, with_moves


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def bring(shop: Shop, *games: Game, node: str = "vast-1") -> Merged:
    """Play these games on a node of their own and collect them."""
    database = record(shop.folder / f"{node}-{shop.merges}.db", *games)
    return shop.collect(database, node)


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


def test_of_two_revisions_the_one_with_more_moves_stays_and_the_other_is_set_aside(shop: Shop) -> None:
    short = game("g1", length=6, rng_seed=5, created_at="2026-03-01")
    long = game("g1", length=9, rng_seed=5, created_at="2026-03-01")

    bring(shop, short)
    merged = bring(shop, long, node="vast-2")
    late = bring(shop, short, node="vast-3")

    assert (merged.revised, merged.games) == (1, 1)
    assert shop.value("SELECT COUNT(*) FROM game_moves WHERE game_id = 'g1'") == 9
    assert [(aside.game_id, aside.reason) for aside in shop.asides] == [("g1", "revision")] * 2
    assert shop.asides[0].identity == shop.asides[1].identity
    assert late.games == 1


def test_what_is_set_aside_is_a_pack_with_all_rows_of_the_game(shop: Shop, tmp_path: Path) -> None:
    short = game("g1", length=6, rng_seed=5, created_at="2026-03-01")
    bring(shop, short)
    bring(shop, game("g1", length=9, rng_seed=5, created_at="2026-03-01"))

    (tmp_path / "aside").write_bytes(shop.asides[0].pack)
    packfile.inflate(str(tmp_path / "aside"), str(tmp_path / "aside.db"))

    with packfile.open_pack(str(tmp_path / "aside.db")) as conn:
        assert conn.execute("SELECT game_id, identity, moves FROM pack_games").fetchall() == [
            ("g1", shop.asides[0].identity, 6)
        ]
        assert conn.execute("SELECT COUNT(*) FROM game_moves").fetchone() == (6,)


def test_different_games_under_one_id_are_both_kept(shop: Shop) -> None:
    one, other = game("diversity_1", rng_seed=1), game("diversity_1", rng_seed=2)

    bring(shop, one)
    merged = bring(shop, other, node="vast-2")

    first, second = sorted(shop.content().values(), key=lambda found: found.identity)
    assert merged.games == 2
    assert first.game_id == "diversity_1"
    assert second.game_id == f"diversity_1~{second.identity[:12]}"
    assert shop.rows("PRAGMA foreign_key_check") == []


def test_a_renamed_game_is_known_when_it_comes_again(shop: Shop) -> None:
    games = [game("diversity_1", rng_seed=seed) for seed in (1, 2, 3)]
    for number, one in enumerate(games):
        bring(shop, one, node=f"vast-{number}")

    again = [bring(shop, one, node=f"again-{number}") for number, one in enumerate(games)]

    assert [(merged.same, merged.changed) for merged in again] == [(1, False)] * 3
    assert len(shop.content()) == 3


def test_annotations_join_column_by_column_and_the_later_check_wins(shop: Shop) -> None:
    base = game("g1", quality_score=None, parity_status="pending", parity_checked_at=None, metadata_json=None)
    checked = game(
        "g1", quality_score=0.5, parity_status="failed", parity_checked_at="2026-01-01", parity_divergence_move=3
    )
    later = game(
        "g1", quality_score=0.4, parity_status="passed", parity_checked_at="2026-02-01", parity_divergence_move=None
    )

    bring(shop, base)
    first = bring(shop, checked, node="vast-2")
    second = bring(shop, later, node="vast-3")
    third = bring(shop, checked, node="vast-2")

    columns = "quality_score, parity_status, parity_checked_at, parity_divergence_move"
    assert shop.rows(f"SELECT {columns} FROM games") == [(0.5, "passed", "2026-02-01", None)]
    assert (first.annotated, second.annotated, third.annotated) == (1, 1, 0)
    assert not shop.asides


def test_rows_that_only_one_copy_has_are_annotation_and_join(shop: Shop) -> None:
    """Snapshots and choices say nothing about which game it is: two copies with other such rows are one game."""
    rich = game("g1")
    snapshot: Row = {"game_id": "g1", "move_number": 5, "state_json": "{}", "compressed": 0, "state_hash": "x"}
    rich = Game(rich.game_id, rich.config, {**rich.rows, "game_state_snapshots": [snapshot]})
    poor = Game(rich.game_id, rich.config, {**rich.rows, "game_state_snapshots": [], "game_choices": []})

    bring(shop, poor)
    merged = bring(shop, rich, node="vast-2")

    assert (merged.same, merged.annotated, merged.games) == (1, 1, 1)
    assert shop.value("SELECT COUNT(*) FROM game_state_snapshots") == 1
    assert next(iter(shop.content().values())).identity == shop.value("SELECT identity FROM ringrift_provenance")


def test_search_data_that_came_later_joins_the_moves(shop: Shop) -> None:
    bring(shop, with_moves(game("g1"), engine_eval=None, move_probs=None))
    bring(shop, with_moves(game("g1"), engine_eval=0.25, move_probs=None), node="vast-2")
    bring(shop, with_moves(game("g1"), engine_eval=None, move_probs="[1]"), node="vast-3")

    assert set(shop.rows("SELECT engine_eval, move_probs FROM game_moves")) == {(0.25, "[1]")}


# --- hostile or broken packs -----------------------------------------------------------------------------------------


def tampered(shop: Shop, *statements: str, games: int = 2) -> str:
    """A pack whose rows were changed after it was made, sealed again as an artifact of its own."""
    result = shop.pack(record(shop.folder / f"t{shop.merges}.db", *(game(f"g{number}") for number in range(games))))
    database = shop.inflated(result["artifact"])
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as conn:
        for statement in statements:
            conn.execute(statement)
    return packfile.seal(str(database), str(shop.folder / "scratch" / "artifacts")).sha256


@pytest.mark.parametrize(
    "statement, reason",
    [
        ("DELETE FROM game_moves WHERE game_id = 'g0' AND move_number > 3", "short"),
        ("DELETE FROM game_moves WHERE game_id = 'g0' AND move_number = 6", "short"),
        ("UPDATE games SET game_status = 'active' WHERE game_id = 'g0'", "not_finished"),
        ("DELETE FROM games WHERE game_id = 'g0'", "not_finished"),
        ("UPDATE games SET board_type = 'square8' WHERE game_id = 'g0'", "other_config"),
    ],
)
def test_a_bad_game_is_set_aside_and_the_others_enter(shop: Shop, statement: str, reason: str) -> None:
    merged = shop.merge(tampered(shop, statement))

    assert [(aside.game_id, aside.reason) for aside in shop.asides] == [("g0", reason)]
    assert (merged.new, list(shop.content())) == (1, ["g1"])


def test_a_digest_that_lies_is_found_by_the_sample_and_then_no_digest_is_trusted(shop: Shop) -> None:
    swapped = "UPDATE game_moves SET player = 3 - player WHERE game_id IN ('g0', 'g1')"

    merged = shop.merge(tampered(shop, swapped, games=3))

    assert {aside.game_id: aside.reason for aside in shop.asides} == {"g0": "digest_mismatch", "g1": "digest_mismatch"}
    assert (merged.new, list(shop.content())) == (1, ["g2"])


def test_the_digest_of_a_known_id_is_never_trusted(shop: Shop) -> None:
    bring(shop, *(game(f"g{number}") for number in range(2)))
    merged = shop.merge(tampered(shop, "UPDATE games SET winner = 7 WHERE game_id = 'g1'"))

    assert [(aside.game_id, aside.reason) for aside in shop.asides] == [("g1", "digest_mismatch")]
    assert (merged.same, merged.games) == (1, 2)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER evil AFTER INSERT ON games BEGIN SELECT 1; END",
        "CREATE VIEW evil AS SELECT 1",
        "CREATE TABLE evil (x)",
        "CREATE INDEX evil ON games(winner)",
        "DROP TABLE game_choices",
    ],
)
def test_a_pack_with_another_schema_is_refused(shop: Shop, statement: str) -> None:
    artifact = tampered(shop, statement)

    with pytest.raises(KitError, match="not that of a pack"):
        shop.inflated(artifact)


def test_a_pack_is_refused_when_it_inflates_too_far_ends_early_or_goes_on(tmp_path: Path) -> None:
    good = zlib.compress(b"x" * 5_000_000)
    cases = {"bomb": good, "cut": good[:-9], "more": good + b"tail", "none": b"no zlib"}
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)

    for name in cases:
        with pytest.raises(KitError) as caught:
            packfile.inflate(
                str(tmp_path / name), str(tmp_path / "out"), limit_bytes=4_000_000 if name == "bomb" else 10**9
            )
        assert caught.value.code == "corrupt", name
    assert (tmp_path / "out").stat().st_size < 5_100_000


def test_any_size_inflates_to_what_was_compressed(tmp_path: Path) -> None:
    for size in (0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5_000_000):
        data = os.urandom(size // 2) + b"\0" * (size - size // 2)
        (tmp_path / "in").write_bytes(zlib.compress(data))
        assert packfile.inflate(str(tmp_path / "in"), str(tmp_path / "out")) == size
        assert (tmp_path / "out").read_bytes() == data


def test_random_bytes_are_no_pack(tmp_path: Path) -> None:
    for data in (b"", b"x" * 100, b"SQLite format 3\0" + os.urandom(4000)):
        (tmp_path / "pack.db").write_bytes(data)
        with pytest.raises(KitError), packfile.open_pack(str(tmp_path / "pack.db")):
            pass


# --- adopting, marker, crashes ---------------------------------------------------------------------------------------


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


# --- algebra ---------------------------------------------------------------------------------------------------------

_IDS, _SEEDS, _LENGTHS, _VARIANTS = ("a", "b"), (1, 2), (5, 6), (0, 1)
_QUALITY = (None, 0.25, 0.75)


def _variant(game_id: str, seed: int, length: int, variant: int, quality: float | None) -> Game:
    made = game(f"{game_id}{seed}{length}{variant}", game_id=game_id, length=length, rng_seed=seed)
    first_row(made).update(created_at=f"2026-03-0{seed}", winner=variant + 1, quality_score=quality)
    return made


_GAMES = st.builds(
    _variant, st.sampled_from(_IDS), st.sampled_from(_SEEDS), st.sampled_from(_LENGTHS), st.sampled_from(_VARIANTS),
    st.sampled_from(_QUALITY),
)  # fmt: skip
_SOURCES = st.lists(st.lists(_GAMES, min_size=1, max_size=2, unique_by=lambda one: one.game_id), min_size=1, max_size=4)


def _outcome(folder: Path, sources: list[list[Game]], order: tuple[int, ...]) -> tuple[object, object]:
    """Merge the sources in this order; give the canonical content and what was set aside."""
    place = folder / f"order-{'-'.join(map(str, order))}"
    place.mkdir(exist_ok=True)
    shop = Shop(place)
    for number in order:
        database = folder / f"source-{number}.db"
        if not database.exists():
            record(database, *sources[number])
        shop.collect(database, node=f"n{number}")
    content = {found.game_id: (found.identity, found.annotation) for found in shop.content().values()}
    assert shop.value("SELECT COUNT(*) FROM games") == int(
        shop.value("SELECT value FROM ringrift_store WHERE key = 'games'")
    )
    assert shop.rows("PRAGMA foreign_key_check") == []
    return content, {(aside.game_id, aside.identity) for aside in shop.asides}


@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow], derandomize=True, deadline=None)
@given(sources=_SOURCES)
def test_merge_is_commutative_associative_and_idempotent(sources: list[list[Game]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        numbers = tuple(range(len(sources)))
        expected = _outcome(folder, sources, numbers)
        orders = [*itertools.islice(itertools.permutations(numbers), 1, 4), tuple(reversed(numbers)), numbers * 2]
        for order in orders:
            assert _outcome(folder, sources, order) == expected, order


@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow], derandomize=True, deadline=None)
@given(
    mine=st.sets(st.integers(0, 12), max_size=8), theirs=st.sets(st.integers(0, 12), min_size=1, max_size=8),
    limit=st.integers(1, 5),
)  # fmt: skip
def test_pack_then_merge_is_the_set_difference(mine: set[int], theirs: set[int], limit: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        shop = Shop(Path(name))
        if mine:
            shop.collect(record(Path(name) / "mine.db", *(game(f"g{number}") for number in sorted(mine))), "mine")
        database = record(Path(name) / "theirs.db", *(game(f"g{number}") for number in sorted(theirs)))
        new, cursor, more = 0, None, True
        while more:
            result = shop.pack(database, cursor=cursor, max_games=limit)
            cursor, more = result["cursor"], result["more"]
            new += shop.merge(result["artifact"], "theirs", cursor).new

        assert new == len(theirs - mine)
        assert set(shop.content()) == {f"g{number}" for number in mine | theirs}
        assert shop.pack(database, cursor=cursor)["artifact"] is None
