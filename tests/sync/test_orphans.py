"""Who is behind, and who only looks so."""

from __future__ import annotations

import sqlite3

from ringrift_sync_dagster.sync.collect import Request, move
from ringrift_sync_dagster.sync.orphans import Watch, files_behind
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
            told += watch.look(files_behind(runtime), now, 300.0)
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
