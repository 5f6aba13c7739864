"""What an agent holds of other nodes, as it tells it: the receipts that it gave to whoever brought it something."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from ringrift_sync_dagster.core.model import SHA256, checked_node_name


@dataclass(frozen=True, slots=True)
class Held:
    """An artifact of another node that an agent has a receipt for.

    Args:
        id: Of the receipt, in the node's own count.
        sha256: The artifact.
        origin: The node whose data it is.
        size_bytes: Its length.

    Raises:
        ValueError: A name in it is not usable.

    """

    id: int
    sha256: str
    origin: str
    size_bytes: int

    def __post_init__(self) -> None:
        if not SHA256.fullmatch(self.sha256) or self.size_bytes < 0:
            raise ValueError(f"{self.sha256!r} with {self.size_bytes} bytes is no artifact")
        checked_node_name(self.origin)

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> Self:
        """Read a receipt as it travels: its path is ``<origin>/<sha256>``.

        Raises:
            KeyError: Something is missing.
            ValueError: A name in it is not usable.

        """
        origin, _, name = str(row["path"]).rpartition("/")
        if name != row["sha256"]:
            raise ValueError(f"{row['path']!r} is no place of an artifact")
        return cls(int(row["id"]), str(row["sha256"]), origin, int(row["size_bytes"]))
