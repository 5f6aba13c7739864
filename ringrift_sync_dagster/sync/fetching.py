"""Fetch one artifact into ``incoming/``, with a row in ``transfers`` that anybody can watch while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringrift_sync_dagster.core.model import Artifact, Partition
from ringrift_sync_dagster.node.faults import reached
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state import transfers
from ringrift_sync_dagster.storage.files import make_dirs
from ringrift_sync_dagster.sync.runtime import Runtime
from ringrift_sync_dagster.transports.base import Transport

PROGRESS_SECONDS: Final = 0.25
"""A row is written at most so often: each write is a commit."""
TRANSFER_SECONDS: Final = 900.0
"""Time budget of one transfer, the longest that architecture.md 7 allows; a stall ends it much earlier."""


@dataclass(frozen=True, slots=True)
class FetchedArtifact:
    """Where the bytes lie, how many travelled for them, and how long it took in seconds."""

    path: Path
    bytes_moved: int
    seconds: float


def fetch(
    runtime: Runtime, transport: Transport, artifact: Artifact, partition: Partition, trigger: str
) -> FetchedArtifact:
    """Fetch the artifact; one that is whole in ``incoming/`` already is taken as it is (its name was verified).

    Raises:
        TransferError: What stopped it; what had arrived stays for the next attempt.

    """
    path = runtime.layout.incoming_artifact(partition.node, artifact.sha256)
    make_dirs(path.parent)
    if path.exists():
        return FetchedArtifact(path, 0, 0.0)
    started = clock.monotonic()
    transfer = transfers.start_transfer(
        runtime.state, artifact=artifact.sha256, node=partition.node, direction="fetch", transport=transport.name,
        size_bytes=artifact.size_bytes, config=partition.config, trigger=trigger,
    )  # fmt: skip
    try:
        moved = transport.fetch(
            artifact,
            path,
            deadline=clock.Deadline.after(TRANSFER_SECONDS),
            progress=_Progress(runtime, transfer),
            cancel=None,
        )
    except BaseException as error:
        transfers.fail(runtime.state, transfer, error)
        raise
    if moved.resumed_from:
        transfers.resumed(runtime.state, transfer, moved.resumed_from)
    transfers.finish(runtime.state, transfer)
    reached("collect.fetched")
    return FetchedArtifact(path, moved.bytes_moved, clock.monotonic() - started)


class _Progress:
    """Writes how much has arrived into the transfer's row, a few times a second."""

    def __init__(self, runtime: Runtime, transfer: int) -> None:
        self._runtime, self._transfer = runtime, transfer
        self._last = clock.monotonic()

    def __call__(self, received_bytes: int) -> None:
        now = clock.monotonic()
        if now - self._last >= PROGRESS_SECONDS:
            self._last = now
            transfers.progress(self._runtime.state, self._transfer, received_bytes)
