"""What copies by an operator's order share: the way to the node, time, room, tries, and the end of a cancelled task."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from ringrift_sync_dagster.core.escalation import LADDER, SLACK, Attempt, Rung, Then, judge, pause_seconds
from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.core.room import Disk, disk_refusal
from ringrift_sync_dagster.errors import AdmissionRefusedError, SyncError, TransferError
from ringrift_sync_dagster.settings.clock import Deadline, monotonic
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.state import admission, transfers
from ringrift_sync_dagster.sync.places import Route
from ringrift_sync_dagster.sync.runtime import Runtime
from ringrift_sync_dagster.sync.shared import shared_runtime
from ringrift_sync_dagster.transports.ssh import SshEndpoint, SshSettings

T = TypeVar("T")

RUNG: Final = Rung.RSYNC
_SLOWEST_DISK_BYTES_PER_SECOND: Final = 25e6
_OPENING: Final = threading.Lock()


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


def record_failure(runtime: Runtime, route: Route, artifact: Artifact | None, trigger: str, failure: SyncError) -> None:
    """Leave a row of a copy that failed before it asked for its turn."""
    transfer = transfers.start_transfer(
        runtime.state, artifact=artifact.sha256 if artifact else "", node=route.node.name,
        direction="push" if route.pushes else "fetch", transport=RUNG.value,
        size_bytes=artifact.size_bytes if artifact else 0, trigger=trigger,
    )  # fmt: skip
    transfers.fail(runtime.state, transfer, failure)


def with_tries(work: Callable[[], T], attempts: list[Attempt], deadline: Deadline, cancel: threading.Event) -> T:
    """Do the work, as often as the guide's table says, while another try may help; ``attempts`` grows by each.

    Raises:
        TransferError: What ended the last try.

    """
    while True:
        started = monotonic()
        try:
            done = work()
        except TransferError as error:
            attempts.append(Attempt(RUNG.value, type(error).__name__, str(error), monotonic() - started))
            error.attempts = tuple(attempts)
            judged = judge(error, budget_spent=deadline.expired)
            if judged.then is not Then.RETRY or len(attempts) >= LADDER[RUNG].tries:
                raise
            cancel.wait(deadline.at_most(pause_seconds(len(attempts), random.random())))  # noqa: S311 - full jitter
        else:
            attempts.append(Attempt(RUNG.value, seconds=monotonic() - started))
            return done


async def in_thread(work: Callable[[threading.Event], T]) -> T:
    """Do blocking work in a thread; when the task is cancelled the event is set, and the work ends before this does."""
    cancel = threading.Event()
    thread = asyncio.ensure_future(asyncio.to_thread(work, cancel))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        cancel.set()
        await asyncio.wait([thread])
        if not thread.cancelled():
            thread.exception()  # it was asked to stop: what it says of that is nobody's concern
        raise
