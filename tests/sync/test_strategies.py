"""Strategies become requests, by evidence that is looked at anew each time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringrift_sync_dagster.core.model import DataType, SyncStrategy
from ringrift_sync_dagster.errors import ConfigError
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.settings.settings import load_settings
from ringrift_sync_dagster.sync.strategies import (
    STRATEGY_NAMES,
    AutoSyncConfig,
    ClusterView,
    TargetChoice,
    requests,
    resolve,
)

VAST = Node("vast-1", "10.0.0.1", "/r", provider="vast", is_ephemeral=True)
POD = Node("runpod-1", "10.0.0.2", "/r", provider="runpod", role="gpu_training")
HUB = Node("hub", "10.0.0.3", "/r", role="coordinator", is_coordinator=True)
VIEW = ClusterView([VAST, POD])


def test_the_numbers_are_the_guides_and_those_of_the_settings(tmp_path: object) -> None:
    default = AutoSyncConfig()
    config = AutoSyncConfig.of("", load_settings(hosts="hosts"))

    assert (default.sync_interval_seconds, default.ephemeral_sync_interval_seconds) == (60, 5)
    assert (default.bandwidth_limit_mbps, default.max_concurrent_syncs) == (50, 5)
    assert (default.ephemeral_max_data_age_seconds, default.ephemeral_priority_boost) == (300, 2.0)
    assert config.strategy is SyncStrategy.HYBRID
    assert load_settings(**config.settings()).sync_interval == config.sync_interval_seconds


@pytest.mark.parametrize(
    "field, value",
    [
        ("strategy", "hybird"),
        ("sync_interval_seconds", 0),
        ("sync_interval_seconds", "60"),
        ("ephemeral_sync_interval_seconds", float("nan")),
        ("min_quality_score", 1.5),
        ("exclude_nfs_hosts", 1),
        ("bandwidth_limit_mbps", -1),
        ("max_concurrent_syncs", 2.5),
        ("max_concurrent_syncs", True),
        ("ephemeral_priority_boost", 0.5),
        ("priority_hosts", "runpod-h100"),
        ("max_targets", 0),
    ],
)
def test_a_field_that_makes_no_sense_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        AutoSyncConfig(**{field: value})  # type: ignore[arg-type]


def test_all_wrong_fields_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        AutoSyncConfig(sync_interval_seconds=-1, max_concurrent_syncs=0)
    assert [problem.key for problem in caught.value.problems] == ["sync_interval_seconds", "max_concurrent_syncs"]


@pytest.mark.parametrize("name", STRATEGY_NAMES)
def test_every_name_of_the_guide_is_a_strategy_or_a_choice_of_targets(name: str) -> None:
    config = AutoSyncConfig.of(name.upper(), load_settings(hosts="hosts"))
    assert name in {config.strategy, config.target_choice}


@pytest.mark.parametrize("wrong", [{"strategy": "push"}, {"strategy": "hybrid", "intervall": 3}])
def test_an_unknown_strategy_or_field_names_what_there_is(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"hybrid|sync_interval_seconds"):
        AutoSyncConfig.of(settings=load_settings(hosts="hosts"), **wrong)  # type: ignore[arg-type]


def test_auto_is_decided_by_what_a_node_is_and_says_by_which_evidence() -> None:
    assert resolve(VAST, DataType.GAMES).strategy is SyncStrategy.EPHEMERAL
    assert "provider vast" in resolve(VAST, DataType.GAMES).why
    assert resolve(replace(VAST, is_ephemeral=False), DataType.GAMES).strategy is SyncStrategy.HYBRID
    assert resolve(replace(POD, is_ephemeral=True), DataType.NPZ).strategy is SyncStrategy.EPHEMERAL
    assert resolve(POD, DataType.GAMES).strategy is SyncStrategy.HYBRID
    assert "gpu_training" in resolve(POD, DataType.GAMES).why
    assert resolve(VAST, DataType.MODELS).strategy is SyncStrategy.BROADCAST
    assert resolve(HUB, DataType.GAMES).strategy is SyncStrategy.PULL
    assert resolve(VAST, DataType.GAMES, SyncStrategy.PULL).why == "pull was chosen"


def of(name: str, view: ClusterView = VIEW, **fields: object) -> list[object]:
    return [
        (one.nodes, one.up, one.down)
        for one in requests(AutoSyncConfig.of(name, load_settings(hosts="hosts"), **fields), view)
    ]


def test_each_strategy_asks_for_what_the_guide_says() -> None:
    (ephemeral,) = requests(AutoSyncConfig(strategy=SyncStrategy.EPHEMERAL), VIEW)

    assert of("hybrid") == [(None, True, True)]
    assert of("auto") == [(None, True, True)]
    assert of("broadcast") == [(["vast-1", "runpod-1"], False, True)]
    assert of("pull") == [(["vast-1", "runpod-1"], True, False)]
    assert (ephemeral.nodes, ephemeral.up, ephemeral.down) == (["vast-1"], True, False)
    assert list(ephemeral.data_types or ()) == [DataType.GAMES, DataType.NPZ]
    assert requests(AutoSyncConfig(strategy=SyncStrategy.EPHEMERAL), ClusterView([POD])) == []


def test_targets_are_chosen_by_name_and_by_score_and_the_only_copy_always_comes() -> None:
    view = ClusterView([VAST, POD], ranked=["runpod-1", "vast-1"], refused={"vast-1": "its score is too low"})

    assert of("priority", priority_hosts=("vast-1",)) == [(["vast-1", "runpod-1"], True, True)]
    assert of("priority", view) == [(["runpod-1", "vast-1"], True, True)]
    assert of("quality", view) == [(["runpod-1", "vast-1"], True, False), (["runpod-1"], False, True)]
    assert of("quality", ClusterView([VAST, POD]), max_targets=1)[1] == (["vast-1"], False, True)
    assert of("broadcast", view) == [(["runpod-1"], False, True)]


@given(st.sampled_from(list(TargetChoice)), st.lists(st.sampled_from(["vast-1", "runpod-1", "ghost"]), max_size=4))
def test_whatever_is_refused_or_preferred_everything_comes_up_from_everybody(
    choice: TargetChoice, names: list[str]
) -> None:
    view = ClusterView([VAST, POD], ranked=names, refused=dict.fromkeys(names, "x"))
    found = requests(AutoSyncConfig(target_choice=choice, priority_hosts=tuple(names)), view)
    asked = [set(one.nodes) if one.nodes is not None else {"vast-1", "runpod-1"} for one in found if one.up]
    assert asked == [{"vast-1", "runpod-1"}]
