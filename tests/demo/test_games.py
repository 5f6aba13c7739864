"""Made-up games are the same for the same key, and they fill what upstream's programs fill."""

import random

import pytest

from ringrift_sync_dagster.demo.games import LONGEST, SHORTEST, Game, make_game
from ringrift_sync_dagster.node.patterns import CONFIGS
from ringrift_sync_dagster.node.schema import TABLES


@pytest.fixture(scope="module")
def many() -> list[Game]:
    return [make_game(f"key:{number}", CONFIGS[number % len(CONFIGS)]) for number in range(240)]


def test_the_same_key_gives_the_same_game_whatever_happened_before() -> None:
    first = make_game("7:node:1", "hex8_2p")
    random.seed(1)

    assert make_game("7:node:1", "hex8_2p") == first
    assert make_game("7:node:2", "hex8_2p").fingerprint != first.fingerprint


def test_a_longer_version_begins_with_the_moves_seed_and_time_of_the_shorter_one() -> None:
    short, long = make_game("k", "hex8_2p", length=20), make_game("k", "hex8_2p", length=27)

    assert long.moves[:20] == short.moves
    assert long.game_id == short.game_id
    for column in ("rng_seed", "created_at"):
        assert long.rows["games"][0][column] == short.rows["games"][0][column]
    assert long.fingerprint != short.fingerprint


def test_games_have_20_to_90_moves_and_ids_like_uuid4(many: list[Game]) -> None:
    assert {SHORTEST <= len(game.moves) <= LONGEST for game in many} == {True}
    assert {game.game_id[14] for game in many} == {"4"}
    assert len({game.game_id for game in many}) == len(many)


def test_every_column_of_the_schema_is_filled_by_some_game(many: list[Game]) -> None:
    filled = {
        (table, column)
        for game in many
        for table, rows in game.rows.items()
        for row in rows
        for column in row
        if row[column] is not None
    }
    expected = {(table.name, column.name) for table in TABLES for column in table.columns}
    never = {"parity_divergence_move", "ai_reasoning", "fsm_error_code"}  # NULL in good games upstream, too

    assert {column for _, column in expected - filled} <= never | {"engine_eval", "engine_depth"}
    assert ("game_moves", "engine_eval") in filled


@pytest.mark.parametrize("table", ["games", "game_moves", "game_players", "game_initial_state"])
def test_any_change_of_what_was_played_changes_the_fingerprint(table: str) -> None:
    before = make_game("k", "hex8_2p").fingerprint
    game = make_game("k", "hex8_2p")
    column = {
        "games": "winner",
        "game_moves": "move_json",
        "game_players": "ai_type",
        "game_initial_state": "initial_state_json",
    }
    game.rows[table][-1][column[table]] = "something else"

    assert game.fingerprint != before


def test_what_is_known_about_a_game_is_not_part_of_its_fingerprint() -> None:
    before = make_game("k", "hex8_2p").fingerprint
    game = make_game("k", "hex8_2p")
    game.rows["games"][0]["quality_score"] = 0.0
    game.rows["game_moves"][0]["engine_eval"] = 9.9

    assert game.fingerprint == before
