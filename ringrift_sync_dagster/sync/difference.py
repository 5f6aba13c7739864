"""What a node and its owner lack of each other, and why, by what the state database and the owner's stores know.

No node is asked: the difference is as old as what the node told last (``asked_at``). It is the same rule by which a
pass leaves a file alone, so that what is listed here is what the next pass works on: a file is missing here while the
owner has not read it up to the state that the node told; data is missing there while the node was not brought the
state that the owner has. How many games or rows that are is known where it can be, and None where only asking tells.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.intake.rows import family_of
from ringrift_sync_dagster.node.gate import UNSETTLED
from ringrift_sync_dagster.node.patterns import CONFIGS
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.state.nodes import NodeFile, NodeRow, files_of, node_row
from ringrift_sync_dagster.state.placements import Placement, all_placements
from ringrift_sync_dagster.sync.owner_state import OwnerState
from ringrift_sync_dagster.sync.targets import is_target

Way = Literal["up", "down"]
_ROWS: Final = (DataType.ELO, DataType.REGISTRY)


@dataclass(frozen=True, slots=True)
class Missing:
    """One thing that one side has and the other lacks.

    Args:
        node: The node.
        data_type: One of the five data types.
        config: The config; empty where one file holds rows of all.
        way: ``up``: the owner lacks it; ``down``: the node does.
        what: The file on the node (up), or what would be brought (down).
        why: In a sentence.
        size_bytes: Length of the file; None where it is not known.
        count: Games or rows; None where only asking tells.

    """

    node: str
    data_type: DataType
    config: str
    way: Way
    what: str
    why: str
    size_bytes: int | None = None
    count: int | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """What a node and its owner lack of each other.

    Args:
        node: The node.
        known: What is known of the node; None when it never answered.
        missing: What is missing, up before down, in the order of the guide's table.

    """

    node: str
    known: NodeRow | None
    missing: tuple[Missing, ...]


def difference(owner: OwnerState, node: Node, *, asked: bool = False) -> Difference:
    """Give what a node and its owner lack of each other.

    Args:
        owner: What the owner has.
        node: The node.
        asked: True: as if a person had named the node, which is then brought everything.

    Raises:
        StateError: The state database cannot be read.
        CanonicalStoreError: A merged database cannot be read.

    """
    state = owner.runtime.state
    brought = {(one.data_type, one.config): one for one in all_placements(state, [node.name])}
    files = files_of(state, node.name)
    targets = {data_type for data_type in DataType if is_target(node, data_type, asked=asked)}
    # A node without a database of its own for matches or the registry is left without one.
    targets -= {kind for kind in _ROWS if not any(file.data_type == kind and file.collectable for file in files)}
    missing = [*_up(owner, node, files, brought), *_down(owner, node, brought, targets)]
    order = {data_type: rank for rank, data_type in enumerate(DataType)}
    missing.sort(key=lambda one: (one.way == "down", order[one.data_type], one.config, one.what))
    return Difference(node.name, node_row(state, node.name), tuple(missing))


_Brought = Mapping[tuple[str, str], Placement]


def _up(owner: OwnerState, node: Node, files: list[NodeFile], brought: _Brought) -> Iterator[Missing]:
    for file in files:
        if not file.collectable and not (file.kind == "eval" and not file.error):
            if file.error and file.games is None and file.data_type in set(DataType):
                yield _missing(file, f"the node cannot read it: {file.error}")
            continue
        why, count = _lacking(owner, node, file, brought)
        if why:
            yield _missing(file, why, count)


def _missing(file: NodeFile, why: str, count: int | None = None) -> Missing:
    data_type = DataType(file.data_type)
    return Missing(file.node, data_type, file.config, "up", file.path, why, file.size_bytes, count)


def _lacking(owner: OwnerState, node: Node, file: NodeFile, brought: _Brought) -> tuple[str, int | None]:
    """Why the owner lacks something of a file, and how much of it; an empty sentence where it lacks nothing."""
    if file.data_type == DataType.GAMES:
        if not file.games:
            return "", None
        read = owner.read_up_to("eval" if file.kind == "eval" else "games", file.config, node.name, file.path)
        return _unread(read, file), file.games if read is None else None
    if file.data_type in _ROWS:
        family = family_of(DataType(file.data_type))
        configs = [file.config] if file.config else list(CONFIGS)
        found = {config: _unread(owner.read_up_to(family, config, node.name, file.path), file) for config in configs}
        unread = [config for config, why in found.items() if why]
        if not unread:
            return "", None
        which = "" if len(unread) == len(configs) else f" ({', '.join(unread)})"
        return f"{found[unread[0]]}{which}", None
    return (_unfetched(owner, file, brought) if file.config else ""), None


def _unfetched(owner: OwnerState, file: NodeFile, brought: _Brought) -> str:
    """Why the content of an npz or model file has not come; empty where it has."""
    book = brought.get((f"{file.data_type}:hashes", file.config))
    token, sha256, *_ = (book.detail.get(file.path) if book is not None else None) or ("", "")
    if not sha256:
        return "its content was never looked at"
    if token != file.token:
        return "it changed since its content was looked at"
    if (file.data_type, file.config, sha256) not in owner.contents:
        return f"its content {sha256[:12]} has not come"
    return ""


def _unread(read: str | None, file: NodeFile) -> str:
    if read is None:
        return "it was never read"
    if not read or read.startswith(UNSETTLED):  # its token could have hidden a second write
        return "it was not at rest when it was read; the next pass looks again"
    return "" if file.token and read == file.token else "it changed since it was read"


def _down(owner: OwnerState, node: Node, brought: _Brought, targets: Collection[DataType]) -> Iterator[Missing]:
    for published, version in owner.published:
        data_type = DataType(published.data_type)
        there = brought.get((data_type.value, published.config))
        if data_type in targets and (there is None or there.content != published.sha256):
            has = f"it was brought {there.content[:12]}" if there and there.content else "it was never brought one"
            why = f"{published.sha256[:12]} is published, {has}"
            yield Missing(node.name, data_type, published.config, "down", version.name, why, version.size_bytes, 1)
    for (data_type, config), state in owner.states.items():
        there = brought.get((data_type.value, config))
        if data_type in targets and (there is None or there.content != state):
            why = "what was merged since it was brought the last" if there else "it was never brought any"
            yield Missing(node.name, data_type, config, "down", _merged(data_type, config), why)


def _merged(data_type: DataType, config: str) -> str:
    return f"canonical games of {config}" if data_type is DataType.GAMES else f"rows of {config}"


def as_json(missing: Missing) -> dict[str, Any]:
    """Give a missing thing as JSON values."""
    return {
        "node": missing.node, "data_type": missing.data_type.value, "config": missing.config, "way": missing.way,
        "what": missing.what, "why": missing.why, "size_bytes": missing.size_bytes, "count": missing.count,
    }  # fmt: skip
