"""The jobs: one for each data type and one for all, as assets for the UI and for tags; two take any choice.

All run in one process: their work is waiting for nodes, which ``sync`` spreads over threads, and a process for each
step would add more than a second. ``dagster job execute`` takes the partition of an asset job from tags:
``--tags '{"dagster/partition": "hex8_2p|vast-1"}'``, or ``dagster/asset_partition_range_start`` and ``_end``.
"""

from typing import Final

import dagster as dg
from pydantic import Field

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.defs.moving import move_and_record, raise_if_failed
from ringrift_sync_dagster.defs.partitions import add_node_partitions
from ringrift_sync_dagster.defs.resources import SyncResource
from ringrift_sync_dagster.defs.sensors import partition_nodes
from ringrift_sync_dagster.sync.collect import Request

SYNC_JOB: Final = "sync_job"

_WORDS: Final = "of the chosen partitions, both ways: one partition, or a rectangle of configs and nodes."

asset_jobs: Final = [
    dg.define_asset_job(
        f"{data_type.value}_job",
        selection=dg.AssetSelection.assets(data_type.value),
        executor_def=dg.in_process_executor,
        description=f"Move {data_type.value} {_WORDS}",
    )
    for data_type in DataType
] + [
    dg.define_asset_job(
        SYNC_JOB,
        selection=dg.AssetSelection.assets(*(data_type.value for data_type in DataType)),
        executor_def=dg.in_process_executor,
        description=f"Move all five data types {_WORDS}",
    )
]


class CollectConfig(dg.Config):
    """Which partitions to work on."""

    configs: list[str] = Field(default=[], description="Config keys such as hex8_2p; empty means all twelve.")
    nodes: list[str] = Field(default=[], description="Names of nodes; empty means all that are collected from.")


class MoveConfig(CollectConfig):
    """What to move, and which way."""

    data_types: list[str] = Field(default=[], description="games, npz, models, elo, registry; empty means all five.")
    up: bool = Field(default=True, description="Bring data from nodes.")
    down: bool = Field(default=True, description="Bring data to nodes, as the flow table says.")
    to: list[str] = Field(default=[], description="Nodes that are brought everything, whatever they do.")
    recover: bool = Field(default=False, description="Also collect files that were brought to nodes earlier.")
    force: bool = Field(default=False, description="Also let a worse npz replace a better one.")


@dg.op
def collect_games(context: dg.OpExecutionContext, config: CollectConfig, sync: SyncResource) -> None:
    """Collect games from the chosen nodes, record what changed, then fail if a partition failed."""
    move_once(context, sync, Request([DataType.GAMES], config.configs or None, config.nodes or None, down=False))


@dg.op
def move_data(context: dg.OpExecutionContext, config: MoveConfig, sync: SyncResource) -> None:
    """Move the chosen data types of the chosen nodes, record what changed, then fail if a partition failed."""
    types = [DataType(name) for name in config.data_types] or None
    request = Request(
        types, config.configs or None, config.nodes or None, up=config.up, down=config.down, to=tuple(config.to),
        recover=config.recover, force=config.force,
    )  # fmt: skip
    move_once(context, sync, request)


def move_once(context: dg.OpExecutionContext, sync: SyncResource, request: Request) -> None:
    """Do one pass, record what changed, then fail if a partition failed."""
    with sync.runtime() as runtime:
        add_node_partitions(context.instance, partition_nodes(runtime.inventory))
        _, reports = move_and_record(context, runtime, request)
        raise_if_failed(reports)


@dg.job(executor_def=dg.in_process_executor)
def collect_games_job() -> None:
    """Collect new finished games from all nodes, or from those that the run config names, into the canonical stores."""
    collect_games()


@dg.job(executor_def=dg.in_process_executor)
def move_data_job() -> None:
    """Move all data types between all nodes and their owner, or what the run config names."""
    move_data()
