"""The flow table says what the architecture's table says."""

import pytest

from ringrift_sync_dagster.core.flow import FLOWS, Audience, Carrier, Placing, strategy_for
from ringrift_sync_dagster.core.model import DataType, SyncStrategy


def test_every_data_type_has_a_line() -> None:
    assert list(FLOWS) == list(DataType)


@pytest.mark.parametrize(
    "data_type, ephemeral, persistent",
    [
        ("games", "ephemeral", "hybrid"),
        ("npz", "ephemeral", "hybrid"),
        ("models", "broadcast", "broadcast"),
        ("elo", "hybrid", "hybrid"),
        ("registry", "hybrid", "hybrid"),
    ],
)
def test_auto_is_what_the_table_says_for_the_kind_of_node(data_type: str, ephemeral: str, persistent: str) -> None:
    assert strategy_for(DataType(data_type), ephemeral=True) == ephemeral
    assert strategy_for(DataType(data_type), ephemeral=False) == persistent


def test_a_chosen_strategy_wins_over_the_table() -> None:
    assert strategy_for(DataType.GAMES, ephemeral=True, chosen=SyncStrategy.PULL) is SyncStrategy.PULL


def test_games_travel_as_packs_and_are_united_by_row() -> None:
    games = FLOWS[DataType.GAMES]
    assert (games.up, games.audience, games.placing) == (
        Carrier.GAME_PACK,
        Audience.TRAINING_THAT_ASKS,
        Placing.GAME_UNION,
    )
