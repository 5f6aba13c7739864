"""Telling the coordinator's agent what would be lost if this node died now, and taking what it knows in return.

The answer names packs that it has meanwhile (a peer forwarded them), the persistent peers to ask while it is away, and
whether this node is to be emptied. Any answer says too that the coordinator is back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from ringrift_sync_dagster.agent.outbox import Outbox
from ringrift_sync_dagster.agent.pushing import Pusher
from ringrift_sync_dagster.agent.through_config import WriteThrough
from ringrift_sync_dagster.agent.ways import Target, Ways
from ringrift_sync_dagster.core.model import SHA256
from ringrift_sync_dagster.errors import RemoteCallError, RungUnusableError, SyncError, UnreachableError
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.clock import Deadline

log = logging.getLogger(__name__)

IDS_TOLD: Final = 10_000
_PACKS_ASKED: Final = 1_000
_ID_CHARS: Final = 200
_SECONDS: Final = 10.0
_LONGEST_PAUSE: Final = 10.0


class Reports:
    """The heartbeats of one agent; used from its event loop.

    Args:
        outbox: What is at risk.
        pusher: Told of peers.
        told: Where to, and how often.
        ways: How to get there.
        left: Called when something turned out to be durable.
        drain: Called when the coordinator wants this node emptied.

    """

    def __init__(
        self,
        outbox: Outbox,
        pusher: Pusher,
        told: WriteThrough,
        ways: Ways,
        left: Callable[[], None],
        drain: Callable[[], None],
    ) -> None:
        self._outbox, self._pusher, self._ways, self._left, self._drain = outbox, pusher, ways, left, drain
        self._coordinator, self._seconds = Target(told.coordinator, _LONGEST_PAUSE), told.heartbeat_seconds

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            try:
                await self._beat()
            except (SyncError, OSError) as error:
                self._coordinator.failed()
                # An agent that takes no reports says so; that it is there is all that counts.
                if isinstance(error, RemoteCallError | RungUnusableError) and not isinstance(error, UnreachableError):
                    self._pusher.coordinator_answers()
                if self._coordinator.failures & (self._coordinator.failures - 1) == 0:
                    log.warning("no heartbeat node=%s cause=%s", self._coordinator.name, error)
            except Exception:  # what is at risk is pushed all the same
                self._coordinator.failed()
                log.exception("no heartbeat node=%s", self._coordinator.name)
            await asyncio.sleep(max(self._seconds, self._coordinator.not_before - clock.monotonic()))

    async def _beat(self) -> None:
        body = await asyncio.to_thread(risk, self._outbox, clock.wall())
        packs = await asyncio.to_thread(self._outbox.entries, _PACKS_ASKED)
        body["packs"] = [entry.sha256 for entry in packs]
        way = self._ways.to(self._coordinator.node)
        answer = await asyncio.to_thread(lambda: way.tell("/v1/heartbeat", body, deadline=Deadline.after(_SECONDS)))
        self._coordinator.answered()
        self._pusher.coordinator_answers()
        await self._take(answer, set(body["packs"]))

    async def _take(self, answer: dict[str, Any], asked: set[str]) -> None:
        """Take in an answer; whatever in it has another shape than agreed is passed over."""
        durable, peers = answer.get("durable"), answer.get("peers")
        if isinstance(durable, list):
            mine = [sha for sha in durable if isinstance(sha, str) and SHA256.fullmatch(sha) and sha in asked]
            gone = await asyncio.to_thread(self._outbox.let_go, mine, clock.wall())
            if gone:
                self._left()
        if isinstance(peers, list):
            await asyncio.to_thread(self._pusher.set_peers, [peer for peer in peers if isinstance(peer, dict)])
        if answer.get("drain") is True:
            self._drain()


def risk(outbox: Outbox, now: float) -> dict[str, Any]:
    """Say what would be lost if this node died now, as heartbeat, status and drain tell it."""
    totals = outbox.totals()
    return {
        "version": 1,
        "games": totals.games,
        "bytes": totals.size_bytes,
        "ids": [game_id for game_id in outbox.ids(IDS_TOLD) if _can_be_told(game_id)],
        "oldest_age_seconds": None if totals.oldest is None else max(0.0, now - totals.oldest),
        "outbox_bytes": totals.size_bytes,
        "outbox_packs": totals.packs,
    }


def _can_be_told(game_id: str) -> bool:
    """Whether an id is one that a receiver stores; one odd id must not cost the whole report."""
    return 0 < len(game_id) <= _ID_CHARS and game_id.isprintable()
