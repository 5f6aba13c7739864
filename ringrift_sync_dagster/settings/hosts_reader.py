"""From the mapping of one host to a ``Node``: check every key, then fill in what is not written.

A value that is refused is noted and then treated as not written, so that one load finds all problems of a host.
"""

from __future__ import annotations

from typing import Final, TypeVar

from ringrift_sync_dagster.core.model import is_node_name
from ringrift_sync_dagster.settings.findings import Findings, Place, did_you_mean
from ringrift_sync_dagster.settings.hosts_schema import (
    ACTIVE_STATUSES,
    FREE_HOST_KEYS,
    HOST_KEYS,
    INACTIVE_STATUSES,
    PROVIDERS,
    ROLES,
    Kind,
    looks_like_megabits,
    normal_fingerprint,
    refusal,
)
from ringrift_sync_dagster.settings.nodes import (
    AGENT_PORT,
    SSH_PORT,
    Node,
    default_path,
    is_ssh_proxy,
    provider_of,
)

_T = TypeVar("_T", str, int, bool)
# Keys that became fields of Node; every other key goes to ``extra``.
_FIELDS: Final = frozenset(HOST_KEYS) & {
    *("ssh_host", "ssh_user", "ssh_port", "ssh_key", "tailscale_ip", "ringrift_path", "role", "status", "provider"),
    *("is_ephemeral", "nat_blocked", "skip_sync_receive", "training_enabled", "selfplay_enabled", "is_coordinator"),
    *("agent_port", "storage_paths", "agent_tls_fingerprint", "bandwidth_mbps", "hard_limit", "socks5_port"),
    *("ssh_host_key_checking", "force_relay_mode"),
}
# Names that upstream takes for the coordinator. A name is no proof, so that here they are only a warning.
_COORDINATOR_HINTS: Final = ("mac-studio", "localhost", "local-mac", "coordinator", "macbook")


class _Host:
    """The checked values of one host; null and empty text count as not written."""

    def __init__(self, place: Place, findings: Findings) -> None:
        self.place = place
        self.findings = findings
        self.values: dict[str, object] = {}
        for key, value in place.section.items():
            if self._is_usable(key, value):
                self.values[key] = value

    def get(self, key: str, default: _T) -> _T:
        """Give a checked value, or the default when it is not written."""
        value = self.values.get(key, default)
        return value if isinstance(value, type(default)) else default

    def _is_usable(self, key: object, value: object) -> bool:
        if not isinstance(key, str):
            self.findings.error(self.place, str(key), "the key is no text; put it in quotes or remove it")
            return False
        if value is None or value == "":
            return False
        if key not in HOST_KEYS and not FREE_HOST_KEYS.fullmatch(key):
            hint = did_you_mean(key, HOST_KEYS)
            self.findings.warning(self.place, key, f"the key is not known; it is kept and has no effect{hint}")
        return self._is_of_kind(key, HOST_KEYS.get(key), value)

    def _is_of_kind(self, key: str, kind: Kind | None, value: object) -> bool:
        message = None if kind is None else refusal(kind, value)
        if message is not None:
            self.findings.error(self.place, key, message)
            return False
        if kind is Kind.RATE and looks_like_megabits(value):
            self.findings.warning(self.place, key, megabits_message(value))
        return True


def megabits_message(value: object) -> str:
    """Say that a limit looks like megabits, and what it would be in MB/s."""
    return (
        f"{value} looks like megabits; the unit is MB/s (10**6 bytes per second)"
        f"; if it is megabits, write {float(str(value)) / 8:g}"
    )


def read_node(place: Place, findings: Findings, coordinator: str = "") -> Node:
    """Read one host.

    Args:
        place: The host's mapping and its name.
        findings: Gets every problem.
        coordinator: Name of the host that the settings call the coordinator; empty when they name none.

    """
    host = _Host(place, findings)
    user, address = _ssh_target(host)
    provider = _provider(host)
    role = _known_word(host, "role", ROLES, "").lower()
    status = _known_word(host, "status", (*ACTIVE_STATUSES, *INACTIVE_STATUSES), "ready").lower()
    tailscale = host.get("tailscale_ip", "").strip("[]")
    _check_name_and_address(place, status, tailscale, findings)
    return Node(
        name=place.host,
        ssh_host=address,
        ssh_user=user,
        ssh_port=host.get("ssh_port", SSH_PORT),
        ssh_key=host.get("ssh_key", ""),
        tailscale_ip=tailscale,
        ringrift_path=_path(host, provider),
        role=role,
        status=status,
        provider=provider,
        is_ephemeral=host.get("is_ephemeral", provider == "vast"),
        nat_blocked=host.get("nat_blocked", False),
        skip_sync_receive=host.get("skip_sync_receive", False),
        training_enabled=host.get("training_enabled", "training" in role),
        selfplay_enabled=host.get("selfplay_enabled", "selfplay" in role),
        is_coordinator=_is_coordinator(host, role, coordinator),
        agent_port=host.get("agent_port", AGENT_PORT),
        storage_paths=_storage_paths(host.values.get("storage_paths")),
        tls_fingerprint=normal_fingerprint(host.get("agent_tls_fingerprint", "")),
        bandwidth_mbps=_rate(host, "bandwidth_mbps"),
        hard_limit=host.get("hard_limit", False),
        socks5_port=host.get("socks5_port", 0),
        host_key_checking=host.get("ssh_host_key_checking", "strict"),
        proxied_ssh=is_ssh_proxy(address) or host.get("force_relay_mode", False),
        extra={key: value for key, value in host.values.items() if key not in _FIELDS},
    )


def _check_name_and_address(place: Place, status: str, tailscale: str, findings: Findings) -> None:
    """Refuse a name that cannot be one, and an active host that nothing can connect to."""
    if not is_node_name(place.host):
        allowed = "use up to 128 letters, digits, '.', '_' and '-', with a letter or digit first"
        findings.error(place, "", f"{place.host!r} cannot name a host: {allowed}")
    if status not in INACTIVE_STATUSES and not tailscale and place.section.get("ssh_host") in (None, ""):
        message = "the key is missing; write the host's name or address, or a status such as offline"
        findings.error(place, "ssh_host", message)


def _ssh_target(host: _Host) -> tuple[str, str]:
    """Split ``user@host``; the key ssh_user counts when both are written and differ."""
    in_host, _, address = host.get("ssh_host", "").rpartition("@")
    user = host.get("ssh_user", "")
    if user and in_host and user != in_host:
        message = f"{user} and the user in ssh_host ({in_host}) differ; {user} is used, remove the other"
        host.findings.warning(host.place, "ssh_user", message)
    return user or in_host, address.strip("[]")


def _provider(host: _Host) -> str:
    written = host.get("provider", "")
    provider = provider_of(host.place.host, written)
    if written and provider not in PROVIDERS:
        hint = did_you_mean(provider, PROVIDERS)
        host.findings.warning(host.place, "provider", f"{written} is not a known provider{hint}")
    return provider


def _known_word(host: _Host, key: str, known: tuple[str, ...], default: str) -> str:
    word = host.get(key, default).strip()
    if word and word.lower() not in known:
        effect = "the host counts as ready" if key == "status" else "it says nothing about what the host does"
        hint = did_you_mean(word.lower(), known)
        host.findings.warning(host.place, key, f"{word} is not a known {key}, so that {effect}{hint}")
    return word


def _path(host: _Host, provider: str) -> str:
    written = host.get("ringrift_path", "")
    if written:
        return written if written == "/" else written.rstrip("/")
    path = default_path(provider)
    if host.place.section.get("ringrift_path") in (None, ""):
        message = f"the key is missing; {path} is used, write the path if it is another"
        host.findings.warning(host.place, "ringrift_path", message)
    return path


def _is_coordinator(host: _Host, role: str, named: str) -> bool:
    flag = host.values.get("is_coordinator")
    if flag is False and role == "coordinator":
        message = "is false although the role is coordinator; the role counts, correct one of them"
        host.findings.warning(host.place, "is_coordinator", message)
    found = role == "coordinator" or flag is True or host.place.host == named
    if not found and any(hint in host.place.host.lower() for hint in _COORDINATOR_HINTS) and flag is None:
        message = "the name sounds like a coordinator, but neither role nor is_coordinator says so; write one of them"
        host.findings.warning(host.place, "role", message)
    return found


def _rate(host: _Host, key: str) -> float | None:
    value = host.values.get(key)
    return float(value) if isinstance(value, int | float) else None


def _storage_paths(value: object) -> tuple[str, ...]:
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return tuple(member for member in members if isinstance(member, str))
