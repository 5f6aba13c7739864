"""Versions of npz and model files: what their owner has or refused, and which one of each config is published.

A version is named by its content. The table remembers what was refused or dropped too, so that no node needs to send
the same bytes twice. ``published`` holds one line for each data type and config; its ``serial`` counts up with each
switch, so that of two orders to a node the later one wins whatever arrives first. All of a switch (version, receipt,
serial, change, and the event of a promotion) is one transaction; the symbolic links on the disk follow it and can
always be made again from here.
Source: architecture.md, 3 (flow) and 5; domain.md, 10 (3, 16, 17).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from ringrift_sync_dagster.core.events import DataEventType
from ringrift_sync_dagster.core.model import SHA256, DataType
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state import events
from ringrift_sync_dagster.state.changes import Change, insert_changes
from ringrift_sync_dagster.state.receipts import ArtifactRow, Receipt, insert_receipt
from ringrift_sync_dagster.state.schema import published, versions
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.upsert import insert_or_update

_KEY = ("data_type", "config", "sha256")


class VersionState(StrEnum):
    """What the owner did with a version."""

    KEPT = "kept"  # it lies at ``path``
    REFUSED = "refused"  # it is not valid; the bytes are in quarantine
    DROPPED = "dropped"  # it was kept, and made room for newer ones


@dataclass(frozen=True, slots=True)
class Version:
    """One content of an npz or model file.

    Args:
        data_type: ``npz`` or ``models``.
        config: Its config.
        sha256: The content.
        name: The file's name on the node that brought it, such as ``candidate_hex8_2p.pth``.
        path: Where its owner keeps it, relative to the root; empty unless it is kept.
        size_bytes: Its length.
        origin_node: The node that brought it first.
        state: What the owner did with it.
        reason: Why it was refused, in a sentence; else empty.
        detail: What its bytes say, such as ``samples`` and ``feature_version``; JSON values.
        at: When that was, in seconds since 1970; for display.
        id: Counts up: the order of arrival; 0 before it was added.

    Raises:
        ValueError: The digest is impossible.

    """

    data_type: str
    config: str
    sha256: str
    name: str
    path: str
    size_bytes: int
    origin_node: str
    state: VersionState = VersionState.KEPT
    reason: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)
    at: float = 0.0
    id: int = 0

    def __post_init__(self) -> None:
        if not SHA256.fullmatch(self.sha256):
            raise ValueError(f"{self.sha256!r} is not a SHA-256 in lower-case hexadecimal")
        object.__setattr__(self, "state", VersionState(self.state))


@dataclass(frozen=True, slots=True)
class Published:
    """Which version of a config is the one to use.

    Args:
        data_type: ``npz`` or ``models``.
        config: The config.
        sha256: The version.
        serial: Counts up with each switch; at least 1.
        trigger: What switched it last, such as ``cli``.
        at: When, in seconds since 1970; for display.

    """

    data_type: str
    config: str
    sha256: str
    serial: int
    trigger: str
    at: float


def add_version(
    store: StateStore,
    version: Version,
    *,
    receipt: Receipt | None = None,
    artifact: ArtifactRow | None = None,
    change: Change | None = None,
) -> Version:
    """Record a version, or what became of one, with its receipt and its change, in one transaction; durable on return.

    Idempotent: a known content keeps its ``id``, ``name`` and ``origin_node``; the rest is renewed.
    """
    with store.begin() as connection:
        if receipt is not None:
            insert_receipt(connection, receipt, artifact)
        if change is not None:
            insert_changes(connection, [change])
        return _insert(connection, version)


def publish(
    store: StateStore, data_type: str, config: str, sha256: str, *, trigger: str, change: Change | None = None
) -> Published:
    """Make a kept version the published one, with its change, in one transaction; durable on return.

    Of a model it is told as MODEL_PROMOTED. Publishing what is published already gives the line as it is and writes no
    change and no event.

    Raises:
        ValueError: There is no kept version with this content.

    """
    with store.begin() as connection:
        # The first statement writes, so that two processes that publish come one after the other on PostgreSQL too.
        mine = (published.c.data_type == data_type) & (published.c.config == config)
        connection.execute(sa.update(published).where(mine).values(data_type=data_type))
        kept = _of(data_type, config, sha256) & (versions.c.state == VersionState.KEPT.value)
        version = connection.execute(sa.select(versions).where(kept)).mappings().first()
        if version is None:
            raise ValueError(f"{data_type} of {config}: no version {sha256[:12]} is kept here")
        row = connection.execute(sa.select(published).where(mine)).mappings().first()
        before = None if row is None else Published(**row)
        if before is not None and before.sha256 == sha256:
            return before
        now = Published(data_type, config, sha256, 1 + (before.serial if before else 0), trigger, clock.wall())
        insert_or_update(
            connection, published, [asdict(now)], ("data_type", "config"), ("sha256", "serial", "trigger", "at")
        )
        if change is not None:
            insert_changes(connection, [change])
        if data_type == DataType.MODELS.value:
            _tell_promoted(connection, now, version, before)
        return now


def _tell_promoted(connection: sa.Connection, now: Published, version: sa.RowMapping, before: Published | None) -> None:
    told = {
        "config": now.config,
        "model_id": str(version["name"]).rpartition(".")[0] or version["name"],
        "model_path": version["path"],
        "sha256": now.sha256,
        "serial": now.serial,
        "promoted_at": now.at,
        "supersedes": before.sha256 if before else "",
        "source": now.trigger,
    }
    events.publish(connection, DataEventType.MODEL_PROMOTED, told)


def raise_serial(store: StateStore, data_type: str, config: str, above: int) -> None:
    """Let the serial of a config be larger than one that a node has seen; idempotent.

    A state database that was lost or restored begins to count anew, and its orders would be taken for old ones.
    """
    mine = (published.c.data_type == data_type) & (published.c.config == config) & (published.c.serial <= above)
    with store.begin() as connection:
        connection.execute(sa.update(published).where(mine).values(serial=above + 1))


def known_contents(store: StateStore, sha256: str) -> bool:
    """Whether any config has met this content, whatever became of it."""
    with store.read() as connection:
        return connection.execute(sa.select(versions.c.id).where(versions.c.sha256 == sha256)).first() is not None


def version_of(store: StateStore, data_type: str, config: str, sha256: str) -> Version | None:
    """Give what is known of a content; None when nothing is."""
    found = _versions(store, sa.select(versions).where(_of(data_type, config, sha256)))
    return found[0] if found else None


def versions_of(store: StateStore, data_type: str, config: str, *states: VersionState) -> list[Version]:
    """Give the versions of a config in these states (none: all), in order of arrival."""
    chosen = (versions.c.data_type == data_type) & (versions.c.config == config)
    if states:
        chosen &= versions.c.state.in_([state.value for state in states])
    return _versions(store, sa.select(versions).where(chosen).order_by(versions.c.id))


def all_versions(store: StateStore, state: VersionState) -> list[Version]:
    """Give every version in a state, by data type, config and order of arrival."""
    order = (versions.c.data_type, versions.c.config, versions.c.id)
    return _versions(store, sa.select(versions).where(versions.c.state == state.value).order_by(*order))


def known_versions(store: StateStore) -> frozenset[tuple[str, str, str]]:
    """Give (data type, config, digest) of every content that was ever met, whatever became of it."""
    with store.read() as connection:
        rows = connection.execute(sa.select(versions.c.data_type, versions.c.config, versions.c.sha256))
        return frozenset((row.data_type, row.config, row.sha256) for row in rows)


def published_version(store: StateStore, data_type: str, config: str) -> tuple[Published, Version] | None:
    """Give what is published of a config; None when nothing is."""
    found = all_published(store, data_type, config)
    return found[0] if found else None


def all_published(
    store: StateStore, data_type: str | None = None, config: str | None = None
) -> list[tuple[Published, Version]]:
    """Give everything that is published, by data type and config."""
    same = (
        (versions.c.data_type == published.c.data_type)
        & (versions.c.config == published.c.config)
        & (versions.c.sha256 == published.c.sha256)
    )
    chosen: sa.ColumnElement[bool] = sa.true()
    if data_type is not None:
        chosen &= published.c.data_type == data_type
    if config is not None:
        chosen &= published.c.config == config
    order = (published.c.data_type, published.c.config)
    with store.read() as connection:
        lines = connection.execute(sa.select(published).where(chosen).order_by(*order)).mappings().all()
        tables = versions.join(published, same)
        rows = connection.execute(sa.select(versions).select_from(tables).where(chosen)).mappings().all()
    by_key = {(row["data_type"], row["config"]): Version(**row) for row in rows}
    return [
        (Published(**line), by_key[line["data_type"], line["config"]])
        for line in lines
        if (line["data_type"], line["config"]) in by_key
    ]


def _insert(connection: sa.Connection, version: Version) -> Version:
    row = {**asdict(version), "state": version.state.value, "detail": dict(version.detail)}
    row.pop("id")
    row["at"] = version.at or clock.wall()
    renewed = ("path", "size_bytes", "state", "reason", "detail", "at")
    insert_or_update(connection, versions, [row], _KEY, renewed)
    stored = connection.execute(
        sa.select(versions).where(_of(version.data_type, version.config, version.sha256))
    ).mappings()
    return Version(**stored.one())


def _of(data_type: str, config: str, sha256: str) -> sa.ColumnElement[bool]:
    return (versions.c.data_type == data_type) & (versions.c.config == config) & (versions.c.sha256 == sha256)


def _versions(store: StateStore, statement: sa.Select[Any]) -> list[Version]:
    with store.read() as connection:
        return [Version(**row) for row in connection.execute(statement).mappings()]
