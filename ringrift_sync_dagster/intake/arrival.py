"""The values of the intake: an artifact that lies in ``incoming/``, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.node.packfile import RAW_LIMIT_BYTES


@dataclass(frozen=True, slots=True)
class Arrival:
    """An artifact whose bytes are verified against its name.

    Args:
        artifact: Its name, size and kind.
        path: Where it lies, under ``incoming/<node>/``.
        node: Whose data it holds: the origin, not a relay.
        source_path: The database on the node, as its manifest names it; empty when only the pack knows.
        cursor: What the store shall remember of the source once the rows are in; None: what the pack itself says.
        bytes_moved: What travelled for it, in bytes.
        seconds: How long the ordering and the transfer took.
        transport: What carried it.
        trigger: What started it, such as ``cli``.
        config: The config that was ordered; empty when only the pack knows.
        raw_limit_bytes: What it may inflate to: the size that was announced, else what no pack exceeds.

    """

    artifact: Artifact
    path: Path
    node: str
    source_path: str = ""
    cursor: Mapping[str, Any] | None = None
    bytes_moved: int = 0
    seconds: float = 0.0
    transport: str = ""
    trigger: str = ""
    config: str = ""
    raw_limit_bytes: int = RAW_LIMIT_BYTES


@dataclass(frozen=True, slots=True)
class SetAside:
    """One game that went to quarantine: its id, identity digest and the reason in one word."""

    game_id: str
    identity: str
    reason: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of an arrival, in games.

    Args:
        config: Where they belong.
        new: Games that the store did not have.
        same: Games that it had.
        annotated: Games whose annotation grew.
        revised: Games that replaced a shorter revision.
        renamed: Games that entered under a second id.
        set_aside: Games that went to quarantine.
        canonical_games: Games in the canonical database afterwards.
        changed: True when a change was written.

    """

    config: str
    new: int = 0
    same: int = 0
    annotated: int = 0
    revised: int = 0
    renamed: int = 0
    set_aside: tuple[SetAside, ...] = ()
    canonical_games: int = 0
    changed: bool = False
