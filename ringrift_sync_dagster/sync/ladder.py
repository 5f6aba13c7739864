"""The ways to a node, put together from the inventory: which rungs it can have at all, and what each one needs.

A node with an address of its own, or with SSH, can have an agent; one with an address for SSH can have the other two.
Connections are made when a rung is first tried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from ringrift_sync_dagster.core.breaker import CircuitBreakerConfig
from ringrift_sync_dagster.core.escalation import FORCED, LADDER, Rung
from ringrift_sync_dagster.errors import ConfigError, LocalToolError, Problem
from ringrift_sync_dagster.settings.inventory import Inventory
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.settings.settings import Settings
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.transports.base import Transport
from ringrift_sync_dagster.transports.base64_ssh import base64_transport
from ringrift_sync_dagster.transports.escalating import EscalatingTransport
from ringrift_sync_dagster.transports.p2p_http import P2PHttpTransport
from ringrift_sync_dagster.transports.rsync import rsync_transport
from ringrift_sync_dagster.transports.ssh import SshEndpoint, SshSettings
from ringrift_sync_dagster.transports.tunnel import Tunnel

BREAKERS: Final = CircuitBreakerConfig()
"""The guide's numbers: 3 failures, 60 s."""


class Ladder:
    """Makes the way to each node; safe in several threads.

    Args:
        settings: The settings in force.
        inventory: The nodes.
        state: Where breakers and the rung that worked last are shared.
        owner: Name of this coordinator, for messages.
        forced: The only rung to use, as ``--transport`` names it; empty: all in order.
        breakers: Numbers of the circuit breakers; the guide's when None.

    Raises:
        ConfigError: There is no rung of the forced name.

    """

    def __init__(
        self,
        settings: Settings,
        inventory: Inventory,
        state: StateStore,
        owner: str,
        *,
        forced: str = "",
        breakers: CircuitBreakerConfig | None = None,
    ) -> None:
        if forced and forced not in FORCED:
            message = f"{forced!r} is no transport; use one of {', '.join(FORCED)}"
            raise ConfigError([Problem("argument", None, "", "transport", message)])
        self._settings, self._inventory, self._state, self._owner = settings, inventory, state, owner
        self._forced = FORCED.get(forced)
        self.breakers = breakers or BREAKERS

    def rungs_of(self, node: Node) -> tuple[Rung, ...]:
        """The rungs that may serve a node, fastest first."""
        makers = self._makers(node)
        return tuple(rung for rung in LADDER if rung in makers)

    def to(self, node: Node) -> Transport:
        """The way to a node over all of its rungs; close it after use."""
        return EscalatingTransport(
            node, self._makers(node), self._state, config=self.breakers, remembers=self._forced is None
        )

    def agent_of(self, node: Node) -> P2PHttpTransport:
        """The node's agent by itself, for what only an agent can do; close it after use."""
        return self._p2p(node)

    def each(self, node: Node) -> dict[Rung, Transport]:
        """A transport for every rung of a node by itself; close each after use."""
        return {rung: make() for rung, make in self._makers(node).items()}

    def _makers(self, node: Node) -> Mapping[Rung, Callable[[], Transport]]:
        makers: dict[Rung, Callable[[], Transport]] = {}
        if node.own_addresses or node.ssh_addresses:
            makers[Rung.P2P] = lambda: self._p2p(node)
        if node.ssh_addresses:
            makers[Rung.RSYNC] = lambda: rsync_transport(node, self._ssh(Rung.RSYNC))
            makers[Rung.BASE64] = lambda: base64_transport(node, self._ssh(Rung.BASE64))
        return {rung: make for rung, make in makers.items() if self._forced in (None, rung)}

    def _p2p(self, node: Node) -> P2PHttpTransport:
        tunnel = Tunnel(SshEndpoint(node, self._ssh(Rung.P2P), Rung.P2P)) if node.ssh_addresses else None
        return P2PHttpTransport(
            node, self._token, trusted_networks=self._inventory.trusted_networks,
            stall_seconds=LADDER[Rung.P2P].stall_seconds, tunnel=tunnel,
        )  # fmt: skip

    def _ssh(self, rung: Rung) -> SshSettings:
        limits = LADDER[rung]
        return SshSettings(
            self._settings.known_hosts, connect_seconds=limits.connect_seconds, stall_seconds=limits.stall_seconds
        )

    def _token(self) -> str:
        """The coordinator's own token, read anew each time, so that a renewed one is used at once.

        Raises:
            LocalToolError: There is none that can be used; SSH needs none.

        """
        path = self._settings.token_file
        try:
            words = path.read_text(encoding="ascii").split()
        except FileNotFoundError as error:
            command = f"ringrift-sync token {self._owner}"
            raise LocalToolError("", "", f"{path}: there is no token; make one with: {command}") from error
        except (OSError, UnicodeDecodeError) as error:
            raise LocalToolError("", "", f"{path}: the token cannot be read: {error}") from error
        if len(words) != 1:
            raise LocalToolError("", "", f"{path}: this is no token: it has {len(words)} words; make a new one")
        return words[0]
