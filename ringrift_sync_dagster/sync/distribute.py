"""Bring a published file to one node: the bytes first, then the order that switches the node's names.

The node's own word decides what is there; what we remember (placements) only spares the question. Before the order is
given the serial is read again: a version that was replaced while its bytes travelled is not switched to, the newer one
is brought at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ringrift_sync_dagster.core.bandwidth import data_type_priority
from ringrift_sync_dagster.core.model import Artifact, DataType
from ringrift_sync_dagster.errors import SourceChangedError
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.changes import Change
from ringrift_sync_dagster.state.placements import Placement, placed, placement_of
from ringrift_sync_dagster.state.receipts import ArtifactRow, Receipt
from ringrift_sync_dagster.state.versions import (
    Published,
    Version,
    VersionState,
    published_version,
    raise_serial,
    versions_of,
)
from ringrift_sync_dagster.sync.fields import Sender, flag, list_of, makes_sense, text, whole
from ringrift_sync_dagster.sync.passes import Work
from ringrift_sync_dagster.sync.runtime import Runtime
from ringrift_sync_dagster.sync.transferring import push

PUBLISH_SECONDS: Final = 300.0
SWITCHES: Final = 5
"""How often a version may be replaced while it is brought, before the next pass goes on."""
_PATH_CHARS: Final = 4096
_NAMES: Final = {DataType.NPZ: 1, DataType.MODELS: 2}
_LINKS: Final = 100


@dataclass(frozen=True, slots=True)
class Distribution:
    """Brings published files to nodes, in one pass; safe for threads.

    Args:
        runtime: What to work with.

    """

    runtime: Runtime

    def bring(self, work: Work, data_type: DataType) -> None:
        """Bring what is published of the partition's config; nothing where the node has it.

        Raises:
            SyncError: What stopped it; the node's names are as they were, or lead to the new version.

        """
        for _ in range(SWITCHES):  # each time it was replaced meanwhile, or our serial was behind the node's
            current = published_version(self.runtime.state, data_type.value, work.partition.config)
            if current is None or self._is_there(work, data_type, current[0]):
                return
            if self._bring(work, data_type, *current):
                return

    def _is_there(self, work: Work, data_type: DataType, wanted: Published) -> bool:
        """Whether the node has the version under its names, as far as we remember."""
        last = placement_of(self.runtime.state, work.partition.node, data_type.value, work.partition.config)
        if last is None or (last.content, last.serial) != (wanted.sha256, wanted.serial):
            return False
        return not work.order.force and self._still_leads(work, data_type, wanted)

    def _still_leads(self, work: Work, data_type: DataType, wanted: Published) -> bool:
        """Ask the node what its names lead to; it may have been reinstalled."""
        arguments = {"data_type": data_type.value, "config": work.partition.config}
        answer = work.call("published", arguments, PUBLISH_SECONDS)
        with makes_sense(Sender(work.partition.node, work.transport.name, "its published files")):
            told = list_of(answer["links"], "links", _LINKS)
            good = [one for one in told if one["artifact"] == wanted.sha256 and not flag(one, "dangling")]
            return len(good) == len(told) == _NAMES[data_type]

    def _bring(self, work: Work, data_type: DataType, wanted: Published, version: Version) -> bool:
        """Bring one version; False where it was replaced meanwhile."""
        started, partition, trigger = clock.monotonic(), work.partition, work.order.trigger
        artifact = Artifact(version.sha256, version.size_bytes, data_type.value)
        source = self.runtime.layout.root / version.path
        if not source.exists():
            raise SourceChangedError(
                partition.node, "", f"{version.path} is gone here; `ringrift-sync verify` repairs it"
            )
        priority = data_type_priority(data_type, "down", promoted=data_type is DataType.MODELS)
        pushed = push(self.runtime, work.transport, artifact, source, partition, trigger, priority=priority)
        now = published_version(self.runtime.state, data_type.value, partition.config)
        if now is not None and now[0].serial != wanted.serial:
            return False
        path = self._order(work, data_type, wanted, version)
        if path is None:
            return False
        work.outcome = work.outcome.counted({"brought": 1}, bytes_moved=pushed.bytes_moved, transport=pushed.transport)
        self._record(work, data_type, wanted, version, path, pushed.bytes_moved, pushed.transport, started)
        return True

    def _order(self, work: Work, data_type: DataType, wanted: Published, version: Version) -> str | None:
        """Have the node install the version and switch its names; give its path there, None for a later order."""
        known = versions_of(self.runtime.state, data_type.value, work.partition.config)
        arguments = {
            "node": self.runtime.intake.owner, "artifact": version.sha256, "bytes": version.size_bytes,
            "data_type": data_type.value, "config": work.partition.config, "serial": wanted.serial,
            "known": [one.sha256 for one in known if _is_safe(one)],
            "keep": self.runtime.settings.keep_versions,
        }  # fmt: skip
        answer = work.call("publish", arguments, PUBLISH_SECONDS)
        with makes_sense(Sender(work.partition.node, work.transport.name, f"publishing {version.path}")):
            if flag(answer, "published"):
                return text(answer["path"], "path", _PATH_CHARS)
            if whole(answer["serial"], "serial") <= wanted.serial:
                raise ValueError("it says that a later order came before, and names none")
        # Our own count is behind where the state database was lost or restored; else a newer version was published.
        raise_serial(self.runtime.state, data_type.value, work.partition.config, whole(answer["serial"], "serial"))
        return None

    def _record(
        self,
        work: Work,
        data_type: DataType,
        wanted: Published,
        version: Version,
        path: str,
        bytes_moved: int,
        transport: str,
        started: float,
    ) -> None:
        """Write placement, receipt and change in one transaction."""
        partition, now = work.partition, clock.wall()
        change = Change(
            f"{version.sha256[:16]}-{partition.node}-{partition.config}-{wanted.serial}", now, data_type.value, "down",
            partition.config, partition.node, version.sha256, version.path, size_bytes=bytes_moved,
            seconds=clock.monotonic() - started, transport=transport, trigger=work.order.trigger,
            checks={"digest_agrees": True, "links_resolve": True}, counts={"brought": 1},
        )  # fmt: skip
        placed(
            self.runtime.state,
            Placement(partition.node, data_type.value, partition.config, version.sha256, wanted.serial, {"path": path}),
            receipt=Receipt(version.sha256, partition.node, path, version.size_bytes, now),
            artifact=ArtifactRow(
                version.sha256, data_type.value, version.size_bytes, 0, partition.config, version.origin_node, now
            ),
            change=change,
        )


def _is_safe(version: Version) -> bool:
    """Whether a node's own copy of this content may lose its name: the owner has it, or has refused it."""
    return version.state is not VersionState.DROPPED
