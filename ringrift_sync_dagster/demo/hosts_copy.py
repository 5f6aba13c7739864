"""A copy of the inventory in which every host lives on this machine: its own loopback address, its own folder.

Everything else of the shipped files stays as it is, so the demo runs on the inventory that a newcomer reads. Only the
limits of disks are lifted: how full this machine's disk is says nothing of the cluster.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

_FIRST_OCTET: Final = 101  # for hosts that have no loopback address of their own in the template
_NO_DISK_LIMITS: Final = {"max_disk_usage_percent": 100, "min_free_disk_percent": 0}


def template_octets(template: Path) -> dict[str, int]:
    """Give each host of the template the last octet of its address; hosts elsewhere are numbered from 101 on."""
    octets = {}
    for number, (name, host) in enumerate(_hosts_of(template).items()):
        octets[name] = _loopback_octet(host) or _FIRST_OCTET + number
    return octets


def write_hosts(
    template: Path,
    target: Path,
    addresses: Mapping[str, str],
    root_of: Callable[[str], Path],
    further: Mapping[str, Mapping[str, object]],
) -> None:
    """Write the copy.

    Args:
        template: The inventory: a directory of YAML files, or one file.
        target: A directory, made if missing; files of the same names in it are replaced.
        addresses: Address of each host.
        root_of: The ``ai-service`` folder of a host.
        further: More keys of hosts, such as those of SSH.

    """
    target.mkdir(parents=True, exist_ok=True)
    for file in _files(template):
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        for name, host in (content.get("hosts") or {}).items():
            host.update(ssh_host=addresses[name], tailscale_ip=addresses[name], ringrift_path=str(root_of(name)))
            host.update(further.get(name, {}))
        if content.get("sync_routing"):
            content["sync_routing"].update(_NO_DISK_LIMITS)
        (target / file.name).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _files(template: Path) -> list[Path]:
    return sorted((*template.glob("*.yaml"), *template.glob("*.yml"))) if template.is_dir() else [template]


def _hosts_of(template: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for file in _files(template):
        found.update((yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("hosts") or {})
    return found


def _loopback_octet(host: Mapping[str, Any]) -> int:
    """Last octet of the host's address when that is a loopback one, else 0."""
    try:
        address = ipaddress.ip_address(str(host.get("tailscale_ip") or host.get("ssh_host")))
    except ValueError:
        return 0
    return address.packed[-1] if address.is_loopback else 0
