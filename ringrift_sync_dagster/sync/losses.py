"""What is on a node alone, and what went with a node: the numbers, the rule, and the report.

A node is gone with what it had when the inventory calls it inactive (or does not have it any more), or when it sent no
heartbeat for ``GONE_SECONDS`` and does not answer either. What is known to be lost are the games of its last heartbeat
that did not arrive since, in the canonical or the evaluation store or in quarantine; what comes later is found again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ringrift_sync_dagster.core.events import DataEventType
from ringrift_sync_dagster.node.patterns import CONFIGS
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.inventory import Inventory
from ringrift_sync_dagster.state.event_fields import MAX_NAMES
from ringrift_sync_dagster.state.events import publish
from ringrift_sync_dagster.state.node_reports import unread_for
from ringrift_sync_dagster.state.nodes import DOWN, node_rows
from ringrift_sync_dagster.state.risks import PREDECESSOR, Risk, every, give_up, risk_of
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.storage.canonical import CanonicalStore
from ringrift_sync_dagster.storage.layout import Layout
from ringrift_sync_dagster.storage.quarantine import Quarantine
from ringrift_sync_dagster.sync.orphans import Behind, Orphans
from ringrift_sync_dagster.sync.runtime import Runtime

GONE_SECONDS: Final = 600.0
"""So long without a heartbeat and without an answer: two times the oldest age that data may have."""
_SPEAKS_SECONDS: Final = 60.0
"""A heartbeat so young says that the node is there, whatever the inventory says."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What is known to be lost with a node.

    Args:
        risk: What it said last.
        ids: The games of its last heartbeat that did not arrive; at most as many as it named.
        reason: Why it counts as gone.

    """

    risk: Risk
    ids: tuple[str, ...]
    reason: str = ""

    @property
    def games(self) -> int:
        """How many games: those by name, and those beyond the bound of the heartbeat that nobody can name."""
        return len(self.ids) + max(0, self.risk.games - len(self.risk.ids))

    def payload(self) -> dict[str, Any]:
        """Give it as the payload of GAMES_LOST."""
        told = self.risk
        return {
            "node": told.node, "games": self.games, "bytes": told.bytes if self.games else 0,
            "ids": [one for one in self.ids if len(one) <= _ID_CHARS][:MAX_NAMES], "last_heartbeat_at": told.at,
            "oldest_at": told.oldest_at, "reason": self.reason,
        }  # fmt: skip


_ID_CHARS: Final = 200


def find_losses(runtime: Runtime) -> list[Loss]:
    """Give up what went with nodes that are gone now, publish GAMES_LOST for each, once; give what is new.

    Raises:
        StateError: The state database cannot be used.
        CanonicalStoreError: A merged database cannot be read: nothing is called lost before it can.

    """
    found = []
    for name, reason in _gone(runtime.state, runtime.inventory, clock.wall()):
        risk = risk_of(runtime.state, name)
        if risk is None:
            continue
        loss = Loss(risk, lost_ids(runtime.layout, risk), reason)
        if give_up(runtime.state, risk, clock.wall()):
            if loss.games:
                publish(runtime.state, DataEventType.GAMES_LOST, loss.payload())
            found.append(loss)
    return found


def known_losses(state: StateStore, layout: Layout) -> list[Loss]:
    """Give what is lost as of now: what arrived after it was given up is not.

    Raises:
        SyncError: A database cannot be read.

    """
    names = [risk.node for risk in every(state) if risk.lost_at is not None]
    given_up = [risk for name in names if (risk := risk_of(state, name)) is not None]
    return [loss for loss in (Loss(risk, lost_ids(layout, risk)) for risk in given_up) if loss.games]


def lost_ids(layout: Layout, risk: Risk) -> tuple[str, ...]:
    """Give the games of a heartbeat that the owner does not have, nowhere, by their ids.

    Where the heartbeat told identities, a game of another node with the same id does not hide one that is lost.
    """
    left = risk.claims
    for store in (CanonicalStore(layout), CanonicalStore(layout, evaluation=True)):
        for config in CONFIGS:
            left = _without(left, store.known(config, [game_id for game_id, _ in left])) if left else []
    if left and layout.quarantine.is_dir():
        aside: dict[str, list[str]] = {}
        for entry in Quarantine(layout.quarantine).entries():
            game_id, _, identity = entry.name.rpartition("~")
            aside.setdefault(game_id, []).append(identity)
        left = _without(left, aside)
    return tuple(game_id for game_id, _ in left)


def _without(claims: list[tuple[str, str]], found: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """Give the games that are not among those found; one without identity is there when any has its id."""
    return [
        (game_id, begins) for game_id, begins in claims
        if not any(identity.startswith(begins) for identity in found.get(game_id, ()))
    ]  # fmt: skip


def too_old(runtime: Runtime, now: float, most_seconds: float) -> list[Orphans]:
    """Give the nodes by whose own word a game has been on them alone for too long, or a database unread for so long."""
    alive = [risk for risk in every(runtime.state) if risk.lost_at is None and _is_collected(runtime, risk.node)]
    unread = unread_for(runtime.state, most_seconds, now)
    found = list[Orphans]()
    for risk in alive:
        since = unread[risk.node].unread_since if risk.node in unread else None
        age = max(risk.age(now) or 0.0, 0.0 if since is None else now - since)
        if age > most_seconds:
            found.append(Orphans(risk.node, (Behind(risk.node, "", "", "heartbeat", risk.games, risk.bytes),), age))
    return found


def speaking(state: StateStore) -> set[str]:
    """Name the nodes that sent heartbeats and were not given up."""
    return {risk.node for risk in every(state) if risk.lost_at is None}


def _is_collected(runtime: Runtime, name: str) -> bool:
    node = runtime.inventory.nodes.get(name)
    return node is not None and node.collectable


def _gone(state: StateStore, inventory: Inventory, now: float) -> Iterator[tuple[str, str]]:
    risks = [risk for risk in every(state) if risk.lost_at is None and risk.games]
    down = {row.name for row in node_rows(state) if row.status == DOWN} if risks else set()
    for risk in risks:
        silent = max(0.0, now - risk.at)
        node = inventory.nodes.get(risk.node)
        if (node is None or not node.active) and silent > _SPEAKS_SECONDS:
            yield risk.node, _why(risk.node) if node is None else f"its status is {node.status}"
        elif silent > GONE_SECONDS and risk.node in down:
            yield risk.node, f"no heartbeat for {silent:.0f} s, and it does not answer"


def _why(name: str) -> str:
    before = name.partition(PREDECESSOR)
    return f"{before[0]} came back without what it had" if before[1] else "it left the inventory"
