"""Pushing the outbox: outbound only, resumable, to the coordinator, and while that is away to two persistent peers.

What nobody else has goes first, then the oldest. A pack leaves the outbox when the receipt that names it says that its
holder stays (``durable``): that of the coordinator, or those of ``min_durable_copies`` peers. An ephemeral node's word,
an answer about another pack, or none at all, changes nothing but the time of the next try. Pauses grow with each
failure and are remembered in this process only, so that a restart begins with a push of everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from ringrift_sync_dagster.agent.in_thread import in_thread
from ringrift_sync_dagster.agent.outbox import Outbox
from ringrift_sync_dagster.agent.outbox_entries import Entry
from ringrift_sync_dagster.agent.pulls import source_node
from ringrift_sync_dagster.agent.through_config import WriteThrough
from ringrift_sync_dagster.agent.ways import Target, Ways, pause_seconds
from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.errors import (
    AuthenticationError,
    ChecksumError,
    LocalDiskError,
    NextStep,
    RemoteCallError,
    SyncError,
)
from ringrift_sync_dagster.node.faults import reached
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.storage.files import sha256_file

log = logging.getLogger(__name__)

PEERS: Final = 2
"""So many peers get a pack while the coordinator is away; more where more copies are asked for."""
PEERS_NOTE: Final = "peers"
_LONGEST_PAUSE: Final = 30.0
_COORDINATOR_PAUSE: Final = 5.0  # one node asks one other: cheap, and games are safe soon after it is back
_PUSH_SECONDS: Final = 20.0
_SLOWEST: Final = 250_000.0  # bytes per second; what did not arrive in time goes on where it ended
_IDLE_SECONDS: Final = 5.0
_LEAST_WAIT: Final = 0.02
_MOST_PEERS: Final = 64


class Pusher:
    """Empties the outbox of one agent; used from its event loop.

    Args:
        outbox: What to push.
        node_id: This node.
        told: Where to.
        ways: How to get there.
        left: Called when something became durable.
        failed: Called when a push made nothing durable.

    """

    def __init__(
        self,
        outbox: Outbox,
        node_id: str,
        told: WriteThrough,
        ways: Ways,
        left: Callable[[], None],
        failed: Callable[[], None],
    ) -> None:
        self._outbox, self._node_id, self._ways, self._left = outbox, node_id, ways, left
        self._failed, self._wanted = failed, max(PEERS, told.min_durable_copies)
        self._coordinator = Target(told.coordinator, _COORDINATOR_PAUSE)
        self._peers: list[Target] = []
        self._wake = asyncio.Event()
        self._pauses: dict[str, tuple[int, float]] = {}  # pack -> failures in a row, when it may be tried again
        self._take_peers(told.peers)
        with contextlib.suppress(ValueError):
            self.set_peers(json.loads(outbox.note(PEERS_NOTE) or "[]"), remember=False)
        self.last_error = ""
        """What went wrong last; empty while the coordinator takes packs."""

    def wake(self) -> None:
        """There is something new to push."""
        self._wake.set()

    def hurry(self) -> None:
        """Forget all pauses: the node ends soon, or somebody who was away is back."""
        self._pauses.clear()
        for target in (self._coordinator, *self._peers):
            target.not_before = 0.0
        self.wake()

    def coordinator_answers(self) -> None:
        """The coordinator's agent was heard of: what waits is pushed there first again."""
        if self._coordinator.answered():
            self._pauses.clear()
            self.wake()

    def set_peers(self, peers: Iterable[Mapping[str, Any]], *, remember: bool = True) -> None:
        """Take the list of peers that the coordinator told, best first; what is no persistent node is left out."""
        good, told = list[Node](), list[Mapping[str, Any]]()
        for peer in list(peers)[:_MOST_PEERS]:
            with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
                node = source_node(peer)
                if peer.get("ephemeral") is False:
                    good.append(node)
                    told.append(peer)
        if not good:
            return
        self._take_peers(good)
        if remember and json.dumps(told) != self._outbox.note(PEERS_NOTE):
            self._outbox.note(PEERS_NOTE, json.dumps(told))

    def _take_peers(self, nodes: Iterable[Node]) -> None:
        known = {target.node: target for target in self._peers}
        others = [node for node in nodes if node.name not in {self._node_id, self._coordinator.name}]
        self._peers = [known.get(node) or Target(node, _LONGEST_PAUSE) for node in others]
        self._ways.keep_only([self._coordinator.node, *others])

    async def run(self) -> None:
        """Push until cancelled."""
        while True:
            self._wake.clear()
            try:
                seconds = await self._push_next()
            except LocalDiskError as error:
                seconds = _IDLE_SECONDS
                log.warning("the outbox cannot be pushed now cause=%s", error)
            except Exception:  # the next try may do better; without one no game would be safe
                seconds = _IDLE_SECONDS
                log.exception("the outbox cannot be pushed now")
            if seconds:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await self._wake.wait()

    async def _push_next(self) -> float:
        """Push one entry; give how long nothing else is to be done."""
        now = clock.monotonic()
        # What was due for so long was tried since, or a report let it go.
        self._pauses = {sha: pause for sha, pause in self._pauses.items() if pause[1] > now - _LONGEST_PAUSE}
        waiting = {sha: pause for sha, pause in self._pauses.items() if pause[1] > now}
        for entry in await asyncio.to_thread(self._outbox.entries, 64, list(waiting)):
            if self._targets(entry):
                await self._push(entry)
                return 0.0
        soon = [pause[1] for pause in waiting.values()]
        soon += [target.not_before for target in (self._coordinator, *self._peers) if target.not_before > now]
        return max(_LEAST_WAIT, min([_IDLE_SECONDS, *(at - now for at in soon)]))

    def _targets(self, entry: Entry) -> list[Target]:
        """Say who may be given an entry now: the coordinator, or peers that have not answered about it yet."""
        peers = [peer for peer in self._peers if peer.name not in entry.copies and peer.due()]
        return [self._coordinator] if self._coordinator.due() else peers[: self._lacking(entry)]

    def _lacking(self, entry: Entry) -> int:
        return self._wanted - sum(entry.copies.values())

    async def _push(self, entry: Entry) -> None:
        """Push one entry to whom it may go now, until it is durable.

        After a failure of the coordinator the peers come first: one that hangs must not keep games waiting whom others
        could take. That it is back is noticed by the next report, or when the peers are not enough.
        """
        copies = dict(entry.copies)
        steps = [self._to_coordinator, self._to_peers]
        for step in reversed(steps) if self._coordinator.failures else steps:
            await step(entry, copies)
            reached("pushing.before_acknowledge")
            # Old copies count too: the process may have ended between the note of a copy and the letting go.
            gone = copies != {} and await self._acknowledge(entry, copies)
            if gone:
                self._pauses.pop(entry.sha256, None)
                log.info("durable pack=%s games=%d at=%s", entry.sha256[:12], entry.games, sorted(copies))
                self._left()
                return
        failures = self._pauses.get(entry.sha256, (0, 0.0))[0] + 1
        self._pauses[entry.sha256] = failures, clock.monotonic() + pause_seconds(failures, _LONGEST_PAUSE)
        message = self.last_error or "nobody who stays has acknowledged it"
        self._failed()
        await asyncio.to_thread(self._outbox.failed, entry.sha256, message)

    async def _acknowledge(self, entry: Entry, copies: Mapping[str, bool]) -> bool:
        return await asyncio.to_thread(self._outbox.acknowledge, entry.sha256, copies, clock.wall())

    async def _to_coordinator(self, entry: Entry, copies: dict[str, bool]) -> None:
        if self._coordinator.due():
            copies.update(await self._send(self._coordinator, entry))

    async def _to_peers(self, entry: Entry, copies: dict[str, bool]) -> None:
        for peer in self._peers:
            if sum(copies.values()) >= self._wanted:
                break
            if peer.name not in copies and peer.due():
                copies.update(await self._send(peer, entry))

    async def _send(self, target: Target, entry: Entry) -> dict[str, bool]:
        """Push to one node; give its name and whether it keeps the pack for good, or nothing."""
        cancel = threading.Event()
        try:
            durable = await in_thread(self._transfer, target, entry, cancel)
        except asyncio.CancelledError:
            cancel.set()
            raise
        except (SyncError, OSError) as error:
            await self._note_failure(target, entry, error)
            return {}
        if target.answered():
            log.info("takes packs again node=%s", target.name)
            self._pauses.clear()
        if target is self._coordinator and durable:
            self.last_error = ""
        elif not durable:
            self.last_error = f"{target.name} is ephemeral, or does not say that it stays: its copy does not count"
        return {target.name: durable}

    def _transfer(self, target: Target, entry: Entry, cancel: threading.Event) -> bool:
        deadline = Deadline.after(_PUSH_SECONDS + entry.size_bytes / _SLOWEST)
        artifact, source = Artifact(entry.sha256, entry.size_bytes, "games"), self._outbox.file(entry.sha256)
        way = self._ways.to(target.node)
        receipt = way.push(artifact, source, self._node_id, deadline=deadline, cancel=cancel).receipt
        reached("pushing.pushed")
        if receipt.node != target.name:
            message = f"{target.node.address} answers as {receipt.node!r}, not as {target.name}: check the inventory"
            raise AuthenticationError(target.name, way.name, message)
        return receipt.durable

    async def _note_failure(self, target: Target, entry: Entry, error: SyncError | OSError) -> None:
        self.last_error = str(error)
        about_pack = (
            isinstance(error, RemoteCallError | ChecksumError) or getattr(error, "next_step", None) is NextStep.OURS
        )
        if not about_pack:
            target.failed()
        elif await asyncio.to_thread(self._is_damaged, entry):
            await asyncio.to_thread(self._outbox.give_back, entry.sha256)
            return
        if target.failures & (target.failures - 1) == 0:  # told the 1st, 2nd, 4th, ... time
            log.warning("cannot push pack=%s node=%s cause=%s", entry.sha256[:12], target.name, error)

    def _is_damaged(self, entry: Entry) -> bool:
        try:
            return sha256_file(self._outbox.file(entry.sha256)) != entry.sha256
        except LocalDiskError as error:
            return isinstance(error.__cause__, FileNotFoundError)
