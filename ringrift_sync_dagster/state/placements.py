"""What each node was brought last: one line for each node, data type and config; a hint, and proof for the catalogue.

``content`` names it by a digest (a published file), or by the state of a merged database that the node was brought up
to. It decides whether a node need be asked at all; the node's own answer always wins.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import sqlalchemy as sa

from ringrift_sync_dagster.core.model import checked_node_name
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.changes import Change, insert_changes
from ringrift_sync_dagster.state.receipts import ArtifactRow, Receipt, insert_receipt
from ringrift_sync_dagster.state.schema import placements
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.upsert import insert_or_update

_KEY = ("node", "data_type", "config")


@dataclass(frozen=True, slots=True)
class Placement:
    """What a node has of one data type and config, as far as it was brought by us.

    Args:
        node: The node.
        data_type: One of the five data types.
        config: The config; empty where the data belongs to none.
        content: The digest of a file, or the state of a database; compared for equality only.
        serial: The published version's serial; 0 where there is none.
        detail: Further facts, such as the node's change token afterwards; JSON values.
        at: When it was brought, in seconds since 1970; 0: now.

    Raises:
        ValueError: The name cannot name a node.

    """

    node: str
    data_type: str
    config: str
    content: str
    serial: int = 0
    detail: Mapping[str, Any] = field(default_factory=dict)
    at: float = 0.0

    def __post_init__(self) -> None:
        checked_node_name(self.node)


def placed(
    store: StateStore,
    placement: Placement,
    *,
    receipt: Receipt | None = None,
    artifact: ArtifactRow | None = None,
    change: Change | None = None,
) -> None:
    """Record what a node has now, with its receipt and its change, in one transaction; durable on return."""
    row = {**asdict(placement), "detail": dict(placement.detail), "at": placement.at or clock.wall()}
    with store.begin() as connection:
        if receipt is not None:
            insert_receipt(connection, receipt, artifact)
        if change is not None:
            insert_changes(connection, [change])
        insert_or_update(connection, placements, [row], _KEY, ("content", "serial", "detail", "at"))


def placement_of(store: StateStore, node: str, data_type: str, config: str) -> Placement | None:
    """Give what the node was brought last; None when it never was."""
    mine = (placements.c.node == node) & (placements.c.data_type == data_type) & (placements.c.config == config)
    found = _placements(store, sa.select(placements).where(mine))
    return found[0] if found else None


def all_placements(store: StateStore, nodes: Collection[str] | None = None) -> list[Placement]:
    """Give every line of these nodes (None: of all), by node, data type and config."""
    statement = sa.select(placements).order_by(*(placements.c[name] for name in _KEY))
    return _placements(store, statement if nodes is None else statement.where(placements.c.node.in_(nodes)))


def _placements(store: StateStore, statement: sa.Select[Any]) -> list[Placement]:
    with store.read() as connection:
        return [Placement(**row) for row in connection.execute(statement).mappings()]


def brought_at(store: StateStore, config: str = "") -> dict[tuple[str, str], float]:
    """Give when each node was brought each data type last (of one config, if it is given), in seconds since 1970."""
    last = sa.select(placements.c.node, placements.c.data_type, sa.func.max(placements.c.at).label("at"))
    last = last.where(placements.c.config == config) if config else last
    with store.read() as connection:
        rows = connection.execute(last.group_by(placements.c.node, placements.c.data_type)).all()
    return {(row.node, row.data_type): row.at for row in rows}
