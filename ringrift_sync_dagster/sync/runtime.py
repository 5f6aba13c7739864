"""The object graph of one process that syncs: settings, inventory, state, disk, intake, limits, a way to each node.

It is built here and nowhere else; the layers below take what they need as arguments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ringrift_sync_dagster.core.breaker import CircuitBreakerConfig
from ringrift_sync_dagster.errors import ConfigError, Problem, TokenError
from ringrift_sync_dagster.intake.files import FilesIntake
from ringrift_sync_dagster.intake.games import GamesIntake
from ringrift_sync_dagster.intake.rows import RowsIntake
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.identity import issue_token, load_coordinator_key, store_token, verify_token
from ringrift_sync_dagster.settings.inventory import Inventory, load_inventory
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.settings.settings import Settings
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.storage.layout import Layout
from ringrift_sync_dagster.sync.bandwidth import BandwidthManager
from ringrift_sync_dagster.sync.ladder import Ladder
from ringrift_sync_dagster.sync.pressure import PressureGauge
from ringrift_sync_dagster.transports.base import Transport

OWNER = "coordinator"
"""Name of the owner where the inventory names no coordinator."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """What a sync works with; make one with ``open``. Threads may share it.

    Args:
        settings: The settings in force.
        inventory: The nodes.
        state: The shared facts.
        layout: The owner's disk, which is this machine's.
        intake: What takes in games that have arrived.
        rows: What takes in rows of matches and registry that have arrived.
        files: What takes in npz and models that have arrived, and publishes them.
        bandwidth: Who may move bytes now, and how fast.
        ladder: The ways to nodes.

    """

    settings: Settings
    inventory: Inventory
    state: StateStore
    layout: Layout
    intake: GamesIntake
    rows: RowsIntake
    files: FilesIntake
    bandwidth: BandwidthManager
    ladder: Ladder

    @classmethod
    @contextmanager
    def open(
        cls, settings: Settings, *, transport: str = "", breakers: CircuitBreakerConfig | None = None
    ) -> Iterator[Runtime]:
        """Open everything, and close it at the end.

        Args:
            settings: The settings in force.
            transport: The only rung to use: ``p2p``, ``rsync`` or ``base64``; empty: all of them in order.
            breakers: Numbers of the circuit breakers; the guide's when None.

        Raises:
            ConfigError: The inventory is wrong; every problem found is named.
            StateError: The state database cannot be used.
            LocalDiskError: The coordinator's root cannot be written.

        """
        _renew_own_token(settings)
        inventory = load_inventory(settings.hosts, coordinator=settings.coordinator)
        layout = Layout(settings.root)
        layout.mkdirs()
        state = StateStore.open(settings.state_url)
        try:
            owner = owner_of(settings, inventory)
            bandwidth = BandwidthManager(settings, inventory, state, PressureGauge(state, owner, layout))
            ladder = Ladder(settings, inventory, state, owner, forced=transport, breakers=breakers)
            try:
                games, rows = GamesIntake(owner, state, layout), RowsIntake(owner, state, layout)
                files = FilesIntake(owner, state, layout, settings.keep_versions)
                yield cls(settings, inventory, state, layout, games, rows, files, bandwidth, ladder)
            finally:
                bandwidth.close()
        finally:
            state.close()

    def nodes(self, names: Sequence[str] | None = None) -> list[Node]:
        """The nodes to collect from: those named, else every active one but the coordinator.

        Raises:
            ConfigError: A name is not in the inventory, or cannot be collected from.

        """
        if names is None:
            return [node for node in self.inventory.nodes.values() if node.collectable]
        problems = [self._unknown(name) for name in names if name not in self.inventory.nodes]
        if problems:
            raise ConfigError(problems)
        return [self.inventory.nodes[name] for name in dict.fromkeys(names)]

    def transport_to(self, node: Node) -> Transport:
        """The way to reach a node; close it after use."""
        return self.ladder.to(node)

    def _unknown(self, name: str) -> Problem:
        known = ", ".join(self.inventory.nodes) or "none"
        return Problem(
            "argument", None, name, "node", f"there is no such node in {self.settings.hosts}; it knows {known}"
        )


def owner_of(settings: Settings, inventory: Inventory) -> str:
    """Name the owner that runs with these settings: the inventory's coordinator, where it has one."""
    return inventory.coordinator.name if inventory.coordinator else settings.coordinator or OWNER


def _renew_own_token(settings: Settings) -> None:
    """Sign a new token for the coordinator itself at two thirds of the life of its old one, where the key is here.

    Nobody else could: agents have the public key only. A token that is not sound is left to the first call to report.
    """
    try:
        key = load_coordinator_key(settings.home / "keys")
        claims = verify_token(key.public_pem, settings.token_file.read_text(encoding="ascii").strip(), clock.wall())
        if claims.renewal_due(clock.wall()):
            store_token(settings.token_file, issue_token(key, claims.sub, claims.scopes, clock.wall()))
    except (ConfigError, TokenError, OSError, UnicodeDecodeError):
        return
