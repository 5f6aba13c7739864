"""Collect one games database of one node into one config's canonical database.

Packs are ordered, fetched and taken in until nothing is left. The store's cursor says where to go on. Where its
anchor no longer holds, the node lists its games and those that the store lacks are ordered by name. Killed anywhere,
the next pass orders the same pack again and resumes what had arrived.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from ringrift_sync_dagster.core.model import Artifact, Partition
from ringrift_sync_dagster.errors import (
    ArtifactGoneError,
    RemoteCallError,
    SourceChangedError,
    SyncError,
    TransferError,
)
from ringrift_sync_dagster.intake.arrival import Accepted, Arrival
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.nodes import NodeFile
from ringrift_sync_dagster.sync.fetching import fetch
from ringrift_sync_dagster.sync.report import Note, Outcome
from ringrift_sync_dagster.sync.runtime import Runtime
from ringrift_sync_dagster.transports.base import Transport

CALL_SECONDS: Final = 300.0
"""Time budget of one kit operation: a large database is read in bounded steps, but its disk may be slow."""
LISTING_RESTARTS: Final = 3
ORDER_TRIES: Final = 2
LISTING_PAGE: Final = 500


@dataclass(slots=True)
class SourceCollector:
    """Collects one partition's share of one database.

    Args:
        runtime: What to work with.
        transport: The way to the node.
        partition: Config and node.
        outcome: What was done so far; grows with each pack.
        trigger: What started the pass.
        notes: What a person should know of the databases; grows as well.

    """

    runtime: Runtime
    transport: Transport
    partition: Partition
    outcome: Outcome
    trigger: str
    notes: list[Note] = field(default_factory=list)

    def collect(self, file: NodeFile) -> None:
        """Bring everything that the database has for this config and the store lacks.

        Raises:
            SyncError: What stopped it; everything taken in before stays.

        """
        path = file.path
        cursor = self.runtime.intake.store.cursor(self.partition.config, self.partition.node, path)
        if _unchanged(cursor, file.token):
            return
        while True:
            result = self._order(path, {"cursor": cursor})
            if result["mode"] == "listing_needed":
                self._collect_by_listing(path)
                return
            cursor = self._advance(path, cursor, result)
            if not result["more"] or not result["games"]:
                self.outcome = replace(self.outcome, waiting=self.outcome.waiting + int(result["waiting"]))
                return

    def _advance(self, path: str, before: Mapping[str, Any] | None, result: Mapping[str, Any]) -> dict[str, Any]:
        """Take in what was ordered, or remember the cursor where there was nothing; give the cursor reached."""
        cursor = dict(result["cursor"])
        self.notes += [Note(self.partition.node, path, "warning", text) for text in result["warnings"]]
        if result["artifact"] is not None:
            self._take_in(path, result, cursor)
        elif cursor != before:
            self.runtime.intake.store.set_cursor(self.partition.config, self.partition.node, path, cursor)
        if result["short"]:
            told = self._order(path, {"cursor": cursor, "ids": list(result["short"]), "aside": True})
            cursor = dict(told["cursor"])
            if told["artifact"] is not None:
                self._take_in(path, told, cursor, kind="aside")
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
            self.transport.name,
            f"{path}: its rows moved during {LISTING_RESTARTS} listings; the next cycle goes on",
        )

    def _list_through(self, path: str) -> None:
        store, after, more = self.runtime.intake.store, None, True
        while more:
            arguments = {"path": path, "config": self.partition.config, "after": after, "limit": LISTING_PAGE}
            page = self.transport.call("list", arguments, deadline=clock.Deadline.after(CALL_SECONDS))
            ids = store.missing(self.partition.config, [(game_id, identity) for game_id, identity, _ in page["games"]])
            while ids:
                result = self._order(path, {"ids": ids})
                if result["artifact"] is not None:
                    self._take_in(path, result, None)
                ids = list(result["left"])
            after, more = page["cursor"], bool(page["more"])
            store.set_cursor(self.partition.config, self.partition.node, path, after)

    def _order(self, path: str, extra: Mapping[str, Any]) -> dict[str, Any]:
        """Have the node make a pack."""
        settings = self.runtime.settings
        arguments = {
            "path": path, "config": self.partition.config, "max_games": settings.pack_max_games,
            "max_bytes": settings.pack_max_bytes, "short_after_seconds": settings.short_after_seconds, **extra,
        }  # fmt: skip
        return dict(self.transport.call("pack", arguments, deadline=clock.Deadline.after(CALL_SECONDS)))

    def _take_in(
        self, path: str, result: Mapping[str, Any], cursor: Mapping[str, Any] | None, kind: str = "games"
    ) -> Accepted:
        """Fetch the artifact, take it in, and let the node forget it."""
        artifact = Artifact(str(result["artifact"]), int(result["bytes"]), kind)
        fetched = fetch(self.runtime, self.transport, artifact, self.partition, self.trigger)
        arrival = Arrival(
            artifact, fetched.path, self.partition.node, path, cursor,
            fetched.bytes_moved, fetched.seconds, self.transport.name, self.trigger,
        )  # fmt: skip
        accepted = self.runtime.intake.accept(arrival)
        self.outcome = self.outcome.plus(accepted, bytes_moved=fetched.bytes_moved, transport=self.transport.name)
        self._forget(artifact)
        return accepted

    def _forget(self, artifact: Artifact) -> None:
        """Tell the node that the artifact is durable here; it removes it by its age anyway."""
        try:
            self.transport.forget(artifact, deadline=clock.Deadline.after(10.0))
        except TransferError:
            return


def collect_source(collector: SourceCollector, file: NodeFile) -> SyncError | None:
    """Collect one database; give what stopped it.

    An artifact that vanished or changed meanwhile is ordered once more.
    """
    failure: SyncError | None = None
    for _ in range(ORDER_TRIES):
        try:
            collector.collect(file)
        except (ArtifactGoneError, SourceChangedError) as error:
            failure = error
        except SyncError as error:
            return error
        else:
            return None
    return failure


def _unchanged(cursor: Mapping[str, Any] | None, token: str) -> bool:
    """Whether this database has nothing to collect.

    That is so when the store has read it up to its present state, and no game in it still needs to be told as short.
    """
    if cursor is None or not cursor.get("token") or cursor["token"] != token:
        return False
    return not any(finished and not reported for finished, _, _, reported in cursor["waiting"].values())
