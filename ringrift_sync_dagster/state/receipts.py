"""Receipts: "node N holds artifact A, verified at T"; keyed by content, so that a file that grew later has none.

A sender forgets its copy on the word of a receipt. A receipt is therefore written after the bytes are verified and
fsynced, and it is on the disk itself when ``add_receipt`` returns. Source: architecture.md, 1 rule 4; domain.md, 2.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import sqlalchemy as sa

from ringrift_sync_dagster.core.model import SHA256, checked_node_name
from ringrift_sync_dagster.state.schema import artifacts, receipts
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.upsert import insert_new, insert_or_update

_ADVISORY_LOCK: Final = 0x52525245
_CHUNK: Final = 500


@dataclass(frozen=True, slots=True)
class Receipt:
    """One verified copy of an artifact.

    Args:
        sha256: The artifact, verified to have this digest.
        node: The node that holds the copy.
        path: Where, relative to the node's root; for people, the artifact is named by its content.
        size_bytes: Length of the copy.
        verified_at: When, in seconds since 1970 by the clock of whoever verified it.
        id: Counts up in this database; 0 before it was added.

    Raises:
        ValueError: The digest or the node's name is not usable.

    """

    sha256: str
    node: str
    path: str
    size_bytes: int
    verified_at: float
    id: int = 0

    def __post_init__(self) -> None:
        if not SHA256.fullmatch(self.sha256):
            raise ValueError(f"{self.sha256!r} is not a SHA-256 in lower-case hexadecimal")
        checked_node_name(self.node)


@dataclass(frozen=True, slots=True)
class ArtifactRow:
    """What an artifact is; the first record of it stays, because an artifact never changes.

    Args:
        sha256: Its name.
        kind: What it holds: ``games``, ``aside``, ``npz``, ``models``, and so on.
        size_bytes: Its length.
        raw_bytes: Its length before compression; 0 when it is not compressed.
        config: The config that it belongs to; empty when none.
        origin_node: The node whose data it holds.
        created_at: When, in seconds since 1970.

    """

    sha256: str
    kind: str
    size_bytes: int
    raw_bytes: int
    config: str
    origin_node: str
    created_at: float


def add_receipt(store: StateStore, receipt: Receipt, artifact: ArtifactRow | None = None) -> Receipt:
    """Record a verified copy, and what the artifact is; give the receipt as stored. Durable on return.

    Idempotent: a second receipt of the same node and artifact renews the path and the time, and keeps the id.

    Raises:
        ValueError: The artifact is another one than the receipt's.
        StateError: The database cannot be written: there is no receipt.

    """
    if artifact is not None and artifact.sha256 != receipt.sha256:
        raise ValueError(f"the receipt is for {receipt.sha256[:12]}, the artifact is {artifact.sha256[:12]}")
    with store.begin() as connection:
        return insert_receipt(connection, receipt, artifact)


def insert_receipt(connection: sa.Connection, receipt: Receipt, artifact: ArtifactRow | None = None) -> Receipt:
    """Do as ``add_receipt`` inside the caller's transaction."""
    _keep_order(connection)
    if artifact is not None:
        insert_new(connection, artifacts, [asdict(artifact)], ("sha256",))
    row = {key: value for key, value in asdict(receipt).items() if key != "id"}
    insert_or_update(connection, receipts, [row], ("sha256", "node"), ("path", "size_bytes", "verified_at"))
    stored = connection.execute(_select().where(_of(receipt.sha256, receipt.node))).mappings().one()
    return Receipt(**stored)


def drop_receipt(store: StateStore, sha256: str, node: str) -> None:
    """Take a receipt back: the node does not hold the copy any more. Idempotent."""
    with store.begin() as connection:
        connection.execute(sa.delete(receipts).where(_of(sha256, node)))


def receipts_of(store: StateStore, sha256: str) -> list[Receipt]:
    """Give all verified copies of an artifact, by node."""
    return _receipts(store, _select().where(receipts.c.sha256 == sha256).order_by(receipts.c.node))


def receipts_since(store: StateStore, after_id: int = 0, limit: int = 1000) -> list[Receipt]:
    """Give receipts with a larger id, oldest first; ask again with the last id until the list is empty."""
    return _receipts(store, _select().where(receipts.c.id > after_id).order_by(receipts.c.id).limit(limit))


def has_receipt(store: StateStore, sha256: str, node: str) -> bool:
    """Say whether the node holds a verified copy of exactly these bytes."""
    with store.read() as connection:
        return connection.execute(sa.select(receipts.c.id).where(_of(sha256, node))).first() is not None


def receipts_at(store: StateStore, node: str, sha256s: Sequence[str]) -> list[Receipt]:
    """Give a node's receipts for these artifacts, oldest first."""
    found: list[Receipt] = []
    for start in range(0, len(sha256s), _CHUNK):
        wanted = (receipts.c.node == node) & receipts.c.sha256.in_(sha256s[start : start + _CHUNK])
        found += _receipts(store, _select().where(wanted))
    return sorted(found, key=lambda one: one.id)


def holders_of(store: StateStore, sha256s: Sequence[str]) -> dict[str, set[str]]:
    """Give the nodes that hold a verified copy of each of these artifacts; one that nobody holds is left out."""
    found: dict[str, set[str]] = {}
    with store.read() as connection:
        for start in range(0, len(sha256s), _CHUNK):
            wanted = receipts.c.sha256.in_(sha256s[start : start + _CHUNK])
            for row in connection.execute(sa.select(receipts.c.sha256, receipts.c.node).where(wanted)):
                found.setdefault(row.sha256, set()).add(row.node)
    return found


def has_receipt_at(store: StateStore, node: str, path: str) -> bool:
    """Say whether anything was ever verified at a path of a node, such as packs that went into a database."""
    there = (receipts.c.node == node) & (receipts.c.path == path)
    with store.read() as connection:
        return connection.execute(sa.select(receipts.c.id).where(there).limit(1)).first() is not None


def get_artifact(store: StateStore, sha256: str) -> ArtifactRow | None:
    """Give what is known of an artifact; None when nothing is."""
    with store.read() as connection:
        row = connection.execute(sa.select(artifacts).where(artifacts.c.sha256 == sha256)).mappings().first()
    return None if row is None else ArtifactRow(**row)


def _keep_order(connection: sa.Connection) -> None:
    """Let ids become visible in their order, so that "since id" misses none; SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))


def _of(sha256: str, node: str) -> sa.ColumnElement[bool]:
    return (receipts.c.sha256 == sha256) & (receipts.c.node == node)


def _select() -> sa.Select[Any]:
    return sa.select(receipts)


def _receipts(store: StateStore, statement: sa.Select[Any]) -> list[Receipt]:
    with store.read() as connection:
        return [Receipt(**row) for row in connection.execute(statement).mappings()]
