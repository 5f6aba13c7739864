"""Each dialect of an event that upstream has comes out in the one shape that we store."""

from __future__ import annotations

from typing import Any

import pytest

from ringrift_sync_dagster.core.dialects import WITH_DIALECTS, normalised
from ringrift_sync_dagster.core.events import DataEventType as Type

FIELDS = {
    Type.MODEL_PROMOTED: {"config", "model_id", "model_path", "sha256", "elo", "previous_elo", "elo_gain", "details"},
    Type.ORPHAN_GAMES_DETECTED: {"node", "config", "configs", "games", "databases", "bytes", "paths", "details"},
    Type.ORPHAN_GAMES_REGISTERED: {"node", "config", "games", "databases", "paths", "details"},
    Type.BACKPRESSURE_ACTIVATED: {"node", "owner", "pressure", "signals", "source", "reason", "details"},
    Type.BACKPRESSURE_RELEASED: {"node", "pressure", "signals", "source", "paused_seconds", "details"},
}


@pytest.mark.parametrize(
    "kind, written, ours",
    [
        (
            Type.MODEL_PROMOTED,
            {"model_id": "hex8_2p_v7", "config": "hex8_2p", "elo": 1730.5, "elo_gain": 22},
            {"config": "hex8_2p", "model_id": "hex8_2p_v7", "elo": 1730.5, "elo_gain": 22},
        ),
        (
            Type.MODEL_PROMOTED,
            {
                "model_id": "v7",
                "model_path": "models/canonical_square8_3p.pth",
                "board_type": "sq8",
                "num_players": 3,
                "config_key": "square8_3p",
                "promotion_type": "production",
                "win_rate": 0.7,
                "current_elo": 1700,
                "elo_improvement": 25,
                "games_played": 120,
            },
            {
                "config": "square8_3p",
                "model_id": "v7",
                "model_path": "models/canonical_square8_3p.pth",
                "elo": 1700,
                "elo_gain": 25,
                "details": {
                    "board_type": "sq8",
                    "num_players": 3,
                    "promotion_type": "production",
                    "win_rate": 0.7,
                    "games_played": 120,
                },
            },
        ),
        (
            Type.MODEL_PROMOTED,
            {"board_type": "hexagonal", "num_players": 4, "model_id": "v8"},
            {"config": "hexagonal_4p", "model_id": "v8", "details": {"board_type": "hexagonal", "num_players": 4}},
        ),
        (
            Type.MODEL_PROMOTED,
            {
                "config_key": "hex8_2p",
                "model_path": "models/x.pth",
                "previous_elo": 1600,
                "new_elo": 1650,
                "elo_delta": 50,
                "promoted_at": "2026-01-02T03:04:05Z",
                "supersedes": "v6",
            },
            {
                "config": "hex8_2p",
                "model_path": "models/x.pth",
                "previous_elo": 1600,
                "elo": 1650,
                "elo_gain": 50,
                "details": {"promoted_at": "2026-01-02T03:04:05Z", "supersedes": "v6"},
            },
        ),
        (
            Type.ORPHAN_GAMES_DETECTED,
            {
                "orphan_count": 2,
                "total_games": 31,
                "total_bytes": 5000,
                "orphan_paths": ["a.db", "b.db"],
                "board_types": ["hex8"],
                "timestamp": 1.5,
            },
            {
                "databases": 2,
                "games": 31,
                "bytes": 5000,
                "paths": ["a.db", "b.db"],
                "details": {"board_types": ["hex8"], "timestamp": 1.5},
            },
        ),
        (
            Type.ORPHAN_GAMES_DETECTED,
            {"host": "vast-1", "orphan_count": 2, "orphan_paths": ["a.db"], "total_games": 31},
            {"node": "vast-1", "databases": 2, "games": 31, "paths": ["a.db"]},
        ),
        (
            Type.ORPHAN_GAMES_DETECTED,
            {"source_node": "vast-1", "orphan_count": 31, "config_key": "hex8_2p"},
            {"node": "vast-1", "games": 31, "config": "hex8_2p"},
        ),
        (
            Type.ORPHAN_GAMES_REGISTERED,
            {"host": "vast-1", "registered_count": 2, "registered_paths": ["a.db"], "games_recovered": 31},
            {"node": "vast-1", "databases": 2, "paths": ["a.db"], "games": 31},
        ),
        (
            Type.BACKPRESSURE_ACTIVATED,
            {
                "overall_pressure": 0.7,
                "spawn_rate_multiplier": 0.0,
                "queue_pressure": 1.0,
                "disk_pressure": 0.5,
                "details": {"queue_depth": 70},
            },
            {
                "pressure": 0.7,
                "signals": {"queue": 1.0, "disk": 0.5},
                "details": {"spawn_rate_multiplier": 0.0, "queue_depth": 70},
            },
        ),
        (
            Type.BACKPRESSURE_ACTIVATED,
            {"source_node": "vast-1", "queue_depth": 70, "threshold": 50},
            {"node": "vast-1", "details": {"queue_depth": 70, "threshold": 50}},
        ),
        (Type.BACKPRESSURE_ACTIVATED, {"reason": "disk"}, {"reason": "disk"}),
        (
            Type.BACKPRESSURE_RELEASED,
            {"overall_pressure": 0.1, "spawn_rate_multiplier": 1.0, "paused_duration_seconds": 40},
            {"pressure": 0.1, "paused_seconds": 40, "details": {"spawn_rate_multiplier": 1.0}},
        ),
        (Type.BACKPRESSURE_RELEASED, {"source": "manual"}, {"source": "manual"}),
    ],
)
def test_a_dialect_comes_out_in_our_shape_and_stays_so(
    kind: Type, written: dict[str, Any], ours: dict[str, Any]
) -> None:
    read = normalised(kind, written, FIELDS[kind])
    assert read == {"details": {}, **ours}
    assert normalised(kind, read, FIELDS[kind]) == read


@pytest.mark.parametrize("name", ["node", "host", "node_id", "source_node", "target_host"])
def test_a_node_is_found_under_each_of_its_names(name: str) -> None:
    assert normalised(Type.SYNC_STALLED, {name: "vast-1"}, {"node"}) == {"node": "vast-1"}


def test_two_names_with_one_value_are_one_field_and_with_two_values_both_stay() -> None:
    same = normalised(Type.SYNC_STALLED, {"node_id": "vast-1", "host": "vast-1"}, {"node"})
    other = normalised(Type.SYNC_STALLED, {"node_id": "vast-1", "host": "203.0.113.7"}, {"node"})
    assert same == {"node": "vast-1"}
    assert other == {"node": "203.0.113.7", "node_id": "vast-1"}


def test_what_we_do_not_know_stays_where_it_is_in_types_that_are_ours_alone() -> None:
    assert Type.CIRCUIT_OPENED not in WITH_DIALECTS
    assert normalised(Type.CIRCUIT_OPENED, {"node": "vast-1", "x": 1}, {"node"}) == {"node": "vast-1", "x": 1}
    assert normalised(Type.TRAINING_STARTED, {"node_id": "vast-1", "x": 1}, {"node", "details"}) == {
        "node": "vast-1",
        "details": {"x": 1},
    }
