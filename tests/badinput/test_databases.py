"""Bad databases on a live node: each is told with its name, damages nothing, and stops no other."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

from ringrift_sync_dagster.demo.schemas import Dialect
from ringrift_sync_dagster.sync.report import CollectReport
from tests.badinput.conftest import CONFIG, A, B, quarantined
from tests.node.kit_samples import Holder
from tests.node.merging import game
from tests.sync.conftest import Field
from tests.sync.test_collect import ids

BAD = "data/games/bad.db"
GAMES = 40


def a_database(field_: Field, name: str = BAD, *, games: int = GAMES) -> Path:
    """A good database without a log beside it, to be damaged."""
    path = field_.play(A, name, *(game(f"bad{n:02d}", config=CONFIG, length=30) for n in range(games)))
    with sql(path) as conn:
        conn.execute("PRAGMA journal_mode=DELETE")
    return path


def sql(path: Path) -> contextlib.closing[sqlite3.Connection]:
    return contextlib.closing(sqlite3.connect(path, isolation_level=None))


def truncate(path: Path) -> None:
    """Leave the half of it."""
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def cut_in_the_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(60)


def flip_in_the_header(path: Path) -> None:
    flip(path, 3)


def flip_in_the_first_page(path: Path) -> None:
    flip(path, *range(100, 140))


def flip_in_the_words_of_the_tables(path: Path) -> None:
    """SQLite's complaint quotes the bytes, which are then no text."""
    flip(path, path.read_bytes().index(b"CREATE TABLE games"))


def flip_in_every_page_of_moves(path: Path) -> None:
    """The counts of the scan do not see it: they read an index of games, the pack reads the moves."""
    with sql(path) as conn:
        size = conn.execute("PRAGMA page_size").fetchone()[0]
        pages = [row[0] for row in conn.execute("SELECT pageno FROM dbstat WHERE name = 'game_moves'")]
    flip(path, *((page - 1) * size + offset for page in pages for offset in range(8)))


def flip(path: Path, *offsets: int) -> None:
    data = bytearray(path.read_bytes())
    for offset in offsets:
        data[offset] ^= 0xFF
    path.write_bytes(data)


def become_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside.txt").write_text("x")


def collect_beside_a_good_one(field_: Field) -> CollectReport:
    """One pass over the bad database, a good one beside it, and a good one of another node."""
    field_.play(A, "data/games/good.db", game("good", config=CONFIG))
    field_.play(B, "data/games/good.db", game("other", config=CONFIG))
    return field_.collect(CONFIG)


DAMAGES = (
    truncate, cut_in_the_header, flip_in_the_header, flip_in_the_first_page, flip_in_the_words_of_the_tables,
    flip_in_every_page_of_moves, become_a_directory,
)  # fmt: skip


def test_damaged_databases_stand_in_the_quarantine_list_and_the_others_arrive(field_: Field) -> None:
    paths = {f"data/games/{damage.__name__}.db": damage for damage in DAMAGES}
    source = a_database(field_)
    for name, damage in paths.items():
        shutil.copy(source, field_.cluster.node_root(A) / name)
        damage(field_.cluster.node_root(A) / name)
    source.unlink()
    before = contents(field_)

    report = collect_beside_a_good_one(field_)
    again = field_.collect(CONFIG)

    entries = {entry.name.partition("@")[0]: entry for entry in quarantined(field_)}
    assert set(entries) == set(paths)
    told = [str(failure) for failure in report.failures] + [f"{note.node} {note.path}" for note in report.notes]
    for name in paths:
        assert (entries[name].node, entries[name].reason in ("corrupt", "not_a_database")) == (A, True)
        assert entries[name].detail.startswith(f"{name} stays on the node")
        assert any(A in words and name in words for words in told)
    assert ids(field_, CONFIG) == ["good", "other"]  # and no game of the sound part of a damaged one is half
    assert {name: contents(field_)[name] for name in before} == before
    assert [outcome.changed for outcome in again.outcomes] == [False, False]


def contents(field_: Field) -> dict[str, bytes]:
    """The node's databases, byte by byte."""
    folder = field_.cluster.node_root(A) / "data" / "games"
    return {path.name: path.read_bytes() for path in folder.glob("*.db") if path.is_file()}


NOT_YET = {
    "empty": "",
    "no tables": "CREATE TABLE something (x)",
    "no moves": "ALTER TABLE game_moves RENAME TO moves_of_old",
    "no games": "ALTER TABLE games RENAME TO games_of_old",
    "games is a view": "ALTER TABLE games RENAME TO g2; CREATE VIEW games AS SELECT * FROM g2",
    "no status": "ALTER TABLE games RENAME COLUMN game_status TO state",
}


def test_databases_without_what_makes_games_are_noted_by_name_and_the_others_arrive(field_: Field) -> None:
    for state, statements in NOT_YET.items():
        name = f"data/games/{state.replace(' ', '_')}.db"
        if state in ("empty", "no tables"):
            path = field_.put(A, name, b"")
        else:
            path = field_.play(A, name, game("x", config=CONFIG), dialect=Dialect.V12)
        with sql(path) as conn:
            conn.executescript(f"PRAGMA legacy_alter_table=ON; {statements}")

    report = collect_beside_a_good_one(field_)

    noted = [(note.node, note.path, note.code) for note in report.notes]
    assert sorted(noted) == sorted(
        (A, f"data/games/{state.replace(' ', '_')}.db", "no_games_table") for state in NOT_YET
    )
    assert report.failures == ()
    assert ids(field_, CONFIG) == ["good", "other"]
    assert quarantined(field_) == []


def test_games_of_a_board_that_nobody_knows_are_noted_and_the_known_ones_arrive(field_: Field) -> None:
    path = field_.play(A, BAD, *(game(f"x{n}", config=CONFIG) for n in range(3)), dialect=Dialect.V12)
    with sql(path) as conn:
        conn.execute("UPDATE games SET board_type = 'hex9' WHERE game_id = 'x0'")
        conn.execute("UPDATE games SET num_players = 7 WHERE game_id = 'x1'")

    report = collect_beside_a_good_one(field_)

    (note,) = report.notes
    assert (note.node, note.path, note.code) == (A, BAD, "unknown_config")
    assert note.message.startswith("2 finished games")
    assert report.failures == ()
    assert ids(field_, CONFIG) == ["good", "other", "x2"]


def downgrade_to_1(path: Path) -> None:
    """Take away every column that later versions added."""
    later = {
        "games": "metadata_json time_increment_ms initial_time_ms time_control_type quality_category quality_score",
        "game_moves": "engine_eval engine_eval_type engine_depth engine_pv engine_nodes engine_time_ms "
        "time_remaining_ms move_probs search_stats_json",
        "game_players": "final_rings_in_hand",
        "game_state_snapshots": "state_hash",
    }
    with sql(path) as conn:
        conn.execute("DROP INDEX idx_games_engine_mode")
        conn.execute("ALTER TABLE games DROP COLUMN engine_mode")
        for table, columns in later.items():
            for column in columns.split():
                conn.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        conn.execute("UPDATE schema_metadata SET value = '1' WHERE key = 'schema_version'")


def upgrade_to_19(path: Path) -> None:
    """Add what a later version may add."""
    with sql(path) as conn:
        conn.execute("ALTER TABLE games ADD COLUMN rematch_of TEXT DEFAULT 'nobody'")
        conn.execute("ALTER TABLE game_moves ADD COLUMN mood TEXT")
        conn.execute("CREATE TABLE game_spectators (game_id TEXT, name TEXT)")
        conn.execute("UPDATE schema_metadata SET value = '19' WHERE key = 'schema_version'")


VERSIONS: tuple[tuple[str, Dialect, Callable[[Path], None] | None], ...] = (
    ("v1", Dialect.V12, downgrade_to_1),
    ("v12", Dialect.V12, None),
    ("v12_move_index", Dialect.V12_MOVE_INDEX, None),
    ("v18", Dialect.V18, None),
    ("v19", Dialect.V18, upgrade_to_19),
)


def test_games_of_every_version_arrive_and_a_newer_one_gives_what_we_know_with_a_warning(field_: Field) -> None:
    for version, dialect, change in VERSIONS:
        path = field_.play(A, f"data/games/{version}.db", game(version, config=CONFIG), dialect=dialect)
        if change:
            change(path)

    report = collect_beside_a_good_one(field_)

    versions = [version for version, _, _ in VERSIONS]
    assert ids(field_, CONFIG) == ["good", "other", *versions]
    assert report.failures == ()
    with sql(field_.canonical(CONFIG)) as conn:
        counts = conn.execute("SELECT COUNT(*) FROM game_moves WHERE move_json <> '' GROUP BY game_id").fetchall()
        names = {row[1] for row in conn.execute("PRAGMA table_info(games)")}
    assert (set(counts), "rematch_of" in names) == ({(6,)}, False)
    warnings = [(note.path, "schema 19 is newer than 18" in note.message) for note in report.notes]
    assert warnings == [("data/games/v19.db", True)]


def test_a_database_that_a_writer_holds_is_noted_and_collected_by_the_next_pass(field_: Field) -> None:
    path = a_database(field_, games=3)

    with Holder(path, "BEGIN EXCLUSIVE"):
        held = collect_beside_a_good_one(field_)
    free = field_.collect(CONFIG)

    assert [(note.node, note.path, note.code) for note in held.notes] == [(A, BAD, "locked")]
    assert held.failures == ()
    assert sum(outcome.games_new for outcome in held.outcomes) == 2
    assert ids(field_, CONFIG) == ["bad00", "bad01", "bad02", "good", "other"]
    assert (free.notes, free.failures, quarantined(field_)) == ((), (), [])


def test_a_database_that_is_locked_between_the_look_and_the_pack_is_noted_too(field_: Field) -> None:
    path = a_database(field_, games=1)
    field_.collect("square8_2p", nodes=(A,))  # a pass that looks at every database, and collects another config

    with Holder(path, "BEGIN EXCLUSIVE"):
        report = field_.collect(CONFIG, nodes=(A,))

    assert [(note.path, note.code) for note in report.notes] == [(BAD, "locked")]
    assert report.failures == ()
    assert field_.one(CONFIG, A).games_new == 1


def test_a_game_whose_id_is_no_text_stays_at_home_and_the_others_arrive(field_: Field) -> None:
    """As the last row of the database, where the cursor ends."""
    path = field_.play(A, BAD, game("x", config=CONFIG), game("y", config=CONFIG), dialect=Dialect.V12)
    with sql(path) as conn:
        for table in ("games", "game_moves", "game_players", "game_initial_state"):
            conn.execute(f"UPDATE {table} SET game_id = CAST(x'ff' AS TEXT) WHERE game_id = 'y'")

    report = collect_beside_a_good_one(field_)
    field_.play(A, BAD, game("z", config=CONFIG))
    field_.collect(CONFIG)

    assert [("not valid UTF-8" in note.message, note.path) for note in report.notes] == [(True, BAD)]
    assert ids(field_, CONFIG) == ["good", "other", "x", "z"]


def test_a_directory_of_bad_files_costs_the_pass_nothing_but_its_notes(field_: Field) -> None:
    for number in range(30):
        field_.put(A, f"data/games/noise{number:02d}.db", bytes(range(256)) * (number + 1))
    shutil.copytree(field_.cluster.node_root(A) / "data" / "games", field_.cluster.node_root(A) / "data/selfplay/copy")

    report = collect_beside_a_good_one(field_)

    assert len(quarantined(field_)) == 60
    assert len(report.notes) == 60
    assert ids(field_, CONFIG) == ["good", "other"]
