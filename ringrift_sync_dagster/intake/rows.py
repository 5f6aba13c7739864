"""Take in a pack of matches or registry rows: prove, unite under the family's lease, write receipt and change.

The order and the guarantees are those of games (``intake.games``): what does not enter is durable in quarantine before
the commit that leaves it out; rows, cursor and change are one commit; the file in ``incoming/`` goes last. Killed
between any two steps, the next pass repeats the rest.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.errors import PackRefusedError
from ringrift_sync_dagster.intake.arrival import Arrival
from ringrift_sync_dagster.intake.changes import deliver_changes
from ringrift_sync_dagster.node import faults, union
from ringrift_sync_dagster.node.errors import KitError
from ringrift_sync_dagster.node.patterns import CONFIGS
from ringrift_sync_dagster.node.records import FAMILIES, Refused, canonical_json
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.leases import Lease, hold
from ringrift_sync_dagster.state.receipts import ArtifactRow, Receipt, add_receipt
from ringrift_sync_dagster.state.schema import receipts, versions
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.storage.files import disk_errors, fsync_dir
from ringrift_sync_dagster.storage.layout import Layout
from ringrift_sync_dagster.storage.quarantine import Quarantine
from ringrift_sync_dagster.storage.records import RecordsStore

LEASE_WAIT_SECONDS: Final = 300.0
_CHUNK: Final = 500


@dataclass(frozen=True, slots=True)
class RowsAccepted:
    """What became of a pack.

    Args:
        config: Where its rows belong; empty when none.
        counts: By the names of changes.
        refused: What does not enter, as (name, reason).
        changed: True when a change was written.

    """

    config: str
    counts: dict[str, int]
    refused: tuple[tuple[str, str], ...]
    changed: bool


@dataclass(frozen=True, slots=True)
class RowsIntake:
    """The intake of one owner for one family; safe for threads, and for processes through the leases.

    Args:
        owner: Name of the node whose disk this is: the coordinator.
        state: The shared facts.
        layout: The owner's disk.
        lease_wait_seconds: How long to wait for another process that merges into the same family.

    """

    owner: str
    state: StateStore
    layout: Layout
    lease_wait_seconds: float = LEASE_WAIT_SECONDS
    _turns: defaultdict[str, threading.Lock] = field(default_factory=lambda: defaultdict(threading.Lock))

    @property
    def store(self) -> RecordsStore:
        """The merged databases."""
        return RecordsStore(self.layout)

    @property
    def quarantine(self) -> Quarantine:
        """Where records go that do not enter."""
        return Quarantine(self.layout.quarantine)

    def accept(self, arrival: Arrival) -> RowsAccepted:
        """Take in one pack; the file is gone from ``incoming/`` when this returns. Idempotent.

        Raises:
            PackRefusedError: It is no sound pack of what was ordered; it went to quarantine whole.
            LocalDiskError: Our disk is full; the file stays for the next pass.
            LeaseHeldError: Another process merged for five minutes; the file stays.
            CanonicalStoreError: The merged database cannot be used; the file stays.

        """
        started = clock.monotonic()
        with self._proved(arrival) as pack:
            accepted = self._merge(arrival, pack, started)
            self._receipt(arrival, pack)
        deliver_changes(self.store, self.state, pack.family)
        faults.reached("rows.delivered")
        self._let_go(arrival.path)
        return accepted

    def settle(self, family: str, trigger: str) -> None:
        """Compute what follows from all rows of each config that is due: ratings, once for the packs of a pass.

        Raises:
            LocalDiskError: Our disk is full; the config stays due.
            LeaseHeldError: Another process merged for five minutes; as above.
            CanonicalStoreError: The merged database cannot be used; as above.

        """
        for config, node in sorted(self.store.due(family).items()):
            fields = {
                "data_type": FAMILIES[family], "direction": "up", "at": clock.wall(), "config": config, "node": node,
                "artifact": "", "trigger": trigger,
            }  # fmt: skip
            note = union.Note(f"settle-{family}-{config}-{os.urandom(8).hex()}", node, fields, None)
            with self._merging(family) as lease:
                self.store.settle(family, config, note, lease.check)
        deliver_changes(self.store, self.state, family)

    @contextlib.contextmanager
    def _merging(self, family: str) -> Iterator[Lease]:
        """Be the one that writes the family's database."""
        with (
            self._turns[family],
            hold(self.state, f"records:{family}", wait_seconds=self.lease_wait_seconds) as lease,
        ):
            yield lease

    def describe(self, arrival: Arrival) -> tuple[str, str]:
        """The family and config that a pack says it is of.

        Raises:
            PackRefusedError: It is no sound pack; it went to quarantine whole.

        """
        with self._proved(arrival) as pack:
            return pack.family, pack.config

    def _merge(self, arrival: Arrival, pack: union.Proved, started: float) -> RowsAccepted:
        change_id = f"{arrival.artifact.sha256[:16]}-{os.urandom(8).hex()}"
        refused: list[Refused] = []

        def set_aside(found: Sequence[Refused]) -> None:
            refused.extend(found)
            for one in found:
                self._put_aside(arrival, one)

        note = union.Note(change_id, arrival.node, self._fields(arrival, pack, started), _cursor(arrival, pack))
        with self._merging(pack.family) as lease:
            try:
                merged = self.store.merge(pack, note, set_aside, lease.check)
            except KitError as error:
                raise self._refused(arrival, error.message) from error
        told = tuple((one.record.key, one.reason) for one in refused)
        return RowsAccepted(pack.config, {**merged.counts}, told, merged.changed)

    def _fields(self, arrival: Arrival, pack: union.Proved, started: float) -> dict[str, Any]:
        """What the change says beside its counts."""
        return {
            "data_type": FAMILIES[pack.family], "direction": "up", "at": clock.wall(), "config": pack.config,
            "node": arrival.node, "artifact": arrival.artifact.sha256,
            "source_path": arrival.source_path or pack.meta.get("path", ""), "size_bytes": arrival.bytes_moved,
            "seconds": arrival.seconds + clock.monotonic() - started, "transport": arrival.transport,
            "trigger": arrival.trigger, "checks": self._known_files(pack),
        }  # fmt: skip

    def _known_files(self, pack: union.Proved) -> dict[str, bool]:
        """Whether every model file that a registry names was verified by somebody; nothing for other rows."""
        hashes = sorted({str(one.body["file_hash"]) for one in pack.records if one.body.get("file_hash")})
        return {"registry_hashes_exist": known_hashes(self.state, hashes) >= set(hashes)} if hashes else {}

    def _put_aside(self, arrival: Arrival, one: Refused) -> None:
        record = one.record
        data = canonical_json({"kind": record.kind, "key": record.key, "config": record.config, "body": record.body})
        self.quarantine.add(
            arrival.node, f"row-{record.kind}-{record.key}-{record.content[:12]}", data.encode(), reason=one.reason,
            detail=f"{arrival.source_path}: {one.detail}" if arrival.source_path else one.detail,
            artifact=arrival.artifact.sha256, at=clock.wall(),
        )  # fmt: skip
        faults.reached("rows.set_aside")

    @contextlib.contextmanager
    def _proved(self, arrival: Arrival) -> Iterator[union.Proved]:
        """Inflate the artifact into scratch, prove it, and remove the copy at the end."""
        folder = self.layout.scratch / "tmp"
        with disk_errors(folder, "make"):
            folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f"{os.getpid()}-", suffix=".merge.tmp", dir=folder)
            os.close(handle)
        database = Path(name)
        try:
            with disk_errors(database, "write"), union.proved(str(arrival.path), name, arrival.raw_limit_bytes) as pack:
                self._require_ordered(arrival, pack)
            yield pack
        except KitError as error:
            raise self._refused(arrival, error.message) from error
        finally:
            database.unlink(missing_ok=True)

    def _require_ordered(self, arrival: Arrival, pack: union.Proved) -> None:
        if pack.config and pack.config not in CONFIGS:
            raise KitError("corrupt", f"it says that it is of config {pack.config!r:.100}")
        if arrival.artifact.kind in FAMILIES and (arrival.artifact.kind, arrival.config) != (pack.family, pack.config):
            words = f"it is of {pack.family} and config {pack.config!r}; {arrival.artifact.kind} of {arrival.config!r}"
            raise KitError("corrupt", f"{words} was ordered")

    def _refused(self, arrival: Arrival, reason: str) -> PackRefusedError:
        """Set the whole artifact aside, let the file in ``incoming/`` go, and give the error to raise."""
        reason = f"{arrival.source_path}: {reason}" if arrival.source_path else reason
        self.quarantine.add(
            arrival.node, f"pack-{arrival.artifact.sha256}", arrival.path, reason="refused_pack", detail=reason,
            artifact=arrival.artifact.sha256, at=clock.wall(),
        )  # fmt: skip
        self._let_go(arrival.path)
        return PackRefusedError(arrival.artifact.sha256, arrival.node, reason)

    def _receipt(self, arrival: Arrival, pack: union.Proved) -> None:
        """Say, after the commit, that the owner has what this artifact held."""
        now, artifact = clock.wall(), arrival.artifact
        faults.reached("rows.before_receipt")
        where = self.layout.relative(self.store.path(pack.family))
        kind = FAMILIES[pack.family]
        row = ArtifactRow(artifact.sha256, kind, artifact.size_bytes, pack.raw_bytes, pack.config, arrival.node, now)
        add_receipt(self.state, Receipt(artifact.sha256, self.owner, where, artifact.size_bytes, now), row)
        faults.reached("rows.receipt")

    @staticmethod
    def _let_go(path: Path) -> None:
        path.unlink(missing_ok=True)
        faults.reached("rows.removed")
        fsync_dir(path.parent)


def known_hashes(state: StateStore, hashes: Sequence[str]) -> set[str]:
    """Of these digests of model files, those that somebody has verified: versions, and artifacts with a receipt."""
    found: set[str] = set()
    with state.read() as connection:
        for start in range(0, len(hashes), _CHUNK):
            part = hashes[start : start + _CHUNK]
            for column in (versions.c.sha256, receipts.c.sha256):
                found.update(connection.execute(sa.select(column).where(column.in_(part))).scalars())
    return found


def family_of(data_type: DataType) -> str:
    """The family of records that a data type's databases hold."""
    return next(family for family, name in FAMILIES.items() if name == data_type.value)


def _cursor(arrival: Arrival, pack: union.Proved) -> tuple[str, dict[str, Any]] | None:
    """The cursor to write with the rows: the asker's word, else that of the pack (a push)."""
    if arrival.source_path:
        return (arrival.source_path, dict(arrival.cursor)) if arrival.cursor is not None else None
    try:
        value = json.loads(pack.meta.get("cursor") or "null")
    except (ValueError, RecursionError):
        return None
    path = pack.meta.get("path", "")
    return (path, value) if path and isinstance(value, dict) else None
