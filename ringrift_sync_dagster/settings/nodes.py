"""A host of the inventory as the rest of the program sees it; everything guessed about a host is guessed here.

Paths are written as the node understands them: ``~`` is expanded there, not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ringrift_sync_dagster.settings.hosts_schema import INACTIVE_STATUSES, PROVIDERS

AGENT_PORT: Final = 8765
SSH_PORT: Final = 22
# Spellings that people use for a provider, besides the names of the table.
_PROVIDER_ALIASES: Final = {"vast.ai": "vast", "vastai": "vast", "vast_ai": "vast", "lambdalabs": "lambda"}
_PREFIX_PROVIDERS: Final = {"macbook": "mac", **{name: name for name in PROVIDERS}}


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
    extra: Mapping[str, object] = field(default_factory=dict, hash=False)

    @property
    def address(self) -> str:
        """Where its own HTTP service is called: the private network's address, else the SSH host."""
        return self.tailscale_ip or self.ssh_host

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


def default_path(provider: str) -> str:
    """Give the ``ai-service`` directory that hosts of a provider usually have."""
    return "/workspace/ringrift/ai-service" if provider == "runpod" else "~/ringrift/ai-service"
