"""Tell of new games from the changes that merges wrote, whoever merged: each game once, many merges in one event.

How far the changes are told is kept beside the subscribers' places and written with the event, so that a process that
is killed between its merge and its end leaves the telling to the next one.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

from ringrift_sync_dagster.core.events import DataEventType
from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.node.patterns import classify
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.event_fields import MAX_NAMES
from ringrift_sync_dagster.state.events import OTHER_IDS, publish
from ringrift_sync_dagster.state.schema import changes, event_cursors
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.upsert import insert_new

_PLACE: Final = f"{OTHER_IDS}changes:new-games"


def watch_new_games(store: StateStore) -> None:
    """Begin to count, where nobody has begun: what was merged before is not new. Call it before a merge. Idempotent."""
    with store.read() as connection:
        known = connection.execute(sa.select(event_cursors.c.event_id).where(_mine())).first()
        last = connection.execute(sa.select(sa.func.max(changes.c.id))).scalar() or 0
    if known is None:
        row = {"subscriber": _PLACE, "event_id": last, "at": clock.wall()}
        with store.begin() as connection:
            insert_new(connection, event_cursors, [row], ("subscriber",))


def tell_new_games(store: StateStore) -> int:
    """Publish NEW_GAMES_AVAILABLE for each config with games that nobody was told of; give how many events.

    Raises:
        StateError: The state database cannot be used.

    """
    with store.read() as connection:  # most passes bring nothing, and then nothing is written
        if not _untold(connection, _told(connection)):
            return 0
    with store.begin() as connection:
        if connection.dialect.name == "postgresql":
            # A change that another transaction is writing may have a smaller id than one that is there already.
            connection.execute(sa.text("LOCK TABLE changes IN SHARE MODE"))
        connection.execute(sa.update(event_cursors).where(_mine()).values(at=clock.wall()))
        rows = _untold(connection, _told(connection))
        if not rows:
            return 0
        by_config: dict[str, list[Any]] = {}
        for row in rows:
            by_config.setdefault(row.config, []).append(row)
        for config, of_config in sorted(by_config.items()):
            nodes = sorted({row.node for row in of_config})
            told = {
                "config": config,
                "new_games": sum(row.games_new for row in of_config),
                "total_games": of_config[-1].canonical_games,
                "source": of_config[-1].trigger,
                "node": nodes[0] if len(nodes) == 1 else "",
                "nodes": nodes[:MAX_NAMES],
            }
            publish(connection, DataEventType.NEW_GAMES_AVAILABLE, told)
        connection.execute(sa.update(event_cursors).where(_mine()).values(event_id=rows[-1].id))
        return len(by_config)


def _mine() -> sa.ColumnElement[bool]:
    return event_cursors.c.subscriber == _PLACE


def _told(connection: sa.Connection) -> int | None:
    return connection.execute(sa.select(event_cursors.c.event_id).where(_mine())).scalar()


def _untold(connection: sa.Connection, after: int | None) -> list[Any]:  # rows of SQLAlchemy
    """The changes with new games for training, oldest first; games of tournaments and the like are none."""
    if after is None:
        return []
    columns = (changes.c.id, changes.c.config, changes.c.node, changes.c.games_new, changes.c.canonical_games)
    collected = (changes.c.data_type == DataType.GAMES.value) & (changes.c.direction == "up")
    statement = (
        sa.select(*columns, changes.c.trigger, changes.c.source_path)
        .where((changes.c.id > after) & collected & (changes.c.games_new > 0))
        .order_by(changes.c.id)
    )
    return [row for row in connection.execute(statement).all() if not _is_evaluation(row.source_path)]


def _is_evaluation(path: str) -> bool:
    found = classify(path)
    return found is not None and found.kind == "eval"
