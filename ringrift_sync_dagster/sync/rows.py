"""The movers of elo and registry: rows come up as packs into one merged database, and missing rows go down.

Up: the node packs the rows of a config behind the store's cursor. Down: the node tells the names of the rows that it
has, the rows that it lacks are packed here, pushed, and applied by the kit inside its live database. The two numbers of
missing rows are the divergence. A node whose database and ours are as they were when nothing was missing is not asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ringrift_sync_dagster.core.bandwidth import data_type_priority
from ringrift_sync_dagster.core.model import Artifact, DataType, Partition
from ringrift_sync_dagster.errors import RemoteCallError, SyncError, TransferError
from ringrift_sync_dagster.intake.arrival import Arrival, SetAside
from ringrift_sync_dagster.intake.rows import RowsAccepted, RowsIntake, family_of
from ringrift_sync_dagster.node import records
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.changes import Change
from ringrift_sync_dagster.state.nodes import NodeFile
from ringrift_sync_dagster.state.placements import Placement, placed, placement_of
from ringrift_sync_dagster.sync.damaged import DAMAGED, list_damaged
from ringrift_sync_dagster.sync.fields import Sender
from ringrift_sync_dagster.sync.mover import Errors, Order, Work
from ringrift_sync_dagster.sync.owner_state import OwnerState
from ringrift_sync_dagster.sync.report import Note
from ringrift_sync_dagster.sync.row_answers import read_applied, read_names, read_rows
from ringrift_sync_dagster.sync.runtime import Runtime
from ringrift_sync_dagster.sync.transferring import fetch, push

CALL_SECONDS: Final = 300.0
PACKS_AT_ONCE: Final = 1_000
"""Packs of one partition in one pass, at most; a node that always says that there is more stops there."""


@dataclass(frozen=True, slots=True)
class RowsMover:
    """How one of the two data types moves; see ``mover.Mover``.

    Args:
        data_type: ``elo`` or ``registry``.
        intake: Takes in what comes up.

    """

    data_type: DataType
    intake: RowsIntake

    @property
    def family(self) -> str:
        """What the kit calls the rows."""
        return family_of(self.data_type)

    def begin(self, order: Order) -> Errors:  # noqa: ARG002 - the contract
        """Nothing: merges keep the database in order."""
        return []

    def gathered(self, order: Order) -> Errors:
        """Compute the ratings that what came up changes."""
        try:
            self.intake.settle(self.family, order.trigger)
        except SyncError as error:
            return [(self.intake.layout.relative(self.intake.store.path(self.family)), error)]
        return []

    def sources(self, files: Sequence[NodeFile], order: Order) -> Sequence[NodeFile]:  # noqa: ARG002 - the contract
        """Choose the node's own database."""
        return [file for file in files if file.collectable]

    def quiet(
        self, known: OwnerState, partition: Partition, files: Sequence[NodeFile], order: Order, *, up: bool
    ) -> bool:
        """Up: everything was read to its end. Down: both databases are as they were when nothing was missing."""
        own, config = [file for file in files if file.collectable], partition.config
        if up:
            configs = [config, *([""] if self._brings_those_without(order, config) else [])]
            return all(
                bool(file.token) and known.read_up_to(self.family, one, file.node, file.path) == file.token
                for file in own
                for one in configs
            )
        state = known.generations[self.data_type]
        before = known.placements.get((partition.node, self.data_type.value, config))
        return not state or all(_is_as_it_was(before, state, file) for file in own)

    def _brings_those_without(self, order: Order, config: str) -> bool:
        """Whether rows of no config come with this one."""
        return self.data_type is DataType.REGISTRY and config == order.configs[0]

    def up(self, work: Work, files: Sequence[NodeFile]) -> Errors:
        """Bring the rows of this config; with the first config of a pass also those that belong to none."""
        errors: Errors = []
        for file in files:
            configs = [work.partition.config]
            if self._brings_those_without(work.order, work.partition.config):
                configs.append("")
            for config in configs:
                try:
                    self._bring_up(work, file, config)
                except RemoteCallError as error:
                    if error.code == "locked":
                        work.notes.append(Note(file.node, file.path, error.code, error.message))
                        continue
                    if error.code in DAMAGED:
                        list_damaged(work.runtime, file, error.code, error.message)
                    errors.append((file.path, error))
                except SyncError as error:
                    errors.append((file.path, error))
        return errors

    def _bring_up(self, work: Work, file: NodeFile, config: str) -> None:
        store, node = self.intake.store, work.partition.node
        cursor = store.cursor(self.family, config, node, file.path)
        if cursor is not None and file.token and cursor.get("token") == file.token:
            return
        for _ in range(PACKS_AT_ONCE):
            started = clock.monotonic()
            arguments = {"path": file.path, "kind": self.family, "config": config or None, "cursor": cursor}
            result = work.call("rows", arguments, CALL_SECONDS)
            answer = read_rows(result, Sender(node, work.transport.name, file.path), kind=self.family)
            work.notes += [Note(node, file.path, "warning", text) for text in answer.warnings]
            if answer.artifact is not None:
                self._take_in(work, file, config, answer.artifact, answer.raw_bytes, answer.cursor, started)
            elif answer.cursor is not None and answer.cursor != cursor:
                store.set_cursor(self.family, config, node, file.path, answer.cursor)
            if not answer.more or answer.cursor == cursor or work.deadline.expired:
                return
            cursor = answer.cursor

    def _take_in(
        self,
        work: Work,
        file: NodeFile,
        config: str,
        artifact: Artifact,
        raw_bytes: int,
        cursor: Mapping[str, Any] | None,
        started: float,
    ) -> None:
        trigger = work.order.trigger
        priority = data_type_priority(self.data_type, "up")
        fetched = fetch(work.runtime, work.transport, artifact, work.partition, trigger, priority=priority)
        arrival = Arrival(
            artifact, fetched.path, work.partition.node, file.path, cursor, fetched.bytes_moved,
            clock.monotonic() - started, fetched.transport, trigger, config, raw_bytes,
        )  # fmt: skip
        accepted = self.intake.accept(arrival)
        self._count(work, file, accepted)
        work.outcome = work.outcome.counted(
            accepted.counts, bytes_moved=fetched.bytes_moved, transport=fetched.transport,
            changed=accepted.changed and bool(config),
        )  # fmt: skip
        try:
            work.transport.forget(artifact, deadline=clock.Deadline.after(10.0))
        except TransferError:
            return

    def _count(self, work: Work, file: NodeFile, accepted: RowsAccepted) -> None:
        """Note what was set aside, and rows that belong to no config."""
        asides = tuple(SetAside(name, "", reason) for name, reason in accepted.refused)
        work.outcome = work.outcome.with_asides(asides)
        new = sum(count for name, count in accepted.counts.items() if name.endswith("_new"))
        if not accepted.config and new:
            work.notes.append(
                Note(file.node, file.path, "no_config", f"{new} rows belong to no config; they are merged")
            )

    def down(self, work: Work, files: Sequence[NodeFile]) -> Errors:
        """Bring the node the rows that it lacks; a node without a database of its own is left as it is."""
        errors: Errors = []
        for file in [file for file in files if file.collectable]:
            try:
                self._bring_down(work, file)
            except RemoteCallError as error:
                if error.code == "locked":
                    work.notes.append(Note(file.node, file.path, error.code, error.message))
                else:
                    errors.append((file.path, error))
            except SyncError as error:
                errors.append((file.path, error))
        return errors

    def _bring_down(self, work: Work, file: NodeFile) -> None:
        runtime, partition = work.runtime, work.partition
        state = self.intake.store.generation(self.family)
        before = placement_of(runtime.state, partition.node, self.data_type.value, partition.config)
        if not state or _is_as_it_was(before, state, file):
            return
        arguments = {"path": file.path, "kind": self.family, "config": partition.config}
        sender = Sender(partition.node, work.transport.name, file.path)
        told = read_names(work.call("keys", arguments, CALL_SECONDS), sender)
        own = {record.name: record for record in self.intake.store.records(self.family, partition.config)}
        missing = [record for name, record in own.items() if name not in told.names]
        detail = {
            "token": told.token, "missing_down": len(missing), "missing_up": len(told.names - own.keys()),
            "path": file.path,
        }  # fmt: skip
        change = None
        for start in range(0, len(missing), records.MAX_RECORDS):
            change = self._apply(work, file, missing[start : start + records.MAX_RECORDS], sender) or change
        if missing:
            # What was missing is there now, but its token is not known; the next pass asks once more, finding nothing.
            detail["token"] = ""
        placed(
            runtime.state,
            Placement(partition.node, self.data_type.value, partition.config, state, 0, detail),
            change=change,
        )

    def _apply(self, work: Work, file: NodeFile, missing: Sequence[records.Record], sender: Sender) -> Change | None:
        """Pack rows here, push the pack and have it applied there; give the change, if the node changed."""
        runtime, partition, trigger = work.runtime, work.partition, work.order.trigger
        started = clock.monotonic()
        meta = {"kind": self.family, "config": partition.config, "path": "", "cursor": ""}
        sealed = records.write_pack(missing, meta, str(runtime.layout.scratch), clock.wall())
        artifact = Artifact(sealed["artifact"], sealed["bytes"], self.family)
        source = runtime.layout.artifacts / artifact.sha256
        priority = data_type_priority(self.data_type, "down")
        pushed = push(runtime, work.transport, artifact, source, partition, trigger, priority=priority)
        arguments = {
            "path": file.path, "kind": self.family, "config": partition.config, "node": runtime.intake.owner,
            "artifact": artifact.sha256,
        }  # fmt: skip
        counts = read_applied(work.call("apply", arguments, CALL_SECONDS), sender)
        _let_go(source)
        brought = sum(count for name, count in counts.items() if name.endswith("_new"))
        if not brought:
            return None
        work.outcome = work.outcome.counted(
            {"brought": brought}, bytes_moved=pushed.bytes_moved, transport=pushed.transport
        )
        return Change(
            f"{artifact.sha256[:16]}-{partition.node}-{clock.wall():.6f}", clock.wall(), self.data_type.value, "down",
            partition.config, partition.node, artifact.sha256, file.path, size_bytes=pushed.bytes_moved,
            seconds=clock.monotonic() - started, transport=pushed.transport, trigger=trigger,
            counts={"brought": brought},
        )  # fmt: skip


def make_rows_mover(data_type: DataType, runtime: Runtime) -> RowsMover:
    """The mover of a data type for one pass."""
    return RowsMover(data_type, runtime.rows)


def _is_as_it_was(before: Placement | None, state: str, file: NodeFile) -> bool:
    """Whether nothing was missing when this state of ours met this state of the node's database."""
    if before is None or before.content != state:
        return False
    token = before.detail.get("token")
    return bool(token) and token == file.token


def _let_go(source: Path) -> None:
    for path in (source, source.with_name(f"{source.name}.json")):
        path.unlink(missing_ok=True)
