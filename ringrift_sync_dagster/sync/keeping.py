"""What lies on the owner's disk that may go some day: each thing with the rule that lets it go, or why it must stay."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringrift_sync_dagster.core.model import SHA256, DataType, is_node_name
from ringrift_sync_dagster.core.retention import ARTIFACTS, PARTIAL, QUARANTINE, TAKEN_IN, Item, Kind
from ringrift_sync_dagster.node.patterns import CONFIGS
from ringrift_sync_dagster.state.receipts import receipts_of
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.transfers import TransferState, transfer_rows
from ringrift_sync_dagster.state.versions import Version, VersionState, all_published, all_versions
from ringrift_sync_dagster.storage.files import disk_errors, fsync_dir
from ringrift_sync_dagster.storage.quarantine import QuarantineEntry
from ringrift_sync_dagster.sync.runtime import Runtime

STILL_SECONDS: Final = 600.0
"""What was written more recently is in use, whoever writes it: a node may be pushing it."""
_GAME: Final = re.compile(r"(?P<id>.+)~(?P<identity>[0-9a-f]{64})", re.DOTALL)
_ALL: Final = 100_000


@dataclass(frozen=True, slots=True)
class Found:
    """One thing, and how it is deleted.

    Args:
        item: What the plan needs to know.
        delete: Looks once more, deletes, and gives why it stayed: an empty sentence where it went.
        sha256: The artifact; empty where it is none.
        node: Whose it is; empty where that does not matter.

    """

    item: Item
    delete: Callable[[], str]
    sha256: str = ""
    node: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the owner's disk.

    Args:
        runtime: What to work with.
        now: Seconds since 1970.

    """

    runtime: Runtime
    now: float

    def all(self) -> list[Found]:
        """Give everything of the four classes that have a quota.

        Raises:
            LocalDiskError: A directory cannot be read.
            StateError: The state database cannot be read.

        """
        moves = moving(self.runtime.state)
        return [*self._incoming(moves), *self._artifacts(moves), *self._quarantine(), *self._versions()]

    def _incoming(self, moves: frozenset[str]) -> Iterator[Found]:
        for folder in sorted((self.runtime.layout.root / "data" / "incoming").glob("*")):
            if folder.is_dir() and is_node_name(folder.name):
                files = _files(folder)
                whole = [path.name for path, _, _ in files if SHA256.fullmatch(path.name)]
                taken_in = self.runtime.intake.holding.taken_in(whole)
                for path, size, at in files:
                    sha256 = path.name.removesuffix(".part")
                    due, spare, held = self._of_incoming(path, sha256, at, moves, taken_in)
                    name = self.runtime.layout.relative(path)
                    item = Item(Kind.INCOMING, name, size, at, due, spare, held)
                    yield Found(item, self._unlinking(path, at), sha256, folder.name)

    def _of_incoming(
        self, path: Path, sha256: str, at: float, moves: frozenset[str], taken_in: set[str]
    ) -> tuple[str, bool, str]:
        age = self.now - at
        if not SHA256.fullmatch(sha256):
            return "", False, "its name is none of ours"
        if sha256 in moves:
            return "", False, "it is being transferred"
        if path.suffix == ".part":
            due = "nobody went on with it for a day" if age > PARTIAL.number else ""
            return due, age > STILL_SECONDS, "it is being written"
        if sha256 in taken_in:
            due = "it is merged, and has its receipt" if age > TAKEN_IN.number else ""
            return due, False, "it was merged just now"
        return "", False, "it is not merged yet"

    def _artifacts(self, moves: frozenset[str]) -> Iterator[Found]:
        for path, size, at in _files(self.runtime.layout.artifacts):
            sha256, age = path.name.removesuffix(".json"), self.now - at
            used = sha256 in moves
            due = "it was made a day ago" if age > ARTIFACTS.number and not used else ""
            held = "it is being transferred" if used else "it was made just now"
            name = self.runtime.layout.relative(path)
            item = Item(Kind.ARTIFACTS, name, size, at, due, not used and age > STILL_SECONDS, held)
            yield Found(item, self._unlinking(path, at), sha256)

    def _unlinking(self, path: Path, at: float) -> Callable[[], str]:
        """Give what removes a file that nobody has written since."""

        def unlink() -> str:
            with disk_errors(path, "remove"):
                try:
                    if path.stat().st_mtime != at:
                        return "somebody has written it since"
                except FileNotFoundError:
                    return ""
                path.unlink()
            fsync_dir(path.parent)
            return ""

        return unlink

    def _quarantine(self) -> Iterator[Found]:
        entries = self.runtime.intake.quarantine.entries()
        known = self._known(entries)
        for entry in entries:
            held = self._sole(entry, known)
            age = self.now - entry.at
            due = "it was set aside 30 days ago" if age > QUARANTINE.number and not held else ""
            name = f"data/quarantine: {entry.node}: {entry.name}"
            item = Item(Kind.QUARANTINE, name, entry.size_bytes, entry.at, due, not held and age > STILL_SECONDS, held)
            yield Found(item, self._removing(entry))

    def _known(self, entries: list[QuarantineEntry]) -> set[tuple[str, str]]:
        """Of the games that were set aside, those that a canonical store holds, by id and identity."""
        games = [(found["id"], found["identity"]) for one in entries if (found := _GAME.fullmatch(one.name))]
        known: set[tuple[str, str]] = set()
        for config in CONFIGS if games else ():
            for store in (self.runtime.intake.store, self.runtime.intake.evaluation):
                known |= store.holds(config, games)
        return known

    def _sole(self, entry: QuarantineEntry, known: set[tuple[str, str]]) -> str:
        """Say why an entry must stay; empty where it holds no game, or one that is elsewhere too."""
        if entry.problem:
            return "its record is damaged: a person decides"
        game = _GAME.fullmatch(entry.name)
        if game is not None and (game["id"], game["identity"]) not in known:
            return "it is the only copy of a game"
        if entry.name.startswith("pack-") and not self.runtime.intake.holding.merged([entry.artifact]):
            return "it may be the only copy of games"
        return ""

    def _removing(self, entry: QuarantineEntry) -> Callable[[], str]:
        def remove() -> str:
            held = self._sole(entry, self._known([entry]))
            if not held:
                self.runtime.intake.quarantine.remove(entry.node, entry.name)
            return held

        return remove

    def _versions(self) -> Iterator[Found]:
        state, publisher = self.runtime.state, self.runtime.files.publisher
        published = {(line.data_type, line.config, line.sha256) for line, _ in all_published(state)}
        replaced = {one.sha256 for config in CONFIGS for one in publisher.replaced(config)}
        linked = {path.resolve() for path in self.runtime.layout.models.glob("*") if path.is_symlink()}
        for version in all_versions(state, VersionState.KEPT):
            if (version.data_type, version.config, version.sha256) in published:
                due, held = "", "it is published"
            elif version.data_type == DataType.NPZ.value and version.sha256 in replaced:
                due, held = f"more than {publisher.keep_versions} newer ones are kept", ""
            else:
                due, held = "", self._needed(version, linked)
            item = Item(Kind.VERSIONS, version.path, version.size_bytes, version.at, due, not held, held)
            yield Found(item, self._dropping(version), version.sha256)

    def _needed(self, version: Version, linked: set[Path]) -> str:
        """Say why a version that is not published must stay though its class is above its quota (incidents 4 and 5)."""
        if (self.runtime.layout.root / version.path).resolve() in linked:
            return "a name leads to it"
        lasting = {node.name for node in self.runtime.nodes() if not (node.is_ephemeral or node.is_coordinator)}
        if not any(one.node in lasting for one in receipts_of(self.runtime.state, version.sha256)):
            return "no node that lasts has a verified copy"
        return ""

    def _dropping(self, version: Version) -> Callable[[], str]:
        return lambda: "" if self.runtime.files.publisher.drop(version) else "it is published or open now"


def moving(state: StateStore) -> frozenset[str]:
    """Give the artifacts that a process moves now, or waits to move."""
    live = (TransferState.WAITING, TransferState.RUNNING)
    return frozenset(one.artifact for one in transfer_rows(state, limit=_ALL, running=True) if one.state in live)


def _files(folder: Path) -> list[tuple[Path, int, float]]:
    """Give each regular file of a folder with its length and the time of its last write, by name."""
    found = []
    with disk_errors(folder, "list"):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            try:
                status = path.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if path.is_file() and not path.is_symlink():
                found.append((path, status.st_size, status.st_mtime))
    return found
