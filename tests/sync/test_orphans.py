"""After how long games that are on one node alone count as orphans."""

from __future__ import annotations

from typing import Any

from ringrift_sync_dagster.sync.orphans import Behind, Watch, grace_by_node
from ringrift_sync_dagster.sync.runtime import Runtime
from tests.sync.conftest import Field

SEEN_AT = 1_000.0


def late(grace_of: Any, seconds: float) -> list[str]:  # noqa: ANN401 - what grace_by_node gives
    watch, files = Watch({}, {}), [Behind(node, "x.db", "hex8_2p", "", 3, 100) for node in ("vast-900001", "runpod-a1")]
    assert watch.look(files, SEEN_AT, grace_of) == []
    return [one.node for one in watch.look(files, SEEN_AT + seconds, grace_of)]


def test_games_of_a_persistent_node_are_no_orphans_before_it_was_looked_at_twice(field_: Field) -> None:
    settings = field_.settings.model_copy(update={"ephemeral_max_data_age": 20, "sync_interval": 60})
    with Runtime.open(settings) as runtime:
        short = grace_by_node(runtime)
    with Runtime.open(settings.model_copy(update={"ephemeral_max_data_age": 300})) as runtime:
        usual = grace_by_node(runtime)

    assert (late(short, 19), late(short, 21), late(short, 119)) == ([], ["vast-900001"], ["vast-900001"])
    assert late(short, 121) == ["runpod-a1", "vast-900001"]
    assert (late(usual, 299), late(usual, 301)) == ([], ["runpod-a1", "vast-900001"])
