"""Move one artifact: with a turn among all transfers, within its share of the bandwidth, and with a row that tells it.

Here a fetch gets its place in ``incoming/`` and a push its target's room; how the bytes travel is the transport's
business, and who may move how much is decided by ``bandwidth``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ringrift_sync_dagster.core.bandwidth import TransferPriority
from ringrift_sync_dagster.core.escalation import LONGEST_RESCUE_SECONDS, LONGEST_SECONDS
from ringrift_sync_dagster.core.model import Artifact, Partition
from ringrift_sync_dagster.core.room import Disk, disk_refusal
from ringrift_sync_dagster.errors import AdmissionRefusedError, RemoteCallError
from ringrift_sync_dagster.node.faults import reached
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state import admission, measures
from ringrift_sync_dagster.state.admission import TransferRequest
from ringrift_sync_dagster.storage.files import make_dirs
from ringrift_sync_dagster.sync.runtime import Runtime
from ringrift_sync_dagster.transports.base import Pushed, Transport
from ringrift_sync_dagster.transports.partial import part_path

DISK_SECONDS: Final = 30.0
_MOST_BYTES: Final = 1 << 60
"""More than any disk has; a node that says so tells nothing."""


@dataclass(frozen=True, slots=True)
class FetchedArtifact:
    """Where the bytes lie, how many travelled for them, how long it took in seconds, and over which transport."""

    path: Path
    bytes_moved: int
    seconds: float
    transport: str = ""


def fetch(
    runtime: Runtime,
    transport: Transport,
    artifact: Artifact,
    partition: Partition,
    trigger: str,
    *,
    priority: TransferPriority = TransferPriority.NORMAL,
    rescue: bool = False,
) -> FetchedArtifact:
    """Fetch the artifact; one that is whole in ``incoming/`` already is taken as it is (its name was verified).

    Args:
        runtime: What a sync works with.
        transport: The way to the node.
        artifact: What to fetch.
        partition: Whose it is.
        trigger: What started it.
        priority: How important it is, unless the host has a priority of its own.
        rescue: True: the node may be lost soon, and the artifact has no other copy.

    Raises:
        TransferError: What stopped it; what had arrived stays for the next attempt.

    """
    path = runtime.layout.incoming_artifact(partition.node, artifact.sha256)
    make_dirs(path.parent)
    if path.exists():
        return FetchedArtifact(path, 0, 0.0)
    started = clock.monotonic()
    wanted = _request(artifact, partition, trigger, "fetch", priority, disk=runtime.intake.owner)
    wanted = replace(wanted, reserved_bytes=max(0, artifact.size_bytes - _size_of(part_path(path))))
    with runtime.bandwidth.transfer(wanted, disk=path.parent, rescue=rescue) as transfer:
        moved = transport.fetch(
            artifact, path, deadline=_deadline(rescue=rescue), progress=transfer.progress, cancel=transfer.cancel,
            pacer=transfer.pacer,
        )  # fmt: skip
        transfer.done(moved)
    reached("collect.fetched")
    return FetchedArtifact(path, moved.bytes_moved, clock.monotonic() - started, moved.transport or transport.name)


def push(
    runtime: Runtime,
    transport: Transport,
    artifact: Artifact,
    source: Path,
    partition: Partition,
    trigger: str,
    *,
    priority: TransferPriority,
) -> Pushed:
    """Push the file ``source`` to the partition's node; the receipt means that it is verified and on the node's disk.

    Raises:
        AdmissionRefusedError: The node's disk would pass the inventory's limits.
        BackpressureError: It can wait, and the owner is overloaded.
        TransferError: What stopped it; what had arrived stays there for the next attempt.

    """
    wanted = _request(artifact, partition, trigger, "push", priority, disk=partition.node)
    disk = disk_of_node(runtime, transport, partition.node)
    with runtime.bandwidth.transfer(wanted, leave_held=True) as transfer:
        check_room(runtime, disk, artifact, partition, transfer.id)
        pushed = transport.push(
            artifact, source, runtime.intake.owner, deadline=_deadline(rescue=False), progress=transfer.progress,
            cancel=transfer.cancel, pacer=transfer.pacer,
        )  # fmt: skip
        transfer.done(pushed)
    return pushed


def check_room(runtime: Runtime, disk: Disk | None, artifact: Artifact, partition: Partition, transfer_id: int) -> None:
    """Do nothing where the node's disk has the room for a transfer, and for those that came before it.

    Raises:
        AdmissionRefusedError: It would pass the inventory's limits.

    """
    reserved = admission.reserved(runtime.state, partition.node, up_to=transfer_id)
    why = "" if disk is None else disk_refusal(disk, runtime.bandwidth.disk_limits, reserved_bytes=reserved)
    if why:
        message = f"artifact {artifact.sha256[:12]} is not pushed: the disk of {partition.node}: {why}"
        raise AdmissionRefusedError(partition.node, "", message)


def _request(
    artifact: Artifact, partition: Partition, trigger: str, direction: str, priority: TransferPriority, *, disk: str
) -> TransferRequest:
    return TransferRequest(
        artifact.sha256, partition.node, direction, artifact.size_bytes, priority, config=partition.config,
        trigger=trigger, reserved_bytes=artifact.size_bytes, disk=disk,
    )  # fmt: skip


def _size_of(part: Path) -> int:
    """Give what lies on the disk already, and needs no room any more."""
    try:
        return part.stat().st_size
    except OSError:
        return 0


def _deadline(*, rescue: bool) -> clock.Deadline:
    """Give the longest that any transfer may take; the ladder makes it shorter for a small one."""
    return clock.Deadline.after(LONGEST_RESCUE_SECONDS if rescue else LONGEST_SECONDS)


def disk_of_node(runtime: Runtime, transport: Transport, node: str) -> Disk | None:
    """Ask the node for its disk, and remember it for routing.

    None where it cannot tell, and then the receiver alone refuses what does not fit.
    """
    try:
        answer = transport.call("disk", {}, deadline=clock.Deadline.after(DISK_SECONDS))
        disk = Disk(int(answer["used_bytes"]), int(answer["free_bytes"]))
    except (RemoteCallError, KeyError, TypeError, ValueError, OverflowError):
        return None
    if not (0 <= disk.used_bytes < _MOST_BYTES and 0 <= disk.free_bytes < _MOST_BYTES):
        return None
    measures.record_disk(runtime.state, node, disk)
    return disk
