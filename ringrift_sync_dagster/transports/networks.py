"""Where plain HTTP is allowed: loopback and networks that the operator trusts; everywhere else bytes travel under TLS.

Both ends ask here: the agent before it listens and for every connection, the client before it sends a token.
The default networks are those of an inventory that names none.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from ringrift_sync_dagster.settings import sections
from ringrift_sync_dagster.settings.nodes import Node

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

DEFAULT_TRUSTED: Final = sections.DEFAULT_TRUSTED


class TrustedNetworks:
    """Loopback and the given networks.

    Args:
        networks: Networks in CIDR form.

    Raises:
        ValueError: One of them is not a network.

    """

    def __init__(self, networks: Iterable[str | IPNetwork] = DEFAULT_TRUSTED) -> None:
        self._networks = tuple(ipaddress.ip_network(str(network)) for network in networks)

    @property
    def networks(self) -> tuple[IPNetwork, ...]:
        """The given networks."""
        return self._networks

    def holds(self, address: str) -> bool:
        """Say whether an IP address is loopback or in one of the networks; a text that is no address is not."""
        parsed = _parsed(address)
        return parsed is not None and (parsed.is_loopback or any(parsed in network for network in self._networks))

    def holds_host(self, host: str) -> bool:
        """Say the same of a host name: all its addresses must be; asks the resolver, so it may block."""
        if _parsed(host) is not None:
            return self.holds(host)
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):  # no name at all, such as one with a label of 64 letters
            return False
        return bool(found) and all(self.holds(str(entry[4][0])) for entry in found)


def is_loopback(address: str) -> bool:
    """Say whether an IP address is loopback; ``localhost`` is."""
    parsed = _parsed(address)
    return address.lower().rstrip(".") == "localhost" if parsed is None else parsed.is_loopback


def as_called_by_others(node: Node, nodes: Iterable[Node]) -> Node:
    """Give a node with the addresses at which other nodes call it: on loopback each of them would call itself.

    Args:
        node: The node.
        nodes: All nodes; where every one of them lies on loopback, that is one machine, and nothing is left out.

    """
    own = (node.tailscale_ip, node.ssh_host)
    if not any(map(is_loopback, own)) or all(_is_here(one) for one in nodes):
        return node
    private, public = ("" if is_loopback(address) else address for address in own)
    return replace(node, tailscale_ip=private, ssh_host=public)


def _is_here(node: Node) -> bool:
    return all(is_loopback(address) for address in (node.tailscale_ip, node.ssh_host) if address)


def is_wildcard(address: str) -> bool:
    """Say whether listening on this address means all addresses."""
    parsed = _parsed(address)
    return address == "" or (parsed is not None and parsed.is_unspecified)


def _parsed(address: str) -> IPAddress | None:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed
