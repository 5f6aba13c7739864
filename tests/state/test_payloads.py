"""A payload is what its type says, or an error that names type and field; its bounds hold."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from ringrift_sync_dagster.core.dialects import WITH_DIALECTS
from ringrift_sync_dagster.core.events import DataEventType as Type
from ringrift_sync_dagster.errors import EventError
from ringrift_sync_dagster.state.event_fields import MAX_NAMES
from ringrift_sync_dagster.state.payloads import PAYLOADS, Detailed, read_payload


def test_every_type_has_a_payload_with_a_version_and_only_types_with_dialects_have_details() -> None:
    assert set(PAYLOADS) == set(Type)
    assert {model.model_fields["version"].default for model in PAYLOADS.values()} == {1}
    assert {kind for kind, model in PAYLOADS.items() if issubclass(model, Detailed)} == WITH_DIALECTS


def test_the_guides_manual_release_is_a_payload() -> None:
    read = read_payload("BACKPRESSURE_RELEASED", {"source": "manual"})
    assert read.model_dump()["source"] == "manual"


@pytest.mark.parametrize(
    "kind, payload, words",
    [
        ("SYNC_STARTED", {}, "event SYNC_STARTED: there is no such type; use one of DATA_SYNC_STARTED, "),
        ("NEW_GAMES_AVAILABLE", {"new_games": 1}, "event NEW_GAMES_AVAILABLE: field config: it is missing"),
        ("NEW_GAMES_AVAILABLE", {"config": "hex9_2p", "new_games": 1}, "field config: 'hex9_2p' is no config; use one"),
        ("NEW_GAMES_AVAILABLE", {"config": "hex8_2p", "new_games": 0}, "field new_games: .* got 0"),
        ("NEW_GAMES_AVAILABLE", {"config": "hex8_2p", "new_games": 1, "x": 2}, "field x: there is no such field"),
        ("SYNC_NODE_UNREACHABLE", {"node": "../x"}, "field node: '../x' cannot name a node"),
        ("MODEL_PROMOTED", {"config": "hex8_2p", "sha256": "abc"}, "field sha256: 'abc' is not a SHA-256"),
        ("MODEL_PROMOTED", {"config": "hex8_2p", "version": 2}, "field version: "),
        ("MODEL_PROMOTED", {"model_id": "x"}, "event MODEL_PROMOTED: field config: it is missing"),
        ("DATA_SYNC_COMPLETED", {"duration_seconds": math.nan}, "field duration_seconds: "),
        ("MODEL_DISTRIBUTION_STARTED", {"target_hosts": ["n"] * (MAX_NAMES + 1)}, "field target_hosts: "),
        ("TRAINING_STARTED", {"x": "y" * 70_000}, "at most 65536 are allowed"),
        ("TRAINING_STARTED", {"x": {1, 2}}, "field details.x"),
        ("TRAINING_STARTED", {"x": [{"y": math.inf}]}, "field details.x.* finite number"),
        ("TRAINING_STARTED", {"x": json.loads("[" * 900 + "]" * 900)}, "field details|nested too deeply"),
        ("BACKPRESSURE_ACTIVATED", {"signals": {"disk": math.inf}}, "field signals.disk: "),
        ("BACKPRESSURE_ACTIVATED", {"signals": [1]}, "field signals: "),
    ],
)
def test_what_does_not_fit_is_named(kind: str, payload: dict[str, Any], words: str) -> None:
    with pytest.raises(EventError, match=words):
        read_payload(kind, payload)


def test_a_config_is_known_under_the_other_names_of_its_board() -> None:
    read = read_payload("NEW_GAMES_AVAILABLE", {"config_key": "sq8_2p", "new_games": 1, "host": "vast-1"})
    told = read.model_dump()
    assert (told["config"], told["node"]) == ("square8_2p", "vast-1")


def test_texts_are_what_every_database_takes() -> None:
    told = read_payload("SYNC_NODE_UNREACHABLE", {"node": "vast-1", "error": "a\0\ud800"}).model_dump()
    assert told["error"] == "a?\\ud800"
    details = read_payload("TRAINING_STARTED", {"x\0": [{"y": "\0"}]}).model_dump()["details"]
    assert details == {"x?": [{"y": "?"}]}
