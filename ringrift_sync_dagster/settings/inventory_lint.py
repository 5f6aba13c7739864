"""Warnings about an inventory whose every key is right but which still cannot be meant so.

Each of them once stopped or lost data upstream: a machine under two names, a host that is both excluded and chosen, a
doubled path segment, a cleanup target at its trigger. Source: domain.md, 4 and 10 (11, 18, 35, 51).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

from ringrift_sync_dagster.settings.findings import Findings, Place, did_you_mean
from ringrift_sync_dagster.settings.hosts_schema import GONE_STATUSES
from ringrift_sync_dagster.settings.nodes import SSH_PORT, Node
from ringrift_sync_dagster.settings.sections import Sections, listed_hosts

# Two lists of which one host must not be in both: excluded there, chosen here.
_EXCLUDING = (("sync_routing", "excluded_hosts"), ("auto_sync", "exclude_hosts"))


def lint(nodes: Mapping[str, Node], hosts: Mapping[str, Place], sections: Sections, findings: Findings) -> None:
    """Add a warning for everything that is probably not meant."""
    _two_names_for_one_address(nodes, hosts, findings)
    _names_that_differ_in_case(nodes, hosts, findings)
    _doubled_segments(nodes, hosts, findings)
    _contradictory_lists(sections, findings)
    _unknown_names(nodes, sections, findings)
    _cleanup_that_never_cleans(sections, findings)


def _two_names_for_one_address(nodes: Mapping[str, Node], hosts: Mapping[str, Place], findings: Findings) -> None:
    """Address and port decide: behind one NAT proxy many hosts share an address and differ in the port."""
    first: dict[tuple[str, int, int], str] = {}
    for node in nodes.values():
        if node.status in GONE_STATUSES:
            continue
        for key, address, endpoint in _endpoints(node):
            other = first.setdefault(endpoint, node.name)
            if other != node.name:
                message = f"{address} port {endpoint[1]} is also the address of {other}; one machine must have one name"
                findings.warning(hosts[node.name], key, message)
                break


def _endpoints(node: Node) -> Iterator[tuple[str, str, tuple[str, int, int]]]:
    if node.ssh_host:
        yield "ssh_host", node.ssh_host, (_normal_address(node.ssh_host), node.ssh_port, node.agent_port)
    if node.tailscale_ip:
        yield "tailscale_ip", node.tailscale_ip, (_normal_address(node.tailscale_ip), SSH_PORT, node.agent_port)


def _normal_address(address: str) -> str:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        name = address.lower().rstrip(".")
        return "127.0.0.1" if name == "localhost" else name
    return "127.0.0.1" if str(ip) == "::1" else str(ip)


def _names_that_differ_in_case(nodes: Mapping[str, Node], hosts: Mapping[str, Place], findings: Findings) -> None:
    first: dict[str, str] = {}
    for name in nodes:
        other = first.setdefault(name.lower(), name)
        if other != name:
            findings.warning(hosts[name], "", f"the name differs from {other} in upper and lower case only; rename one")


def _doubled_segments(nodes: Mapping[str, Node], hosts: Mapping[str, Place], findings: Findings) -> None:
    for node in nodes.values():
        storage = node.extra.get("external_storage_path")
        paths = [("ringrift_path", node.ringrift_path), *(("storage_paths", path) for path in node.storage_paths)]
        if isinstance(storage, str):
            paths.append(("external_storage_path", storage))
        for key, path in paths:
            single = _without_doubled_segment(path)
            if single != path:
                findings.warning(hosts[node.name], key, f"{path} repeats a segment; did you mean {single}?")


def _without_doubled_segment(path: str) -> str:
    segments = path.split("/")
    kept = [part for index, part in enumerate(segments) if not part or index == 0 or part != segments[index - 1]]
    return "/".join(kept)


def _contradictory_lists(sections: Sections, findings: Findings) -> None:
    chosen = _chosen_hosts(sections)
    for section, key in _EXCLUDING:
        for pattern, place in sections.names(section, key).items():
            for name, lists in chosen.items():
                if fnmatchcase(name, pattern):
                    message = f"{name} is excluded here and named in {' and '.join(lists)}; remove it from one of them"
                    findings.warning(place, key, message)


def _chosen_hosts(sections: Sections) -> dict[str, list[str]]:
    """Give each host that a list chooses, with the names of the lists."""
    chosen: dict[str, list[str]] = {}
    for place in sections.places.get("sync_routing", []):
        storage = s3.get("push_enabled_hosts") if isinstance(s3 := place.section.get("s3"), dict) else None
        for key, names in (
            ("priority_hosts", place.section.get("priority_hosts")),
            ("allowed_external_storage", list(listed_hosts(place.section, "allowed_external_storage"))),
            ("s3.push_enabled_hosts", storage),
        ):
            for name in names if isinstance(names, list) else []:
                chosen.setdefault(str(name), []).append(f"sync_routing.{key}")
    return chosen


def _unknown_names(nodes: Mapping[str, Node], sections: Sections, findings: Findings) -> None:
    """A list that names nobody has no effect, and nobody notices."""
    lists = [("sync_routing", "excluded_hosts"), ("sync_routing", "priority_hosts"), ("auto_sync", "exclude_hosts")]
    for section, key in lists:
        for pattern, place in sections.names(section, key).items():
            if not any(fnmatchcase(name, pattern) for name in nodes):
                findings.warning(place, key, f"no host has the name {pattern}{did_you_mean(pattern, nodes)}")
    for place in sections.places.get("elo_sync", []):
        name = place.section.get("coordinator")
        if isinstance(name, str) and name not in nodes:
            findings.warning(place, "coordinator", f"no host has the name {name}{did_you_mean(name, nodes)}")


def _cleanup_that_never_cleans(sections: Sections, findings: Findings) -> None:
    for place in sections.places.get("sync_routing", []):
        most, target = (place.section.get(f"{word}_disk_usage_percent") for word in ("max", "target"))
        if isinstance(most, int | float) and isinstance(target, int | float) and target >= most:
            message = f"{target} is not below max_disk_usage_percent ({most}), so that a cleanup frees nothing"
            findings.warning(place, "target_disk_usage_percent", message)
