"""Data at risk: what each node said with its last heartbeat is on it alone, by games, bytes, ids and age.

Only clocks of this machine count: a node tells how old its oldest unsaved game is, and when that was follows from when
the heartbeat came. A node whose data is given up as lost (``lost_at``) is told of once; its next heartbeat takes
that back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

import sqlalchemy as sa

from ringrift_sync_dagster.core.model import checked_node_name
from ringrift_sync_dagster.state.schema import risks
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.upsert import insert_or_update

PREDECESSOR: Final = ".before-"
"""Between the name of a node and a mark: what was at risk on it before it came back without its outbox."""
MAX_IDS: Final = 10_000
"""Ids that a node may tell; ``games`` counts those beyond it too."""


@dataclass(frozen=True, slots=True)
class Risk:
    """What a node said last.

    Args:
        node: The node.
        games: Finished games that are on it alone.
        bytes: What they take, as far as the node knows.
        ids: Their ids, at most ``MAX_IDS``.
        oldest_at: When the oldest of them was finished, in seconds since 1970 by our clock; None where there is none.
        outbox_bytes: What waits in its outbox.
        outbox_packs: In how many packs.
        at: When it said so.
        lost_at: When the node was given up with them; None while it is not.

    Raises:
        ValueError: The name cannot name a node, or a number is below 0.

    """

    node: str
    games: int = 0
    bytes: int = 0
    ids: Sequence[str] = ()
    oldest_at: float | None = None
    outbox_bytes: int = 0
    outbox_packs: int = 0
    at: float = 0.0
    lost_at: float | None = None

    def __post_init__(self) -> None:
        checked_node_name(self.node)
        if min(self.games, self.bytes, self.outbox_bytes, self.outbox_packs) < 0 or len(self.ids) > MAX_IDS:
            raise ValueError(f"this is nothing that {self.node} could have at risk")

    def age(self, now: float) -> float | None:
        """How old the oldest unsaved game is now, in seconds; it goes on growing while the node is silent."""
        return None if self.oldest_at is None or not self.games else max(0.0, now - self.oldest_at)


def put(store: StateStore, risk: Risk) -> None:
    """Write what a node said, in the place of what it said before. Idempotent.

    Raises:
        StateError: The database cannot be written.

    """
    row = {**asdict(risk), "ids": list(risk.ids)}
    with store.begin() as connection:
        insert_or_update(connection, risks, [row], ("node",), [name for name in row if name != "node"])


def every(store: StateStore) -> list[Risk]:
    """Give what each node said last, by name, without the ids: they are many, and this is asked every few seconds.

    Raises:
        StateError: The database cannot be read.

    """
    columns = [column for column in risks.c if column.name != "ids"]
    with store.read() as connection:
        return [Risk(**row) for row in connection.execute(sa.select(*columns).order_by(risks.c.node)).mappings()]


def risk_of(store: StateStore, node: str) -> Risk | None:
    """Give what a node said last, with the ids; None where it never said anything.

    Raises:
        StateError: The database cannot be read.

    """
    with store.read() as connection:
        row = connection.execute(sa.select(risks).where(risks.c.node == node)).mappings().first()
    return None if row is None else Risk(**row)


def oldest(store: StateStore) -> Risk | None:
    """Give the risk with the oldest unsaved game of a node that is not given up; None where everything is safe."""
    risky = [one for one in every(store) if one.oldest_at is not None and one.games and one.lost_at is None]
    return min(risky, key=lambda one: one.oldest_at or 0.0, default=None)


def give_up(store: StateStore, risk: Risk, at: float) -> bool:
    """Write that a node is gone with what it had; False where somebody did so, or it spoke meanwhile.

    Raises:
        StateError: The database cannot be written.

    """
    same = (risks.c.node == risk.node) & (risks.c.at == risk.at) & risks.c.lost_at.is_(None)
    with store.begin() as connection:
        return connection.execute(sa.update(risks).where(same).values(lost_at=at)).rowcount == 1
