"""What copies by an operator's order share: the way to the node, time, turns, room, and the end of a cancelled task."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, TypeVar

from ringrift_sync_dagster.core.bandwidth import TransferPriority
from ringrift_sync_dagster.core.escalation import LADDER, SLACK
from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.core.room import Disk, disk_refusal
from ringrift_sync_dagster.errors import (
    AdmissionRefusedError,
    ConfigError,
    LeaseHeldError,
    Problem,
    SyncError,
    TransferCancelledError,
)
from ringrift_sync_dagster.node.patterns import CONFIGS
from ringrift_sync_dagster.node.snapshot import SIDECARS
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.state import admission, transfers
from ringrift_sync_dagster.state.leases import hold
from ringrift_sync_dagster.sync.copy_tries import RUNG, attempt_of
from ringrift_sync_dagster.sync.places import Route, local_path
from ringrift_sync_dagster.sync.runtime import Runtime
from ringrift_sync_dagster.sync.shared import shared_runtime
from ringrift_sync_dagster.transports.ssh import SshEndpoint, SshSettings

T = TypeVar("T")

ORDER_SECONDS: Final = 1800.0
"""How long one step may take when nobody says: the kit reads a large file through, or another copy is waited for."""
_SLOWEST_DISK_BYTES_PER_SECOND: Final = 25e6
_LOOK_SECONDS: Final = 0.2
_OPENING: Final = threading.Lock()


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller may choose.

    Args:
        verify: Compare the SHA-256, as far as that is a choice.
        priority: How important it is, unless the host has a priority of its own.
        whole: The end of everything; None: each step has a time of its own.

    """

    verify: bool
    priority: TransferPriority
    whole: Deadline | None

    @classmethod
    def of(cls, priority: TransferPriority, timeout_seconds: float | None, *, verify: bool) -> Options:
        """Check what the caller chose; the time begins now.

        Raises:
            ConfigError: The time is not above 0.

        """
        if timeout_seconds is None:
            return cls(verify, priority, None)
        if not timeout_seconds > 0:
            message = f"{timeout_seconds!r} is no time; give seconds above 0"
            raise ConfigError([Problem("argument", None, "", "timeout_seconds", message)])
        return cls(verify, priority, Deadline.after(timeout_seconds))

    def step(self) -> Deadline:
        """Give the end of a step that begins now and moves nothing."""
        return self.whole or Deadline.after(ORDER_SECONDS)

    def turn_seconds(self) -> float | None:
        """Give how long to wait for a turn; None when nobody says."""
        return None if self.whole is None else self.whole.remaining()

    def moving(self, size_bytes: int, bytes_per_second: float) -> Deadline:
        """Give the end of the moving of so many bytes, which begins now."""
        return self.whole or Deadline.after(transfer_seconds(size_bytes, bytes_per_second))


def endpoint_to(runtime: Runtime, node: Node) -> SshEndpoint:
    """Give the way to a node for rsync, with the ladder's limits."""
    limits = LADDER[RUNG]
    settings = SshSettings(
        runtime.settings.known_hosts, connect_seconds=limits.connect_seconds, stall_seconds=limits.stall_seconds
    )
    return SshEndpoint(node, settings, RUNG.value)


def runtime_or_shared(runtime: Runtime | None) -> Runtime:
    """Give the runtime, or this program's own, which is opened once, whatever threads ask for it."""
    if runtime is not None:
        return runtime
    with _OPENING:
        return shared_runtime()


def transfer_seconds(size_bytes: int, bytes_per_second: float) -> float:
    """Give the time for one file: the guide's for a transfer, or twice what it needs, and what its hashing takes.

    There is no upper bound, because an archive may have any size: a silence ends a transfer much earlier.
    """
    limits = LADDER[RUNG]
    moving = max(limits.transfer_seconds, SLACK * size_bytes / bytes_per_second)
    return limits.connect_seconds + moving + size_bytes / _SLOWEST_DISK_BYTES_PER_SECOND


def require_room(runtime: Runtime, node: str, disk: Disk, transfer_id: int) -> None:
    """Do nothing where the node's disk stays within the inventory's limits.

    Raises:
        AdmissionRefusedError: It would not.

    """
    reserved = admission.reserved(runtime.state, node, up_to=transfer_id)
    why = disk_refusal(disk, runtime.bandwidth.disk_limits, reserved_bytes=reserved)
    if why:
        raise AdmissionRefusedError(node, RUNG.value, f"nothing is moved: the disk of {node}: {why}")


def refuse_canonical(runtime: Runtime, route: Route, names: Sequence[str]) -> None:
    """Keep the canonical store of this machine from being copied over: it holds what no node has.

    Args:
        runtime: Whose store it is.
        route: From where to where.
        names: What the files are called where the destination is a folder.

    Raises:
        ConfigError: The destination is one of its databases, or what SQLite keeps beside it.

    """
    if route.pushes:
        return
    dest, folder = Path(local_path(route.dest.path)), runtime.layout.games_dir
    stores = [folder / f"{kind}_{config}.db" for kind in ("canonical", "eval") for config in CONFIGS]
    bases = {str(path) for store in stores for path in (store, os.path.realpath(store))}
    taken = {os.path.realpath(f"{base}{side}") for base in bases for side in ("", *SIDECARS)}
    wanted = (dest, *(dest / name for name in names if "\0" not in name))
    if not taken.isdisjoint(map(os.path.realpath, wanted)):
        node = route.node.name
        message = f"{route.dest} is the canonical store: games are merged into it: ringrift-sync sync --node {node}"
        raise ConfigError([Problem("argument", None, node, "dest", message)])


def record_failure(runtime: Runtime, route: Route, artifact: Artifact | None, trigger: str, failure: SyncError) -> None:
    """Leave a row of a copy that failed before it asked for its turn."""
    transfer = transfers.start_transfer(
        runtime.state, artifact=artifact.sha256 if artifact else "", node=route.node.name,
        direction="push" if route.pushes else "fetch", transport=RUNG.value,
        size_bytes=artifact.size_bytes if artifact else 0, trigger=trigger,
    )  # fmt: skip
    tried = getattr(failure, "attempts", ()) or [attempt_of(failure, 0.0)]
    transfers.fail(runtime.state, transfer, failure, rungs=[asdict(attempt) for attempt in tried])


@contextmanager
def alone(
    runtime: Runtime, what: str, ends: Sequence[str], deadline: Deadline, cancel: threading.Event
) -> Iterator[None]:
    """Hold a lease during the body; wait for whoever has it.

    Args:
        runtime: Where leases are shared.
        what: The first part of its name.
        ends: What else it is for; part of its name as a digest, because it may hold any bytes.
        deadline: The end of the waiting.
        cancel: Ends the waiting, too.

    Raises:
        LeaseHeldError: Another holder still had it at the deadline.
        TransferCancelledError: ``cancel`` was set.

    """
    name = f"{what}:{hashlib.sha256(os.fsencode(chr(0).join(ends))).hexdigest()[:16]}"
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(hold(runtime.state, name))
                break
            except LeaseHeldError:
                if deadline.expired:
                    raise
            if cancel.wait(deadline.at_most(_LOOK_SECONDS * random.uniform(0.8, 1.2))):  # noqa: S311 - not all at once
                message = "waiting for another copy to the same place was stopped because we were asked to"
                raise TransferCancelledError("", "", message)
        yield


async def in_thread(work: Callable[[threading.Event], T]) -> T:
    """Do blocking work in a thread; when the task is cancelled the event is set, and the work ends before this does.

    Work whose thread has not begun then never begins, and nothing is waited for.
    """
    cancel, begun = threading.Event(), threading.Event()

    def run() -> T:
        begun.set()
        if cancel.is_set():
            raise TransferCancelledError("", "", "it was stopped before it began because we were asked to")
        return work(cancel)

    thread = asyncio.ensure_future(asyncio.to_thread(run))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        cancel.set()
        if not begun.is_set():
            thread.cancel()
        await asyncio.wait([thread])
        if not thread.cancelled():
            thread.exception()  # it was asked to stop: what it says of that is nobody's concern
        raise
