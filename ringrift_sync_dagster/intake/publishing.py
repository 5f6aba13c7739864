"""Which version of a config its owner publishes, and the links that say so on the owner's disk.

The state database decides; the links follow it and can always be made again (``settle``). An npz is published when it
is better than the published one, by (feature version, samples, digest), never by a clock. A model is published by a
promotion. A regular file that has one of the names is what an exporter or upstream's own promotion wrote there: it
becomes a version, and is published by the same rules. Source: domain facts, 5; incidents 3, 17, 24.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.errors import InvalidFileError, SyncError
from ringrift_sync_dagster.node.faults import reached
from ringrift_sync_dagster.node.landing import opened_by
from ringrift_sync_dagster.node.patterns import CONFIGS
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.changes import Change
from ringrift_sync_dagster.state.leases import hold
from ringrift_sync_dagster.state.receipts import ArtifactRow, Receipt, drop_receipt
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.versions import (
    Published,
    Version,
    VersionState,
    add_version,
    all_published,
    publish,
    published_version,
    version_of,
    versions_of,
)
from ringrift_sync_dagster.storage import links
from ringrift_sync_dagster.storage.files import disk_errors, fsync_dir, install, make_dirs, new_part, sha256_file
from ringrift_sync_dagster.storage.layout import Layout
from ringrift_sync_dagster.storage.npz import validate_npz
from ringrift_sync_dagster.storage.pth import read_sidecar, validate_model, write_sidecar
from ringrift_sync_dagster.storage.quarantine import Quarantine

LEASE_WAIT_SECONDS: Final = 300.0
_SIDECAR_BYTES: Final = 4096
_WITHDRAWN: Final = "withdrawn"


@dataclass(frozen=True, slots=True)
class Publisher:
    """The published versions of one owner.

    Args:
        owner: Name of the node whose disk this is: the coordinator.
        state: The shared facts.
        layout: The owner's disk.
        keep_versions: How many replaced versions of a config stay.

    """

    owner: str
    state: StateStore
    layout: Layout
    keep_versions: int = 3

    def offer(self, version: Version, *, node: str, trigger: str, force: bool = False) -> bool:
        """Publish a kept npz if it is better than the published one, or ``force``; True when it was published now."""
        current = published_version(self.state, version.data_type, version.config)
        if current is not None and current[1].sha256 == version.sha256:
            self.settle(DataType(version.data_type), version.config)
            return False
        if current is not None and not force and (_is_withdrawn(version) or _rank(version) <= _rank(current[1])):
            return False
        self._publish(version, node, trigger)
        return True

    def put_back(self, data_type: DataType, config: str, sha256: str, *, trigger: str) -> Published:
        """Publish a kept version, whatever is published now.

        Raises:
            InvalidFileError: It is not kept here, or its file is not what it was.

        """
        with self._turn(data_type, config):
            version = version_of(self.state, data_type.value, config, sha256)
            if version is None or version.state is not VersionState.KEPT:
                raise InvalidFileError(sha256[:12], f"no such version of {data_type} of {config} is kept")
            self._require_whole(version)
            self._withdraw_better(version)
            return self._publish(version, self.owner, trigger)

    def _withdraw_better(self, chosen: Version) -> None:
        """Let no kept npz that is better return by itself: a person decided against it, and nodes offer it still."""
        kept = versions_of(self.state, chosen.data_type, chosen.config, VersionState.KEPT)
        for one in kept if chosen.data_type == DataType.NPZ else ():  # models are never offered
            withdrawn = _rank(one) > _rank(chosen)
            if withdrawn != _is_withdrawn(one):
                add_version(self.state, replace(one, detail={**one.detail, _WITHDRAWN: withdrawn}))

    def promote(self, config: str, source: Path, *, trigger: str) -> Published:
        """Make a model the promoted one of its config: bytes first, then the links.

        Promoting what is promoted already changes nothing.

        Args:
            config: The config.
            source: The model's file on this machine.
            trigger: Who promotes, such as ``cli``.

        Raises:
            InvalidFileError: It is no whole model, or not what the ``.sha256`` beside it says.
            LocalDiskError: The disk refuses; what is promoted stays.

        """
        with self._turn(DataType.MODELS, config):
            return self._promote(config, source, trigger)

    def _promote(self, config: str, source: Path, trigger: str) -> Published:
        if source.suffix != ".pth":
            raise InvalidFileError(source, "a promoted model is a .pth file")
        validate_model(source, source.name)
        sha256 = sha256_file(source)
        _require_sidecar(source, sha256)
        name = f"canonical_{config}.pth"
        final = self.layout.version(DataType.MODELS, config, name, sha256)
        if not final.exists():
            _copy(source, final)
        write_sidecar(final, sha256)
        known = version_of(self.state, DataType.MODELS.value, config, sha256)
        version = self._kept(DataType.MODELS, config, known.name if known else source.name, sha256, final, {})
        return self._publish(version, self.owner, trigger)

    def settle(self, data_type: DataType, config: str | None = None) -> list[tuple[str, SyncError]]:
        """Let every link of a data type (of a config) lead to what is published. Idempotent.

        A regular file under one of the names is left for ``adopt``; give what went wrong with which link.
        """
        errors: list[tuple[str, SyncError]] = []
        for _, version in all_published(self.state, data_type.value, config):
            names = links.names(version.data_type, version.config, version.sha256)
            for link, target in names.links:
                path = self.layout.root / link
                if links.regular(path):
                    break
                try:
                    links.switch(path, target, self.layout.root)
                except SyncError as error:
                    errors.append((link, error))
                    break
        return errors

    def adopt(self, data_type: DataType, trigger: str) -> list[tuple[str, SyncError]]:
        """Make versions of regular files that have the names of published ones, then settle all links."""
        errors: list[tuple[str, SyncError]] = []
        for folder in (self.layout.training, self.layout.models):
            links.remove_litter(folder)
        for config in CONFIGS:
            link = self._link(data_type, config)
            if links.regular(link):
                try:
                    with self._turn(data_type, config):
                        self._adopt(data_type, config, link, trigger)
                except SyncError as error:
                    errors.append((self.layout.relative(link), error))
        return errors + self.settle(data_type)

    def name_candidate(self, version: Version) -> None:
        """Let ``candidate_{config}`` lead to the candidate that came last; a file that somebody wrote there stays."""
        if not version.name.startswith("candidate_"):
            return
        link = self.layout.models / f"candidate_{version.config}{Path(version.name).suffix}"
        if not links.regular(link):
            links.switch(link, f"versions/{Path(version.path).name}", self.layout.root)

    def _adopt(self, data_type: DataType, config: str, path: Path, trigger: str) -> None:
        """Take over what somebody wrote under a published name."""
        sha256 = sha256_file(path)
        if data_type is DataType.MODELS:
            _require_sidecar(path, sha256)
            self._promote(config, path, trigger)
            self._switch_names(data_type, config)
            return
        current = published_version(self.state, data_type.value, config)
        try:
            facts = validate_npz(path, config)
        except InvalidFileError as error:
            self._set_aside(path, sha256, error.reason)
            if current is not None:
                with disk_errors(path, "move aside"):
                    path.rename(path.with_name(f"{path.name}.refused-{sha256[:12]}"))
                self._switch_names(data_type, config)
            raise
        final = self.layout.version(data_type, config, path.name, sha256)
        links.keep(path, final)
        detail = {"samples": facts.samples, "feature_version": facts.feature_version, "raw_bytes": facts.raw_bytes}
        version = self._kept(data_type, config, path.name, sha256, final, detail)
        self.offer(version, node=self.owner, trigger=trigger)
        self._switch_names(data_type, config)

    def _kept(
        self, data_type: DataType, config: str, name: str, sha256: str, final: Path, detail: dict[str, Any]
    ) -> Version:
        """Record that a version is kept at ``final``, with its receipt."""
        now, size, path = clock.wall(), final.stat().st_size, self.layout.relative(final)
        return add_version(
            self.state,
            Version(data_type.value, config, sha256, name, path, size, self.owner, detail=detail, at=now),
            receipt=Receipt(sha256, self.owner, path, size, now),
            artifact=ArtifactRow(sha256, data_type.value, size, 0, config, self.owner, now),
        )

    def _publish(self, version: Version, node: str, trigger: str) -> Published:
        """Record which version is published, switch the links, and let the oldest versions go."""
        change = Change(
            f"{version.sha256[:16]}-published-{os.urandom(6).hex()}", clock.wall(), version.data_type, "up",
            version.config, node, version.sha256, version.name, checks={"structure_valid": True},
            counts={"published": 1}, trigger=trigger,
        )  # fmt: skip
        told = change if node != self.owner else None  # the owner is no partition; what it publishes is told by nodes
        now = publish(self.state, version.data_type, version.config, version.sha256, trigger=trigger, change=told)
        reached("publish.recorded")
        self._switch_names(DataType(version.data_type), version.config)
        reached("publish.switched")
        self._prune(DataType(version.data_type), version.config)
        return now

    def _switch_names(self, data_type: DataType, config: str) -> None:
        """Let the names of a config lead to its published version; what is regular there is a version by now."""
        current = published_version(self.state, data_type.value, config)
        if current is not None:
            version = current[1]
            names = links.names(version.data_type, config, version.sha256)
            for link, target in names.links:
                links.switch(self.layout.root / link, target, self.layout.root)

    def replaced(self, config: str) -> list[Version]:
        """Give the kept npz versions beyond the newest ``keep_versions`` that are not published, the worst first."""
        current = published_version(self.state, DataType.NPZ.value, config)
        if current is None:
            return []
        kept = versions_of(self.state, DataType.NPZ.value, config, VersionState.KEPT)
        others = sorted((version for version in kept if version.sha256 != current[1].sha256), key=_rank)
        return others[: max(0, len(others) - self.keep_versions)]

    def drop(self, version: Version) -> bool:
        """Let a kept version go, unless it is published by now or somebody has it open; True when it went. Idempotent.

        Raises:
            LeaseHeldError: Somebody publishes a version of this config now.
            LocalDiskError: The disk refuses.

        """
        with hold(self.state, _turn_name(DataType(version.data_type), version.config)):
            current = published_version(self.state, version.data_type, version.config)
            now = version_of(self.state, version.data_type, version.config, version.sha256)
            if now is None or now.state is not VersionState.KEPT or (current and current[1].sha256 == now.sha256):
                return False
            return self._drop(now)

    def _prune(self, data_type: DataType, config: str) -> None:
        """Let replaced npz versions go that nobody has open."""
        if data_type is DataType.NPZ:
            for version in self.replaced(config):
                self._drop(version)

    def _drop(self, version: Version) -> bool:
        path = self.layout.root / version.path
        if opened_by(str(path)):
            return False
        add_version(self.state, _dropped(version))
        drop_receipt(self.state, version.sha256, self.owner)
        reached("publish.dropped")
        with disk_errors(path, "remove"):
            path.unlink(missing_ok=True)
        fsync_dir(path.parent)
        return True

    def _require_whole(self, version: Version) -> None:
        path = self.layout.root / version.path
        if not path.exists() or sha256_file(path) != version.sha256:
            raise InvalidFileError(path, "it is not what it was when it was kept; it is not put back")

    def _set_aside(self, path: Path, sha256: str, reason: str) -> None:
        Quarantine(self.layout.quarantine).add(
            self.owner, f"file-{sha256}", path, reason="bad_npz", detail=f"{path}: {reason}", artifact=sha256,
            at=clock.wall(),
        )  # fmt: skip

    def _link(self, data_type: DataType, config: str) -> Path:
        """The name that people use for the published file of a config."""
        if data_type is DataType.NPZ:
            return self.layout.training / f"{config}.npz"
        return self.layout.models / f"canonical_{config}.pth"

    @contextlib.contextmanager
    def _turn(self, data_type: DataType, config: str) -> Iterator[None]:
        with hold(self.state, _turn_name(data_type, config), wait_seconds=LEASE_WAIT_SECONDS):
            yield


def _turn_name(data_type: DataType, config: str) -> str:
    """Name of the lease that whoever publishes or drops versions of a config holds."""
    return f"versions:{data_type}:{config}"


def _rank(version: Version) -> tuple[int, int, str]:
    """The order of npz versions: the better, the larger."""
    detail = version.detail
    return int(detail.get("feature_version", 0)), int(detail.get("samples", 0)), version.sha256


def _is_withdrawn(version: Version) -> bool:
    return bool(version.detail.get(_WITHDRAWN))


def _dropped(version: Version) -> Version:
    return Version(
        version.data_type, version.config, version.sha256, version.name, "", version.size_bytes, version.origin_node,
        VersionState.DROPPED, "", version.detail,
    )  # fmt: skip


def _require_sidecar(path: Path, sha256: str) -> None:
    """Believe the ``.sha256`` beside a model more than its bytes."""
    sidecar = path.with_name(f"{path.name}.sha256")
    with contextlib.suppress(OSError, UnicodeDecodeError):
        told = read_sidecar(sidecar.read_bytes()[:_SIDECAR_BYTES].decode("utf-8"))
        if told and told != sha256:
            raise InvalidFileError(path, f"its SHA-256 is {sha256[:12]}, but {sidecar.name} says {told[:12]}")


def _copy(source: Path, final: Path) -> None:
    """Copy the bytes of ``source`` to a version, durably; whoever writes the source later writes another file."""
    make_dirs(final.parent)
    with new_part(final, 0o444) as (part, stream), source.open("rb") as bytes_:
        with disk_errors(final, "write"), stream:
            for chunk in iter(lambda: bytes_.read(1 << 20), b""):
                stream.write(chunk)
        reached("promote.copied")
        install(part, final)
