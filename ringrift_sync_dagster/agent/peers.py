"""Whom an ephemeral node may bring its packs while the owner is out of reach: persistent nodes that were up lately.

They are named in the answers to heartbeats, best first by ``core.routing``, from what passes measured; nobody is asked.
The inventory is read again when it was changed.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.core.room import DiskLimits, disk_refusal
from ringrift_sync_dagster.core.routing import Facts, target_score
from ringrift_sync_dagster.errors import ConfigError
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.inventory import load_inventory
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.state.measures import Measures, all_measures
from ringrift_sync_dagster.state.nodes import UP, node_rows
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.transports.networks import as_called_by_others

log = logging.getLogger(__name__)

MOST_PEERS: Final = 5
UP_SECONDS: Final = 900.0
"""A node that answered so lately counts as up: hybrid passes ask every minute."""
_KEEP_SECONDS: Final = 10.0
_AGENT: Final = "p2p_http"


@dataclass(frozen=True, slots=True)
class Peer:
    """A node that keeps packs of others.

    Args:
        node: Its name.
        url: Of its agent, such as ``http://10.0.0.3:8765``.
        fingerprint: SHA-256 of its certificate; empty without TLS.

    """

    node: str
    url: str
    fingerprint: str

    def as_json(self) -> dict[str, Any]:
        """Give the form that travels."""
        return {"node": self.node, "url": self.url, "fingerprint": self.fingerprint, "ephemeral": False}


class Peers:
    """Names peers; it blocks on the disk and on the database, and belongs into one thread at a time.

    Args:
        state: The shared facts.
        hosts: The inventory, a file or a folder.
        owner: This node.

    """

    def __init__(self, state: StateStore, hosts: Path, owner: str) -> None:
        self._state, self._hosts, self._owner = state, hosts, owner
        self._found: tuple[Peer, ...] = ()
        self._persistent: frozenset[str] = frozenset()
        self._look_at = float("-inf")

    @property
    def persistent(self) -> frozenset[str]:
        """The names of all nodes that stay, as of the last look; this one is among them."""
        self._look()
        return self._persistent | {self._owner}

    def of(self, node: str) -> list[Peer]:
        """Give the peers of a node, best first; at most ``MOST_PEERS``."""
        self._look()
        return [peer for peer in self._found if peer.node != node][:MOST_PEERS]

    def _look(self) -> None:
        now = clock.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + _KEEP_SECONDS
        try:
            nodes = load_inventory(self._hosts, coordinator=self._owner).nodes.values()
        except (ConfigError, OSError) as error:
            log.warning("the inventory cannot be read, so the peers stay as they are cause=%s", error)
            return
        self._persistent = frozenset(node.name for node in nodes if not node.is_ephemeral)
        up = self._up()
        measured = all_measures(self._state)
        called = [as_called_by_others(node, nodes) for node in nodes]
        able = [node for node in called if node.name in up and _may_keep(node, measured.get(node.name))]
        ranked = sorted(able, key=lambda node: (-_score(node, measured.get(node.name)), node.name))
        self._found = tuple(_peer(node) for node in ranked)

    def _up(self) -> frozenset[str]:
        since = clock.wall() - UP_SECONDS
        return frozenset(
            row.name
            for row in node_rows(self._state)
            if row.status == UP and row.transport == _AGENT and (row.last_seen_at or 0.0) >= since
        )


def _may_keep(node: Node, measured: Measures | None) -> bool:
    stays = node.collectable and not node.is_ephemeral and not node.skip_sync_receive
    disk = None if measured is None else measured.disk
    has_room = disk is None or not disk_refusal(disk, DiskLimits(), reserved_bytes=0, rescue=True)
    return stays and bool(node.own_addresses) and has_room


def _score(node: Node, measured: Measures | None) -> float:
    """What counts is how well it is reached and how much room it has, not what it trains."""
    known = measured or Measures(node.name)
    facts = Facts(
        node.name, bytes_per_second=known.bytes_per_second, success=known.success, rtt_seconds=known.rtt_seconds,
        disk=known.disk, answered=True,
    )  # fmt: skip
    return target_score(facts, DataType.GAMES).value


def _peer(node: Node) -> Peer:
    address = node.own_addresses[0]
    host = f"[{address}]" if ":" in address else address
    scheme = "https" if node.tls_fingerprint else "http"
    return Peer(node.name, f"{scheme}://{host}:{node.agent_port}", node.tls_fingerprint)
