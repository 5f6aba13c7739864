"""Look again at what was verified once: versions and merged databases of the owner, and what nodes were brought.

Short: everything is there, at its length, and SQLite finds each database whole at a glance. Deep: every file is hashed
again where it lies, databases are read to the end, and ratings are computed anew. A version of the owner that was lost
or rotted is fetched from a node that still has these bytes; what rotted goes to quarantine. A node's copy that is not
what was brought is taken off the receipts, and brought again. Nothing that is sound is touched.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

from ringrift_sync_dagster.core.bandwidth import TransferPriority
from ringrift_sync_dagster.core.model import Artifact, DataType, Partition
from ringrift_sync_dagster.errors import RemoteCallError, SyncError, TransferError
from ringrift_sync_dagster.intake.files import restoring
from ringrift_sync_dagster.node import canonical
from ringrift_sync_dagster.node.patterns import CONFIGS
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.state.leases import hold
from ringrift_sync_dagster.state.placements import Placement, all_placements, placed, placement_of
from ringrift_sync_dagster.state.receipts import drop_receipt, has_receipt_at, receipts_of
from ringrift_sync_dagster.state.versions import Version, VersionState, all_versions
from ringrift_sync_dagster.storage.files import sha256_file
from ringrift_sync_dagster.sync.collect import Request, move
from ringrift_sync_dagster.sync.distribute import LINKS
from ringrift_sync_dagster.sync.fields import Sender, makes_sense, text
from ringrift_sync_dagster.sync.runtime import Runtime
from ringrift_sync_dagster.sync.transferring import fetch
from ringrift_sync_dagster.transports.base import Transport

HASH_SECONDS: Final = 300.0
TRIGGER: Final = "verify"
_ASK_AGAIN: Final = "run `ringrift-sync pull --recover`, which asks for all again"
_DAMAGED: Final = ("malformed", "not a database", "corrupt", "unsupported file format")
_FILES: Final = frozenset({DataType.NPZ.value, DataType.MODELS.value})


class Condition(StrEnum):
    """What was found, or done about it."""

    LOST = "lost"  # it is not there
    ROTTEN = "rotten"  # it is there, and other bytes
    REPAIRED = "repaired"
    UNKNOWN = "unknown"  # nobody could look


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it was verified.

    Args:
        node: Where it lies.
        data_type: One of the five data types.
        config: Its config; empty where it holds those of all.
        path: Where, relative to the node's root.
        condition: What was found, or done about it.
        detail: In a sentence, with what to do where nothing could be done.

    """

    node: str
    data_type: str
    config: str
    path: str
    condition: Condition
    detail: str


@dataclass(frozen=True, slots=True)
class Verified:
    """What a look found.

    Args:
        looked_at: How many files and databases were looked at.
        hashed_bytes: How many bytes were hashed on this disk.
        findings: What is not as it was, repaired or not.

    """

    looked_at: int
    hashed_bytes: int
    findings: tuple[Finding, ...]

    @property
    def unrepaired(self) -> tuple[Finding, ...]:
        """The findings that somebody must care for."""
        return tuple(one for one in self.findings if one.condition is not Condition.REPAIRED)


def verify(
    runtime: Runtime,
    *,
    configs: Sequence[str] | None = None,
    nodes: Sequence[str] | None = None,
    deep: bool = False,
    repair: bool = True,
) -> Verified:
    """Look at everything of the owner and of the nodes, and repair what can be.

    Args:
        runtime: What to work with.
        configs: Only these configs.
        nodes: Which nodes are looked at; None: every active one.
        deep: Hash everything again, on nodes too, and read databases to the end.
        repair: False: only look.

    Raises:
        ConfigError: There is no such node.
        StateError: The state database cannot be used.

    """
    look = _Look(runtime, frozenset(CONFIGS if configs is None else configs), deep=deep, repair=repair)
    findings = [*look.versions(), *look.databases()]
    for node in runtime.nodes(nodes):
        findings += look.node(node)
    return Verified(look.looked_at, look.hashed_bytes, tuple(findings))


class _Look:
    def __init__(self, runtime: Runtime, configs: frozenset[str], *, deep: bool, repair: bool) -> None:
        self._runtime, self._configs, self._deep, self._repair = runtime, configs, deep, repair
        self._owner = runtime.intake.owner
        self.looked_at = self.hashed_bytes = 0

    # --- The owner's files -------------------------------------------------------------------------------------------

    def versions(self) -> Iterator[Finding]:
        """Look at every version that is kept here."""
        for version in all_versions(self._runtime.state, VersionState.KEPT):
            if version.config in self._configs:
                self.looked_at += 1
                try:
                    wrong = self._wrong_with(version)
                except (SyncError, OSError) as error:  # a disk that dies gives errors, not other bytes
                    wrong = Condition.ROTTEN, f"it cannot be read: {error}"
                if wrong is not None:
                    yield self._restored(version, *wrong) if self._repair else self._finding(version, *wrong)

    def _wrong_with(self, version: Version) -> tuple[Condition, str] | None:
        path = self._runtime.layout.root / version.path
        try:
            size = path.stat().st_size
        except OSError as error:
            return Condition.LOST, f"it is not there: {error.strerror}"
        if size != version.size_bytes:
            return Condition.ROTTEN, f"it has {size} bytes instead of {version.size_bytes}"
        if self._deep:
            self.hashed_bytes += size
            found = sha256_file(path)
            if found != version.sha256:
                return Condition.ROTTEN, f"it hashes to {found[:12]} instead of {version.sha256[:12]}"
        return None

    def _restored(self, version: Version, condition: Condition, why: str) -> Finding:
        """Fetch the bytes from a node that has them, and put them back; what rotted is set aside first."""
        tried: list[str] = []
        for receipt in receipts_of(self._runtime.state, version.sha256):
            node = self._runtime.inventory.nodes.get(receipt.node)
            if node is None or receipt.node == self._owner or not node.collectable:
                continue
            try:
                with contextlib.closing(self._runtime.transport_to(node)) as transport:
                    self._fetch_back(version, node, transport, receipt.path)
            except (SyncError, OSError) as error:
                tried.append(f"{node.name}: {error}")
                continue
            return self._finding(version, Condition.REPAIRED, f"{why}; it was fetched from {node.name}")
        words = "; ".join(tried) or "no other node has a verified copy"
        return self._finding(version, condition, f"{why}, and cannot be repaired: {words}")

    def _fetch_back(self, version: Version, node: Node, transport: Transport, path: str) -> None:
        """Fetch a version; the transport refuses bytes that do not hash to its name."""
        if self._hash_there(transport, node, path) != version.sha256:
            drop_receipt(self._runtime.state, version.sha256, node.name)
            raise TransferError(node.name, transport.name, f"{path} is not what it was verified to be")
        artifact = Artifact(version.sha256, version.size_bytes, version.data_type)
        partition = Partition(version.config, node.name)
        with hold(self._runtime.state, restoring(version.sha256)):
            fetched = fetch(self._runtime, transport, artifact, partition, TRIGGER, priority=TransferPriority.HIGH)
            self._runtime.files.restore(version, fetched.path)

    def _finding(self, version: Version, condition: Condition, detail: str) -> Finding:
        return Finding(self._owner, version.data_type, version.config, version.path, condition, detail)

    # --- The owner's databases ---------------------------------------------------------------------------------------

    def databases(self) -> Iterator[Finding]:
        """Look at every merged database that there is, or that packs were merged into."""
        layout = self._runtime.layout
        kept = [(DataType.GAMES, config, layout.canonical(config)) for config in CONFIGS if config in self._configs]
        kept += [(DataType.GAMES, config, layout.evaluation(config)) for config in CONFIGS if config in self._configs]
        kept += [(DataType.ELO, "", layout.elo), (DataType.REGISTRY, "", layout.registry)]
        for data_type, config, path in kept:
            where = layout.relative(path)
            if not path.exists():
                if has_receipt_at(self._runtime.state, self._owner, where):
                    self.looked_at += 1
                    words = "packs were merged into it, and it is not there"
                    yield Finding(self._owner, data_type.value, config, where, Condition.LOST, f"{words}; {_ASK_AGAIN}")
                continue
            self.looked_at += 1
            condition, words = self._wrong_database(path, games=data_type is DataType.GAMES)
            if not words and data_type is DataType.ELO and self._deep:
                condition, words = self._wrong_ratings()
            if words:
                advice = f"; move the file away, and {_ASK_AGAIN}" if condition is Condition.ROTTEN else ""
                yield Finding(self._owner, data_type.value, config, where, condition, f"{words}{advice}")

    def _wrong_ratings(self) -> tuple[Condition, str]:
        """Compute the ratings of every config anew; those that are due are no fault, the next pass writes them."""
        rows = self._runtime.rows.store
        try:
            bad = [one for one in CONFIGS if one in self._configs and not rows.ratings_hold(one)]
            bad = [one for one in bad if one not in rows.due("matches") and not rows.ratings_hold(one)]
        except SyncError as error:
            return Condition.UNKNOWN, f"its ratings cannot be computed: {error}"
        return Condition.ROTTEN, f"the ratings of {', '.join(bad)} are not what the matches give" if bad else ""

    def _wrong_database(self, path: Path, *, games: bool) -> tuple[Condition, str]:
        """Say what is wrong, in an empty sentence where nothing is; one that could not be read now is unknown."""
        try:
            with canonical.opened(str(path), create=False) as conn:
                check = "integrity_check(1)" if self._deep else "quick_check(1)"
                said = str(conn.execute(f"PRAGMA {check}").fetchone()[0])
                if said != "ok":
                    return Condition.ROTTEN, f"SQLite says: {said}"
                conn.execute("BEGIN")  # one state for both numbers, whoever merges meanwhile
                if games and canonical.get(conn, "schema") is not None:
                    counted = int(conn.execute("SELECT COUNT(*) FROM games").fetchone()[0])
                    if counted != canonical.count(conn):
                        words = f"it holds {counted} games where merges counted {canonical.count(conn)}"
                        return Condition.ROTTEN, words
                conn.execute("ROLLBACK")
        except UnicodeDecodeError as error:
            return Condition.ROTTEN, f"it cannot be read: {error}"
        except sqlite3.Error as error:
            bad = any(word in str(error).lower() for word in _DAMAGED)
            return Condition.ROTTEN if bad else Condition.UNKNOWN, f"it cannot be read: {error}"
        return Condition.ROTTEN, ""

    # --- Nodes -------------------------------------------------------------------------------------------------------

    def node(self, node: Node) -> Iterator[Finding]:
        """Look at what a node was brought; short: what its links lead to, deep: by letting it hash them."""
        brought = [
            one
            for one in all_placements(self._runtime.state, [node.name])
            if one.data_type in _FILES and one.config in self._configs and (one.content or one.detail.get("distrusted"))
        ]
        brought = [one if one.content else replace(one, content=str(one.detail["distrusted"])) for one in brought]
        if not brought:
            return
        with contextlib.closing(self._runtime.transport_to(node)) as transport:
            for placement in brought:
                self.looked_at += 1
                path = str(placement.detail.get("path", ""))
                try:
                    wrong = self._wrong_there(placement, path, transport, node)
                except SyncError as error:
                    yield _there(placement, path, Condition.UNKNOWN, f"the node could not be asked: {error}")
                    continue
                if wrong is not None and self._is_still(placement):
                    yield self._brought_again(placement, path, wrong, transport, node)

    def _is_still(self, placement: Placement) -> bool:
        """Whether nobody brought the node another version while we looked."""
        now = placement_of(self._runtime.state, placement.node, placement.data_type, placement.config)
        if now is None:
            return False
        content = now.content or str(now.detail.get("distrusted", ""))
        return (content, now.serial) == (placement.content, placement.serial)

    def _wrong_there(
        self, placement: Placement, path: str, transport: Transport, node: Node
    ) -> tuple[Condition, str] | None:
        wrong = self._wrong_links(placement, transport, node)
        if wrong is not None or not self._deep:
            return wrong
        try:
            found = self._hash_there(transport, node, path)
        except RemoteCallError as error:
            return Condition.LOST, f"it cannot be read there: {error.message}"
        if found != placement.content:
            return Condition.ROTTEN, f"it hashes to {found[:12]} there instead of {placement.content[:12]}"
        return None

    @staticmethod
    def _wrong_links(placement: Placement, transport: Transport, node: Node) -> tuple[Condition, str] | None:
        """Ask what the node's links lead to; nothing is hashed."""
        arguments = {"data_type": placement.data_type, "config": placement.config}
        answer = transport.call("published", arguments, deadline=clock.Deadline.after(HASH_SECONDS))
        with makes_sense(Sender(node.name, transport.name, "published")):
            links = answer["links"]
            wrong = [str(one["path"]) for one in links if one["artifact"] != placement.content]
            if len(links) < LINKS[DataType(placement.data_type)]:
                return Condition.LOST, f"{len(links)} of its {LINKS[DataType(placement.data_type)]} links are there"
            return (Condition.LOST, f"{', '.join(wrong)} does not lead to it") if wrong else None

    @staticmethod
    def _hash_there(transport: Transport, node: Node, path: str) -> str:
        answer = transport.call("hash", {"path": path}, deadline=clock.Deadline.after(HASH_SECONDS))
        with makes_sense(Sender(node.name, transport.name, path)):
            return text(answer["artifact"], "artifact", 64)

    def _brought_again(
        self, placement: Placement, path: str, wrong: tuple[Condition, str], transport: Transport, node: Node
    ) -> Finding:
        """Take back what was believed of a node, bring it what is published now, and look again."""
        condition, why = wrong
        if not self._repair:
            return _there(placement, path, condition, why)
        state, name = self._runtime.state, placement.node
        drop_receipt(state, placement.content, name)
        detail = {"distrusted": placement.content, "path": path}
        placed(state, Placement(name, placement.data_type, placement.config, "", 0, detail))
        kind = DataType(placement.data_type)
        request = Request([kind], [placement.config], [name], TRIGGER, up=False, to=[name], force=True)
        report = move(self._runtime, request)[kind]
        now = placement_of(state, name, placement.data_type, placement.config)
        told = "; ".join([*(one.message for one in report.failures), *(note.message for note in report.notes)])
        if now is None or not now.content:
            return _there(
                placement, path, condition, f"{why}, and was not repaired: {told or 'nothing is brought there'}"
            )
        try:
            left = self._wrong_there(now, str(now.detail.get("path", path)), transport, node)
        except SyncError as error:
            return _there(
                placement, path, Condition.UNKNOWN, f"{why}; it was brought again, and not seen since: {error}"
            )
        if left is not None:
            return _there(placement, path, left[0], f"{why}, and was not repaired: {left[1]}")
        return _there(placement, path, Condition.REPAIRED, f"{why}; it was brought again")


def _there(placement: Placement, path: str, condition: Condition, detail: str) -> Finding:
    return Finding(placement.node, placement.data_type, placement.config, path, condition, detail)
