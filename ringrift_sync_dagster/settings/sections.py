"""The sections of the inventory beside ``hosts``: merged over all files, checked, and kept as they are written.

A mapping is merged key by key, and one key with two values is an error that names both places; lists are joined.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ringrift_sync_dagster.settings.findings import Findings, Place, did_you_mean
from ringrift_sync_dagster.settings.hosts_reader import megabits_message
from ringrift_sync_dagster.settings.hosts_schema import LIST_SECTIONS, SECTION_KEYS, Kind, looks_like_megabits, refusal
from ringrift_sync_dagster.settings.hosts_yaml import Section

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Loopback, the private ranges, and the range that Tailscale and carriers use; architecture.md, 2.
DEFAULT_TRUSTED: Final = (
    *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"),
    *("::1/128", "fc00::/7"),
)


@dataclass(frozen=True, slots=True)
class Sections:
    """All sections but ``hosts``.

    Args:
        merged: Section -> its value over all files.
        places: Section -> each mapping of it and where it is written.
        trusted_networks: Where agents may speak plain HTTP.

    """

    merged: dict[str, object] = field(default_factory=dict)
    places: dict[str, list[Place]] = field(default_factory=dict)
    trusted_networks: tuple[Network, ...] = ()

    def names(self, section: str, key: str) -> dict[str, Place]:
        """Give the names in a list of a section, each with where the list is written; empty when there is none."""
        found: dict[str, Place] = {}
        for place in self.places.get(section, []):
            members = place.section.get(key)
            for name in members if isinstance(members, list) else []:
                found.setdefault(str(name), place)
        return found


def read_sections(files: list[tuple[str, Section]], findings: Findings) -> Sections:
    """Merge and check the sections of all files; every problem goes to ``findings``."""
    merged: dict[str, object] = {}
    places: dict[str, list[Place]] = {}
    for file, top in files:
        for name, value in top.items():
            if name == "hosts" or value is None or not isinstance(name, str):
                continue
            if isinstance(value, Section):
                place = Place(file, value, prefix=f"{name}.")
                _check_section(name, place, findings)
                _merge_mapping(merged, places.setdefault(name, []), name, place, findings)
            else:
                _merge_other(merged, name, value, Place(file, top), findings)
    return Sections(merged, places, _trusted(merged.get("trusted_networks"), files, findings))


def _check_section(name: str, place: Place, findings: Findings) -> None:
    if name in LIST_SECTIONS:
        findings.error(place, "", "it must be a list")
    keys = SECTION_KEYS.get(name)
    if keys is None:
        return
    for key, value in place.section.items():
        if key not in keys:
            hint = did_you_mean(str(key), keys)
            findings.warning(place, str(key), f"the key is not known; it is kept and has no effect{hint}")
            continue
        _check_value(place, key, keys[key], value, findings)
    overrides = place.section.get("host_bandwidth_overrides")
    if name == "auto_sync" and overrides is not None:
        _check_overrides(place, overrides, findings)


def _check_value(place: Place, key: str, kind: Kind | None, value: object, findings: Findings) -> None:
    if kind is None or value is None:
        return
    message = refusal(kind, value)
    if message is not None:
        findings.error(place, key, message)
    elif kind is Kind.RATE and looks_like_megabits(value):
        findings.warning(place, key, megabits_message(value))


def _check_overrides(place: Place, overrides: object, findings: Findings) -> None:
    if not isinstance(overrides, Section):
        findings.error(place, "host_bandwidth_overrides", 'it must be a mapping such as "vast-*": 50, in MB/s')
        return
    inner = Place(place.file, overrides, prefix=f"{place.prefix}host_bandwidth_overrides.")
    for key, value in overrides.items():
        _check_value(inner, str(key), Kind.RATE, value if value is not None else "", findings)


def _merge_mapping(merged: dict[str, object], places: list[Place], name: str, place: Place, findings: Findings) -> None:
    target = merged.setdefault(name, {})
    if not isinstance(target, dict):
        findings.error(place, "", f"the section {name} is a mapping here and something else in another file")
        return
    for key, value in place.section.items():
        if key in target and target[key] != value:
            first = next(other for other in places if key in other.section)
            where = f"{first.file}:{first.line(str(key))}"
            findings.error(place, str(key), f"it has another value in {where}; keep one of them")
        target.setdefault(key, value)
    places.append(place)


def _merge_other(merged: dict[str, object], name: str, value: object, place: Place, findings: Findings) -> None:
    if name in SECTION_KEYS:
        findings.error(place, name, "it must be a mapping: one key: value in each line, indented below it")
        return
    if name in LIST_SECTIONS and not isinstance(value, list):
        findings.error(place, name, f"it must be a list; write it as [{value}]")
        return
    before = merged.get(name)
    if before is None:
        merged[name] = value
    elif isinstance(before, list) and isinstance(value, list):
        merged[name] = [*before, *(item for item in value if item not in before)]
    elif before != value:
        findings.error(place, name, "the section has another value in another file; keep one of them")


def _trusted(value: object, files: list[tuple[str, Section]], findings: Findings) -> tuple[Network, ...]:
    if not isinstance(value, list):
        return tuple(ipaddress.ip_network(text) for text in DEFAULT_TRUSTED)
    place = next(Place(file, top) for file, top in files if "trusted_networks" in top)
    networks: list[Network] = []
    for item in value:
        try:
            networks.append(ipaddress.ip_network(str(item)))
        except ValueError as error:
            findings.error(place, "trusted_networks", f"{error}; write a network such as 100.64.0.0/10")
    return tuple(networks)


def listed_hosts(section: Mapping[str, object], key: str) -> tuple[str, ...]:
    """Give the names under ``host:`` in a list of mappings, such as ``allowed_external_storage``."""
    members = section.get(key)
    found = [item.get("host") for item in members if isinstance(item, dict)] if isinstance(members, list) else []
    return tuple(name for name in found if isinstance(name, str))
