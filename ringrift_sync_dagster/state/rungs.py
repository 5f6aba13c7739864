"""The transport that worked last for a node: the ladder tries it first for 15 minutes, then begins at the top again.

Source: architecture.md, 1 rule 6 (every exclusion expires: what was passed over gets its chance again).
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from ringrift_sync_dagster.state import ticks
from ringrift_sync_dagster.state.schema import rungs
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.upsert import insert_or_update

REMEMBERED_SECONDS: Final = 900.0


def remember(store: StateStore, node: str, transport: str, seconds: float = REMEMBERED_SECONDS) -> None:
    """Remember that the transport just worked for the node.

    While it is remembered already nothing is written, and its time is not prolonged: a rung further down the ladder
    that goes on working would otherwise be first for ever.

    Args:
        store: The shared database.
        node: The node.
        transport: The transport, such as ``rsync``.
        seconds: For how long.

    """
    if remembered(store, node) == transport:
        return
    with store.begin() as connection:
        moment = ticks.moment(connection)
        row = {"node": node, "transport": transport, "until": moment.seconds + seconds, "epoch": moment.epoch}
        insert_or_update(connection, rungs, [row], ("node",), ("transport", "until", "epoch"))


def remembered(store: StateStore, node: str) -> str:
    """Give the transport that worked last for the node; empty when that was too long ago, or before a restart."""
    with store.read() as connection:
        row = connection.execute(sa.select(rungs).where(rungs.c.node == node)).first()
        return row.transport if row is not None and ticks.moment(connection).left(row.until, row.epoch) > 0 else ""
