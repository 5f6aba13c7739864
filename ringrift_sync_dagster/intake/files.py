"""Take in an npz or a model that has arrived: validate, keep as a version, write receipt and change, let the file go.

The order is the guarantee. The version has its name durably (a second name of the arrived file) before one transaction
says that it is kept; only then is it published, and only then the first name goes. Killed between any two steps, the
next pass finds the bytes in ``incoming/`` and repeats the rest. What is not valid goes to quarantine, and its digest is
remembered, so that nobody sends it again.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.errors import ChecksumError, InvalidFileError
from ringrift_sync_dagster.intake.arrival import Arrival
from ringrift_sync_dagster.intake.publishing import Publisher
from ringrift_sync_dagster.node.faults import reached
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.changes import Change
from ringrift_sync_dagster.state.leases import hold
from ringrift_sync_dagster.state.receipts import ArtifactRow, Receipt
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.versions import Version, VersionState, add_version, version_of
from ringrift_sync_dagster.storage.files import disk_errors, fsync_dir, fsync_file, make_dirs, sha256_file
from ringrift_sync_dagster.storage.layout import Layout
from ringrift_sync_dagster.storage.npz import validate_npz
from ringrift_sync_dagster.storage.pth import validate_model, write_sidecar
from ringrift_sync_dagster.storage.quarantine import Quarantine

LEASE_WAIT_SECONDS: Final = 300.0
READ_ONLY: Final = 0o444
"""A version never changes; everybody may read it."""


@dataclass(frozen=True, slots=True)
class FileAccepted:
    """What became of a file.

    Args:
        version: What the state database knows of it now.
        new: It was not known before.
        published: It is what its config's name leads to since now.

    """

    version: Version
    new: bool
    published: bool

    @property
    def counts(self) -> dict[str, int]:
        """By the names that changes carry."""
        kept = int(self.new and self.version.state is VersionState.KEPT)
        return {"files_new": kept, "published": int(self.published)}


@dataclass(frozen=True, slots=True)
class FilesIntake:
    """The intake of one owner for npz and models; safe for threads, and for processes through the leases.

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

    @property
    def publisher(self) -> Publisher:
        """What decides which version is published."""
        return Publisher(self.owner, self.state, self.layout, self.keep_versions)

    @property
    def quarantine(self) -> Quarantine:
        """Where files go that are not valid."""
        return Quarantine(self.layout.quarantine)

    def known(self, data_type: DataType, config: str, sha256: str) -> Version | None:
        """What became of this content before; None when it must be fetched."""
        version = version_of(self.state, data_type.value, config, sha256)
        if (
            version is not None
            and version.state is VersionState.KEPT
            and not (self.layout.root / version.path).exists()
        ):
            return None  # it was lost here: fetched again, it is kept again
        return version

    def accept(self, arrival: Arrival, data_type: DataType, *, force: bool = False) -> FileAccepted:
        """Take in one file; it is gone from ``incoming/`` when this returns. Idempotent.

        Args:
            arrival: The file, verified against its name.
            data_type: ``npz`` or ``models``.
            force: Also publish an npz that is worse than the published one.

        Raises:
            LocalDiskError: Our disk is full; the file stays for the next pass, and nothing published changed.
            LeaseHeldError: Another process took in files of this config for five minutes; the file stays.

        """
        config, name = arrival.config, Path(arrival.source_path).name
        with hold(self.state, f"versions:{data_type}:{config}", wait_seconds=LEASE_WAIT_SECONDS):
            before = self.known(data_type, config, arrival.artifact.sha256)
            try:
                version = before or self._keep(arrival, data_type, config, name)
            except InvalidFileError as error:
                return FileAccepted(self._refuse(arrival, data_type, error.reason), new=True, published=False)
            published = False
            if version.state is VersionState.KEPT and data_type is DataType.NPZ:
                published = self.publisher.offer(version, node=arrival.node, trigger=arrival.trigger, force=force)
            elif version.state is VersionState.KEPT and before is None:
                self.publisher.name_candidate(version)
            self._let_go(arrival.path)
            return FileAccepted(version, before is None, published)

    def restore(self, version: Version, arrived: Path) -> None:
        """Put verified bytes in the place of a version that was lost or rotted; what rotted goes to quarantine.

        Args:
            version: The version, which is kept.
            arrived: The bytes in ``incoming/``, verified against its digest; gone from there on return.

        Raises:
            ChecksumError: What arrived is not what it was verified to be; it is removed, and what lies there stays.
            LocalDiskError: Our disk refuses; what lies there stays.
            LeaseHeldError: Another process took in files of this config for five minutes.

        """
        final, data_type = self.layout.root / version.path, DataType(version.data_type)
        with hold(self.state, f"versions:{data_type}:{version.config}", wait_seconds=LEASE_WAIT_SECONDS):
            now = version_of(self.state, version.data_type, version.config, version.sha256)
            found = sha256_file(final) if final.exists() else ""
            if now is None or now.state is not VersionState.KEPT or found == version.sha256:
                self._let_go(arrived)  # it made room meanwhile, or somebody else repaired it
                return
            if sha256_file(arrived) != version.sha256:  # a second name of a version that rotted since
                self._let_go(arrived)
                raise ChecksumError(self.owner, "", f"{arrived.name} in incoming/ is not what it was; it was removed")
            if found:
                self.quarantine.add(
                    self.owner, f"rotten-{version.sha256}-{found[:12]}", final, reason="rotten",
                    artifact=version.sha256, detail=f"{version.path} hashes to {found}", at=clock.wall(),
                )  # fmt: skip
            second_name(arrived, final)
            if data_type is DataType.MODELS:
                write_sidecar(final, version.sha256)
            receipt = Receipt(version.sha256, self.owner, version.path, version.size_bytes, clock.wall())
            add_version(self.state, now, receipt=receipt)
            self.publisher.settle(data_type, version.config)
            self._let_go(arrived)

    def _keep(self, arrival: Arrival, data_type: DataType, config: str, name: str) -> Version:
        """Validate the file and keep it as a version."""
        sha256 = arrival.artifact.sha256
        detail: dict[str, Any] = {}
        if data_type is DataType.NPZ:
            facts = validate_npz(arrival.path, config)
            detail = {"samples": facts.samples, "feature_version": facts.feature_version, "raw_bytes": facts.raw_bytes}
        else:
            validate_model(arrival.path, name)
        final = self.layout.version(data_type, config, name, sha256)
        second_name(arrival.path, final)
        if data_type is DataType.MODELS:
            write_sidecar(final, sha256)
        reached("files.kept")
        now, size = clock.wall(), arrival.artifact.size_bytes
        version = Version(
            data_type.value, config, sha256, name, self.layout.relative(final), size, arrival.node, detail=detail,
            at=now,
        )  # fmt: skip
        samples = {"samples": detail["samples"]} if detail else {}
        stored = add_version(
            self.state,
            version,
            receipt=Receipt(sha256, self.owner, version.path, size, now),
            artifact=ArtifactRow(sha256, data_type.value, size, 0, config, arrival.node, now),
            change=self._change(arrival, data_type, {"files_new": 1, **samples}, {"structure_valid": True}),
        )
        reached("files.recorded")
        return stored

    def _refuse(self, arrival: Arrival, data_type: DataType, reason: str) -> Version:
        """Set the file aside, remember its digest, and let the file in ``incoming/`` go."""
        artifact, config = arrival.artifact, arrival.config
        self.quarantine.add(
            arrival.node, f"file-{artifact.sha256}", arrival.path, reason=f"bad_{data_type}",
            detail=f"{arrival.source_path}: {reason}", artifact=artifact.sha256, at=clock.wall(),
        )  # fmt: skip
        reached("files.set_aside")
        version = Version(
            data_type.value, config, artifact.sha256, Path(arrival.source_path).name, "", artifact.size_bytes,
            arrival.node, VersionState.REFUSED, reason, at=clock.wall(),
        )  # fmt: skip
        checks = {"structure_valid": False, "asides": [[arrival.source_path, artifact.sha256[:12], reason]]}
        change = self._change(arrival, data_type, {}, checks, set_aside=1)
        stored = add_version(self.state, version, change=change)
        self._let_go(arrival.path)
        return stored

    def _change(
        self, arrival: Arrival, data_type: DataType, counts: dict[str, int], checks: dict[str, Any], set_aside: int = 0
    ) -> Change:
        """The change of this content at this owner: the same one when it is written again after a crash."""
        return Change(
            f"{arrival.artifact.sha256[:16]}-{data_type}-{arrival.config}-{self.owner}", clock.wall(), data_type.value,
            "up", arrival.config, arrival.node, arrival.artifact.sha256, arrival.source_path, set_aside=set_aside,
            size_bytes=arrival.bytes_moved, seconds=arrival.seconds, transport=arrival.transport, checks=checks,
            counts=counts, trigger=arrival.trigger,
        )  # fmt: skip

    @staticmethod
    def _let_go(path: Path) -> None:
        path.unlink(missing_ok=True)
        reached("files.removed")
        fsync_dir(path.parent)


def restoring(sha256: str) -> str:
    """Name of the lease that whoever fetches a lost version holds, so that no sweep takes its bytes away."""
    return f"restore:{sha256}"


def second_name(path: Path, final: Path) -> None:
    """Give a file that is whole its name as a version, durably, read-only for everybody; it keeps its first name.

    Raises:
        LocalDiskError: The disk refuses.

    """
    make_dirs(final.parent)
    fsync_file(path)
    with disk_errors(final, "install"):
        path.chmod(READ_ONLY)
        part = final.with_name(f".{final.name}.{os.getpid()}.part")
        part.unlink(missing_ok=True)
        os.link(path, part)
        part.replace(final)  # of one content, whatever was there
        part.unlink(missing_ok=True)  # two names of one file: a rename between them does nothing
    reached("files.named")
    fsync_dir(final.parent)
