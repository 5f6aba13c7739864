"""What the ledgers say must be where, case by case."""

from dataclasses import replace

import pytest

from ringrift_sync_dagster.demo.expectation import expect
from ringrift_sync_dagster.demo.ledger import Entry, Plan

GAME = Entry(Plan.NORMAL, "n", "p", "hex8_2p", "g", "one", 30, 1, "t", finished=True)
DIGESTS = {"one": "1" * 64, "two": "2" * 64, "three": "3" * 64}


def test_the_same_game_on_two_nodes_is_one_row() -> None:
    assert expect([GAME, replace(GAME, node="m")], DIGESTS).canonical == {("hex8_2p", "g"): "one"}


@pytest.mark.parametrize("order", [1, -1])
def test_the_version_with_more_moves_stays_and_the_other_is_set_aside(order: int) -> None:
    loser = replace(GAME, plan=Plan.REVISION_LOSER)
    games = [loser, replace(GAME, content="two", moves=37)]
    found = expect(games[::order], DIGESTS)

    assert found.canonical == {("hex8_2p", "g"): "two"}
    assert found.quarantine == {("g", "one"): "revision"}
    assert found.unplanned == []


def test_of_two_versions_of_the_same_length_the_lower_digest_stays() -> None:
    found = expect([replace(GAME, content="two"), GAME], DIGESTS)

    assert found.canonical == {("hex8_2p", "g"): "one"}
    assert len(found.unplanned) == 1


def test_different_games_under_one_id_are_all_kept_and_the_lowest_digest_has_the_id() -> None:
    games = [replace(GAME, content=name, seed=seed) for seed, name in enumerate(("three", "one", "two"))]

    assert expect(games, DIGESTS).canonical == {
        ("hex8_2p", "g"): "one",
        ("hex8_2p", "g~222222222222"): "two",
        ("hex8_2p", "g~333333333333"): "three",
    }


def test_a_game_of_three_moves_is_set_aside_as_short() -> None:
    found = expect([replace(GAME, plan=Plan.SHORT, moves=3)], DIGESTS)

    assert (found.canonical, found.quarantine, found.unplanned) == ({}, {("g", "one"): "short"}, [])


def test_the_same_id_in_two_configs_is_two_games() -> None:
    assert len(expect([GAME, replace(GAME, config="hex8_3p")], DIGESTS).canonical) == 2
