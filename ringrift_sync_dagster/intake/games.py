"""Take in a pack of games: prove, merge under the config's lease, write receipt and change, let the file go.

The order is the guarantee. Set-aside games are durable before the commit that leaves them out; the commit holds
games, provenance, cursor and change together; the receipt and the copy of the change in the state database follow;
the file in ``incoming/`` goes last. Killed between any two steps, the next pass repeats the rest: the merge is a
union, the others are idempotent. In a sitting (``sitting``) the copy of the change waits for its end: until then it is
in the database itself, where a pass finds it too.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from ringrift_sync_dagster.core.model import Partition
from ringrift_sync_dagster.errors import LocalDiskError, PackRefusedError
from ringrift_sync_dagster.intake.arrival import Accepted, Arrival, SetAside
from ringrift_sync_dagster.intake.changes import deliver_changes
from ringrift_sync_dagster.intake.holding import Holding
from ringrift_sync_dagster.intake.sitting import current, held
from ringrift_sync_dagster.node import faults, packfile
from ringrift_sync_dagster.node.claims import read_claims
from ringrift_sync_dagster.node.errors import KitError
from ringrift_sync_dagster.node.merge import ASIDES_NAMED, Aside, Merged, Origin
from ringrift_sync_dagster.node.patterns import CONFIGS, classify
from ringrift_sync_dagster.node.single import single_pack
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.leases import Lease
from ringrift_sync_dagster.state.receipts import ArtifactRow, Receipt, add_receipt
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.storage.canonical import CanonicalStore
from ringrift_sync_dagster.storage.files import disk_errors, fsync_dir
from ringrift_sync_dagster.storage.layout import Layout
from ringrift_sync_dagster.storage.quarantine import Quarantine

LEASE_WAIT_SECONDS: Final = 300.0
"""How long to wait for another process that merges into the same config; a merge takes seconds."""


def collecting(partition: Partition) -> str:
    """Name of the lease that whoever fetches or takes in packs of a partition holds."""
    return f"collect:{partition.key}"


@dataclass(frozen=True, slots=True)
class _Pack:
    """An inflated, proved pack and what it says of itself."""

    database: Path
    meta: dict[str, str]
    raw_bytes: int
    oldest: str
    store: CanonicalStore


@dataclass(frozen=True, slots=True)
class GamesIntake:
    """The intake of one owner; safe for threads, and for processes through the leases.

    Args:
        owner: Name of the node whose disk this is: the coordinator.
        state: The shared facts.
        layout: The owner's disk.
        lease_wait_seconds: How long to wait for another process that merges into the same config.

    """

    owner: str
    state: StateStore
    layout: Layout
    lease_wait_seconds: float = LEASE_WAIT_SECONDS
    _turns: defaultdict[str, threading.Lock] = field(default_factory=lambda: defaultdict(threading.Lock))

    @property
    def store(self) -> CanonicalStore:
        """The canonical store that games go into."""
        return CanonicalStore(self.layout)

    @property
    def evaluation(self) -> CanonicalStore:
        """The store of evaluation games."""
        return CanonicalStore(self.layout, evaluation=True)

    def store_of(self, path: str) -> CanonicalStore:
        """The store that games of a node's database go into, by the database's name."""
        found = classify(path) if path else None
        return self.evaluation if found is not None and found.kind == "eval" else self.store

    @property
    def holding(self) -> Holding:
        """What the owner holds now, of what it has receipts for."""
        return Holding(self.owner, self.state, self.layout)

    @property
    def quarantine(self) -> Quarantine:
        """Where games go that do not enter."""
        return Quarantine(self.layout.quarantine)

    def accept(self, arrival: Arrival) -> Accepted:
        """Take in one pack; the file is gone from ``incoming/`` when this returns. Idempotent.

        Raises:
            PackRefusedError: It is no sound pack; it went to quarantine whole, and nothing was merged.
            LocalDiskError: Our disk is full; the file stays for the next pass.
            LeaseHeldError: Another process merged into this config for ``lease_wait_seconds``; the file stays.
            CanonicalStoreError: The canonical database cannot be used; the file stays.

        """
        with self._inflated(arrival) as pack:
            return self._accept(arrival, pack, self._config(arrival, pack))

    def accept_unasked(self, arrival: Arrival) -> Accepted | None:
        """Take in a pack that nobody waits for, under the lease of those who collect its partition.

        None where somebody took it in meanwhile.

        Raises:
            LeaseHeldError: Somebody collects this partition now, or merges; the file stays.
            SyncError: As in ``accept``.

        """
        with self._inflated(arrival) as pack:
            config = self._config(arrival, pack)
            with held(self.state, collecting(Partition(config, arrival.node))):
                return self._accept(arrival, pack, config) if arrival.path.exists() else None

    def _accept(self, arrival: Arrival, pack: _Pack, config: str) -> Accepted:
        started = clock.monotonic()
        if pack.meta.get("kind") == "aside":
            accepted = self._set_aside_all(arrival, pack, config, started)
        else:
            accepted = self._merge(arrival, pack, config, started)
        self._receipt(arrival, pack, config)
        put_off = current(self.state)
        if put_off is not None:
            put_off.at_end(pack.store.path(config), lambda: deliver_changes(pack.store, self.state, config))
        else:
            deliver_changes(pack.store, self.state, config)
        faults.reached("intake.delivered")
        self._let_go(arrival.path)
        return accepted

    def _merge(self, arrival: Arrival, pack: _Pack, config: str, started: float) -> Accepted:
        change_id = _change_id(arrival)
        origin = Origin(arrival.artifact.sha256, arrival.node, change_id)
        # Where nobody asked for a pack (it was pushed), it says itself how far its reader was.
        cursor = _cursor(arrival) if arrival.source_path else packfile.declared(pack.meta)
        try:
            with self._writing(pack, config) as lease:
                merged = pack.store.merge(
                    config, pack.database, origin, lambda aside: self._put_aside(arrival, aside), cursor=cursor,
                    note=_note(arrival, pack, config, change_id, started), before_commit=lease.check,
                )  # fmt: skip
        except KitError as error:
            raise self._refused(arrival, error.message) from error
        return _accepted(config, merged)

    def _set_aside_all(self, arrival: Arrival, pack: _Pack, config: str, started: float) -> Accepted:
        """Quarantine each game of a pack of games that are over but not complete."""
        asides = []
        try:
            with packfile.open_pack(str(pack.database)) as conn:
                for (game_id, identity, _, moves), _, _ in list(read_claims(conn, "main", config)):
                    data = single_pack(conn, "main", game_id, game_id, config)
                    detail = f"it is over, has {moves} moves, and stood still; complete is max(5, total_moves)"
                    self._put_aside(arrival, Aside(arrival.node, game_id, identity, "short", detail, data))
                    asides.append(SetAside(game_id, identity, "short"))
        except KitError as error:
            raise self._refused(arrival, error.message) from error
        change_id = _change_id(arrival)
        named = [[one.game_id, one.identity, one.reason] for one in asides[:ASIDES_NAMED]]
        told = {"set_aside": len(asides), "asides": named}
        summary = {**_note(arrival, pack, config, change_id, started), **told}
        with self._writing(pack, config):
            pack.store.add_change(config, arrival.node, change_id, summary, _cursor(arrival))
        games = pack.store.games(config)
        return Accepted(config, set_aside=tuple(asides), canonical_games=games, changed=True)

    def _put_aside(self, arrival: Arrival, aside: Aside) -> None:
        self.quarantine.add(
            aside.node, f"{aside.game_id}~{aside.identity}", aside.pack, reason=aside.reason, detail=aside.detail,
            artifact=arrival.artifact.sha256, at=clock.wall(),
        )  # fmt: skip
        faults.reached("intake.set_aside")

    @contextlib.contextmanager
    def _writing(self, pack: _Pack, config: str) -> Iterator[Lease]:
        """Hold the one right to write a config's database."""
        name = f"{'eval' if pack.store.evaluation else 'canonical'}:{config}"
        with held(self.state, name, self.lease_wait_seconds, self._turns[name]) as lease:
            yield lease

    @contextlib.contextmanager
    def _inflated(self, arrival: Arrival) -> Iterator[_Pack]:
        """Inflate the artifact into scratch, prove it, and remove the copy at the end."""
        folder = self.layout.scratch / "tmp"
        with disk_errors(folder, "make"):
            folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f"{os.getpid()}-", suffix=".merge.tmp", dir=folder)
            os.close(handle)
        database = Path(name)
        try:
            with disk_errors(database, "write"):
                raw_bytes = packfile.inflate(str(arrival.path), name, arrival.raw_limit_bytes)
            with packfile.open_pack(name) as conn:
                oldest = conn.execute("SELECT MIN(COALESCE(completed_at, created_at)) FROM games").fetchone()[0]
                meta = packfile.read_meta(conn)
                store = self.store_of(arrival.source_path or meta.get("path", ""))
                pack = _Pack(database, meta, raw_bytes, str(oldest or ""), store)
        except KitError as error:
            database.unlink(missing_ok=True)
            raise self._refused(arrival, error.message) from error
        except LocalDiskError:
            database.unlink(missing_ok=True)
            raise
        try:
            yield pack
        finally:
            database.unlink(missing_ok=True)

    def _config(self, arrival: Arrival, pack: _Pack) -> str:
        config = pack.meta.get("config", "")
        if config not in CONFIGS:
            raise self._refused(arrival, f"it says that it is of config {config!r:.100}")
        if arrival.config and config != arrival.config:
            raise self._refused(arrival, f"it is of config {config}; {arrival.config} was ordered")
        return config

    def _refused(self, arrival: Arrival, reason: str) -> PackRefusedError:
        """Set the whole artifact aside, let the file in ``incoming/`` go, and give the error to raise."""
        reason = f"{arrival.source_path}: {reason}" if arrival.source_path else reason
        self.quarantine.add(
            arrival.node, f"pack-{arrival.artifact.sha256}", arrival.path, reason="refused_pack", detail=reason,
            artifact=arrival.artifact.sha256, at=clock.wall(),
        )  # fmt: skip
        self._let_go(arrival.path)
        return PackRefusedError(arrival.artifact.sha256, arrival.node, reason)

    def _receipt(self, arrival: Arrival, pack: _Pack, config: str) -> None:
        """Say, after the commit, that the owner has what this artifact held."""
        now, artifact = clock.wall(), arrival.artifact
        faults.reached("intake.before_receipt")
        where = self.layout.relative(pack.store.path(config))
        row = ArtifactRow(
            artifact.sha256, artifact.kind, artifact.size_bytes, pack.raw_bytes, config, arrival.node, now
        )
        add_receipt(self.state, Receipt(artifact.sha256, self.owner, where, artifact.size_bytes, now), row)
        faults.reached("intake.receipt")

    @staticmethod
    def _let_go(path: Path) -> None:
        path.unlink(missing_ok=True)
        faults.reached("intake.removed")
        fsync_dir(path.parent)


def _change_id(arrival: Arrival) -> str:
    """A new id: the artifact, so that people can find it, and chance, because it may bring something twice."""
    return f"{arrival.artifact.sha256[:16]}-{os.urandom(8).hex()}"


def _cursor(arrival: Arrival) -> tuple[str, dict[str, Any]] | None:
    """The cursor to write with the rows, by the word of who asked for the pack."""
    return (arrival.source_path, dict(arrival.cursor)) if arrival.source_path and arrival.cursor is not None else None


def _note(arrival: Arrival, pack: _Pack, config: str, change_id: str, started: float) -> dict[str, Any]:
    """What the change says beside its counts."""
    return {
        "change_id": change_id, "at": clock.wall(), "config": config, "node": arrival.node,
        "artifact": arrival.artifact.sha256, "source_path": arrival.source_path or pack.meta.get("path", ""),
        "size_bytes": arrival.bytes_moved, "seconds": arrival.seconds + clock.monotonic() - started,
        "transport": arrival.transport, "trigger": arrival.trigger, "lag_seconds": _lag_seconds(pack.oldest),
    }  # fmt: skip


def _lag_seconds(oldest: str) -> float | None:
    """Age of the oldest game, by the node's own word for when it ended; for display only, clocks differ."""
    try:
        ended = datetime.fromisoformat(oldest)
    except ValueError:
        return None
    seconds = clock.wall() - (ended if ended.tzinfo else ended.replace(tzinfo=UTC)).timestamp()
    return max(0.0, seconds)


def _accepted(config: str, merged: Merged) -> Accepted:
    return Accepted(
        config, merged.new, merged.same, merged.annotated, merged.revised, merged.renamed,
        tuple(SetAside(*entry) for entry in merged.asides), merged.games, merged.changed,
    )  # fmt: skip
