"""Games that exist on a node alone for too long: found by the last scan against what was read, and told as values.

A file of a node is behind when it has finished games and was not read to its present end. It is an orphan's file when
it has been behind for the grace period without any progress: the node is silent, or its packs do not come. Only clocks
of this machine count. Source: domain.md, 5, meaning (b); exact ids are told by the nodes themselves.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.errors import CanonicalStoreError
from ringrift_sync_dagster.node.patterns import CONFIGS
from ringrift_sync_dagster.state.nodes import UP, NodeFile, files_of, node_row
from ringrift_sync_dagster.storage.canonical import CanonicalStore
from ringrift_sync_dagster.sync.runtime import Runtime

PATHS_TOLD: Final = 10
FIRST_RETRY_SECONDS: Final = 30.0
LONGEST_RETRY_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class Behind:
    """One file of a node that was not read to its end.

    Args:
        node: Whose.
        path: Which.
        config: Of which config.
        read: How far it was read; compared for equality only, empty when never.
        games: Finished games that it holds, read ones included.
        size_bytes: Its length.

    """

    node: str
    path: str
    config: str
    read: str
    games: int
    size_bytes: int

    @property
    def key(self) -> str:
        """A name for it; the same as long as nothing is read from it."""
        return f"{self.node}|{self.path}|{self.config}|{self.read}"


@dataclass(frozen=True, slots=True)
class Orphans:
    """What a node has that nobody else does.

    Args:
        node: The node.
        files: Its files, by path.
        seconds: How long the oldest one has been behind.

    """

    node: str
    files: tuple[Behind, ...]
    seconds: float

    @property
    def games(self) -> int:
        """Finished games in these files, at most: those that were read before are counted too."""
        return sum(file.games for file in self.files)

    @property
    def configs(self) -> tuple[str, ...]:
        """Of which configs."""
        return tuple(sorted({file.config for file in self.files if file.config}))

    def payload(self) -> dict[str, Any]:
        """Give it as the payload of ORPHAN_GAMES_DETECTED."""
        return {
            "source_node": self.node,
            "orphan_count": self.games,
            "orphan_paths": [file.path for file in self.files[:PATHS_TOLD] if file.path],
            "config_keys": list(self.configs),
            "total_bytes": sum(file.size_bytes for file in self.files),
        }


@dataclass(slots=True)
class Watch:
    """What is remembered between two looks; JSON values.

    Args:
        since: For each file that is behind, when it was first seen so, in seconds since 1970.
        tries: For each node with orphans, how often it was asked, and when it may be asked again.

    """

    since: dict[str, float]
    tries: dict[str, tuple[int, float]]

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> Watch:
        """Read what ``as_json`` wrote."""
        tries = {node: (int(count), float(at)) for node, (count, at) in value.get("tries", {}).items()}
        return cls({str(key): float(at) for key, at in value.get("since", {}).items()}, tries)

    def as_json(self) -> dict[str, Any]:
        """Give it as JSON values."""
        return {"since": self.since, "tries": {node: list(one) for node, one in self.tries.items()}}

    def look(self, behind: Iterable[Behind], now: float, grace_of: Callable[[str], float]) -> list[Orphans]:
        """Take what is behind now; give the orphans by node, and forget what was read meanwhile.

        Args:
            behind: The files.
            now: In seconds since 1970.
            grace_of: For a node, after how many seconds without progress its files are orphans.

        """
        found = list(behind)
        self.since = {one.key: min(self.since.get(one.key, now), now) for one in found}
        late = [one for one in found if now - self.since[one.key] >= grace_of(one.node)]
        nodes = sorted({one.node for one in late})
        return [
            Orphans(node, tuple(mine), max(now - self.since[one.key] for one in mine))
            for node in nodes
            for mine in [sorted((one for one in late if one.node == node), key=lambda one: (one.path, one.config))]
        ]

    def is_due(self, node: str, now: float) -> bool:
        """Say whether a node may be asked again; a clock that was set back does not stop it."""
        if node not in self.tries:
            return True
        _, at = self.tries[node]
        return now >= at or at - now > LONGEST_RETRY_SECONDS

    def asked(self, node: str, now: float) -> int:
        """Take note that a node is asked now; give how often it was."""
        count = self.tries.get(node, (0, 0.0))[0] + 1
        pause = min(FIRST_RETRY_SECONDS * 2 ** (count - 1), LONGEST_RETRY_SECONDS)
        self.tries[node] = (count, now + pause)
        return count


def grace_by_node(runtime: Runtime) -> Callable[[str], float]:
    """Give what says for a node after how many seconds its games are orphans: ``ephemeral_max_data_age``.

    A persistent node is looked at once in ``sync_interval``: before it was looked at twice, nothing of it is late.
    """
    settings = runtime.settings
    least = {node.name: 0.0 if node.is_ephemeral else 2 * settings.sync_interval for node in runtime.nodes()}
    return lambda node: max(settings.ephemeral_max_data_age, least.get(node, 0.0))


def files_behind(runtime: Runtime) -> list[Behind]:
    """Give the games files of active nodes that were not read to their end, by the last scan.

    Raises:
        StateError: The state database cannot be read.

    """
    cursors = {
        (kind, config): _cursors(store, config)
        for kind, store in (("games", runtime.intake.store), ("eval", runtime.intake.evaluation))
        for config in CONFIGS
    }
    found = []
    for node in runtime.nodes():
        for file in files_of(runtime.state, node.name, DataType.GAMES.value):
            if not file.games or file.error or not (file.collectable or file.kind == "eval"):
                continue
            kind = "eval" if file.kind == "eval" else "games"
            cursor = cursors.get((kind, file.config), {}).get((node.name, file.path))
            # Games that are over and lack moves are no orphans: they are told as short after their time.
            if not file.token or cursor is None or cursor.get("token") != file.token:
                found.append(_behind(file, cursor))
    return found


def come(runtime: Runtime, node: str, paths: Collection[str], behind: Iterable[Behind]) -> list[str] | None:
    """Give those of a node's paths whose games have come; None while nobody knows: some are behind, the node is down.

    Of a file that is gone or unreadable, and of a node that left the inventory, nothing has come.
    """
    if node not in {one.name for one in runtime.nodes()}:
        return []
    row = node_row(runtime.state, node)
    if (row is None or row.status != UP) and any(one.node == node and one.path in paths for one in behind):
        return None
    listed = {file.path for file in files_of(runtime.state, node, DataType.GAMES.value) if not file.error}
    return [path for path in paths if path in listed]


def _cursors(store: CanonicalStore, config: str) -> Mapping[tuple[str, str], Mapping[str, Any]]:
    """Give how far nodes were read; nothing where the merged database is damaged, for then no game of it is safe."""
    try:
        return store.cursors(config)
    except CanonicalStoreError:
        return {}


def _behind(file: NodeFile, cursor: Mapping[str, Any] | None) -> Behind:
    read = "" if cursor is None else sha256(json.dumps(cursor, sort_keys=True).encode()).hexdigest()[:12]
    return Behind(file.node, file.path, file.config, read, file.games or 0, file.size_bytes)
