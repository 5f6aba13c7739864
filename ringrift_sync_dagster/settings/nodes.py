"""A host of the inventory as the rest of the program sees it; everything guessed about a host is guessed here.

Paths are written as the node understands them: ``~`` is expanded there, not here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from ringrift_sync_dagster.settings.hosts_schema import INACTIVE_STATUSES, PROVIDERS

AGENT_PORT: Final = 8765
SSH_PORT: Final = 22
# Spellings that people use for a provider, besides the names of the table.
_PROVIDER_ALIASES: Final = {"vast.ai": "vast", "vastai": "vast", "vast_ai": "vast", "lambdalabs": "lambda"}
_PREFIX_PROVIDERS: Final = {"macbook": "mac", **{name: name for name in PROVIDERS}}
# Where providers lead many rented machines through one SSH server.
_PROXY_DOMAINS: Final = ("vast.ai", "runpod.io", "runpod.net")


@dataclass(frozen=True, slots=True)
class Node:
    """One host.

    Args:
        name: Its name in the inventory.
        ssh_host: Where SSH connects: a name or an address, without ``user@``; empty when there is none.
        ssh_user: User for SSH; empty: what ssh itself chooses.
        ssh_port: Port for SSH.
        ssh_key: Key file for SSH on this machine, ``~`` not expanded; empty: what ssh itself chooses.
        tailscale_ip: Its address in the private network; empty when there is none.
        ringrift_path: Its ``ai-service`` directory, ``~`` not expanded.
        role: What it does, such as ``gpu_selfplay``; empty when not said.
        status: ``ready``, or why it is not to be asked.
        provider: Where it is rented, such as ``vast``; empty when unknown.
        is_ephemeral: True: it may vanish without notice.
        nat_blocked: True: nobody reaches it from outside but over SSH.
        skip_sync_receive: True: nothing is distributed to it.
        training_enabled: True: it trains.
        selfplay_enabled: True: it plays.
        is_coordinator: True: it owns the canonical store, by role, by flag, or by the settings.
        agent_port: Port of the node service.
        storage_paths: Further roots with data, beside ``ringrift_path``.
        tls_fingerprint: SHA-256 of its certificate, 64 hexadecimal digits; empty when nothing is pinned.
        bandwidth_mbps: Its own limit in MB/s (10**6 bytes per second); None when the inventory gives none.
        hard_limit: True: no priority may pass that limit.
        socks5_port: Port of a SOCKS5 proxy on this machine's loopback that leads to it; 0 when there is none.
        host_key_checking: ``strict``, or ``accept-new``: an unknown SSH host key is taken on first use.
        proxied_ssh: True: ``ssh_host`` is a provider's SSH proxy, not the node: no HTTP and no tunnel end is there.
        extra: All other keys, as they are written.

    """

    name: str
    ssh_host: str
    ringrift_path: str
    ssh_user: str = ""
    ssh_port: int = SSH_PORT
    ssh_key: str = ""
    tailscale_ip: str = ""
    role: str = ""
    status: str = "ready"
    provider: str = ""
    is_ephemeral: bool = False
    nat_blocked: bool = False
    skip_sync_receive: bool = False
    training_enabled: bool = False
    selfplay_enabled: bool = False
    is_coordinator: bool = False
    agent_port: int = AGENT_PORT
    storage_paths: tuple[str, ...] = ()
    tls_fingerprint: str = ""
    bandwidth_mbps: float | None = None
    hard_limit: bool = False
    socks5_port: int = 0
    host_key_checking: str = "strict"
    proxied_ssh: bool = False
    extra: Mapping[str, object] = field(default_factory=dict, hash=False)

    @property
    def address(self) -> str:
        """Where its own HTTP service is called first: the private network's address, else the SSH host."""
        return self.tailscale_ip or self.ssh_host

    @property
    def own_addresses(self) -> tuple[str, ...]:
        """Where its own HTTP service may be called, in order; empty when only SSH leads to it."""
        public = "" if self.proxied_ssh or self.nat_blocked else self.ssh_host
        return tuple(dict.fromkeys(address for address in (self.tailscale_ip, public) if address))

    @property
    def ssh_addresses(self) -> tuple[tuple[str, int], ...]:
        """Addresses and ports for SSH, in order.

        The private network's address has the node's own port 22 when ``ssh_host`` is a provider's proxy: that one's
        port is the proxy's.
        """
        private = (self.tailscale_ip, SSH_PORT if self.proxied_ssh else self.ssh_port)
        return tuple(dict.fromkeys(pair for pair in (private, (self.ssh_host, self.ssh_port)) if pair[0]))

    @property
    def trains(self) -> bool:
        """True when it trains, by flag or role."""
        return self.training_enabled or "training" in self.role

    @property
    def plays(self) -> bool:
        """True when it plays, by flag or role."""
        return self.selfplay_enabled or "selfplay" in self.role

    @property
    def active(self) -> bool:
        """True unless its status says that nothing is to be asked of it."""
        return self.status not in INACTIVE_STATUSES

    @property
    def collectable(self) -> bool:
        """True when games are fetched from it: it is active, and not the coordinator itself."""
        return self.active and not self.is_coordinator


def provider_of(name: str, written: str) -> str:
    """Give a host's provider: what is written, else what the name's prefix says, else nothing."""
    if written:
        lowered = written.strip().lower()
        return _PROVIDER_ALIASES.get(lowered, lowered)
    return _PREFIX_PROVIDERS.get(name.lower().partition("-")[0], "")


def is_ssh_proxy(address: str) -> bool:
    """Say whether an SSH host is known to be a provider's proxy; never true of an IP address."""
    name = address.lower().rstrip(".")
    return any(name == domain or name.endswith(f".{domain}") for domain in _PROXY_DOMAINS)


def with_shared_proxies(nodes: Mapping[str, Node]) -> dict[str, Node]:
    """Give the hosts, and mark those whose ``ssh_host`` must be a proxy, because other hosts are behind it too.

    Two hosts at one address with different SSH ports are two machines. When both have the same ``agent_port`` too,
    what answers there cannot be the agent of either.
    """
    ports = defaultdict[tuple[str, int], set[int]](set)
    for node in nodes.values():
        ports[_http_place(node)].add(node.ssh_port)
    return {
        name: replace(node, proxied_ssh=True) if node.ssh_host and len(ports[_http_place(node)]) > 1 else node
        for name, node in nodes.items()
    }


def _http_place(node: Node) -> tuple[str, int]:
    return node.ssh_host.lower().rstrip("."), node.agent_port


def default_path(provider: str) -> str:
    """Give the ``ai-service`` directory that hosts of a provider usually have."""
    return "/workspace/ringrift/ai-service" if provider == "runpod" else "~/ringrift/ai-service"
