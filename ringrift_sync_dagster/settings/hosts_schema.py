"""What may stand in the inventory: the sections, the keys of a host, and what each value must look like.

The names are those of upstream's ``distributed_hosts.yaml`` (domain.md, 4) and a few of our own: ``provider``,
``agent_port``, ``agent_tls_fingerprint``, ``hard_limit``, ``ssh_host_key_checking`` and the section
``trusted_networks``. A key that we act on has a kind and is checked; the others are kept as they are. A key in no table
is a warning, never an error.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final

PORT_MAX: Final = 65535
# The fastest link of the guide's table has 100 MB/s. A number of four digits is somebody's megabits.
MEGABITS_FROM: Final = 1000.0

ROLES: Final = (
    "coordinator",
    "backbone",
    "proxy",
    "gpu_selfplay",
    "gpu_selfplay_primary",
    "gpu_training_primary",
    "gpu_training_selfplay",
    "nn_training_primary",
    "cpu_selfplay",
)
# An unstable node is up, and what it holds is most at risk. Nothing is asked of the others.
ACTIVE_STATUSES: Final = ("ready", "active", "online", "unstable")
INACTIVE_STATUSES: Final = (
    "offline",
    "retired",
    "proxy_only",
    "stopped",
    "disabled",
    "setup",
    "terminated",
    "maintenance",
)
GONE_STATUSES: Final = ("retired", "terminated")
PROVIDERS: Final = ("vast", "lambda", "runpod", "nebius", "hetzner", "vultr", "local", "mac", "aws")


class Kind(Enum):
    """What a value must be."""

    TEXT = "text"
    PATH = "a path"
    USER = "the name of a user"
    ADDRESS = "a host name or an IP address"
    SSH_ADDRESS = "a host name, an IP address, or user@ and one of them"
    PORT = "a whole number from 1 to 65535, without quotes"
    FLAG = "true or false, without quotes"
    RATE = "a number above 0, in MB/s (10**6 bytes per second)"
    SECONDS = "a number of seconds above 0"
    COUNT = "a whole number from 1"
    WHOLE = "a whole number from 0"
    NAMES = "a list of names"
    PATHS = "a list of paths"
    HOST_KEYS = "strict or accept-new"
    FINGERPRINT = "the SHA-256 of a certificate, 64 hexadecimal digits"


# Known, and kept as they are.
_KEPT_HOST_KEYS: Final = (
    *("memory_gb", "cpus", "gpu", "gpu_vram_gb", "cuda_capable", "region", "note", "venv_activate"),
    *("is_container", "p2p_enabled", "needs_userspace_tailscale", "tailscale_ipv6"),
    *("use_external_storage", "external_storage_path", "nfs_enabled", "has_nfs", "export_enabled", "gauntlet_enabled"),
    *("data_server_port", "data_server_url", "relay_primary", "relay_secondary", "relay_capable"),
    *("preferred_workloads", "excluded_workloads"),
)
HOST_KEYS: Final[Mapping[str, Kind | None]] = MappingProxyType(
    {
        "ssh_host": Kind.SSH_ADDRESS,
        "ssh_user": Kind.USER,
        "ssh_port": Kind.PORT,
        "ssh_key": Kind.PATH,
        "tailscale_ip": Kind.ADDRESS,
        "ringrift_path": Kind.PATH,
        "role": Kind.TEXT,
        "status": Kind.TEXT,
        "provider": Kind.TEXT,
        "is_ephemeral": Kind.FLAG,
        "nat_blocked": Kind.FLAG,
        "force_relay_mode": Kind.FLAG,
        "skip_sync_receive": Kind.FLAG,
        "training_enabled": Kind.FLAG,
        "selfplay_enabled": Kind.FLAG,
        "is_coordinator": Kind.FLAG,
        "hard_limit": Kind.FLAG,
        "agent_port": Kind.PORT,
        "agent_tls_fingerprint": Kind.FINGERPRINT,
        "storage_paths": Kind.PATHS,
        "bandwidth_mbps": Kind.RATE,
        "socks5_port": Kind.PORT,
        "ssh_host_key_checking": Kind.HOST_KEYS,
        "preemption_notice": Kind.TEXT,
        **dict.fromkeys(_KEPT_HOST_KEYS),
    }
)
# Each provider has its own number of the machine: runpod_id, vast_instance_id, aws_instance_id.
FREE_HOST_KEYS: Final = re.compile(r"[a-z]+(_instance)?_id|cloudflare_\w+|x-.*")

SECTION_KEYS: Final[Mapping[str, Mapping[str, Kind | None]]] = MappingProxyType(
    {
        "sync_routing": {
            "excluded_hosts": Kind.NAMES,
            "priority_hosts": Kind.NAMES,
            "underserved_configs": Kind.NAMES,
            "replication_target": Kind.WHOLE,
            "max_disk_usage_percent": None,
            "target_disk_usage_percent": None,
            "min_free_disk_percent": None,
            "allowed_external_storage": None,
            "s3": None,
        },
        "auto_sync": {
            "enabled": Kind.FLAG,
            "interval_seconds": Kind.SECONDS,
            "max_concurrent_syncs": Kind.COUNT,
            "bandwidth_limit_mbps": Kind.RATE,
            "exclude_hosts": Kind.NAMES,
            "min_games_to_sync": Kind.WHOLE,
            "host_bandwidth_overrides": None,
            "gossip_interval_seconds": None,
            "skip_nfs_sync": Kind.FLAG,
            "min_durable_copies": Kind.COUNT,
        },
        "elo_sync": dict.fromkeys(
            ("coordinator", "sync_port", "sync_interval", "divergence_threshold", "transports", "enabled")
        ),
    }
)
# Sections of upstream that are kept whole: nothing here acts on them yet, or they are lists.
OTHER_SECTIONS: Final = (
    "hosts",
    "p2p_voters",
    "protocols",
    "provider_timeouts",
    "consolidation",
    "disk_management",
    "trusted_networks",
)
LIST_SECTIONS: Final = ("p2p_voters", "trusted_networks")

_USER_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}")


def refusal(kind: Kind, value: object) -> str | None:
    """Say why a value is refused, or None when it is of that kind."""
    if _CHECKS[kind](value):
        return None
    return f"{_shown(value)} is not {kind.value}{_advice(kind, value)}"


def is_address(text: str) -> bool:
    """Say whether the text is an IP address or a host name that no program takes for an option."""
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return _HOST_NAME.fullmatch(text) is not None
    return True


def normal_fingerprint(text: str) -> str:
    """Write a fingerprint as we compare it: lower case, no colons."""
    return text.replace(":", "").strip().lower()


def looks_like_megabits(value: object) -> bool:
    """Say whether a limit in MB/s is so high that megabits were meant."""
    return _is_number(value) and float(str(value)) >= MEGABITS_FROM


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: object, least: int, most: float = math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_positive(value: object) -> bool:
    return _is_number(value) and float(str(value)) > 0


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.isprintable()


def _is_path(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and bool(value.strip()) and not value.startswith("-")


def _is_user(value: object) -> bool:
    return isinstance(value, str) and _USER_NAME.fullmatch(value) is not None


def _is_ssh_address(value: object) -> bool:
    if not isinstance(value, str):
        return False
    user, separator, host = value.rpartition("@")
    return is_address(host) and (not separator or _is_user(user))


def _is_paths(value: object) -> bool:
    # Upstream writes both: a list, and a mapping of purpose to path, in which other settings may stand too.
    return isinstance(value, dict) or (isinstance(value, list) and all(_is_path(member) for member in value))


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(member, str) for member in value)


def is_fingerprint(value: object) -> bool:
    """Say whether this is the SHA-256 of a certificate, with or without colons."""
    return isinstance(value, str) and _FINGERPRINT.fullmatch(normal_fingerprint(value)) is not None


_CHECKS: Final[Mapping[Kind, Callable[[object], bool]]] = MappingProxyType(
    {
        Kind.TEXT: _is_text,
        Kind.PATH: _is_path,
        Kind.USER: _is_user,
        Kind.ADDRESS: lambda value: isinstance(value, str) and is_address(value),
        Kind.SSH_ADDRESS: _is_ssh_address,
        Kind.PORT: lambda value: _is_whole(value, 1, PORT_MAX),
        Kind.FLAG: lambda value: isinstance(value, bool),
        Kind.RATE: _is_positive,
        Kind.SECONDS: _is_positive,
        Kind.COUNT: lambda value: _is_whole(value, 1),
        Kind.WHOLE: lambda value: _is_whole(value, 0),
        Kind.NAMES: _is_names,
        Kind.PATHS: _is_paths,
        Kind.HOST_KEYS: lambda value: value in ("strict", "accept-new"),
        Kind.FINGERPRINT: is_fingerprint,
    }
)


def _shown(value: object) -> str:
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 - enough to recognise it


def _advice(kind: Kind, value: object) -> str:
    if kind is Kind.TEXT and isinstance(value, bool):
        return "; YAML reads yes, no, on and off as true and false, so put the text in quotes"
    if kind is Kind.TEXT and _is_number(value):
        return "; put it in quotes"
    if kind in {Kind.NAMES, Kind.PATHS} and isinstance(value, str):
        return f"; write it as [{value}]"
    if kind in {Kind.ADDRESS, Kind.SSH_ADDRESS} and isinstance(value, str) and re.search(r":\d+$", value):
        return "; a port belongs into ssh_port"
    return ""
