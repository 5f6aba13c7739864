"""What the owner has and what nodes were brought, read once for many nodes.

Whoever looks at hundreds of nodes reads each table once and compares in memory: asking the database for every partition
costs more than all the rest of a pass in which nothing changed (measured, ``bench/passes.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.intake.rows import family_of
from ringrift_sync_dagster.node.patterns import CONFIGS
from ringrift_sync_dagster.state.deep_scans import DeepScan, all_deep_scans
from ringrift_sync_dagster.state.nodes import NodeFile, all_files
from ringrift_sync_dagster.state.placements import Placement, all_placements
from ringrift_sync_dagster.state.versions import (
    Published,
    Version,
    VersionState,
    all_published,
    all_versions,
    known_versions,
)
from ringrift_sync_dagster.sync.answers import reached_end_at
from ringrift_sync_dagster.sync.runtime import Runtime

_ROWS: Final = (DataType.ELO, DataType.REGISTRY)


@dataclass(frozen=True)
class OwnerState:
    """What the owner has, read once for many nodes.

    Args:
        runtime: What to work with.
        nodes: The only nodes that are asked about, where they are few; None: any.

    """

    runtime: Runtime
    nodes: tuple[str, ...] | None = None
    _cursors: dict[tuple[str, str], Mapping[tuple[str, str], str]] = field(default_factory=dict)

    def after_ups(self) -> OwnerState:
        """Give a state that reads anew what data that came up has changed: merged databases, versions, cursors."""
        later = OwnerState(self.runtime, self.nodes)
        later.__dict__["placements"] = self.placements  # a way up changes none of those that a way down looks at
        return later

    @cached_property
    def published(self) -> list[tuple[Published, Version]]:
        """What is published of npz and models."""
        return all_published(self.runtime.state)

    @cached_property
    def published_by(self) -> Mapping[tuple[str, str], Published]:
        """What is published, by data type and config."""
        return {(one.data_type, one.config): one for one, _ in self.published}

    @cached_property
    def placements(self) -> Mapping[tuple[str, str, str], Placement]:
        """What nodes were brought last, by node, data type and config."""
        return {(one.node, one.data_type, one.config): one for one in all_placements(self.runtime.state, self.nodes)}

    @cached_property
    def files(self) -> Mapping[str, list[NodeFile]]:
        """What the nodes last told, by node; as it was when it was read."""
        found: dict[str, list[NodeFile]] = {}
        for file in all_files(self.runtime.state):
            found.setdefault(file.node, []).append(file)
        return found

    @cached_property
    def deep_scans(self) -> Mapping[tuple[str, str, str], DeepScan]:
        """How far the slow looks have come, by node, path and config."""
        return {(one.node, one.path, one.config): one for one in all_deep_scans(self.runtime.state, self.nodes)}

    @cached_property
    def contents(self) -> frozenset[tuple[str, str, str]]:
        """Every (data type, config, digest) that the owner has met, but those of which it lost the file."""
        kept, root = all_versions(self.runtime.state, VersionState.KEPT), self.runtime.layout.root
        lost = {(one.data_type, one.config, one.sha256) for one in kept if not (root / one.path).exists()}
        return known_versions(self.runtime.state) - lost

    @cached_property
    def generations(self) -> Mapping[DataType, str]:
        """The state of each database of rows; empty where there is none."""
        return {kind: self.runtime.rows.store.generation(family_of(kind)) for kind in _ROWS}

    @cached_property
    def states(self) -> Mapping[tuple[DataType, str], str]:
        """The state of each merged database by data type and config; those that there are."""
        games = {(DataType.GAMES, config): self.runtime.intake.store.generation(config) for config in CONFIGS}
        store, generations = self.runtime.rows.store, self.generations
        rows = {
            (kind, config): generation
            for kind, generation in generations.items()
            for config in CONFIGS
            if generation and store.holds(family_of(kind), config)
        }
        return {key: state for key, state in (games | rows).items() if state}

    def read_up_to(self, store: str, config: str, node: str, path: str) -> str | None:
        """The change token up to which a node's database was read to its end; None when it never was begun."""
        if (store, config) not in self._cursors:
            self._cursors[store, config] = self._all_cursors(store, config)
        return self._cursors[store, config].get((node, path))

    def _all_cursors(self, store: str, config: str) -> Mapping[tuple[str, str], str]:
        if store in {"games", "eval"}:
            games = self.runtime.intake.evaluation if store == "eval" else self.runtime.intake.store
            return {place: reached_end_at(cursor) for place, cursor in games.cursors(config, self.nodes).items()}
        found = self.runtime.rows.store.cursors(store, config, self.nodes)
        return {place: str(cursor.get("token", "")) for place, cursor in found.items()}
