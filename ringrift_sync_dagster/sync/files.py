"""The movers of npz and models: new contents come up as files, what is published goes down to the nodes that use it.

Up: a node hashes a file whose change token is new; a content that the owner has met is never fetched again. Down: the
bytes first (``distribute``), then one order to the node's kit that switches the names there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ringrift_sync_dagster.core.bandwidth import data_type_priority
from ringrift_sync_dagster.core.model import SHA256, Artifact, DataType, Partition
from ringrift_sync_dagster.errors import RemoteCallError, SourceChangedError, SyncError
from ringrift_sync_dagster.intake.arrival import Arrival, SetAside
from ringrift_sync_dagster.intake.files import FilesIntake
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.nodes import NodeFile
from ringrift_sync_dagster.state.placements import Placement, placed, placement_of
from ringrift_sync_dagster.state.versions import Version, VersionState, published_version
from ringrift_sync_dagster.sync.distribute import Distribution, is_there
from ringrift_sync_dagster.sync.fields import Sender, makes_sense, whole
from ringrift_sync_dagster.sync.mover import Errors, Order, Work
from ringrift_sync_dagster.sync.owner_state import OwnerState
from ringrift_sync_dagster.sync.report import Note
from ringrift_sync_dagster.sync.runtime import Runtime
from ringrift_sync_dagster.sync.transferring import fetch

HASH_SECONDS: Final = 600.0
"""Time budget for hashing one file on a node: 10 GB at 17 MB/s."""
_SOON: Final = frozenset({"changed", "locked"})


@dataclass(frozen=True, slots=True)
class FilesMover:
    """How npz or models move; see ``mover.Mover``.

    Args:
        data_type: ``npz`` or ``models``.
        intake: Takes in what comes up.
        distribution: Brings what is published down.

    """

    data_type: DataType
    intake: FilesIntake
    distribution: Distribution

    def begin(self, order: Order) -> Errors:
        """Adopt what exporters and promotions wrote under published names, and let the links lead where they must."""
        return self.intake.publisher.adopt(self.data_type, order.trigger)

    def gathered(self, order: Order) -> Errors:  # noqa: ARG002 - the contract
        """Nothing: each arrival is finished by itself."""
        return []

    def sources(self, files: Sequence[NodeFile], order: Order) -> Sequence[NodeFile]:
        """Choose exports, candidates and checkpoints of a config; in recovery also what was brought to the node."""
        recovered = ("version", "canonical", "archived") if order.recover else ()
        return [file for file in files if file.config and (file.collectable or file.kind in recovered)]

    def quiet(
        self, known: OwnerState, partition: Partition, files: Sequence[NodeFile], order: Order, *, up: bool
    ) -> bool:
        """Up: the owner has met every content, and judged it. Down: the node's links lead to what is published."""
        if order.force or order.recover:
            return False
        if up:
            book = known.placements.get((partition.node, self._book, partition.config))
            return book is not None and all(self._is_met(known, book, file, partition.config) for file in files)
        published = known.published_by.get((self.data_type.value, partition.config))
        before = known.placements.get((partition.node, self.data_type.value, partition.config))
        return published is None or (before is not None and is_there(before, partition.config, published, files))

    def _is_met(self, known: OwnerState, book: Placement, file: NodeFile, config: str) -> bool:
        token, sha256, *judged = book.detail.get(file.path) or ("", "")
        if not file.token or token != file.token or (self.data_type, config, sha256) not in known.contents:
            return False
        if self.data_type is not DataType.NPZ:
            return True
        published = known.published_by.get((self.data_type.value, config))
        return judged == [0 if published is None else published.serial]

    def up(self, work: Work, files: Sequence[NodeFile]) -> Errors:
        """Bring the contents that the owner has never met."""
        hashes = self._hashes(work)
        errors: Errors = []
        for file in files:
            try:
                self._bring_up(work, file, hashes)
            except RemoteCallError as error:
                if error.code in _SOON:
                    work.notes.append(Note(file.node, file.path, error.code, error.message))
                else:
                    errors.append((file.path, error))
            except SourceChangedError as error:
                work.notes.append(Note(file.node, file.path, "changed", error.message))
            except SyncError as error:
                errors.append((file.path, error))
            if work.deadline.expired:
                break
        self._remember(work, files, hashes)
        return errors

    def _bring_up(self, work: Work, file: NodeFile, hashes: dict[str, list[Any]]) -> None:
        token, sha256, *_ = hashes.get(file.path, ["", ""])
        known = self.intake.known(self.data_type, work.partition.config, sha256) if token == file.token else None
        if known is None:  # hashing also makes it an artifact that can be fetched
            artifact = self._hash(work, file)
            hashes[file.path] = [file.token, artifact.sha256]
            known = self.intake.known(self.data_type, work.partition.config, artifact.sha256)
            if known is None:
                self._take_in(work, file, artifact)
                return
        if known.state is VersionState.KEPT and self.data_type is DataType.NPZ and not self._was_brought(work, known):
            # It is on offer still where a process died between keeping and publishing it.
            node, trigger = work.partition.node, work.order.trigger
            if self.intake.publisher.offer(known, node=node, trigger=trigger, force=work.order.force):
                work.outcome = work.outcome.counted({"published": 1})
        if self.data_type is DataType.NPZ:
            now = published_version(work.runtime.state, self.data_type.value, work.partition.config)
            hashes[file.path] = [file.token, known.sha256, 0 if now is None else now[0].serial]

    def _was_brought(self, work: Work, known: Version) -> bool:
        """Whether the node has this content from us: then it is no export of its own, and nothing it offers."""
        brought = placement_of(work.runtime.state, work.partition.node, self.data_type.value, work.partition.config)
        return brought is not None and brought.content == known.sha256

    def _hash(self, work: Work, file: NodeFile) -> Artifact:
        """Have the node hash the file, which also makes it an artifact that can be fetched."""
        answer = work.call("hash", {"path": file.path}, HASH_SECONDS)
        with makes_sense(Sender(work.partition.node, work.transport.name, file.path)):
            sha256 = answer["artifact"]
            if not isinstance(sha256, str) or not SHA256.fullmatch(sha256):
                raise ValueError(f"artifact is no SHA-256: {sha256!r:.100}")
            return Artifact(sha256, whole(answer["bytes"], "bytes"), self.data_type.value)

    def _take_in(self, work: Work, file: NodeFile, artifact: Artifact) -> None:
        started, partition, trigger = clock.monotonic(), work.partition, work.order.trigger
        priority = data_type_priority(self.data_type, "up")
        fetched = fetch(work.runtime, work.transport, artifact, partition, trigger, priority=priority)
        arrival = Arrival(
            artifact, fetched.path, partition.node, file.path, None, fetched.bytes_moved, clock.monotonic() - started,
            fetched.transport, trigger, partition.config,
        )  # fmt: skip
        accepted = self.intake.accept(arrival, self.data_type, force=work.order.force)
        work.outcome = work.outcome.counted(
            accepted.counts, bytes_moved=fetched.bytes_moved, transport=fetched.transport
        )
        version = accepted.version
        if version.state is VersionState.REFUSED:
            work.outcome = work.outcome.with_asides((SetAside(file.path, version.sha256, f"bad_{self.data_type}"),))
            work.notes.append(Note(partition.node, file.path, "refused", version.reason))

    def _hashes(self, work: Work) -> dict[str, list[Any]]:
        """Digests by path, each after the file's change token of then; for an npz also what it was judged by."""
        known = placement_of(work.runtime.state, work.partition.node, self._book, work.partition.config)
        hashes: Mapping[str, Any] = known.detail if known is not None else {}
        return {path: list(pair) for path, pair in hashes.items()}

    def _remember(self, work: Work, files: Sequence[NodeFile], hashes: Mapping[str, list[Any]]) -> None:
        kept = {file.path: hashes[file.path] for file in files if file.path in hashes}
        if kept != self._hashes(work):
            placed(
                work.runtime.state, Placement(work.partition.node, self._book, work.partition.config, "", detail=kept)
            )

    @property
    def _book(self) -> str:
        """Under which name the digests of nodes' files are remembered."""
        return f"{self.data_type}:hashes"

    def down(self, work: Work, files: Sequence[NodeFile]) -> Errors:
        """Bring the published version, and switch the node's names."""
        try:
            self.distribution.bring(work, files)
        except RemoteCallError as error:
            if error.code == "uncollected":
                work.notes.append(Note(work.partition.node, "", error.code, error.message))
                return []
            return [("", error)]
        except SyncError as error:
            return [("", error)]
        return []


def make_files_mover(data_type: DataType, runtime: Runtime) -> FilesMover:
    """The mover of a data type for one pass."""
    return FilesMover(data_type, runtime.files, Distribution(runtime, data_type))
