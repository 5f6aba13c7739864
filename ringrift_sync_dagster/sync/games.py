"""The mover of games: finished games of a node's databases come up, canonical games go down to nodes that train.

Up: self-play first, then evaluation games, which go into a database of their own. Down: the node's copy of the
canonical database carries our marker and its own cursor, written with the rows; so a node that lost it starts again,
and one that has it gets what is new. It is never collected again, unless in recovery.
"""

from __future__ import annotations

import shutil
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from ringrift_sync_dagster.core.bandwidth import data_type_priority
from ringrift_sync_dagster.core.model import Artifact, DataType, Partition
from ringrift_sync_dagster.errors import CanonicalStoreError, NextStep, RemoteCallError, SyncError
from ringrift_sync_dagster.node.cursor import parse
from ringrift_sync_dagster.node.errors import KitError
from ringrift_sync_dagster.node.pack import Request, make_pack
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.changes import Change
from ringrift_sync_dagster.state.nodes import NodeFile
from ringrift_sync_dagster.state.placements import Placement, placed, placement_of
from ringrift_sync_dagster.sync.answers import UNKNOWN_CONFIG, usable_cursor
from ringrift_sync_dagster.sync.deep import look_deeper
from ringrift_sync_dagster.sync.fields import Sender, makes_sense, text
from ringrift_sync_dagster.sync.mover import Errors, Order, Work
from ringrift_sync_dagster.sync.owner_state import OwnerState
from ringrift_sync_dagster.sync.report import Note
from ringrift_sync_dagster.sync.row_answers import read_applied
from ringrift_sync_dagster.sync.source import SourceCollector, collect_source
from ringrift_sync_dagster.sync.transferring import push
from ringrift_sync_dagster.transports.base import Pushed

CALL_SECONDS: Final = 300.0
_NODE_WIDE: Final = frozenset({NextStep.NODE_DOWN, NextStep.NEXT_RUNG})
_RECOVERED: Final = frozenset({"received", "canonical"})
_TEXT_CHARS: Final = 4096
_KEEP_SECONDS: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Brought:
    """What one pass brought to a node's copy: games that are new there, bytes, over what, and in how many seconds."""

    games: int
    bytes_moved: int
    transport: str
    seconds: float


@dataclass(frozen=True, slots=True)
class GamesMover:
    """How games move; see ``mover.Mover``."""

    _turns: defaultdict[str, threading.Lock] = field(default_factory=lambda: defaultdict(threading.Lock))

    def begin(self, order: Order) -> Errors:  # noqa: ARG002 - the contract
        """Nothing: merges keep the store in order."""
        return []

    def gathered(self, order: Order) -> Errors:  # noqa: ARG002 - the contract
        """Nothing: each arrival is finished by itself."""
        return []

    def sources(self, files: Sequence[NodeFile], order: Order) -> Sequence[NodeFile]:
        """Choose databases with finished games: self-play first, then evaluation; in recovery also what we wrote."""
        found = [file for file in files if file.games and (file.collectable or _is_wanted(file, order))]
        return sorted(found, key=lambda file: file.kind == "eval")

    def quiet(
        self, known: OwnerState, partition: Partition, files: Sequence[NodeFile], order: Order, *, up: bool
    ) -> bool:
        """Up: everything was read to its end, and no slow look is due. Down: the copy is as it was when it had all."""
        if order.recover:
            return False
        if up:
            return all(_is_read(known, file, partition.config) for file in files)
        state = known.states.get((DataType.GAMES, partition.config))
        before = known.placements.get((partition.node, DataType.GAMES.value, partition.config))
        if state is None:
            return True
        token = _copy_token(files, partition.config)
        return before is not None and before.content == state and bool(token) and before.detail.get("token") == token

    def up(self, work: Work, files: Sequence[NodeFile]) -> Errors:
        """Collect the databases one after the other; an error that concerns the whole node ends the partition."""
        errors: Errors = []
        evaluation = [file for file in files if file.kind == "eval"]
        if evaluation and work.is_held(DataType.GAMES, up=True, evaluation=True):
            work.outcome = replace(work.outcome, held=True)
            files = [file for file in files if file.kind != "eval"]
        for file in files:
            error = collect_source(SourceCollector(work, file))
            if error is not None:
                errors.append((file.path, error))
                if error.next_step in _NODE_WIDE:
                    break
            if work.deadline.expired:
                break
        if not errors:
            errors += self._look_deeper(work, files)
        return errors

    def _look_deeper(self, work: Work, files: Sequence[NodeFile]) -> Errors:
        """Go on with the slow look at each database, when everything new has come."""
        errors: Errors = []
        for file in files:
            try:
                look_deeper(SourceCollector(work, file))
            except RemoteCallError as error:
                if error.code != "locked":
                    errors.append((file.path, error))
            except SyncError as error:
                errors.append((file.path, error))
                break
            if work.deadline.expired:
                break
        return errors

    def down(self, work: Work, files: Sequence[NodeFile]) -> Errors:
        """Bring the canonical games that the node's copy lacks."""
        try:
            self._bring(work, _copy_token(files, work.partition.config))
        except SyncError as error:
            return [(synced_path(work.partition.config), error)]
        return []

    def _bring(self, work: Work, token: str) -> None:
        runtime, config, node = work.runtime, work.partition.config, work.partition.node
        store = runtime.intake.store
        generation = store.generation(config)
        if not generation:
            return
        applied = self._applied(work)
        store_id = applied["store_id"]
        before = placement_of(runtime.state, node, DataType.GAMES.value, config)
        known = {"store_id": store_id, "token": token}
        if before is not None and token and (before.content, before.detail) == (generation, known):
            return  # any other token may be that of an older copy, which its own cursor tells
        cursor, brought, moved, transport, started = applied["cursor"], 0, 0, "", clock.monotonic()
        for _ in range(runtime.settings.max_packs_down):
            answer = self._pack(work, cursor, generation)
            if answer["mode"] == "listing_needed":  # our store is another one than that which the node was brought
                cursor = None
                continue
            if answer["artifact"] is not None:
                new, store_id, pushed = self._apply(work, answer, generation)
                brought, moved, transport = brought + new, moved + pushed.bytes_moved, pushed.transport
            cursor = answer["cursor"]
            if not answer["more"]:
                break
            if work.deadline.expired:
                generation = ""
                break
        else:
            generation = ""
        done = Brought(brought, moved, transport, clock.monotonic() - started)
        # While a copy that lacks nothing stays as it is, it need not be asked again.
        self._record(work, generation, {"store_id": store_id} if moved else known, done)

    def _applied(self, work: Work) -> dict[str, Any]:
        """Ask the node how far its copy has come; nothing where it has none."""
        config = work.partition.config
        source = work.runtime.layout.relative(work.runtime.layout.canonical(config))
        arguments = {
            "path": synced_path(config), "config": config, "node": work.runtime.intake.owner, "source_path": source
        }  # fmt: skip
        answer = work.call("applied", arguments, CALL_SECONDS)
        with makes_sense(Sender(work.partition.node, work.transport.name, synced_path(config))):
            found = answer["cursor"]
            if found is not None and not isinstance(found, dict):
                raise TypeError("its cursor is none")
            return {"store_id": text(answer["store_id"], "store_id", _TEXT_CHARS), "cursor": usable_cursor(found)}

    def _pack(self, work: Work, cursor: dict[str, Any] | None, generation: str) -> dict[str, Any]:
        """Pack canonical games behind the node's cursor, on our own disk; nodes that have come as far share a pack."""
        runtime, config = work.runtime, work.partition.config
        path, settings = runtime.layout.canonical(config), runtime.settings
        scratch = _scratch(work, generation)
        try:
            request = Request(config, parse(cursor), settings.pack_max_games, settings.pack_max_bytes)
            with self._turns[config]:
                return make_pack(str(path), runtime.layout.relative(path), str(scratch), request, clock.wall())
        except KitError as error:
            raise CanonicalStoreError(path, error.message) from error

    def _apply(self, work: Work, answer: dict[str, Any], generation: str) -> tuple[int, str, Pushed]:
        """Push a pack and have it merged there; give how many games are new there, and the copy's store id."""
        runtime, partition = work.runtime, work.partition
        artifact = Artifact(answer["artifact"], answer["bytes"], DataType.GAMES.value)
        source = _scratch(work, generation) / "artifacts" / artifact.sha256
        priority = data_type_priority(DataType.GAMES, "down")
        pushed = push(runtime, work.transport, artifact, source, partition, work.order.trigger, priority=priority)
        arguments = {
            "path": synced_path(partition.config), "kind": "games", "config": partition.config,
            "node": runtime.intake.owner, "artifact": artifact.sha256,
        }  # fmt: skip
        sender = Sender(partition.node, work.transport.name, synced_path(partition.config))
        result = work.call("apply", arguments, CALL_SECONDS)
        counts = read_applied(result, sender)
        with makes_sense(sender):
            store_id = text(result["store_id"], "store_id", _TEXT_CHARS)
        return counts.get("games_new", 0) + counts.get("games_revised", 0), store_id, pushed

    def _record(self, work: Work, generation: str, detail: dict[str, str], brought: Brought) -> None:
        """Remember what the node has now, with the change; an empty generation: more follows with the next pass."""
        partition, now = work.partition, clock.wall()
        change = None
        if brought.games:
            counts = {"brought": brought.games}
            work.outcome = work.outcome.counted(counts, bytes_moved=brought.bytes_moved, transport=brought.transport)
            change = Change(
                f"{generation or 'part'}-{partition.key}-{now:.6f}", now, DataType.GAMES.value, "down",
                partition.config, partition.node, "", synced_path(partition.config), size_bytes=brought.bytes_moved,
                seconds=brought.seconds, transport=brought.transport, trigger=work.order.trigger, counts=counts,
            )  # fmt: skip
        if not generation:
            words = "the rest of the canonical games follows with the next pass"
            work.notes.append(Note(partition.node, synced_path(partition.config), "unfinished", words))
        placement = Placement(partition.node, DataType.GAMES.value, partition.config, generation, 0, detail)
        placed(work.runtime.state, placement, change=change)


def _scratch(work: Work, generation: str) -> Path:
    """Where packs of one state of the canonical games are made; a pack is remembered there, so it is never an old one.

    Those of earlier states go when nobody has needed them for a while.
    """
    folder, config = work.runtime.layout.scratch / "down", work.partition.config
    mine = folder / f"{config}.{generation}"
    if not mine.exists():
        for other in folder.glob(f"{config}.*"):
            if other.stat().st_mtime < clock.wall() - _KEEP_SECONDS:
                shutil.rmtree(other, ignore_errors=True)
    return mine


def synced_path(config: str) -> str:
    """Where a node has its copy of the canonical games of a config."""
    return f"data/games/synced/canonical_{config}.db"


def _is_read(known: OwnerState, file: NodeFile, config: str) -> bool:
    read = known.read_up_to("eval" if file.kind == "eval" else "games", config, file.node, file.path)
    scan = known.deep_scans.get((file.node, file.path, config))
    interval = known.runtime.settings.deep_scan_interval
    looked = scan is not None and scan.finished_at is not None and 0 <= clock.wall() - scan.finished_at < interval
    return looked and bool(file.token) and read == file.token


def _copy_token(files: Sequence[NodeFile], config: str) -> str:
    """The change token of the node's copy of the canonical games; empty where it told of none."""
    path = synced_path(config)
    return next((file.token for file in files if file.path == path and not file.error), "")


def _is_wanted(file: NodeFile, order: Order) -> bool:
    readable = not file.error or file.error.startswith(UNKNOWN_CONFIG)
    return readable and (file.kind == "eval" or (order.recover and file.kind in _RECOVERED))
