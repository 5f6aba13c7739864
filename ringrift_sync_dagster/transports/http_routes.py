"""The ways to one node's agent, in order: its own addresses, then a tunnel through SSH.

A provider's SSH proxy is never called: it is not the node. A token leaves under TLS with a pinned certificate, to
loopback and trusted networks, or inside the tunnel, which SSH protects; to any other address it is not sent at all.
The way that answered is kept for 15 minutes, like the rung that worked, so that a better one is found again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ringrift_sync_dagster.errors import AuthenticationError, RungUnusableError, TransferError, UnreachableError
from ringrift_sync_dagster.settings.clock import Deadline, monotonic
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.transports.networks import TrustedNetworks
from ringrift_sync_dagster.transports.socks_connect import LOOPBACK, listens
from ringrift_sync_dagster.transports.tunnel import Tunnel

KEPT_SECONDS: Final = 900.0


@dataclass(frozen=True, slots=True)
class Route:
    """One way to the agent.

    Args:
        place: The address that is called; empty for the tunnel.
        base: Scheme, host and port.
        words: The way, for people.
        proxies: What ``requests`` goes through.
        tunnel: The tunnel that ``base`` is the near end of.
        generation: Which start of the tunnel it belongs to.

    """

    place: str
    base: str
    words: str
    proxies: Mapping[str, str] = field(default_factory=dict, hash=False)
    tunnel: Tunnel | None = None
    generation: int = 0


class Routes:
    """Finds the way to one node's agent; safe in several threads.

    Args:
        node: The node.
        transport: The rung's name, for messages.
        trusted: Where plain HTTP is allowed.
        tunnel: The last resort; None when there is none.

    """

    def __init__(self, node: Node, transport: str, trusted: TrustedNetworks, tunnel: Tunnel | None) -> None:
        self._node = node
        self._transport = transport
        self._trusted = trusted
        self._tunnel = tunnel
        self._secret: set[str] = set()
        self._kept: tuple[Route, float] | None = None

    def candidates(self, deadline: Deadline, failures: list[TransferError], *, authorized: bool) -> Iterator[Route]:
        """Give the ways in the order in which they are to be tried; the one that is kept comes first.

        Args:
            deadline: When a tunnel must be open.
            failures: Gets the reason for each way that cannot or must not be tried.
            authorized: A token goes along.

        Raises:
            TransferError: The tunnel cannot be used, for another reason than that nothing answers.

        """
        kept = self._kept_route()
        for place in self._places(kept):
            if place and authorized and not self._may_tell(place):
                failures.append(self._untold(place))
                continue
            try:
                route = self._route(place, kept, deadline)
            except UnreachableError as error:
                failures.append(error)
                continue
            yield route

    def keep(self, route: Route) -> None:
        """Begin with this way next time."""
        kept = self._kept_route()
        if kept is None or kept.place != route.place:
            self._kept = (route, monotonic())

    def drop(self, route: Route) -> None:
        """Begin with the first way next time, if this one was kept."""
        if self._kept is not None and self._kept[0].place == route.place:
            self._kept = None

    def error(self, failures: Sequence[TransferError]) -> TransferError:
        """Give one error for all the ways that failed."""
        if not failures:
            message = "the inventory gives no address of the node's own, and no way through SSH is set up"
            return RungUnusableError(self._node.name, self._transport, message)
        if len(failures) == 1:
            return failures[0]
        silent = any(isinstance(failure, UnreachableError) for failure in failures)
        kind = UnreachableError if silent else AuthenticationError
        return kind(self._node.name, self._transport, "; ".join(failure.message for failure in failures))

    def _places(self, kept: Route | None) -> list[str]:
        places = [*self._node.own_addresses, *([] if self._tunnel is None else [""])]
        return places if kept is None else sorted(places, key=lambda place: place != kept.place)

    def _kept_route(self) -> Route | None:
        found = self._kept
        return found[0] if found is not None and monotonic() - found[1] < KEPT_SECONDS else None

    def _route(self, place: str, kept: Route | None, deadline: Deadline) -> Route:
        if not place:
            return self._through_tunnel(deadline)
        return kept if kept is not None and kept.place == place else self._direct(place)

    def _direct(self, place: str) -> Route:
        base = self._base(place, self._node.agent_port)
        port = self._node.socks5_port
        if not listens(port):
            return Route(place, base, base)
        proxy = f"socks5h://{LOOPBACK}:{port}"
        words = f"{base} through the SOCKS proxy on port {port}"
        return Route(place, base, words, {"http": proxy, "https": proxy})

    def _through_tunnel(self, deadline: Deadline) -> Route:
        tunnel = self._tunnel
        assert tunnel is not None  # noqa: S101 - for the type checker
        port = tunnel.open(deadline)
        words = f"port {self._node.agent_port} through SSH to {tunnel.where}"
        return Route("", self._base(LOOPBACK, port), words, tunnel=tunnel, generation=tunnel.generation)

    def _base(self, host: str, port: int) -> str:
        shown = f"[{host}]" if ":" in host else host
        return f"{'https' if self._node.tls_fingerprint else 'http'}://{shown}:{port}"

    def _may_tell(self, host: str) -> bool:
        if not self._node.tls_fingerprint and host not in self._secret:
            if not self._trusted.holds_host(host):
                return False
            self._secret.add(host)
        return True

    def _untold(self, host: str) -> AuthenticationError:
        message = (
            f"{host} is outside the trusted networks and the inventory pins no certificate for it: "
            "the token is not sent in the clear; set agent_tls_fingerprint"
        )
        return AuthenticationError(self._node.name, self._transport, message)
