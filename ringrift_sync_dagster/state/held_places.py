"""How far the receipts of each node that keeps packs of others were read, and when; shared by all processes.

It is a hint, kept beside the places of the subscribers: whoever starts from the beginning only asks for more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from ringrift_sync_dagster.state.events import OTHER_IDS
from ringrift_sync_dagster.state.schema import event_cursors
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.upsert import insert_or_update

_PREFIX: Final = f"{OTHER_IDS}held:"


@dataclass(frozen=True, slots=True)
class HeldPlace:
    """How far a node's receipts were read.

    Args:
        holder: The node.
        receipt_id: The last of its receipts that was dealt with, in its own count.
        at: When it was asked, in seconds since 1970.

    """

    holder: str
    receipt_id: int
    at: float


def place_of(store: StateStore, holder: str) -> HeldPlace:
    """Give how far a node's receipts were read; the beginning where nobody asked."""
    query = sa.select(event_cursors.c.event_id, event_cursors.c.at)
    with store.read() as connection:
        row = connection.execute(query.where(event_cursors.c.subscriber == f"{_PREFIX}{holder}")).first()
    return HeldPlace(holder, 0, 0.0) if row is None else HeldPlace(holder, row.event_id, row.at)


def set_place(store: StateStore, place: HeldPlace) -> None:
    """Remember how far a node's receipts were read. Idempotent."""
    row = {"subscriber": f"{_PREFIX}{place.holder}", "event_id": place.receipt_id, "at": place.at}
    with store.begin() as connection:
        insert_or_update(connection, event_cursors, [row], ("subscriber",), ("event_id", "at"))
