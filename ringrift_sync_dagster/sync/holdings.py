"""Who holds data of a type that somebody wants, and what exists on one node alone, as far as nodes told it.

Nobody is asked. What the owner has not read to its end counts as the only copy: nobody can tell that it is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.state.nodes import node_rows
from ringrift_sync_dagster.state.placements import all_placements
from ringrift_sync_dagster.state.schema import node_files
from ringrift_sync_dagster.sync.difference import difference
from ringrift_sync_dagster.sync.owner_state import OwnerState
from ringrift_sync_dagster.sync.runtime import Runtime

_SERVED: Final = (DataType.NPZ, DataType.MODELS)
"""What a node that was brought it can hand on; everything else only its owner has whole."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What one node holds of a data type.

    Args:
        holds: False when it told its files, and none is of this type.
        only_copy: True when something of it is not known to be anywhere else.

    """

    holds: bool = False
    only_copy: bool = False


def holdings(
    runtime: Runtime, data_type: DataType, target: Node | None, nodes: Sequence[Node] | None = None
) -> dict[str, Holding]:
    """Give the nodes that the target could get this data from, and what each holds.

    Args:
        runtime: What to work with.
        data_type: What is wanted.
        target: Who wants it; a coordinator, and None, want what nodes made.
        nodes: Only these; all of the inventory when None. Then those without any such data are left out.

    Raises:
        StateError: The state database cannot be read.
        CanonicalStoreError: A merged database cannot be read.

    """
    chosen = list(runtime.inventory.nodes.values()) if nodes is None else list(nodes)
    if target is None or target.is_coordinator:
        found = _made(runtime, data_type, [node for node in chosen if not node.is_coordinator])
    else:
        found = _brought(runtime, data_type, [node for node in chosen if node.name != target.name])
    return {name: one for name, one in found.items() if one.holds or nodes is not None}


def _made(runtime: Runtime, data_type: DataType, nodes: Sequence[Node]) -> dict[str, Holding]:
    told = {row.name for row in node_rows(runtime.state) if row.manifest_at is not None}
    query = sa.select(node_files.c.node).where(node_files.c.data_type == data_type.value).distinct()
    with runtime.state.read() as connection:
        holders = set(connection.execute(query).scalars())
    owner, found = OwnerState(runtime), dict[str, Holding]()
    for node in nodes:
        if node.name in holders:
            missing = difference(owner, node).missing
            alone = any(one.way == "up" and one.data_type is data_type for one in missing)
            found[node.name] = Holding(holds=True, only_copy=alone)
        else:  # one that never told its files may hold anything
            found[node.name] = Holding(holds=node.name not in told)
    return found


def _brought(runtime: Runtime, data_type: DataType, nodes: Sequence[Node]) -> dict[str, Holding]:
    owner = OwnerState(runtime)
    contents = {one.sha256 for one, _ in owner.published if one.data_type == data_type.value}
    has = bool(contents) or any(kind is data_type for kind, _ in owner.states)
    serving: set[str] = set()
    if data_type in _SERVED:
        placed = [one for one in all_placements(runtime.state) if one.data_type == data_type.value]
        able = {node.name for node in nodes if node.collectable and node.own_addresses and not node.nat_blocked}
        serving = {one.node for one in placed if one.content in contents and one.node in able}
    found = {node.name: Holding(holds=node.name in serving) for node in nodes}
    if runtime.intake.owner in found:
        found[runtime.intake.owner] = Holding(holds=has, only_copy=has and not serving)
    return found
