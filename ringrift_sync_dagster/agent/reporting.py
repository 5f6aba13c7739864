"""Telling the coordinator's agent what would be lost if this node died now, and taking what it knows in return.

The answer names packs that it has meanwhile (a peer forwarded them), the persistent peers to ask while it is away, and
whether this node is to be emptied. Any answer says too that the coordinator is back. That this node's outbox or disk is
full is told here as well, and the coordinator makes an event of it: that needs no room on this disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from ringrift_sync_dagster.agent.outbox import Outbox
from ringrift_sync_dagster.agent.pushing import Pusher
from ringrift_sync_dagster.agent.through_config import WriteThrough
from ringrift_sync_dagster.agent.ways import Target, Ways
from ringrift_sync_dagster.core.events import DataEventType
from ringrift_sync_dagster.core.model import SHA256
from ringrift_sync_dagster.errors import LocalDiskError, RemoteCallError, RungUnusableError, SyncError, UnreachableError
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.state.risks import IDENTITY_CHARS
from ringrift_sync_dagster.transports.p2p_http import P2PHttpTransport

log = logging.getLogger(__name__)

IDS_TOLD: Final = 10_000
_ID_BYTES_TOLD: Final = 1_500_000  # in JSON, where a character may take twelve
_PACKS_ASKED: Final = 1_000
_ID_CHARS: Final = 200
_SECONDS: Final = 10.0
_LONGEST_PAUSE: Final = 10.0
_LONGEST_DRAIN: Final = 600.0
_ID_OF_DRAIN: Final = 64


@dataclass(frozen=True, slots=True)
class DrainOrder:
    """A drain that the coordinator wants.

    Args:
        id: Names this wish; another one is another drain.
        seconds: How long this node may push; None: as long as it would by itself.

    """

    id: str
    seconds: float | None

    @classmethod
    def read(cls, answer: Mapping[str, Any]) -> Self | None:
        """Give what the answer to a heartbeat wants; None where it wants no drain."""
        if answer.get("drain") is not True:
            return None
        name, seconds = answer.get("drain_id"), answer.get("drain_seconds")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
            seconds = None
        most = None if seconds is None else min(float(seconds), _LONGEST_DRAIN)
        return cls(name[:_ID_OF_DRAIN] if isinstance(name, str) else "", most)


class Reports:
    """The heartbeats of one agent; used from its event loop.

    Args:
        node_id: This node.
        outbox: What is at risk.
        pusher: Told of peers.
        told: Where to, and how often.
        ways: How to get there.
        left: Called when something turned out to be durable.
        more: Gives what else a heartbeat tells.
        ordered: Called with each answer: the drain that the coordinator wants, or None.

    """

    def __init__(
        self,
        node_id: str,
        outbox: Outbox,
        pusher: Pusher,
        told: WriteThrough,
        ways: Ways,
        left: Callable[[], None],
        more: Callable[[], Mapping[str, Any]],
        ordered: Callable[[DrainOrder | None], None],
    ) -> None:
        self._outbox, self._pusher, self._ways, self._left = outbox, pusher, ways, left
        self._node_id, self._more, self._ordered = node_id, more, ordered
        self._coordinator, self._seconds = Target(told.coordinator, _LONGEST_PAUSE), told.heartbeat_seconds
        self._wake = asyncio.Event()

    def hurry(self) -> None:
        """Report at once: there is news that somebody waits for."""
        self._wake.set()

    async def say_offline(self, pending: int, details: Mapping[str, Any], deadline: Deadline) -> None:
        """Tell all who listen that this node goes, with how many games are not durable; an error is only logged."""
        reason = f"ephemeral_termination:pending_games={pending}"
        payload = {"node": self._node_id, "reason": reason, "details": dict(details)}
        told = {"type": DataEventType.HOST_OFFLINE.value, "payload": payload}
        try:
            way = self._ways.to(self._coordinator.node)
            await asyncio.to_thread(lambda: way.tell("/v1/events", told, deadline=deadline))
        except (SyncError, OSError) as error:
            log.warning("nobody was told that this node goes reason=%s cause=%s", reason, error)
        else:
            log.info("told that this node goes reason=%s", reason)

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            self._wake.clear()
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
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(self._seconds, self._coordinator.not_before - clock.monotonic())):
                    await self._wake.wait()

    async def _beat(self) -> None:
        way = self._ways.to(self._coordinator.node)
        body, answer = await asyncio.to_thread(self._tell, way, self._more())
        self._coordinator.answered()
        self._pusher.coordinator_answers()
        self._ordered(DrainOrder.read(answer))
        await self._take(answer, set(body["packs"]))

    def _tell(self, way: P2PHttpTransport, more: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Tell what is at risk; give what was told and the answer. In one thread: a node that rests pays for each."""
        body = {**risk(self._outbox, clock.wall()), **more, "outbox": self._outbox.identity()}
        body["identities"] = [one[:IDENTITY_CHARS] for one in self._outbox.identities(body["ids"])]
        body["packs"] = [entry.sha256 for entry in self._outbox.entries(_PACKS_ASKED)]
        return body, way.tell("/v1/heartbeat", body, deadline=Deadline.after(_SECONDS))

    async def _take(self, answer: dict[str, Any], asked: set[str]) -> None:
        """Take in an answer; whatever in it has another shape than agreed is passed over."""
        durable, peers = answer.get("durable"), answer.get("peers")
        if isinstance(durable, list):
            mine = [sha for sha in durable if isinstance(sha, str) and SHA256.fullmatch(sha) and sha in asked]
            with contextlib.suppress(LocalDiskError):  # a full disk; the answer to the next report lets them go
                if await asyncio.to_thread(self._outbox.let_go, mine, clock.wall()):
                    self._left()
        if isinstance(peers, list):
            await asyncio.to_thread(self._pusher.set_peers, [peer for peer in peers if isinstance(peer, dict)])


def risk(outbox: Outbox, now: float) -> dict[str, Any]:
    """Say what would be lost if this node died now, as heartbeat, status and drain tell it."""
    totals = outbox.totals()
    return {
        "version": 1,
        "games": totals.games,
        "bytes": totals.size_bytes,
        "ids": _told(outbox.ids(IDS_TOLD)),
        "oldest_age_seconds": None if totals.oldest is None else max(0.0, now - totals.oldest),
        "outbox_bytes": totals.size_bytes,
        "outbox_packs": totals.packs,
    }


def _told(ids: Iterable[str]) -> list[str]:
    """Give the ids that a report has room for: a receiver takes no more than a few megabytes of JSON."""
    found, room = list[str](), _ID_BYTES_TOLD
    for game_id in filter(_can_be_told, ids):
        room -= len(json.dumps(game_id)) + 2
        if room < 0:
            break
        found.append(game_id)
    return found


def _can_be_told(game_id: str) -> bool:
    """Whether an id is one that a receiver stores; one odd id must not cost the whole report."""
    return 0 < len(game_id) <= _ID_CHARS and game_id.isprintable()
