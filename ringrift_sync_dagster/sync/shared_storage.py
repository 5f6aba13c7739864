"""Find out by evidence which nodes share a disk: what one of them writes, the others read back, or do not.

A provider's name is no evidence: eleven nodes were once kept from each other because of theirs. Every node writes a
mark of its own, then each is asked for the marks of all. Nodes that were not reached keep what was known of them.
Source: domain.md, 6.5 (NFS rule) and 10 (55).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from ringrift_sync_dagster.errors import SyncError, TransferError
from ringrift_sync_dagster.node import storage
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.state import measures
from ringrift_sync_dagster.sync.fields import Sender, makes_sense
from ringrift_sync_dagster.sync.runtime import Runtime

PROBE_SECONDS: Final = 20.0
"""For each of the questions to one node."""
AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True)
class StorageProbe:
    """What a probe found.

    Args:
        groups: The nodes that were reached, those that share a disk together; the owner is among them.
        failed: Nodes that could not be asked, and why.

    """

    groups: tuple[tuple[str, ...], ...]
    failed: Mapping[str, str]


def probe_storage(runtime: Runtime, nodes: Sequence[Node]) -> StorageProbe:
    """Ask nodes, and look on the owner's own disk; remember which share one.

    Raises:
        StateError: The answer cannot be remembered.

    """
    owner = runtime.intake.owner
    asked = {node.name: node for node in nodes if node.name != owner}
    marks = {name: secrets.token_hex(16) for name in (owner, *asked)}
    look = sorted(marks.values())
    failed: dict[str, str] = {}
    seen: dict[str, frozenset[str]] = {}
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="storage") as pool:
        for step in ({"mark": True}, {"look": True}, {"drop": True}):
            arguments: dict[str, dict[str, Any]] = {
                name: {"look": look} if "look" in step else {next(iter(step)): marks[name]}
                for name in (owner, *asked)
                if name not in failed
            }
            answers = pool.map(lambda name: _asked(runtime, asked.get(name), name, arguments[name]), arguments)  # noqa: B023
            for name, answer in zip(arguments, list(answers), strict=True):
                if isinstance(answer, str):
                    failed.setdefault(name, answer)
                elif "look" in step:
                    seen[name] = answer
    reached = {name: marks[name] for name in seen if marks[name] in seen[name]}
    groups = _groups(reached, seen)
    measures.record_storage(runtime.state, _named(groups, measures.all_measures(runtime.state)))
    return StorageProbe(groups, failed)


def _asked(runtime: Runtime, node: Node | None, name: str, arguments: dict[str, Any]) -> frozenset[str] | str:
    """Ask one node, or look on the owner's disk (None); give the marks that it found, or why it could not be asked."""
    try:
        if node is None:
            found: Iterable[Any] = _here(runtime, arguments)
        else:
            found = _there(runtime, node, arguments)
    except SyncError as error:
        return str(error)
    except OSError as error:
        return f"{name}: its own disk cannot be looked at: {error}"
    return frozenset(str(mark) for mark in found)


def _here(runtime: Runtime, arguments: dict[str, Any]) -> list[str]:
    given = arguments.get("mark"), arguments.get("look", ()), arguments.get("drop")
    return storage.probe(str(runtime.layout.root), *given, clock.wall())


def _there(runtime: Runtime, node: Node, arguments: dict[str, Any]) -> list[Any]:
    transport = runtime.transport_to(node)
    try:
        answer = transport.call("storage", arguments, deadline=clock.Deadline.after(PROBE_SECONDS))
        with makes_sense(Sender(node.name, transport.name, "storage")):
            found = answer["found"]
            if not isinstance(found, list):
                raise TransferError(node.name, transport.name, "its answer to storage is no list")
            return found
    finally:
        transport.close()


def _groups(marks: Mapping[str, str], seen: Mapping[str, frozenset[str]]) -> tuple[tuple[str, ...], ...]:
    """Put together the nodes that found each other's marks; one that only one side found proves nothing."""
    groups: list[list[str]] = []
    for name in sorted(marks):
        home = next(
            (group for group in groups if marks[group[0]] in seen[name] and marks[name] in seen[group[0]]), None
        )  # fmt: skip
        if home is None:
            groups.append([name])
        else:
            home.append(name)
    return tuple(tuple(group) for group in groups)


def _named(groups: Sequence[Sequence[str]], known: Mapping[str, measures.Measures]) -> dict[str, str]:
    """Give each node the name of its disk: the one that its group had, unless another group has it already."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for group in groups:
        old = [known[name].storage for name in group if name in known and known[name].storage]
        name = next((one for one in old if one not in taken), None) or f"disk-{secrets.token_hex(8)}"
        taken.add(name)
        names.update(dict.fromkeys(group, name))
    return names
