"""Nodes that are left out as targets for a while, because asking them failed again and again; each exclusion expires.

Failures in a row are counted with the node; the third excludes it for a minute, the next one after that for twice as
long, and none for more than ten minutes. What fails while it is excluded is not counted, so that many passes a minute
are no worse than one. A success ends it and forgets the count. Nobody is excluded for good, and nobody as a source:
every pass asks for what a node alone holds. Source: domain.md, 10 (47).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from ringrift_sync_dagster.core.model import checked_node_name
from ringrift_sync_dagster.errors import storable
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state import ticks
from ringrift_sync_dagster.state.schema import exclusions, nodes
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.upsert import insert_or_update

FAILURES: Final = 3
FIRST_SECONDS: Final = 60.0
LONGEST_SECONDS: Final = 600.0
_COUNT: Final = "surveys_failed"
"""In ``extra`` of the node's row: surveys that failed in a row."""
_REASON_CHARS: Final = 1000


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A node that is left out now.

    Args:
        node: The node.
        reason: What failed.
        seconds_left: How long it still is; above 0.
        at: When that began, in seconds since 1970.

    """

    node: str
    reason: str
    seconds_left: float
    at: float


def exclude(store: StateStore, node: str, reason: str, seconds: float) -> None:
    """Leave a node out as a target from now on, for at most 600 s; an earlier exclusion of it is replaced.

    Raises:
        ValueError: The name cannot name a node, or the time is not above 0.

    """
    with store.begin() as connection:
        _exclude(connection, node, reason, seconds)


def current(store: StateStore) -> dict[str, Exclusion]:
    """Give the nodes that are excluded now."""
    with store.read() as connection:
        return _current(connection)


def lift(store: StateStore, node: str) -> bool:
    """End a node's exclusion and forget its failures; give whether it was excluded. Idempotent."""
    was_excluded = node in current(store)
    with store.begin() as connection:
        _forget(connection, [node])
    return was_excluded


def surveyed(store: StateStore, *, answered: Collection[str], failed: Mapping[str, str]) -> list[str]:
    """Count what a pass met: nodes that answered start anew, those that failed come nearer to an exclusion.

    Without failures, now or before, this is one read.

    Args:
        store: The shared database.
        answered: Nodes that told what they have.
        failed: Nodes that could not be asked, and why.

    Returns:
        The nodes that are excluded by this, from now on.

    """
    names = sorted({*answered, *failed})
    with store.read() as connection:
        counts = _counts(connection, names)
        excluded = set(connection.execute(sa.select(exclusions.c.node)).scalars())
    if not failed and not (counts.keys() | excluded) & set(answered):
        return []
    with store.begin() as connection:
        counts, now = _counts(connection, names), _current(connection)
        _forget(connection, [node for node in answered if node in counts or node in excluded])
        again = {node: why for node, why in failed.items() if node not in now}
        return [node for node, why in again.items() if _failed(connection, node, why, counts.get(node, 0) + 1)]


def exclusion_seconds(failures: int) -> float:
    """Give for how long so many failures in a row exclude a node; 0 for fewer than three."""
    if failures < FAILURES:
        return 0.0
    return min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(failures - FAILURES, 10))


def _current(connection: sa.Connection) -> dict[str, Exclusion]:
    moment = ticks.moment(connection)
    rows = connection.execute(sa.select(exclusions)).all()
    found = [Exclusion(row.node, row.reason, moment.left(row.until, row.epoch), row.at) for row in rows]
    return {one.node: one for one in found if one.seconds_left > 0}


def _failed(connection: sa.Connection, node: str, why: str, count: int) -> bool:
    _count(connection, node, count)
    seconds = exclusion_seconds(count)
    if seconds:
        _exclude(connection, node, f"{count} passes in a row could not ask it, the last: {why}", seconds)
    return seconds > 0


def _exclude(connection: sa.Connection, node: str, reason: str, seconds: float) -> None:
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{node} is excluded for a time above 0 that ends, not for {seconds!r} s")
    moment = ticks.moment(connection)
    row = {
        "node": checked_node_name(node), "reason": storable(reason, _REASON_CHARS),
        "until": moment.seconds + min(seconds, LONGEST_SECONDS), "epoch": moment.epoch, "at": clock.wall(),
    }  # fmt: skip
    insert_or_update(connection, exclusions, [row], ("node",), ("reason", "until", "epoch", "at"))


def _forget(connection: sa.Connection, names: Collection[str]) -> None:
    for node in names:
        connection.execute(sa.delete(exclusions).where(exclusions.c.node == node))
        _count(connection, node, 0)


def _count(connection: sa.Connection, node: str, count: int) -> None:
    extra = connection.execute(sa.select(nodes.c.extra).where(nodes.c.name == node)).scalar_one_or_none()
    if extra is None or extra.get(_COUNT, 0) == count:
        return
    values: dict[str, Any] = {key: value for key, value in extra.items() if key != _COUNT}
    if count:
        values[_COUNT] = count
    connection.execute(sa.update(nodes).where(nodes.c.name == node).values(extra=values))


def _counts(connection: sa.Connection, names: Collection[str]) -> dict[str, int]:
    rows = connection.execute(sa.select(nodes.c.name, nodes.c.extra).where(nodes.c.name.in_(names)))
    return {row.name: int(row.extra[_COUNT]) for row in rows if row.extra.get(_COUNT)}
