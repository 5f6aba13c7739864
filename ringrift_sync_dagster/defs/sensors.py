"""The inventory sensor: a node that appears in ``hosts/`` becomes a partition of every asset within seconds.

It never deletes one. A node that is gone may be back in a minute (a spot instance, a file saved half way), and a
deleted key hides its history; retired nodes are named in the reason of the tick instead. Every answer says why.
An interval of 4 s is a true 5 s (the daemon looks every 5 s; measured).
"""

from collections.abc import Sequence
from typing import Final

import dagster as dg

from ringrift_sync_dagster.defs.partitions import missing_nodes, node_partition_names, nodes
from ringrift_sync_dagster.defs.resources import SyncResource
from ringrift_sync_dagster.errors import ConfigError
from ringrift_sync_dagster.settings.inventory import Inventory, load_inventory

NAMES_IN_A_REASON: Final = 10


@dg.sensor(
    name="inventory_sensor",
    minimum_interval_seconds=4,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Adds a node partition for each new node of the inventory. Removes none.",
)
def inventory_sensor(context: dg.SensorEvaluationContext, sync: SyncResource) -> dg.SensorResult | dg.SkipReason:
    """Ask for a partition for each node of the inventory that has none."""
    try:
        settings = sync.settings()
        wanted = partition_nodes(load_inventory(settings.hosts, coordinator=settings.coordinator))
    except ConfigError as error:
        return dg.SkipReason(f"the inventory cannot be read, so the partitions stay as they are: {error}")
    new = missing_nodes(context.instance, wanted)
    if new:
        return dg.SensorResult(
            dynamic_partitions_requests=[nodes.build_add_request(new)], skip_reason=f"new nodes: {_listed(new)}"
        )
    retired = sorted(node_partition_names(context.instance) - set(wanted))
    return dg.SkipReason(_reason(len(wanted), retired))


def partition_nodes(inventory: Inventory) -> list[str]:
    """Name the nodes that are partitions: all of the inventory, whatever their status, but the coordinator itself."""
    return sorted(node.name for node in inventory.nodes.values() if not node.is_coordinator)


def _reason(known: int, retired: Sequence[str]) -> str:
    text = f"all {known} nodes of the inventory are partitions"
    if not retired:
        return text
    return f"{text}; {len(retired)} that left it keep their partitions and their history: {_listed(retired)}"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMES_IN_A_REASON
    return ", ".join(names[:NAMES_IN_A_REASON]) + (f" and {more} more" if more > 0 else "")
