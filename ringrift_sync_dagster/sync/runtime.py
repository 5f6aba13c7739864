"""The object graph of one process that syncs: settings, inventory, state, disk, intake, and a transport to each node.

It is built here and nowhere else; the layers below take what they need as arguments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ringrift_sync_dagster.errors import ConfigError, LocalDiskError, Problem, TokenError
from ringrift_sync_dagster.intake.games import GamesIntake
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.identity import issue_token, load_coordinator_key, store_token, verify_token
from ringrift_sync_dagster.settings.inventory import Inventory, load_inventory
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.settings.settings import Settings
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.storage.layout import Layout
from ringrift_sync_dagster.transports.base import Transport
from ringrift_sync_dagster.transports.p2p_http import P2PHttpTransport

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

    """

    settings: Settings
    inventory: Inventory
    state: StateStore
    layout: Layout
    intake: GamesIntake

    @classmethod
    @contextmanager
    def open(cls, settings: Settings) -> Iterator[Runtime]:
        """Open everything, and close it at the end.

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
            coordinator = inventory.coordinator
            owner = coordinator.name if coordinator else settings.coordinator or OWNER
            yield cls(settings, inventory, state, layout, GamesIntake(owner, state, layout))
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
        """The way to reach a node."""
        return P2PHttpTransport(node, self._token, trusted_networks=self.inventory.trusted_networks)

    def _token(self) -> str:
        """The coordinator's own token, read anew each time, so that a renewed one is used at once."""
        path: Path = self.settings.token_file
        try:
            words = path.read_text(encoding="ascii").split()
        except FileNotFoundError as error:
            command = f"ringrift-sync token {self.intake.owner}"
            raise TokenError("", "", f"{path}: there is no token; make one with: {command}") from error
        except (OSError, UnicodeDecodeError) as error:
            raise LocalDiskError("", "", f"{path}: the token cannot be read: {error}") from error
        if len(words) != 1:
            raise TokenError("", "", f"{path}: this is no token: it has {len(words)} words; make a new one")
        return words[0]

    def _unknown(self, name: str) -> Problem:
        known = ", ".join(self.inventory.nodes) or "none"
        return Problem(
            "argument", None, name, "node", f"there is no such node in {self.settings.hosts}; it knows {known}"
        )


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
