"""Who is behind, and who only looks so."""

from __future__ import annotations

import sqlite3
from typing import Any

from ringrift_sync_dagster.sync.collect import Request, move
from ringrift_sync_dagster.sync.orphans import Behind, Watch, files_behind, grace_by_node
from ringrift_sync_dagster.sync.runtime import Runtime
from tests.node.merging import game
from tests.sync.conftest import Field

CONFIG = "hex8_2p"


def test_a_database_that_is_written_all_the_time_is_behind_and_no_orphan(field_: Field) -> None:
    """A config of which nothing comes any more lies beside one that is written at this moment."""
    node = field_.nodes[0]
    database = field_.play(node, "data/games/x.db", game("a", config=CONFIG))
    watch, told, now = Watch({}, {}), [], 1000.0
    with Runtime.open(field_.settings) as runtime:
        for number in range(4):
            with sqlite3.connect(database) as connection:  # another state of the file, and no other game
                connection.execute("CREATE TABLE IF NOT EXISTS noise (x)")
                connection.execute("INSERT INTO noise VALUES (?)", (number,))
            connection.close()
            move(runtime, Request(nodes=[node], trigger="schedule", down=False))
            told += watch.look(files_behind(runtime), now, lambda _: 300.0)
            now += 200.0

    assert told == []


def test_games_that_lack_moves_are_no_orphans(field_: Field) -> None:
    node = field_.nodes[0]
    database = field_.play(node, "data/games/x.db", game("a", config=CONFIG), game("b", config=CONFIG, length=9))
    with sqlite3.connect(database) as connection:
        connection.execute("DELETE FROM game_moves WHERE game_id = 'b' AND move_number > 6")
    connection.close()
    with Runtime.open(field_.settings) as runtime:
        for _ in range(2):
            move(runtime, Request(nodes=[node], trigger="schedule", down=False))
        behind = files_behind(runtime)
        assert [file.path for file in behind if not file.read] == []


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
