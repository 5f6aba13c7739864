"""The jobs: the asset job for the UI and for tags, and the op job that collects any choice of configs and nodes.

Both run in one process: their work is waiting for nodes, which ``sync`` spreads over threads, and a process for each
step would add more than a second. ``dagster job execute`` takes the partition of the asset job from tags:
``--tags '{"dagster/partition": "hex8_2p|vast-1"}'``, or ``dagster/asset_partition_range_start`` and ``_end``.
"""

from typing import Final

import dagster as dg
from pydantic import Field

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.defs.collecting import collect_and_record, raise_if_failed
from ringrift_sync_dagster.defs.partitions import add_node_partitions
from ringrift_sync_dagster.defs.resources import SyncResource
from ringrift_sync_dagster.defs.sensors import partition_nodes

games_job: Final = dg.define_asset_job(
    "games_job",
    selection=dg.AssetSelection.assets(DataType.GAMES.value),
    executor_def=dg.in_process_executor,
    description="Collect the games of the chosen partitions: one partition, or a rectangle of configs and nodes.",
)


class CollectConfig(dg.Config):
    """Which partitions to collect."""

    configs: list[str] = Field(default=[], description="Config keys such as hex8_2p; empty means all twelve.")
    nodes: list[str] = Field(default=[], description="Names of nodes; empty means all that are collected from.")


@dg.op
def collect_games(context: dg.OpExecutionContext, config: CollectConfig, sync: SyncResource) -> None:
    """Collect games from the chosen nodes, record what changed, then fail if a partition failed."""
    with sync.runtime() as runtime:
        add_node_partitions(context.instance, partition_nodes(runtime.inventory))
        _, reports = collect_and_record(
            context, runtime, [DataType.GAMES], config.configs or None, config.nodes or None
        )
        raise_if_failed(reports)


@dg.job(executor_def=dg.in_process_executor)
def collect_games_job() -> None:
    """Collect new finished games from all nodes, or from those that the run config names, into the canonical stores."""
    collect_games()
