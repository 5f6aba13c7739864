"""What goes into the outbox and what is told of it: packs, entries that wait, and their sums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Packed:
    """A pack that the reader of a database hands over, with the cursor behind it.

    Args:
        path: The database, as manifests name it.
        config: Whose games it holds.
        sha256: Name of the pack.
        size_bytes: Its length.
        file: Where it lies now, on the disk of the outbox.
        games: Id and identity digest of each game in it.
        cursor: Where the reader goes on; None: it stays where it was.

    """

    path: str
    config: str
    sha256: str
    size_bytes: int
    file: Path
    games: tuple[tuple[str, str], ...]
    cursor: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Entry:
    """A pack that waits.

    Args:
        sha256: Its name.
        config: Whose games it holds.
        path: The database that they come from.
        size_bytes: Its length.
        games: How many games.
        created: Since when it waits, in seconds since 1970 by this node's clock.
        tries: How often it was pushed in vain.
        error: What went wrong the last time.
        copies: The nodes that acknowledged it, and whether they keep it for good.

    """

    sha256: str
    config: str
    path: str
    size_bytes: int
    games: int
    created: float
    tries: int = 0
    error: str = ""
    copies: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Totals:
    """What waits altogether: packs, games, bytes, and since when the oldest does (None: nothing waits)."""

    packs: int
    games: int
    size_bytes: int
    oldest: float | None
