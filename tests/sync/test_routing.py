"""Targets and sources of real passes: in the order of what was measured, with the reasons of those left out."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ringrift_sync_dagster.core.breaker import CircuitBreakerConfig
from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.core.room import Disk
from ringrift_sync_dagster.demo.games import make_game
from ringrift_sync_dagster.errors import ConfigError
from ringrift_sync_dagster.settings.settings import load_settings
from ringrift_sync_dagster.state import breakers, exclusions, measures, nodes, placements
from ringrift_sync_dagster.state.events import publish
from ringrift_sync_dagster.state.placements import Placement, placed
from ringrift_sync_dagster.sync import process_runtime
from ringrift_sync_dagster.sync.mover import Order
from ringrift_sync_dagster.sync.node_facts import load_facts
from ringrift_sync_dagster.sync.passes import Pass
from ringrift_sync_dagster.sync.router import Route, SyncRouter
from ringrift_sync_dagster.sync.runtime import Runtime
from ringrift_sync_dagster.sync.strategies import AutoSyncConfig, requests
from ringrift_sync_dagster.sync.view import cluster_view
from tests.sync.conftest import Field

HOSTS = """
sync_routing: {priority_hosts: [train-c], excluded_hosts: [train-x], max_disk_usage_percent: 70}
hosts:
  hub-1: {ssh_host: 127.77.0.1, ringrift_path: /h, role: coordinator}
  hub-2: {ssh_host: 127.77.0.2, ringrift_path: /h, role: coordinator}
  train-a: {ssh_host: 127.77.0.3, ringrift_path: /h, role: gpu_training_primary}
  train-b: {ssh_host: 127.77.0.4, ringrift_path: /h, role: gpu_training_primary}
  train-c: {ssh_host: 127.77.0.5, ringrift_path: /h, role: gpu_training_primary}
  train-x: {ssh_host: 127.77.0.6, ringrift_path: /h, role: gpu_training_primary}
  train-off: {ssh_host: 127.77.0.7, ringrift_path: /h, role: gpu_training_primary, status: offline}
  vast-t: {ssh_host: 127.77.0.8, ringrift_path: /h, training_enabled: true}
  play-a: {ssh_host: 127.77.0.9, ringrift_path: /h, role: gpu_selfplay}
  no-more: {ssh_host: 127.77.0.10, ringrift_path: /h, training_enabled: true, skip_sync_receive: true}
"""


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    """A cluster of which nobody was asked yet."""
    (tmp_path / "hosts.yaml").write_text(HOSTS)
    settings = load_settings(
        home=tmp_path, hosts=tmp_path / "hosts.yaml", root=tmp_path / "root",
        state_url=f"sqlite:///{tmp_path}/state.db",
    )  # fmt: skip
    with Runtime.open(settings) as opened:
        yield opened


def names(routes: list[Route]) -> list[str]:
    return [str(route) for route in routes]


def left_out(runtime: Runtime, data_type: str = "npz") -> dict[str, list[str]]:
    judged = SyncRouter(runtime).judge_targets(data_type)
    return {one.node: [refusal.rule for refusal in one.refusals] for one in judged if one.refusals}


def test_targets_are_those_that_may_receive_in_the_order_of_their_scores(runtime: Runtime) -> None:
    router = SyncRouter(runtime)
    assert names(router.get_sync_targets()) == ["train-c", "train-a", "train-b", "vast-t"]
    assert names(router.get_sync_targets("npz", "square19_4p", 2)) == ["train-c", "train-a"]
    assert names(router.get_sync_targets("models")) == ["train-c", "play-a", "train-a", "train-b", "vast-t"]
    assert left_out(runtime) == {
        "hub-1": ["owner"], "hub-2": ["coordinator", "flow"], "train-x": ["excluded_hosts"], "train-off": ["status"],
        "play-a": ["flow"], "no-more": ["skip_sync_receive"],
    }  # fmt: skip
    assert "hub-2" in names(router.get_sync_targets("elo", exclude_coordinators=False))


def test_hosts_that_are_named_come_first_and_the_class_itself_may_be_asked(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = ["vast-t", "train-b", "train-off"]
    found = SyncRouter(runtime).get_sync_targets(priority_hosts=named)
    assert names(found) == ["train-b", "vast-t", "train-c", "train-a"]
    monkeypatch.setattr(process_runtime, "_opened", lambda: runtime)
    assert names(SyncRouter.get_sync_targets(priority_hosts=named)) == names(found)
    assert SyncRouter.get_sync_sources("games", "hub-1", max_sources=1)


def test_what_was_measured_changes_the_order(runtime: Runtime) -> None:
    state = runtime.state
    publish(state, "TRAINING_STARTED", {"node_id": "vast-t"})
    measures.record_round_trips(state, {"train-c": 5.0, "train-b": 0.001})
    measures.record_disk(state, "train-a", Disk(10, 90))
    placed(state, Placement("train-b", "npz", "hex8_2p", "x"))
    first, *others = SyncRouter(runtime).get_sync_targets("npz")
    assert first.node == "vast-t"
    assert names(others) == ["train-c", "train-a", "train-b"]
    assert {part.name: part.value for part in first.parts} == {
        "base": 50, "training_active": 50, "training_node": 30, "staleness": 30, "ephemeral": -15,
    }  # fmt: skip
    assert first.score == 145
    assert any("trains now" in reason for reason in first.reasons)
    assert repr(first).startswith("<vast-t 145.0: base +50.0, training_active +50.0")


def test_full_disks_open_breakers_and_exclusions_keep_a_node_out_and_end(runtime: Runtime) -> None:
    state = runtime.state
    measures.record_disk(state, "train-a", Disk(80 << 30, 20 << 30))
    for rung in ("p2p_http", "rsync", "base64"):
        breakers.failed(state, "train-b", rung, CircuitBreakerConfig(failure_threshold=1), "it broke")
    exclusions.exclude(state, "vast-t", "it was silent", 60)
    assert {"train-a": ["disk"], "train-b": ["breaker"], "vast-t": ["excluded"]}.items() <= left_out(runtime).items()
    assert names(SyncRouter(runtime).get_sync_targets("npz")) == ["train-c"]
    measures.record_disk(state, "train-a", Disk(10 << 30, 90 << 30))
    breakers.reset(state, "train-b")
    exclusions.lift(state, "vast-t")
    assert len(SyncRouter(runtime).get_sync_targets("npz")) == 4


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"data_type": "game"}, "did you mean games"),
        ({"config_key": "hex9_2p"}, "no config"),
        ({"max_targets": 0}, "below 1"),
        ({"priority_hosts": ["train-aa"]}, "no host has the name train-aa; did you mean train-a"),
        ({"priority_hosts": "train-a"}, r"write it as \['train-a'\]"),
        ({"min_quality_score": 1.5}, "from 0 to 1"),
    ],
)
def test_bad_arguments_are_named(runtime: Runtime, arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SyncRouter(runtime).get_sync_targets(**arguments)  # type: ignore[arg-type]


def test_sources_of_an_unknown_node_or_type_are_refused(runtime: Runtime) -> None:
    router = SyncRouter(runtime)
    with pytest.raises(ConfigError, match="hub-3"):
        router.get_sync_sources("games", "hub-3")
    with pytest.raises(ConfigError, match="no data type"):
        router.get_sync_sources("pth", "hub-1")
    with pytest.raises(ConfigError, match="below 1"):
        router.get_sync_sources("games", "hub-1", 0)


def test_only_the_owner_serves_what_was_merged(runtime: Runtime) -> None:
    assert SyncRouter(runtime).get_sync_sources("games", "train-a") == []


def test_the_only_copy_is_always_a_source_and_the_worst_quality_does_not_hide_it(field_: Field) -> None:
    bad, good = field_.nodes
    played = field_.play(good, "data/games/hex8.db", make_game("g0", "hex8_2p"))
    os.utime(played, (played.stat().st_atime, played.stat().st_mtime - 60))  # at rest, so that one look is enough
    field_.collect("hex8_2p")
    field_.play(bad, "data/games/hex8.db", make_game("g1", "hex8_2p"))
    with Runtime.open(field_.settings) as runtime:
        state = runtime.state
        # The node told of its new games, and then never answered again.
        entry = {
            "path": "data/games/hex8.db", "data_type": "games", "kind": "selfplay", "collectable": True, "bytes": 1,
            "mtime_ns": 1, "token": "t", "games": {"hex8_2p": 1},
        }  # fmt: skip
        nodes.apply_manifest(state, bad, {"token": "m", "full": True, "entries": [entry]}, since="", at=time.time())
        for rung in ("p2p_http", "rsync", "base64"):
            breakers.failed(state, bad, rung, CircuitBreakerConfig(failure_threshold=1), "it broke")
        for _ in range(9):
            nodes.failed(state, bad, "no answer", at=1.0)
            exclusions.surveyed(state, answered=[], failed={bad: "no answer"})
        (first,) = SyncRouter(runtime).get_sync_sources("games", "hub-1", max_sources=1)
        assert (first.node, first.parts[0].name) == (bad, "only_copy")
        assert [refusal.rule for refusal in first.refusals] == ["breaker"]
        assert good in names(SyncRouter(runtime).get_sync_sources("games", "hub-1"))
        known = SyncRouter(runtime).judge_source("games", runtime.inventory.nodes[good])
        assert "only_copy" not in {part.name for part in known.parts}


def test_a_pass_measures_and_a_node_that_is_silent_in_three_of_them_is_excluded_as_a_target(field_: Field) -> None:
    live = field_.nodes[0]
    field_.play(live, "data/games/hex8.db", make_game("g1", "hex8_2p"))
    for _ in range(3):
        field_.collect("hex8_2p", nodes=(live, "nebius-t1"))
    with Runtime.open(field_.settings) as runtime:
        known = measures.all_measures(runtime.state)
        assert known[live].rtt_seconds is not None
        assert known[live].success == 1.0
        assert set(exclusions.current(runtime.state)) == {"nebius-t1"}
        facts = load_facts(runtime, runtime.inventory.nodes.values())
        assert facts["nebius-t1"].answered is False
        sources = SyncRouter(runtime).get_sync_sources("games", runtime.intake.owner)
        assert "nebius-t1" in names(sources) or facts["nebius-t1"].circuit.value == "open"


def test_a_pass_brings_data_down_to_those_that_need_it_most_first(runtime: Runtime) -> None:
    publish(runtime.state, "TRAINING_STARTED", {"node_id": "train-a"})
    order = Order(("hex8_2p",), runtime.nodes(), "test", to=frozenset({"play-a"}))
    with ThreadPoolExecutor(1) as pool:
        chosen = Pass(runtime, {}, order, pool, pool)._routing.in_turn(DataType.NPZ)
        as_given = Pass(runtime, {}, replace(order, in_order=True), pool, pool)._routing.in_turn(DataType.NPZ)
    assert [node.name for node in chosen][:3] == ["play-a", "train-a", "train-c"]
    assert len(chosen) == len(order.nodes)
    assert as_given == order.nodes


@pytest.mark.parametrize(
    "changed, to, brought",
    [
        ({}, [], ["train-b"]),
        ({"exclude_nfs_hosts": False}, [], ["train-a", "train-b"]),
        ({}, ["train-a"], ["train-a", "train-b"]),
        ({"min_quality_score": 0.5, "exclude_nfs_hosts": False}, [], ["train-a"]),
        ({"min_quality_score": 0.5, "exclude_nfs_hosts": False}, ["train-b"], ["train-a", "train-b"]),
    ],
)
def test_a_pass_skips_the_owners_disk_and_bad_connections_unless_a_person_named_the_node(
    runtime: Runtime, changed: dict[str, Any], to: list[str], brought: list[str]
) -> None:
    measures.record_storage(runtime.state, {"hub-1": "disk-1", "train-a": "disk-1", "train-b": "disk-2"})
    measures.record_round_trips(runtime.state, {"train-b": 30.0})
    runtime = replace(runtime, settings=runtime.settings.model_copy(update=changed))
    order = Order(("hex8_2p",), runtime.nodes(["train-a", "train-b"]), "test", to=frozenset(to))
    with ThreadPoolExecutor(1) as pool:
        one = Pass(runtime, {}, order, pool, pool)
        assert [node.name for node in order.nodes if one._routing.brings(node, DataType.NPZ)] == brought


def test_a_strategy_that_chooses_sees_the_best_first_and_who_is_refused(runtime: Runtime) -> None:
    measures.record_round_trips(runtime.state, {"train-c": 30.0})
    exclusions.exclude(runtime.state, "train-b", "it was silent", 60)
    plain = cluster_view(runtime, AutoSyncConfig.of("hybrid", runtime.settings))
    assert (plain.ranked, plain.refused) == ((), {})
    view = cluster_view(runtime, AutoSyncConfig.of("quality", runtime.settings, exclude_coordinators=False))
    assert view.ranked[-1] == "train-c"
    assert set(view.refused) == {"train-x", "train-b", "no-more"}
    assert "it was silent" in view.refused["train-b"]
    first = cluster_view(runtime, AutoSyncConfig.of("priority", runtime.settings, priority_hosts=["play-a"])).ranked[0]
    assert first == "play-a"
    (request,) = requests(AutoSyncConfig.of("broadcast", runtime.settings), view)
    assert "train-b" not in (request.nodes or ())


def test_facts_of_many_nodes_cost_as_many_queries_as_those_of_one(runtime: Runtime) -> None:
    asked: list[str] = []
    sa.event.listen(runtime.state.engine, "before_cursor_execute", lambda *words: asked.append(words[2]))
    every = list(runtime.inventory.nodes.values())
    counts = []
    for some in (every[:1], every):
        asked.clear()
        load_facts(runtime, some)
        counts.append(len(asked))
    assert counts[0] == counts[1]
    assert placements.brought_at(runtime.state) == {}
    assert set(DataType) == {one.data_type for kind in DataType for one in SyncRouter(runtime).judge_targets(kind)}
