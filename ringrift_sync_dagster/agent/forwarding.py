"""A node that stays brings the packs that others left with it to the owner, by itself, as soon as that is in reach.

Each pack goes under its origin's name, which takes a token with scope relay. It stays here after the owner's receipt
too: the retention of the coordinator lets it go a day later. While the owner is out of reach the pauses grow; whatever
was brought is asked for again once an hour, so that an owner that lost everything gets it back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ringrift_sync_dagster.agent.in_thread import in_thread
from ringrift_sync_dagster.agent.ways import Ways, pause_seconds
from ringrift_sync_dagster.core.model import SHA256, Artifact, is_node_name
from ringrift_sync_dagster.errors import SyncError, UnreachableError
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.transports.networks import TrustedNetworks
from ringrift_sync_dagster.transports.p2p_http import P2PHttpTransport

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 5.0
FIRST_PAUSE: Final = 2.0
LONGEST_PAUSE: Final = 15.0  # an owner who is back after minutes has what died meanwhile at most so much later
AGAIN_SECONDS: Final = 3600.0
_PUSH_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class Forward:
    """Where packs of others are brought.

    Args:
        owner: The coordinator.
        token_file: This node's token, with scope relay; read anew each time.
        pause_seconds: The first pause after a failure; it grows up to ``LONGEST_PAUSE``.

    """

    owner: Node
    token_file: Path
    pause_seconds: float = FIRST_PAUSE


@dataclass(slots=True)
class _Brought:
    """What the owner has; by path below ``incoming/``, and when it is asked for it again (monotonic seconds)."""

    again_at: dict[str, float] = field(default_factory=dict)

    def is_due(self, path: str) -> bool:
        return clock.monotonic() >= self.again_at.get(path, float("-inf"))

    def add(self, path: str) -> None:
        self.again_at[path] = clock.monotonic() + AGAIN_SECONDS

    def keep_only(self, paths: set[str]) -> None:
        for gone in self.again_at.keys() - paths:
            del self.again_at[gone]


class Forwarder:
    """Brings what lies in ``incoming/`` to the owner; one object per agent, used from its event loop.

    Args:
        forward: Where to.
        node_id: This node.
        incoming: Where packs of others lie.
        trusted: Where plain HTTP is allowed.

    """

    def __init__(self, forward: Forward, node_id: str, incoming: Path, trusted: TrustedNetworks) -> None:
        self._forward, self._incoming, self._trusted = forward, incoming, trusted
        self._not_ours = frozenset({node_id, forward.owner.name})  # what these brought here is for this node
        self._brought = _Brought()
        self._came = asyncio.Event()
        self._cancel = threading.Event()
        self._failures = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run())

    def arrived(self, _path: Path) -> None:
        """Take note that something came; never waits."""
        self._came.set()

    async def close(self) -> None:
        """End; what was under way goes on from there the next time."""
        self._cancel.set()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            try:
                await in_thread(self._bring_all)
                self._failures = 0
                await self._wait(LOOK_SECONDS)
            except (SyncError, OSError) as error:
                self._tell(error)
                self._failures += 1
                # Not woken by arrivals: who is out of reach for one pack is so for the next.
                await asyncio.sleep(pause_seconds(self._failures, LONGEST_PAUSE, self._forward.pause_seconds))
            except Exception:  # whatever happens, what lies here is tried again
                log.exception("forwarding failed")
                await asyncio.sleep(LONGEST_PAUSE)

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._came.wait()
        self._came.clear()

    def _tell(self, error: Exception) -> None:
        level = logging.DEBUG if self._failures else logging.WARNING
        log.log(
            level, "packs of others wait: the owner=%s cannot be given them cause=%s", self._forward.owner.name, error
        )

    def _bring_all(self) -> None:
        """Bring everything that is due.

        Raises:
            SyncError: The owner is out of reach, or refuses.
            OSError: The disk or the token cannot be read.

        """
        lying = {f"{path.parent.name}/{path.name}": path for path in self._lying()}
        self._brought.keep_only(set(lying))
        due = {name: path for name, path in lying.items() if self._brought.is_due(name)}
        if not due:
            return
        with contextlib.closing(Ways(self._forward.token_file, None, self._trusted)) as ways:
            way = ways.to(self._forward.owner)
            failed: SyncError | None = None
            for name, path in due.items():
                if self._cancel.is_set():
                    return
                try:
                    self._bring(way, path)
                except UnreachableError:
                    raise
                except SyncError as error:  # it may be this pack alone
                    failed = failed or error
                else:
                    self._brought.add(name)
            if failed is not None:
                raise failed

    def _bring(self, way: P2PHttpTransport, path: Path) -> None:
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return  # the coordinator let it go meanwhile
        artifact, origin = Artifact(path.name, size, "games"), path.parent.name
        pushed = way.push(artifact, path, origin, deadline=clock.Deadline.after(_PUSH_SECONDS), cancel=self._cancel)
        if pushed.bytes_moved:
            told = (path.name, origin, self._forward.owner.name, pushed.bytes_moved)
            log.info("forwarded artifact=%s origin=%s owner=%s bytes=%d", *told)

    def _lying(self) -> list[Path]:
        """Whole artifacts of others, oldest first."""
        found = [
            path
            for folder in self._incoming.glob("*")
            if is_node_name(folder.name) and folder.name not in self._not_ours and folder.is_dir()
            for path in folder.iterdir()
            if SHA256.fullmatch(path.name)
        ]
        return sorted(found, key=lambda path: path.stat().st_mtime)
