"""Which nodes are brought which data: the flow table, asked for one node."""

from __future__ import annotations

from ringrift_sync_dagster.core.flow import is_brought
from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.settings.nodes import Node


def is_target(node: Node, data_type: DataType, *, asked: bool = False) -> bool:
    """Say whether the flow table brings this data to the node, or a person who ``asked``; never to the coordinator."""
    if node.is_coordinator or node.skip_sync_receive:
        return False
    return is_brought(data_type, trains=node.trains, plays=node.plays, asked=asked)
