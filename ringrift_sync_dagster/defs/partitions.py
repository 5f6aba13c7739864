"""The partitions of every asset: config (the twelve of the guide) by node (grows with the inventory).

The node dimension only ever grows by itself: a node that leaves the inventory keeps its partitions and their history,
because vast.ai hosts come back under their name and deleting a key hides what was recorded under it.
Source: architecture.md, 1 "partition"; Dagster orders the dimensions by name, which makes the key ``config|node``.
"""

import warnings
from collections.abc import Iterable
from typing import Final

import dagster as dg

from ringrift_sync_dagster.core.model import Partition, checked_node_name
from ringrift_sync_dagster.node.patterns import CONFIGS

CONFIG_DIMENSION: Final = "config"
NODE_DIMENSION: Final = "node"
NODES_NAME: Final = "nodes"

configs: Final = dg.StaticPartitionsDefinition(list(CONFIGS))
nodes: Final = dg.DynamicPartitionsDefinition(name=NODES_NAME)
config_by_node: Final = dg.MultiPartitionsDefinition({CONFIG_DIMENSION: configs, NODE_DIMENSION: nodes})


def all_nodes_of_the_config() -> dg.MultiPartitionMapping:
    """The mapping of every edge: what one node has of a config is made of what all nodes had of it.

    Dagster calls the class a beta; the warning would come at every load.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.MultiPartitionMapping(
            {
                CONFIG_DIMENSION: dg.DimensionPartitionMapping(CONFIG_DIMENSION, dg.IdentityPartitionMapping()),
                NODE_DIMENSION: dg.DimensionPartitionMapping(NODE_DIMENSION, dg.AllPartitionMapping()),
            }
        )


def partition_key(partition: Partition) -> dg.MultiPartitionKey:
    """Give the key under which Dagster knows the partition."""
    return dg.MultiPartitionKey({CONFIG_DIMENSION: partition.config, NODE_DIMENSION: partition.node})


def partition_tags(partition: Partition) -> dict[str, str]:
    """Give the tags that Dagster itself only sets on outputs; filters of the UI use them."""
    return {
        f"dagster/partition/{CONFIG_DIMENSION}": partition.config,
        f"dagster/partition/{NODE_DIMENSION}": partition.node,
    }


def missing_nodes(instance: dg.DagsterInstance, names: Iterable[str]) -> list[str]:
    """Give the names that are no node partition yet, sorted.

    Raises:
        ValueError: A name cannot name a node; Dagster itself would take it and silently leave it out of the product.

    """
    return sorted({checked_node_name(name) for name in names} - node_partition_names(instance))


def node_partition_names(instance: dg.DagsterInstance) -> set[str]:
    """Give the names of all node partitions, of nodes that left the inventory too."""
    return set(instance.get_dynamic_partitions(NODES_NAME))


def add_node_partitions(instance: dg.DagsterInstance, names: Iterable[str]) -> list[str]:
    """Make each name a node partition, and give those that were none before; idempotent, removes nothing."""
    missing = missing_nodes(instance, names)
    if missing:
        instance.add_dynamic_partitions(NODES_NAME, missing)
    return missing
