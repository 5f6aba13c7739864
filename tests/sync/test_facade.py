"""The guide's Python calls, over live agents."""

from __future__ import annotations

import asyncio

import pytest

import ringrift_sync_dagster
from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.demo.exports import make_export
from ringrift_sync_dagster.demo.games import make_game
from ringrift_sync_dagster.errors import ConfigError
from ringrift_sync_dagster.state.changes import pending
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.sync.facade import SyncFacade, get_sync_facade
from tests.sync.conftest import Field
from tests.sync.test_collect import A

CONFIG = "hex8_2p"


def test_a_config_is_moved_with_the_types_that_are_asked_for(field_: Field) -> None:
    field_.play(A, "data/games/selfplay.db", make_game("facade", CONFIG), make_game("other", "hex8_3p"))
    make_export(field_.cluster.node_root(A) / f"data/training/{CONFIG}.npz", CONFIG, 4)
    facade = SyncFacade(field_.settings)

    result = asyncio.run(facade.sync_config(CONFIG, data_types=["games", "npz"], nodes=field_.nodes))

    assert result.ok
    assert set(result.reports) == {DataType.GAMES, DataType.NPZ}
    assert result.games_new == 1
    assert result.bytes_moved > 0
    assert (field_.base / f"root/data/training/{CONFIG}.npz").exists()


def test_a_priority_sync_pulls_from_that_node_and_says_why(field_: Field) -> None:
    for node in field_.nodes:
        field_.play(node, "data/games/selfplay.db", make_game(f"priority {node}", CONFIG))
    call = SyncFacade(field_.settings).trigger_priority_sync(
        reason="orphan_games_recovery", source_node=A, config_key=CONFIG
    )

    result = asyncio.run(call)

    assert (result.ok, result.games_new) == (True, 1)
    with StateStore.open(field_.settings.state_url) as state:
        changes = pending(state)
    assert {(change.node, change.trigger) for change in changes} == {(A, "priority:orphan_games_recovery")}


def test_a_node_that_fails_is_in_the_result_and_what_nobody_knows_is_refused(field_: Field) -> None:
    facade = SyncFacade(field_.settings)

    result = asyncio.run(facade.sync_config(CONFIG, ["games"], nodes=["hetzner-v1", A]))

    assert [failure.partition.node for failure in result.failures] == ["hetzner-v1"]
    with pytest.raises(ConfigError, match="nobody"):
        asyncio.run(facade.trigger_priority_sync("x", source_node="nobody"))
    with pytest.raises(ValueError, match="gmaes"):
        asyncio.run(facade.sync_config(CONFIG, ["gmaes"]))


def test_there_is_one_facade_in_a_process() -> None:
    assert get_sync_facade() is get_sync_facade()
    assert ringrift_sync_dagster.get_sync_facade is get_sync_facade
