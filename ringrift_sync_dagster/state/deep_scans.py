"""How far the slow look at each node's databases has come: what finds annotations that came after a game was collected.

One line for each node, database and config. Times are wall-clock seconds, for pacing and display only: a clock that
jumps makes a look earlier or later, never wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from ringrift_sync_dagster.state.schema import deep_scans
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.upsert import insert_or_update

_KEY = ("node", "path", "config")


@dataclass(frozen=True, slots=True)
class DeepScan:
    """One slow look.

    Args:
        node: The node.
        path: The database.
        config: The config.
        after: The cursor of the last page; empty at the beginning.
        worked_seconds: What the node spent on it so far.
        started_at: When it was begun.
        looked_at: When its last page was read.
        finished_at: When it was at the end; None while it goes on.

    """

    node: str
    path: str
    config: str
    after: Mapping[str, Any]
    worked_seconds: float
    started_at: float
    looked_at: float
    finished_at: float | None = None


def deep_scan(store: StateStore, node: str, path: str, config: str) -> DeepScan | None:
    """Give the last or current look; None when there never was one."""
    table = deep_scans.c
    mine = (table.node == node) & (table.path == path) & (table.config == config)
    with store.read() as connection:
        row = connection.execute(sa.select(deep_scans).where(mine)).mappings().first()
    return None if row is None else DeepScan(**row)


def all_deep_scans(store: StateStore, nodes: Collection[str] | None = None) -> list[DeepScan]:
    """Give every look at these nodes (None: at all), in no order."""
    statement = sa.select(deep_scans)
    if nodes is not None:
        statement = statement.where(deep_scans.c.node.in_(nodes))
    with store.read() as connection:
        return [DeepScan(**row) for row in connection.execute(statement).mappings()]


def remember(store: StateStore, scan: DeepScan) -> None:
    """Write how far a look has come. Idempotent."""
    row = {**asdict(scan), "after": dict(scan.after)}
    with store.begin() as connection:
        insert_or_update(connection, deep_scans, [row], _KEY, tuple(name for name in row if name not in _KEY))
