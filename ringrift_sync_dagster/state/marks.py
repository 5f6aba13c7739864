"""Marks: when which strategy worked, for whom, and who did it; what the rhythm of a loop is judged by.

A row is written when work for a mark begins, and completed when it has ended. Nothing is decided by its times but one
thing: a mark that somebody has begun is not begun again.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from ringrift_sync_dagster.state.schema import marks
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.upsert import insert_row


@dataclass(frozen=True, slots=True)
class Mark:
    """One time that a strategy worked.

    Args:
        strategy: Which one.
        owner: For whose canonical files.
        mark: The multiple of the interval that was meant, in seconds since 1970.
        began_at: When the work began, in seconds since 1970.
        holder: Who did it, such as ``run 1a2b3c4d`` or ``daemon 4711``.
        seconds: How long it took; 0 while it goes on.
        changes: How many partitions changed.

    """

    strategy: str
    owner: str
    mark: float
    began_at: float
    holder: str
    seconds: float = 0.0
    changes: int = 0


def begin(store: StateStore, mark: Mark) -> int:
    """Write that work for a mark begins; give the row's id.

    Raises:
        StateError: The state database cannot be written.

    """
    values = {
        "strategy": mark.strategy, "owner": mark.owner, "mark": mark.mark, "began_at": mark.began_at,
        "holder": mark.holder,
    }  # fmt: skip
    with store.begin() as connection:
        return insert_row(connection, marks, values)


def end(store: StateStore, mark_id: int, *, seconds: float, changes: int) -> None:
    """Write how long the work took and how many partitions it changed."""
    with store.begin() as connection:
        statement = sa.update(marks).where(marks.c.id == mark_id).values(seconds=seconds, changes=changes)
        connection.execute(statement)


def recent(store: StateStore, strategy: str, owner: str, limit: int = 100) -> list[Mark]:
    """Give the last marks of a strategy, oldest first."""
    statement = (
        sa.select(marks)
        .where(marks.c.strategy == strategy, marks.c.owner == owner)
        .order_by(marks.c.id.desc())
        .limit(limit)
    )
    with store.read() as connection:
        rows = connection.execute(statement).all()
    return [
        Mark(row.strategy, row.owner, row.mark, row.began_at, row.holder, row.seconds, row.changes)
        for row in reversed(rows)
    ]


def last(store: StateStore, strategy: str, owner: str) -> Mark | None:
    """Give the last mark of a strategy; None when it never worked."""
    found = recent(store, strategy, owner, 1)
    return found[0] if found else None
