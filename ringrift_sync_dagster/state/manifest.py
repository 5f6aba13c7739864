"""The cluster's manifest: where the data of a config lies, as far as nodes told and receipts prove.

``seen_at`` says when the node last told its files; ``sha256`` and ``verified_at`` are there where somebody verified
the copy at that path, at that size. The coordinator's canonical database is made of packs and is none of them: a pack
that went into it proves that it is there, and the latest change how many games it holds; it has no digest or length
here. Names: the guide, ``get_manifest().get_data_locations('hex8_2p')``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.node.patterns import CONFIGS
from ringrift_sync_dagster.state.schema import artifacts, changes, node_files, nodes, receipts
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.storage.layout import Layout

if TYPE_CHECKING:
    import pandas as pd

_CANONICAL: Final = "data/games/canonical_"
_NAMED_BY_TYPE: Final = frozenset({DataType.NPZ.value, DataType.MODELS.value})
"""Data types whose artifacts are of the kind of the same name."""
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
        """Give every known place with data of the config; see ``locations``.

        Args:
            config: A config key such as ``hex8_2p``.
            data_type: Only this one of the five; all when None.

        Raises:
            ValueError: There is no such data type.
            StateError: The database cannot be read.

        """
        return self.locations(config=config, data_type=data_type)

    def locations(
        self, *, config: str = "", data_type: str | None = None, node: str = "", sha256: str = ""
    ) -> list[DataLocation]:
        """Give every known place with data, by data type, node and path; each argument narrows it.

        Args:
            config: Only data of this config.
            data_type: Only this one of the five data types.
            node: Only what this node has.
            sha256: Only this content, named by its first digits. Packs are then told under the database that they
                were merged into.

        Raises:
            ValueError: There is no such data type.
            StateError: The database cannot be read.

        """
        if data_type is not None and data_type not in _RANK:
            raise ValueError(f"{data_type!r} is not a data type: use one of {', '.join(DataType)}")
        with self.store.read() as connection:
            told = [DataLocation(*row) for row in connection.execute(_told(config, data_type, node, sha256)).all()]
            received = [_received(row) for row in connection.execute(_proven(config, data_type, node, sha256))]
            last = {row.config: row for row in connection.execute(_last_changes(config))}
        places = {(one.node, one.path, one.config) for one in told} if received else set()
        found = [
            *told,
            *(one for one in received if (one.node, one.path, one.config) not in places),
        ]
        if not sha256:
            owners = {one.node for one in received if one.path == _canonical_path(one.config)}
            found = [_canonical(one, last.get(one.config)) if _is_store(one, owners) else one for one in found]
        return _ordered(location for location in found if data_type in (None, location.data_type))

    def copies(self, config: str = "") -> dict[str, int]:
        """Give how many nodes hold a verified copy of each content (of a config), by SHA-256."""
        counted = sa.select(receipts.c.sha256, sa.func.count()).group_by(receipts.c.sha256)
        if config:
            counted = counted.join(artifacts, artifacts.c.sha256 == receipts.c.sha256)
            counted = counted.where(artifacts.c.config == config)
        with self.store.read() as connection:
            return {row[0]: row[1] for row in connection.execute(counted)}

    def frame(self, **narrowed: str) -> pd.DataFrame:
        """Give the locations as a table of pandas, with ``copies``; takes the arguments of ``locations``."""
        from ringrift_sync_dagster.state import frames  # noqa: PLC0415 - pandas is loaded by those who want a table

        names = [column.name for column in fields(DataLocation)]
        rows = [astuple(one) for one in self.locations(**narrowed)]
        return frames.locations(names, rows, self.copies(narrowed.get("config", "")))


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


def _told(config: str, data_type: str | None, node: str, sha256: str) -> sa.Select[Any]:
    proof = (
        (receipts.c.node == node_files.c.node)
        & (receipts.c.path == node_files.c.path)
        & (receipts.c.size_bytes == node_files.c.size_bytes)
    )
    tables = node_files.outerjoin(receipts, proof).join(nodes, nodes.c.name == node_files.c.node)
    told_at = sa.func.coalesce(nodes.c.manifest_at, node_files.c.seen_at).label("told_at")
    columns = (  # in the order of DataLocation
        node_files.c.config, node_files.c.data_type, node_files.c.node, node_files.c.path, receipts.c.sha256,
        node_files.c.size_bytes, node_files.c.games, told_at, receipts.c.verified_at,
    )  # fmt: skip
    wanted = [_content(sha256)] if sha256 else []
    for column, value in (
        (node_files.c.config, config),
        (node_files.c.data_type, data_type),
        (node_files.c.node, node),
    ):
        wanted += [column == value] if value else []
    # Two contents may have been verified at one path and size; the loop keeps the last one.
    return sa.select(*columns).select_from(tables).where(*wanted).order_by(receipts.c.verified_at)


def _proven(config: str, data_type: str | None, node: str, sha256: str) -> sa.Select[Any]:
    tables = receipts.join(artifacts, artifacts.c.sha256 == receipts.c.sha256)
    wanted = [_content(sha256)] if sha256 else []
    for column, value in ((artifacts.c.config, config), (receipts.c.node, node)):
        wanted += [column == value] if value else []
    if data_type in _NAMED_BY_TYPE:
        wanted.append(artifacts.c.kind == data_type)
    same = (
        (node_files.c.node == receipts.c.node)
        & (node_files.c.path == receipts.c.path)
        & (node_files.c.config == artifacts.c.config)
    )
    # What the node told of itself comes from there; a canonical database is told by its packs.
    wanted.append(~sa.exists().where(same) | receipts.c.path.startswith(_CANONICAL))
    return sa.select(receipts, artifacts.c.kind, artifacts.c.config).select_from(tables).where(*wanted)


def _content(digits: str) -> sa.ColumnElement[bool]:
    """Contents whose digest begins so: a range, so that the index serves."""
    return (receipts.c.sha256 >= digits.lower()) & (receipts.c.sha256 < f"{digits.lower()}g")


def _received(row: sa.Row[Any]) -> DataLocation:
    # A pack without all its games is still games.
    data_type = DataType.GAMES.value if row.kind == "aside" else row.kind
    return DataLocation(
        row.config, data_type, row.node, row.path, row.sha256, row.size_bytes, None, row.verified_at, row.verified_at
    )


def _last_changes(config: str) -> sa.Select[Any]:
    """The latest word on how many games of each config (or of one) the canonical store holds."""
    counted = (changes.c.data_type == DataType.GAMES.value) & changes.c.canonical_games.is_not(None)
    if config:
        counted &= changes.c.config == config
    newest = sa.select(sa.func.max(changes.c.id)).where(counted).group_by(changes.c.config)
    return sa.select(changes.c.config, changes.c.canonical_games, changes.c.at).where(changes.c.id.in_(newest))


@functools.lru_cache(maxsize=len(CONFIGS) + 1)
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
    """Keep one location for each place and config, the last; give them by data type, node and path."""
    places = {(one.data_type, one.node, one.path, one.config): one for one in locations}
    return [places[key] for key in sorted(places, key=lambda key: (_RANK.get(key[0], len(_RANK)), *key))]
