"""Passes tell what they did and nothing else; a cluster in which nothing happens tells nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.demo.exports import write_model
from ringrift_sync_dagster.state.changes import Change, add_changes
from ringrift_sync_dagster.state.events import events_since, last_id
from ringrift_sync_dagster.state.new_games import tell_new_games, watch_new_games
from ringrift_sync_dagster.state.nodes import failed, seen
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.sync.collect import Request, move
from ringrift_sync_dagster.sync.runtime import Runtime
from tests.node.merging import game
from tests.sync.conftest import Field

A, B, SILENT = "vast-900001", "runpod-a1", "hetzner-v1"
CONFIG = "hex8_3p"

Told = list[tuple[str, dict[str, Any]]]


def told_by(field_: Field, request: Request, **more: Any) -> Told:  # noqa: ANN401 - what move takes
    """Do a pass and give what it told, by type; breakers are no matter of a pass."""
    with Runtime.open(field_.settings) as runtime:
        before = last_id(runtime.state)
        move(runtime, request, **more)
        events = events_since(runtime.state, before)
    return [(event.type, dict(event.payload)) for event in events if not event.type.startswith("CIRCUIT")]


def games(trigger: str, *nodes: str) -> Request:
    return Request([DataType.GAMES], [CONFIG], nodes, trigger, down=False)


def test_a_pass_tells_what_it_moved_and_which_node_failed(field_: Field) -> None:
    field_.play(A, "data/games/selfplay.db", *(game(f"a{n}", config=CONFIG) for n in range(3)))
    told = dict(told_by(field_, games("cli", A, SILENT)))

    assert [*told] == [
        "DATA_SYNC_STARTED", "SYNC_NODE_UNREACHABLE", "DATA_SYNC_COMPLETED", "DATA_SYNC_FAILED", "NEW_GAMES_AVAILABLE",
    ]  # fmt: skip
    assert told["DATA_SYNC_STARTED"] == {
        "version": 1,
        "publisher": "",
        "trigger": "cli",
        "data_types": ["games"],
        "configs": 1,
        "nodes": 2,
    }
    done = told["DATA_SYNC_COMPLETED"]
    assert (done["games_synced"], done["partitions"], done["changed_partitions"]) == (3, 1, 1)
    assert (done["changed"], done["failed_nodes"], done["trigger"]) == ([f"games {CONFIG}|{A}"], 1, "cli")
    assert done["by_type"]["games"]["bytes_transferred"] == done["bytes_transferred"] > 0
    assert done["duration_seconds"] > 0
    why = told["DATA_SYNC_FAILED"]
    assert (why["node"], why["config"], why["data_type"], why["partitions"]) == (SILENT, CONFIG, "games", 1)
    assert why["error"]
    assert SILENT in why["message"]
    new = told["NEW_GAMES_AVAILABLE"]
    assert (new["config"], new["new_games"], new["total_games"], new["node"]) == (CONFIG, 3, 3, A)
    assert new["source"] == "cli"


def test_a_background_pass_in_which_nothing_changed_tells_nothing_and_repeats_no_failure(field_: Field) -> None:
    field_.play(A, "data/games/selfplay.db", game("a1", config=CONFIG))
    first = told_by(field_, games("schedule", A, SILENT))
    quiet = told_by(field_, games("schedule", A, SILENT))
    looks = told_by(field_, games("dagster", A), settled=True)
    asked = told_by(field_, games("api", A))

    assert [kind for kind, _ in first] == [
        "SYNC_NODE_UNREACHABLE", "DATA_SYNC_STARTED", "DATA_SYNC_COMPLETED", "DATA_SYNC_FAILED", "NEW_GAMES_AVAILABLE",
    ]  # fmt: skip
    assert quiet == looks == []
    assert [kind for kind, _ in asked] == ["DATA_SYNC_STARTED", "DATA_SYNC_COMPLETED"]
    assert (asked[1][1]["partitions"], asked[1][1]["changed_partitions"], asked[1][1]["games_synced"]) == (1, 0, 0)


def test_a_pass_in_which_every_node_failed_has_completed_nothing(field_: Field) -> None:
    kinds = [kind for kind, _ in told_by(field_, games("cli", SILENT))]
    again = [kind for kind, _ in told_by(field_, games("cli", SILENT))]
    assert kinds == ["DATA_SYNC_STARTED", "SYNC_NODE_UNREACHABLE", "DATA_SYNC_FAILED"]
    assert again == ["DATA_SYNC_STARTED", "DATA_SYNC_FAILED"]


def test_a_broadcast_tells_which_nodes_have_the_model_and_which_have_not(field_: Field, tmp_path: Path) -> None:
    model = write_model(tmp_path / "best.pth", "best")
    with Runtime.open(field_.settings) as runtime:
        now = runtime.files.publisher.promote(CONFIG, model, trigger="test")
        runtime.files.publisher.promote(CONFIG, model, trigger="test")
        (promoted,) = events_since(runtime.state)
    request = Request([DataType.MODELS], [CONFIG], [A, B, SILENT], "sensor", up=False)
    told, again = told_by(field_, request), told_by(field_, request)

    assert promoted.type == "MODEL_PROMOTED"
    assert promoted.payload["model_path"] == f"models/versions/canonical_{CONFIG}.{now.sha256[:12]}.pth"
    assert (promoted.payload["sha256"], promoted.payload["serial"], promoted.payload["source"]) == (
        now.sha256, 1, "test",
    )  # fmt: skip
    (started,) = (payload for kind, payload in told if kind == "MODEL_DISTRIBUTION_STARTED")
    (complete,) = (payload for kind, payload in told if kind == "MODEL_DISTRIBUTION_COMPLETE")
    (failure,) = (payload for kind, payload in told if kind == "MODEL_DISTRIBUTION_FAILED")
    assert (started["total_models"], started["configs"]) == (1, [CONFIG])
    assert (complete["hosts"], complete["configs"], complete["total_models"]) == (sorted([A, B]), [CONFIG], 1)
    assert complete["bytes_transferred"] >= model.stat().st_size
    assert failure["hosts"] == [SILENT]
    assert {kind for kind, _ in again} == {"MODEL_DISTRIBUTION_FAILED"}


@pytest.fixture
def state(tmp_path: Path) -> StateStore:
    return StateStore.open(f"sqlite:///{tmp_path}/other.db")


def test_a_node_that_goes_or_comes_is_told_once(state: StateStore) -> None:
    seen(state, "vast-1", at=100.0)
    failed(state, "vast-1", "no answer", at=200.0)
    failed(state, "vast-1", "still none", at=300.0)
    seen(state, "vast-1", at=400.0, transport="rsync")
    seen(state, "vast-1", at=500.0)

    (gone, back) = events_since(state)
    assert (gone.type, gone.payload["error"], gone.payload["last_seen_at"]) == (
        "SYNC_NODE_UNREACHABLE", "no answer", 100.0,
    )  # fmt: skip
    assert (back.type, back.payload["transport"], back.payload["down_since"]) == ("NODE_RECOVERED", "rsync", 300.0)
    state.close()


def test_new_games_are_told_once_whoever_merged_them_and_old_ones_never(state: StateStore) -> None:
    def merged(number: int, **more: Any) -> Change:  # noqa: ANN401 - fields of a change
        values = {"data_type": "games", "direction": "up", "config": CONFIG, "node": A, "games_new": 2, **more}
        return Change(f"c{number}", 1.0, canonical_games=number, **values)

    add_changes(state, [merged(1)])
    watch_new_games(state)
    assert tell_new_games(state) == 0
    add_changes(state, [merged(2), merged(3, node=B, trigger="push"), merged(4, config="hex8_2p")])
    add_changes(state, [merged(5, source_path="data/games/gauntlet_hex8_3p.db"), merged(6, data_type="elo")])
    watch_new_games(state)
    assert (tell_new_games(state), tell_new_games(state)) == (2, 0)

    payloads = {event.payload["config"]: event.payload for event in events_since(state)}
    assert (payloads["hex8_2p"]["new_games"], payloads["hex8_2p"]["nodes"]) == (2, [A])
    both = payloads[CONFIG]
    assert (both["new_games"], both["total_games"], both["source"], both["node"]) == (4, 3, "push", "")
    assert both["nodes"] == sorted([A, B])
    state.close()
