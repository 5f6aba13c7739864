"""Collect one games database of one node into one config's canonical database.

Packs are ordered, fetched and taken in until nothing is left. The store's cursor says where to go on. Where its
anchor no longer holds, the node lists its games and those that the store lacks are ordered by name. Killed anywhere,
the next pass orders the same pack again and resumes what had arrived.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from ringrift_sync_dagster.core.bandwidth import data_type_priority
from ringrift_sync_dagster.core.model import Artifact, DataType, Partition
from ringrift_sync_dagster.errors import (
    ArtifactGoneError,
    RemoteCallError,
    SourceChangedError,
    SyncError,
    TransferError,
)
from ringrift_sync_dagster.intake.arrival import Arrival
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.nodes import NodeFile
from ringrift_sync_dagster.storage.canonical import CanonicalStore
from ringrift_sync_dagster.sync.answers import (
    ListAnswer,
    PackAnswer,
    reached_end_at,
    read_list,
    read_pack,
    usable_cursor,
)
from ringrift_sync_dagster.sync.damaged import DAMAGED, list_damaged
from ringrift_sync_dagster.sync.fields import Sender
from ringrift_sync_dagster.sync.mover import Work
from ringrift_sync_dagster.sync.report import Note
from ringrift_sync_dagster.sync.runtime import Runtime
from ringrift_sync_dagster.sync.transferring import fetch

CALL_SECONDS: Final = 300.0
"""Time budget of one kit operation: a large database is read in bounded steps, but its disk may be slow."""
LISTING_RESTARTS: Final = 3
ORDER_TRIES: Final = 2
LISTING_PAGE: Final = 500


@dataclass(slots=True)
class SourceCollector:
    """Collects one partition's share of one database.

    Args:
        work: The partition, and what was done for it so far; grows with each pack.
        file: The database.

    """

    work: Work
    file: NodeFile
    _taken: set[str] = field(default_factory=set)

    @property
    def runtime(self) -> Runtime:
        """What to work with."""
        return self.work.runtime

    @property
    def store(self) -> CanonicalStore:
        """Where its games go."""
        return self.runtime.intake.store_of(self.file.path)

    @property
    def partition(self) -> Partition:
        """Config and node."""
        return self.work.partition

    @property
    def notes(self) -> list[Note]:
        """What a person should know of the databases."""
        return self.work.notes

    def collect(self) -> None:
        """Bring everything that the database has for this config and the store lacks.

        Raises:
            SyncError: What stopped it; everything taken in before stays.

        """
        file = self.file
        path, self._taken = file.path, set()
        kept = self.store.cursor(self.partition.config, self.partition.node, path)
        cursor = usable_cursor(kept)
        if file.token and reached_end_at(cursor) == file.token:
            return
        while self.has_time(path):
            answer = self._order(path, {"cursor": cursor})
            if answer.listing_needed:
                self._collect_by_listing(path)
                return
            before, cursor = cursor, self._advance(path, cursor, answer)
            if not (answer.short or (answer.more and answer.games)):
                if answer.more:
                    words = f"{answer.waiting} games wait to be complete; the rest follows when the short were told"
                    self.notes.append(Note(self.partition.node, path, "crowded", words))
                before_this = self.work.outcome
                self.work.outcome = replace(before_this, waiting=before_this.waiting + answer.waiting)
                return
            self._require_progress(path, before, cursor)

    def has_time(self, path: str) -> bool:
        """Whether the pass may go on with this database; where it may not, a note says so."""
        if self.work.deadline.expired:
            words = f"this pass spent {self.work.deadline.seconds:.0f} s on the partition; the next one goes on here"
            self.notes.append(Note(self.partition.node, path, "unfinished", words))
        return not self.work.deadline.expired

    def _require_progress(self, path: str, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> None:
        if before == after:
            raise self._sender(path).error("it says that there is more, and does not go on")

    def _sender(self, path: str) -> Sender:
        return Sender(self.partition.node, self.work.transport.name, path)

    def _advance(self, path: str, before: Mapping[str, Any] | None, answer: PackAnswer) -> dict[str, Any] | None:
        """Take in what was ordered, or remember the cursor where there was nothing; give the cursor reached."""
        cursor = answer.cursor
        self.work.notes += [Note(self.partition.node, path, "warning", text) for text in answer.warnings]
        if answer.artifact is not None:
            self._take_in(path, answer, cursor)
        elif cursor is not None and cursor != before:
            self.store.set_cursor(self.partition.config, self.partition.node, path, cursor)
        if answer.short:
            told = self._order(path, {"cursor": cursor, "ids": list(answer.short), "aside": True})
            cursor = told.cursor
            self._take_in(path, told, cursor)
        return cursor

    def _collect_by_listing(self, path: str) -> None:
        """Ask the node for all ids, and order those that the store lacks by name."""
        for _ in range(LISTING_RESTARTS):
            try:
                self._list_through(path)
            except RemoteCallError as error:
                if error.code != "changed":
                    raise
            else:
                return
        raise SourceChangedError(
            self.partition.node,
            self.work.transport.name,
            f"{path}: its rows moved during {LISTING_RESTARTS} listings; the next cycle goes on",
        )

    def _list_through(self, path: str) -> None:
        store, after, more = self.store, None, True
        self._taken = set()
        while more and self.has_time(path):
            page = self.page(after)
            self._order_by_id(path, store.missing(self.partition.config, page.games))
            before, after, more = after, page.cursor, page.more and bool(page.games)
            if more:
                self._require_progress(path, before, after)
            store.set_cursor(self.partition.config, self.partition.node, path, after)

    def page(self, after: Mapping[str, Any] | None) -> ListAnswer:
        """Have the node list its complete games behind a page.

        Raises:
            SyncError: The node could not be asked, or its rows changed places (``changed``).

        """
        path, config = self.file.path, self.partition.config
        arguments = {"path": path, "config": config, "after": after, "limit": LISTING_PAGE}
        return read_list(self._call("list", arguments), self._sender(path), limit=LISTING_PAGE)

    def order_by_id(self, ids: Sequence[str]) -> None:
        """Bring games that the store has already, as they are now."""
        self._taken = set()
        self._order_by_id(self.file.path, ids)

    def _order_by_id(self, path: str, ids: Sequence[str]) -> None:
        while ids:
            answer = self._order(path, {"ids": list(ids)})
            self._take_in(path, answer, None)
            ids = answer.left

    def _call(self, op: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return self.work.call(op, arguments, CALL_SECONDS)

    def _order(self, path: str, extra: Mapping[str, Any]) -> PackAnswer:
        """Have the node make a pack."""
        settings = self.runtime.settings
        arguments = {
            "path": path, "config": self.partition.config, "max_games": settings.pack_max_games,
            "max_bytes": settings.pack_max_bytes, "short_after_seconds": settings.short_after_seconds, **extra,
        }  # fmt: skip
        kind = "aside" if extra.get("aside") else "games"
        return read_pack(self._call("pack", arguments), self._sender(path), kind=kind, ids=extra.get("ids"))

    def _take_in(self, path: str, answer: PackAnswer, cursor: Mapping[str, Any] | None) -> None:
        """Fetch the artifact, if there is one, take it in, and let the node forget it.

        Packs of one database differ at least in their cursor, so one that comes again is no progress.
        """
        artifact = answer.artifact
        if artifact is None:
            return
        if artifact.sha256 in self._taken:
            raise self._sender(path).error(f"it gives pack {artifact.sha256[:12]} again and again")
        priority = data_type_priority(DataType.GAMES, "up", archive=self.store.evaluation)
        trigger = self.work.order.trigger
        fetched = fetch(self.runtime, self.work.transport, artifact, self.partition, trigger, priority=priority)
        arrival = Arrival(
            artifact, fetched.path, self.partition.node, path, cursor, fetched.bytes_moved, fetched.seconds,
            fetched.transport, self.work.order.trigger, self.partition.config, answer.raw_bytes,
        )  # fmt: skip
        accepted = self.runtime.intake.accept(arrival)
        self._taken.add(artifact.sha256)
        moved, transport = fetched.bytes_moved, fetched.transport
        if self.store.evaluation:
            outcome = self.work.outcome.with_asides(accepted.set_aside)
            counts = {"evaluation_games": accepted.new}
            self.work.outcome = outcome.counted(
                counts, bytes_moved=moved, transport=transport, changed=accepted.changed
            )
        else:
            self.work.outcome = self.work.outcome.plus(accepted, bytes_moved=moved, transport=transport)
        self._forget(artifact)

    def _forget(self, artifact: Artifact) -> None:
        """Tell the node that the artifact is durable here; it removes it by its age anyway."""
        try:
            self.work.transport.forget(artifact, deadline=clock.Deadline.after(10.0))
        except TransferError:
            return


def collect_source(collector: SourceCollector) -> SyncError | None:
    """Collect one database; give what stopped it.

    An artifact that vanished or changed meanwhile is ordered once more. A database that a writer holds is noted and
    left to the next pass; a damaged one is listed in the quarantine as well.
    """
    failure: SyncError | None = None
    for _ in range(ORDER_TRIES):
        try:
            collector.collect()
        except (ArtifactGoneError, SourceChangedError) as error:
            failure = error
        except RemoteCallError as error:
            return _refused(collector, collector.file, error)
        except SyncError as error:
            return error
        else:
            return None
    return failure


def _refused(collector: SourceCollector, file: NodeFile, error: RemoteCallError) -> SyncError | None:
    if error.code == "locked":
        collector.notes.append(Note(file.node, file.path, error.code, error.message))
        return None
    if error.code in DAMAGED:
        try:
            list_damaged(collector.runtime, file, error.code, error.message)
        except SyncError as ours:
            return ours
    return error
