"""The rating formula against one written anew from its text, and the ranks of every form of result."""

from __future__ import annotations

import pytest

from ringrift_sync_dagster.demo.ratings import make_matches, ratings_by_hand
from ringrift_sync_dagster.node import elo


def test_a_first_win_between_two_new_models_moves_each_by_twenty() -> None:
    standings = elo.computed([elo.Match(1.0, "g:1", ("a", "b"), (0.0, 1.0))], {})

    assert standings == {
        "a": elo.Standing(1520.0, 1, 1, 0, 0, 1.0),
        "b": elo.Standing(1480.0, 1, 0, 1, 0, 1.0),
    }


@pytest.mark.parametrize("rating, games, k", [(1500, 29, 40), (1500, 30, 32), (2399.9, 30, 32), (2400, 30, 16)])
def test_k_is_40_for_30_games_then_32_and_16_from_2400_on(rating: float, games: int, k: float) -> None:
    assert elo.k_factor(elo.Standing(rating, games)) == k


@pytest.mark.parametrize("config", ["hex8_2p", "square8_3p", "hexagonal_4p"])
def test_ratings_are_those_of_the_formula_whatever_the_number_of_players(config: str) -> None:
    matches = make_matches("formula", config, 400)

    standings = elo.computed(
        [elo.Match(m.timestamp, f"g:{m.game_id}", m.participants, tuple(map(float, m.ranks))) for m in matches], {}
    )

    expected = ratings_by_hand(matches)
    assert {name: one.games for name, one in standings.items()} == {name: one[1] for name, one in expected.items()}
    for name, standing in standings.items():
        assert standing.rating == pytest.approx(expected[name][0], abs=1e-9)
        assert standing.games == standing.wins + standing.losses + standing.draws


@pytest.mark.parametrize(
    "rankings, winner, ranks",
    [
        ([1, 2, 3], None, (1, 2, 3)),
        (["c", "a", "b"], None, (1, 2, 0)),
        ({"a": 3, "b": 1, "c": 1}, None, (3, 1, 1)),
        (None, "b", (1, 0, 1)),
        (None, None, (0, 0, 0)),
        (None, "draw", (0, 0, 0)),
    ],
)
def test_ranks_are_read_in_every_form(rankings: object, winner: object, ranks: tuple[float, ...]) -> None:
    assert elo.ranks_of(["a", "b", "c"], rankings, winner) == ranks


@pytest.mark.parametrize(
    "rankings, winner",
    [
        ([1, 2], None),
        (["a", "b", "x"], None),
        ({"a": 1}, None),
        (None, "x"),
        ([1, None, 2], None),
        ([True, 1, 2], None),
    ],
)
def test_a_result_that_makes_no_sense_is_none(rankings: object, winner: object) -> None:
    with pytest.raises(ValueError, match=r"rank|winner|participants"):
        elo.ranks_of(["a", "b", "c"], rankings, winner)
