"""Which nodes train now, by the events that said so.

Training began with TRAINING_STARTED, and has ended with the word that it did, with the node that went offline, or after
six hours: an end that nobody told must not count for ever. Source: domain.md, 6.5 ("flags are cleared") and 8.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from ringrift_sync_dagster.core.events import DataEventType
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.schema import events
from ringrift_sync_dagster.state.store import StateStore

LASTS_SECONDS: Final = 6 * 3600.0
_ENDS: Final = (DataEventType.TRAINING_COMPLETED.value, DataEventType.HOST_OFFLINE.value)
_NEWEST: Final = 5_000
"""How many events are looked through, the newest."""


def training_now(store: StateStore) -> frozenset[str]:
    """Give the nodes that train now; their names stand in ``node_id``, ``node`` or ``host`` of the payload."""
    newest = sa.select(events).order_by(events.c.id.desc()).limit(_NEWEST).subquery()
    wanted = (DataEventType.TRAINING_STARTED.value, *_ENDS)
    query = sa.select(newest.c.type, newest.c.payload).where(
        newest.c.type.in_(wanted), newest.c.at > clock.wall() - LASTS_SECONDS
    )
    found: set[str] = set()
    with store.read() as connection:
        for row in connection.execute(query.order_by(newest.c.id)):
            payload = row.payload if isinstance(row.payload, dict) else {}
            node = next((str(payload[key]) for key in ("node_id", "node", "host") if payload.get(key)), "")
            if row.type == DataEventType.TRAINING_STARTED.value:
                found.add(node)
            else:
                found.discard(node)
    return frozenset(found - {""})
