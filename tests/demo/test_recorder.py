"""The writer's databases are those of upstream: two histories and an old dialect, with the triggers of version 18."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from ringrift_sync_dagster.demo.content import fingerprint, read_games
from ringrift_sync_dagster.demo.games import Game, make_game
from ringrift_sync_dagster.demo.recorder import Recorder
from ringrift_sync_dagster.demo.schemas import Dialect
from ringrift_sync_dagster.node.schema import GAMES, MOVES

GAME = make_game("k", "hex8_2p", length=30)


def columns(path: Path, table: str) -> list[str]:
    with closing(sqlite3.connect(path)) as conn:
        return [row[1] for row in conn.execute(f"PRAGMA table_info({table})")]


def record(recorder: Recorder, game: Game) -> None:
    recorder.begin(game)
    for first in range(0, len(game.moves), 7):
        recorder.play(game, first, 7)
    recorder.finish(game)


@pytest.mark.parametrize("dialect", list(Dialect))
def test_a_game_reads_back_as_it_was_played_from_every_history(tmp_path: Path, dialect: Dialect) -> None:
    with Recorder(tmp_path / "games.db", dialect) as recorder:
        record(recorder, GAME)

    with closing(sqlite3.connect(tmp_path / "games.db")) as conn:
        [(game_id, rows)] = read_games(conn)
        integrity = conn.execute("PRAGMA integrity_check").fetchone()[0]
        mode, strangers = (
            conn.execute("PRAGMA journal_mode").fetchone()[0],
            conn.execute("PRAGMA foreign_key_check").fetchall(),
        )

    assert (game_id, fingerprint(rows)) == (GAME.game_id, GAME.fingerprint)
    assert (integrity, mode, strangers) == ("ok", "wal", [])


@pytest.mark.parametrize("dialect", list(Dialect))
def test_a_game_is_active_until_its_last_update(tmp_path: Path, dialect: Dialect) -> None:
    with (
        Recorder(tmp_path / "games.db", dialect) as recorder,
        closing(sqlite3.connect(tmp_path / "games.db")) as reader,
    ):
        recorder.begin(GAME)
        recorder.play(GAME, 0, 10)
        during = reader.execute("SELECT game_status, total_moves, winner, completed_at FROM games").fetchone()
        recorder.play(GAME, 10, 20)
        recorder.finish(GAME)
        after = reader.execute("SELECT game_status, total_moves FROM games").fetchone()

    assert during == ("active", 0, None, None)
    assert after == ("completed", 30)


def test_a_migrated_database_has_fewer_columns_in_another_order(tmp_path: Path) -> None:
    for dialect in Dialect:
        Recorder(tmp_path / f"{dialect.value}.db", dialect).__exit__(None, None, None)
    fresh, old = columns(tmp_path / "v18.db", "games"), columns(tmp_path / "v12.db", "games")

    assert fresh == GAMES.names()
    assert set(old) < set(fresh)
    assert old != [name for name in fresh if name in old]
    assert "heuristic_features" in set(MOVES.names()) - set(columns(tmp_path / "v12.db", "game_moves"))
    assert "move_index" in columns(tmp_path / "v12_move_index.db", "game_moves")


def test_the_triggers_of_version_18_refuse_a_short_game_and_a_migrated_database_takes_it(tmp_path: Path) -> None:
    short = make_game("k", "hex8_2p", length=3)
    with (
        Recorder(tmp_path / "v18.db", Dialect.V18) as recorder,
        pytest.raises(sqlite3.IntegrityError, match="at least 5"),
    ):
        record(recorder, short)
    with Recorder(tmp_path / "v12.db", Dialect.V12) as recorder:
        record(recorder, short)


def test_a_bulk_of_games_is_the_same_as_games_one_by_one(tmp_path: Path) -> None:
    games = [make_game(f"k{number}", "hex8_4p") for number in range(5)]
    with Recorder(tmp_path / "games.db", Dialect.V18) as recorder:
        recorder.record_all(games)

    with closing(sqlite3.connect(tmp_path / "games.db")) as conn:
        found = {game_id: fingerprint(rows) for game_id, rows in read_games(conn)}
    assert found == {game.game_id: game.fingerprint for game in games}
