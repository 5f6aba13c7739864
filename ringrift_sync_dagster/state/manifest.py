"""The cluster's manifest: where the data of a config lies, as far as nodes told and receipts prove.

``seen_at`` says when the node last told its files; ``sha256`` and ``verified_at`` are there where somebody verified
the copy at that path, at that size. The coordinator's canonical database is made of packs and is none of them: a pack
that went into it proves that it is there, and the latest change how many games it holds; it has no digest or length
here. Names: the guide, ``get_manifest().get_data_locations('hex8_2p')``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.node.patterns import CONFIGS
from ringrift_sync_dagster.state.schema import artifacts, changes, node_files, nodes, receipts
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.storage.layout import Layout

_RANK: Final = {data_type.value: rank for rank, data_type in enumerate(DataType)}


@dataclass(frozen=True, slots=True)
class DataLocation:
    """One file on one node with data of a config.

    Args:
        config: The config.
        data_type: One of the five data types.
        node: The node that has it.
        path: Where, relative to the node's root.
        sha256: The verified content; None when nobody verified this file at this size.
        size_bytes: Its length; None when nobody told it (a canonical database).
        games: Finished games of the config; None when it is no games database, or when nobody told.
        seen_at: When the node last told of it, or the canonical store last changed, in seconds since 1970.
        verified_at: When the content was verified; None when never.

    """

    config: str
    data_type: str
    node: str
    path: str
    sha256: str | None
    size_bytes: int | None
    games: int | None
    seen_at: float
    verified_at: float | None


@dataclass(frozen=True, slots=True)
class Manifest:
    """Read-only view of a state database.

    Args:
        store: The open database.

    """

    store: StateStore

    def get_data_locations(self, config: str, data_type: str | None = None) -> list[DataLocation]:
        """Give every known place with data of the config, by data type, node and path.

        Args:
            config: A config key such as ``hex8_2p``.
            data_type: Only this one of the five; all when None.

        Raises:
            ValueError: There is no such data type.
            StateError: The database cannot be read.

        """
        if data_type is not None and data_type not in _RANK:
            raise ValueError(f"{data_type!r} is not a data type: use one of {', '.join(DataType)}")
        with self.store.read() as connection:
            told = [_location(row) for row in connection.execute(_told(config))]
            received = [_received(row) for row in connection.execute(_proven(config))]
            last = connection.execute(_last_change(config)).first()
        places = {(location.node, location.path) for location in told}
        found = [*told, *(location for location in received if (location.node, location.path) not in places)]
        owners = {location.node for location in received if location.path == _canonical_path(config)}
        found = [_canonical(location, last) if _is_store(location, owners) else location for location in found]
        return _ordered(location for location in found if data_type in (None, location.data_type))


@functools.lru_cache(maxsize=1)
def _store(url: str) -> StateStore:
    return StateStore.open(url)


def get_manifest() -> Manifest:
    """Open the manifest of this installation's settings; one connection pool per process.

    Raises:
        ConfigError: The settings are not usable.
        StateError: The state database cannot be opened.

    """
    from ringrift_sync_dagster.settings.settings import load_settings  # noqa: PLC0415 - a view of an open store needs none

    return Manifest(_store(load_settings().state_url))


def _told(config: str) -> sa.Select[Any]:
    proof = (
        (receipts.c.node == node_files.c.node)
        & (receipts.c.path == node_files.c.path)
        & (receipts.c.size_bytes == node_files.c.size_bytes)
    )
    tables = node_files.outerjoin(receipts, proof).join(nodes, nodes.c.name == node_files.c.node)
    told_at = sa.func.coalesce(nodes.c.manifest_at, node_files.c.seen_at).label("told_at")
    columns = (node_files, receipts.c.sha256, receipts.c.verified_at, told_at)
    # Two contents may have been verified at one path and size; the loop keeps the last one.
    return sa.select(*columns).select_from(tables).where(node_files.c.config == config).order_by(receipts.c.verified_at)


def _proven(config: str) -> sa.Select[Any]:
    tables = receipts.join(artifacts, artifacts.c.sha256 == receipts.c.sha256)
    return (
        sa.select(receipts, artifacts.c.kind, artifacts.c.config)
        .select_from(tables)
        .where(artifacts.c.config == config)
    )


def _location(row: sa.Row[Any]) -> DataLocation:
    return DataLocation(
        row.config, row.data_type, row.node, row.path, row.sha256, row.size_bytes, row.games, row.told_at,
        row.verified_at,
    )  # fmt: skip


def _received(row: sa.Row[Any]) -> DataLocation:
    # A pack without all its games is still games.
    data_type = DataType.GAMES.value if row.kind == "aside" else row.kind
    return DataLocation(
        row.config, data_type, row.node, row.path, row.sha256, row.size_bytes, None, row.verified_at, row.verified_at
    )


def _last_change(config: str) -> sa.Select[Any]:
    """The latest word on how many games of the config the canonical store holds."""
    counted = (changes.c.config == config) & (changes.c.data_type == DataType.GAMES.value)
    return (
        sa.select(changes.c.canonical_games, changes.c.at)
        .where(counted & changes.c.canonical_games.is_not(None))
        .order_by(changes.c.id.desc())
        .limit(1)
    )


def _canonical_path(config: str) -> str:
    """Where its owner has the canonical database, relative to the root; empty when there is no such config."""
    layout = Layout(Path())
    return layout.relative(layout.canonical(config)) if config in CONFIGS else ""


def _is_store(location: DataLocation, owners: set[str]) -> bool:
    """Say whether this is the database that packs were merged into, and not a file that a node has at that path."""
    return location.node in owners and location.path == _canonical_path(location.config)


def _canonical(location: DataLocation, last: sa.Row[Any] | None) -> DataLocation:
    """The owner's database: what is known of the packs in it is not true of the whole."""
    games, at = (location.games, location.seen_at) if last is None else (last.canonical_games, last.at)
    size_bytes = None if location.verified_at is not None else location.size_bytes
    return replace(location, sha256=None, size_bytes=size_bytes, games=games, seen_at=at, verified_at=None)


def _ordered(locations: Iterable[DataLocation]) -> list[DataLocation]:
    """Keep one location for each place, the last; give them in the order of the guide's table, node and path."""
    places = {(location.data_type, location.node, location.path): location for location in locations}
    return [places[key] for key in sorted(places, key=lambda key: (_RANK.get(key[0], len(_RANK)), *key))]
