"""Where things lie under a root (an ``ai-service`` directory): the one place that spells these paths.

Paths are put together from names that were checked, so that no config or node name from outside can leave the root.
Source: architecture.md, 1 (canonical store, incoming); domain.md, 1.2 (``data/games``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringrift_sync_dagster.core.model import SHA256, DataType, checked_node_name
from ringrift_sync_dagster.node.patterns import CONFIGS
from ringrift_sync_dagster.storage.files import make_dirs

SCRATCH_DIR: Final = "data/.ringrift-sync"
"""Our own files on a node; the leading dot keeps every scan out of it."""


_FILE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=-]{0,180}")


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths under one root; only ``mkdirs`` touches the disk.

    Args:
        root: The ``ai-service`` directory of this machine.

    """

    root: Path

    @property
    def games_dir(self) -> Path:
        """The directory of the games databases."""
        return self.root / "data" / "games"

    @property
    def quarantine(self) -> Path:
        """What was set aside: one directory per node."""
        return self.root / "data" / "quarantine"

    @property
    def scratch(self) -> Path:
        """Our own working files: artifacts that are served, temporary copies."""
        return self.root / SCRATCH_DIR

    @property
    def artifacts(self) -> Path:
        """Artifacts made on this machine and waiting to be fetched; named by their SHA-256."""
        return self.scratch / "artifacts"

    def canonical(self, config: str) -> Path:
        """The canonical games database of a config.

        Raises:
            ValueError: There is no such config.

        """
        if config not in CONFIGS:
            raise ValueError(f"{config!r} is not a config; the configs are {', '.join(CONFIGS)}")
        return self.games_dir / f"canonical_{config}.db"

    def evaluation(self, config: str) -> Path:
        """The database of evaluation games of a config: tournaments, gauntlets, baselines.

        Raises:
            ValueError: There is no such config.

        """
        return self.canonical(config).with_name(f"eval_{config}.db")

    @property
    def elo(self) -> Path:
        """The merged database of matches and ratings, of all configs."""
        return self.root / "data" / "unified_elo.db"

    @property
    def registry(self) -> Path:
        """The merged model registry, of all configs."""
        return self.root / "data" / "model_registry" / "registry.db"

    @property
    def training(self) -> Path:
        """The directory of the npz files: versions, and the links that name the published ones."""
        return self.root / "data" / "training"

    @property
    def models(self) -> Path:
        """The directory of the models: the links that players load; what they lead to lies in ``versions/``."""
        return self.root / "models"

    def version(self, data_type: DataType, config: str, name: str, sha256: str) -> Path:
        """Where a version of an npz or model file lies, named by its content.

        Args:
            data_type: ``npz`` or ``models``.
            config: The config.
            name: The file's name where it came from; a model keeps its stem and suffix.
            sha256: The content.

        Raises:
            ValueError: The digest or the name is not usable.

        """
        if not SHA256.fullmatch(sha256) or not _FILE_NAME.fullmatch(name):
            raise ValueError(f"{name!r} with SHA-256 {sha256!r} cannot name a version")
        if data_type is DataType.NPZ:
            return self.training / f"{config}.{sha256[:12]}.npz"
        return self.models / "versions" / f"{Path(name).stem}.{sha256[:12]}{Path(name).suffix}"

    def incoming(self, node: str) -> Path:
        """The directory in which the bytes of a node land first.

        Raises:
            ValueError: The name cannot name a node.

        """
        return self.root / "data" / "incoming" / checked_node_name(node)

    def incoming_artifact(self, node: str, sha256: str) -> Path:
        """The final name of an artifact that arrived from a node; ``.part`` is appended while it is incomplete.

        Raises:
            ValueError: The node's name or the digest is not usable.

        """
        if not SHA256.fullmatch(sha256):
            raise ValueError(f"{sha256!r} is not a SHA-256 in lower-case hexadecimal")
        return self.incoming(node) / sha256

    def relative(self, path: Path) -> str:
        """The path as the state database records it: relative to the root, with ``/``.

        Raises:
            ValueError: The path is not under the root.

        """
        return path.relative_to(self.root).as_posix()

    def mkdirs(self) -> None:
        """Create the directories that do not depend on a node. Idempotent.

        Raises:
            LocalDiskError: The root is not writable, or a name on the way is a file.

        """
        for directory in (self.games_dir, self.root / "data" / "incoming", self.quarantine, self.artifacts):
            make_dirs(directory)
