"""The inventory: all YAML files of ``hosts/`` as one set of hosts and sections, or one error with every problem.

One file may hold all hosts, or each provider may have its own. A host named twice is an error, and so is one key of a
section with two values. Sources: domain.md, 4 (``distributed_hosts.yaml``); architecture.md, 2 (trusted networks).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringrift_sync_dagster.errors import ConfigError, Problem
from ringrift_sync_dagster.settings.findings import Findings, Place, did_you_mean
from ringrift_sync_dagster.settings.hosts_reader import read_node
from ringrift_sync_dagster.settings.hosts_schema import MEGABITS_FROM, OTHER_SECTIONS, SECTION_KEYS
from ringrift_sync_dagster.settings.hosts_yaml import Section, read_yaml
from ringrift_sync_dagster.settings.inventory_lint import lint
from ringrift_sync_dagster.settings.nodes import AGENT_PORT, Node, with_shared_proxies
from ringrift_sync_dagster.settings.sections import Network, read_sections

__all__ = ["AGENT_PORT", "MEGABITS_FROM", "Inventory", "Network", "Node", "load_inventory"]

_SUFFIXES: Final = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Inventory:
    """The cluster as ``hosts/`` describes it.

    Args:
        nodes: Name -> host, in the order of the files.
        sections: The other sections, merged over the files, as they are written.
        warnings: What is probably not meant; shown, never fatal.
        trusted_networks: Where agents may speak plain HTTP.
        coordinator: The host that owns the canonical store; None when none is named.

    """

    nodes: Mapping[str, Node]
    sections: Mapping[str, object]
    warnings: tuple[Problem, ...]
    trusted_networks: tuple[Network, ...]
    coordinator: Node | None

    @property
    def auto_sync(self) -> Mapping[str, object]:
        """The section ``auto_sync``; empty when there is none."""
        section = self.sections.get("auto_sync")
        return section if isinstance(section, dict) else {}

    def get(self, name: str) -> Node:
        """Give a host by name.

        Raises:
            ConfigError: There is no host of that name.

        """
        node = self.nodes.get(name)
        if node is None:
            message = f"the inventory has no host of this name{did_you_mean(name, self.nodes)}"
            raise ConfigError([Problem("hosts", None, name, "", message)])
        return node

    def active_nodes(self) -> tuple[Node, ...]:
        """Give the hosts that may be asked for something, the coordinator included."""
        return tuple(node for node in self.nodes.values() if node.active)

    def collectable_nodes(self) -> tuple[Node, ...]:
        """Give the hosts that games are fetched from."""
        return tuple(node for node in self.nodes.values() if node.collectable)

    def is_trusted(self, address: str) -> bool:
        """Say whether an IP address lies in a network where plain HTTP is allowed; a host name never does."""
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(ip in network for network in self.trusted_networks)


def load_inventory(path: Path, *, coordinator: str = "") -> Inventory:
    """Read the inventory.

    Args:
        path: A directory, of which every ``*.yaml`` counts (its subdirectories do not), or one file.
        coordinator: Name of the host that the settings call the coordinator; empty when the inventory says it.

    Raises:
        ConfigError: Something makes it unusable; all problems of all files are in it, warnings too.

    """
    findings = Findings()
    files = list(_read_files(path, findings))
    hosts = _hosts(files, findings)
    nodes = with_shared_proxies({name: read_node(place, findings, coordinator) for name, place in hosts.items()})
    sections = read_sections(files, findings)
    if not nodes and not findings.failed:
        findings.problems.append(_problem(path, "", "no host is described; write at least one below the key hosts"))
    if coordinator and coordinator not in nodes:
        hint = did_you_mean(coordinator, nodes)
        message = f"the settings name this coordinator, but no host has the name{hint}"
        findings.problems.append(_problem(path, coordinator, message))
    lint(nodes, hosts, sections, findings)
    chosen = _coordinator(nodes, coordinator, sections.merged, path, findings)
    if findings.failed:
        raise ConfigError(findings.problems)
    return Inventory(nodes, sections.merged, findings.warnings, sections.trusted_networks, chosen)


def _read_files(path: Path, findings: Findings) -> Iterator[tuple[str, Section]]:
    for file in _files(path, findings):
        section, problems = read_yaml(file, _display(file))
        findings.problems.extend(problems)
        if section is not None:
            _check_top_level(Place(_display(file), section), findings)
            yield _display(file), section


def _files(path: Path, findings: Findings) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        message = "there is no such file or directory; create it with the hosts in it, or set RINGRIFT_SYNC_HOSTS"
        findings.problems.append(_problem(path, "", message))
        return []
    found = sorted(f for f in path.iterdir() if f.suffix in _SUFFIXES and not f.name.startswith(".") and f.is_file())
    if not found:
        findings.problems.append(_problem(path, "", "the directory has no *.yaml file; describe the hosts in one"))
    return found


def _check_top_level(place: Place, findings: Findings) -> None:
    known = (*SECTION_KEYS, *OTHER_SECTIONS)
    for key, value in place.section.items():
        name = str(key)
        if name in known or name.startswith("x-"):
            continue
        if isinstance(value, dict) and {"ssh_host", "ringrift_path"} & value.keys():
            findings.warning(place, name, "this looks like a host and is ignored here; indent it below the key hosts")
        else:
            message = f"the section is not known; it is kept and has no effect{did_you_mean(name, known)}"
            findings.warning(place, name, message)


def _hosts(files: list[tuple[str, Section]], findings: Findings) -> dict[str, Place]:
    """Give every host's mapping by name, each name once."""
    found: dict[str, Place] = {}
    for file, section in files:
        top, hosts = Place(file, section), section.get("hosts")
        if hosts is None:
            continue
        if not isinstance(hosts, Section):
            findings.error(top, "hosts", "it must be a mapping: each host's name, and its keys indented below")
            continue
        for name, value in hosts.items():
            _add_host(found, Place(file, hosts, str(name)), name, value, findings)
    return found


def _add_host(found: dict[str, Place], written: Place, name: object, value: object, findings: Findings) -> None:
    """Add one host; ``written`` is the mapping ``hosts`` of its file."""
    here = Place(written.file, Section(written.line(written.host)), written.host)
    if not isinstance(name, str):
        findings.error(here, "", f"the name {name!r} is no text; put it in quotes")
    elif not isinstance(value, Section):
        findings.error(here, "", "the host has no keys; write at least ssh_host and ringrift_path below its name")
    elif name in found:
        first = found[name]
        findings.error(here, "", f"the host is named twice, first in {first.file}:{first.line()}; remove or rename one")
    else:
        found[name] = Place(written.file, value, name)


def _coordinator(
    nodes: Mapping[str, Node], named: str, sections: Mapping[str, object], path: Path, findings: Findings
) -> Node | None:
    """Choose the owner: the one that the settings name, else elo_sync.coordinator, else the first active one."""
    candidates = [node for node in nodes.values() if node.is_coordinator]
    if not candidates and nodes:
        message = "no host has the role coordinator; give it to the one that owns the canonical store"
        findings.problems.append(_problem(path, "", message, severity_error=False))
    if not candidates:
        return None
    elo = sections.get("elo_sync")
    preferred = named or (str(elo.get("coordinator")) if isinstance(elo, dict) else "")
    chosen = min(candidates, key=lambda node: (node.name != preferred, not node.active))
    if len(candidates) > 1:
        others = ", ".join(node.name for node in candidates if node is not chosen)
        message = f"it is taken as the owner of the canonical store, although {others} is a coordinator too; name one"
        findings.problems.append(_problem(path, chosen.name, message, severity_error=False))
    return chosen


def _display(path: Path) -> str:
    """Name a file as a person in this directory would."""
    absolute = path.absolute()
    here = Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(path)


def _problem(path: Path, host: str, message: str, *, severity_error: bool = True) -> Problem:
    return Problem(_display(path), None, host, "", message, "error" if severity_error else "warning")
