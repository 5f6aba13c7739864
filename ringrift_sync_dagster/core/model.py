"""The values that every layer speaks in: data type, strategy, partition, artifact; they check themselves.

A node's name is a key in the state database, a directory name under ``incoming/`` and one half of a partition key.
It therefore has letters, digits, ``.``, ``_`` and ``-`` only, starts with a letter or digit, and has no ``|``.
Source: architecture.md, 1 (words); domain.md, 1.1 (configs).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

NODE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
SHA256: Final = re.compile(r"[0-9a-f]{64}")
PARTITION_SEPARATOR: Final = "|"


class DataType(StrEnum):
    """The five data types of the guide, in the order of its table."""

    GAMES = "games"
    NPZ = "npz"
    MODELS = "models"
    ELO = "elo"
    REGISTRY = "registry"


class SyncStrategy(StrEnum):
    """When data moves, and between whom; the five names of the guide's quick reference."""

    HYBRID = "hybrid"
    EPHEMERAL = "ephemeral"
    BROADCAST = "broadcast"
    PULL = "pull"
    AUTO = "auto"


def is_node_name(name: str) -> bool:
    """Say whether the text may name a node."""
    return NODE_NAME.fullmatch(name) is not None


def checked_node_name(name: str) -> str:
    """Give the name back unchanged.

    Raises:
        ValueError: It is not 1 to 128 letters, digits, ``.``, ``_`` or ``-`` that start with a letter or digit.

    """
    if not is_node_name(name):
        raise ValueError(
            f"{name!r} cannot name a node: use 1 to 128 letters, digits, '.', '_' and '-', a letter or digit first"
        )
    return name


@dataclass(frozen=True, slots=True, order=True)
class Partition:
    """One config on one node, such as ``hex8_2p|vast-12345``; the same for all five data types.

    Args:
        config: A config key such as ``hex8_2p``.
        node: Name of the node.

    Raises:
        ValueError: A name is not usable, or holds the separator.

    """

    config: str
    node: str

    def __post_init__(self) -> None:
        if not self.config or PARTITION_SEPARATOR in self.config:
            raise ValueError(f"{self.config!r} cannot be the config of a partition")
        checked_node_name(self.node)

    @property
    def key(self) -> str:
        """The key as Dagster shows it: ``config|node``."""
        return f"{self.config}{PARTITION_SEPARATOR}{self.node}"

    @classmethod
    def parse(cls, key: str) -> Partition:
        """Read a key made by ``key``.

        Raises:
            ValueError: It is not one config and one node, joined by ``|``.

        """
        config, separator, node = key.partition(PARTITION_SEPARATOR)
        if not separator:
            raise ValueError(f"{key!r} is not a partition key: write it as config|node, such as hex8_2p|vast-12345")
        return cls(config, node)

    def __str__(self) -> str:
        return self.key


@dataclass(frozen=True, slots=True)
class Artifact:
    """An immutable file, named by its content; what transports carry.

    Args:
        sha256: SHA-256 of the bytes, 64 lower-case hexadecimal digits.
        size_bytes: Length of the file; 0 or more.
        kind: What it holds: ``games``, ``aside``, ``npz``, ``models``, and so on.

    Raises:
        ValueError: The digest or the size is impossible.

    """

    sha256: str
    size_bytes: int
    kind: str

    def __post_init__(self) -> None:
        if not SHA256.fullmatch(self.sha256):
            raise ValueError(f"{self.sha256!r} is not a SHA-256 in lower-case hexadecimal")
        if self.size_bytes < 0:
            raise ValueError(f"artifact {self.sha256[:12]} cannot have {self.size_bytes} bytes")
