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
IDENTITY_CHARS: Final = 16
"""So much of an identity digest is told with an id: it tells apart the few games that share one."""


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
        identities: How the identity digest of each of ``ids`` begins, empty where that is not known; none of them where
            the node tells ids only.

    Raises:
        ValueError: The name cannot name a node, a number is below 0, or the identities are not as many as the ids.

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
    identities: Sequence[str] = ()

    def __post_init__(self) -> None:
        checked_node_name(self.node)
        if min(self.games, self.bytes, self.outbox_bytes, self.outbox_packs) < 0 or len(self.ids) > MAX_IDS:
            raise ValueError(f"this is nothing that {self.node} could have at risk")
        if self.identities and len(self.identities) != len(self.ids):
            raise ValueError(f"{self.node} has {len(self.ids)} ids at risk, and {len(self.identities)} identities")

    @property
    def claims(self) -> list[tuple[str, str]]:
        """Each game as its id and how its identity begins."""
        return list(zip(self.ids, self.identities or [""] * len(self.ids), strict=True))

    def age(self, now: float) -> float | None:
        """How old the oldest unsaved game is now, in seconds; it goes on growing while the node is silent."""
        return None if self.oldest_at is None or not self.games else max(0.0, now - self.oldest_at)


def put(store: StateStore, risk: Risk) -> None:
    """Write what a node said, in the place of what it said before. Idempotent.

    Raises:
        StateError: The database cannot be written.

    """
    row = asdict(risk)
    identities = row.pop("identities")
    # One column has both: the ids alone, as always, or each with its identity.
    row["ids"] = [list(one) for one in risk.claims] if identities else list(risk.ids)
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
    if row is None:
        return None
    pairs = [one if isinstance(one, list) else [one, ""] for one in row["ids"]]
    identities = [identity for _, identity in pairs]
    return Risk(**{**row, "ids": [one for one, _ in pairs]}, identities=identities if any(identities) else ())


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
