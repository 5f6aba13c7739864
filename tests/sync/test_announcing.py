"""Passes tell what they did and nothing else; a cluster in which nothing happens tells nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.demo.exports import write_model
from ringrift_sync_dagster.state.events import events_since, last_id
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
