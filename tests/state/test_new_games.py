"""New games are told from the changes: each once, by whomever they came."""

from __future__ import annotations

from typing import Any

from ringrift_sync_dagster.state.changes import Change, add_changes
from ringrift_sync_dagster.state.events import events_since
from ringrift_sync_dagster.state.new_games import tell_new_games, watch_new_games
from ringrift_sync_dagster.state.store import StateStore

A, B = "vast-900001", "runpod-a1"
CONFIG = "hex8_3p"


def test_new_games_are_told_once_whoever_merged_them_and_old_ones_never(store: StateStore) -> None:
    def merged(number: int, **more: Any) -> Change:  # noqa: ANN401 - fields of a change
        values = {"data_type": "games", "direction": "up", "config": CONFIG, "node": A, "games_new": 2, **more}
        return Change(f"c{number}", 1.0, canonical_games=number, **values)

    add_changes(store, [merged(1)])
    watch_new_games(store)
    assert tell_new_games(store) == 0
    add_changes(store, [merged(2), merged(3, node=B, trigger="push"), merged(4, config="hex8_2p")])
    add_changes(store, [merged(5, source_path="data/games/gauntlet_hex8_3p.db"), merged(6, data_type="elo")])
    watch_new_games(store)
    assert (tell_new_games(store), tell_new_games(store)) == (2, 0)

    payloads = {event.payload["config"]: event.payload for event in events_since(store)}
    assert (payloads["hex8_2p"]["new_games"], payloads["hex8_2p"]["nodes"]) == (2, [A])
    both = payloads[CONFIG]
    assert (both["new_games"], both["total_games"], both["source"], both["node"]) == (4, 3, "push", "")
    assert both["nodes"] == sorted([A, B])
