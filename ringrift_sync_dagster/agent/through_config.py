"""What write-through is told: where packs of finished games go, how often is looked, how much may wait."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ringrift_sync_dagster.settings.nodes import Node


@dataclass(frozen=True, slots=True)
class WriteThrough:
    """Write-through of one node; without one the agent neither watches nor pushes.

    Args:
        coordinator: Whose copy makes a game durable.
        token_file: This node's own token, read for each request; None where no agent has a key.
        peers: Persistent nodes that are asked while the coordinator is away, until it has told its own list.
        watch_seconds: Time between two looks at the databases.
        max_bytes: So many bytes of packs may wait; more is left in the databases until there is room.
        min_durable_copies: How many persistent nodes are as good as the coordinator.
        heartbeat_seconds: Time between two reports of what is at risk.
        drain_seconds: What pushing the rest may take at the end.
        preemption_url: Where the provider's notice is asked for that this machine is taken back; empty: nowhere.

    Raises:
        ValueError: A number makes no sense.

    """

    coordinator: Node
    token_file: Path | None = None
    peers: tuple[Node, ...] = ()
    watch_seconds: float = 0.5
    max_bytes: int = 1 << 30
    min_durable_copies: int = 1
    heartbeat_seconds: float = 5.0
    drain_seconds: float = 15.0
    preemption_url: str = ""

    def __post_init__(self) -> None:
        if not (self.watch_seconds > 0 and self.heartbeat_seconds > 0 and self.drain_seconds >= 0):
            raise ValueError("the seconds of write-through must be above 0")
        if self.max_bytes < 1 or self.min_durable_copies < 1:
            raise ValueError("max_bytes and min_durable_copies of write-through must be at least 1")
