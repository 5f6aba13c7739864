"""The data types as assets: one step for all, because what has changed is known only afterwards.

The specs are skippable and the step yields no output: only the events of ``recording`` mark a partition, so that one
without news stays as it was. A data type becomes an asset by a line in ``ASSETS`` and one in ``collecting.COLLECTORS``.
Source: architecture.md, 3 (flow table); dagster.md is measured on this shape.
"""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import dagster as dg

from ringrift_sync_dagster.core.model import DataType, Partition
from ringrift_sync_dagster.defs.checks import check_specs, evaluations
from ringrift_sync_dagster.defs.collecting import collect_and_record, raise_if_failed
from ringrift_sync_dagster.defs.partitions import config_by_node
from ringrift_sync_dagster.defs.resources import SyncResource

GROUP: Final = "cluster_data"
OWNER: Final = "team:ringrift-data"


@dataclass(frozen=True, slots=True)
class AssetCard:
    """What an asset shows of itself.

    Args:
        kinds: The badges in the graph.
        description: What a materialized partition means, and where the data lies.
        store: The file at the owner, for the metadata; ``{config}`` stands for the config.

    """

    kinds: frozenset[str]
    description: str
    store: str


ASSETS: Final[Mapping[DataType, AssetCard]] = {
    DataType.GAMES: AssetCard(
        frozenset({"sqlite"}),
        "Finished self-play games of one config from one node, merged into the canonical store of the config. A "
        "partition is materialized when its node brought games that were new, longer or better annotated; a node "
        "without news leaves it as it is.",
        "data/games/canonical_{config}.db",
    ),
}


def asset_specs() -> list[dg.AssetSpec]:
    """Give one spec for each data type of the table."""
    return [
        dg.AssetSpec(
            data_type.value,
            description=card.description,
            partitions_def=config_by_node,
            skippable=True,
            kinds=set(card.kinds),
            owners=[OWNER],
            group_name=GROUP,
            metadata={"store": card.store, "partition": "config|node"},
        )
        for data_type, card in ASSETS.items()
    ]


def _one_run_per_rectangle() -> dg.BackfillPolicy:
    """Let a selected rectangle be one run for each config, not one for each partition; Dagster calls this a beta."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.BackfillPolicy.single_run()


@dg.multi_asset(
    name="cluster_data",
    specs=asset_specs(),
    check_specs=check_specs(ASSETS),
    can_subset=True,
    backfill_policy=_one_run_per_rectangle(),
)
def cluster_data(context: dg.AssetExecutionContext, sync: SyncResource) -> Iterator[dg.AssetCheckEvaluation]:
    """Collect the selected data types of the selected partitions, and record what changed here and elsewhere.

    A run of the checks alone collects nothing, and only tells how the latest changes stand.
    """
    selected = {data_type for data_type in ASSETS if dg.AssetKey(data_type.value) in context.selected_asset_keys}
    with sync.runtime() as runtime:
        if not selected:
            yield from _selected(context, evaluations(runtime.state, ASSETS))
            return
        partitions = [Partition.parse(key) for key in context.partition_keys]
        configs = sorted({partition.config for partition in partitions})
        nodes = sorted({partition.node for partition in partitions})
        recorded, reports = collect_and_record(context, runtime, sorted(selected), configs, nodes)
        yield from _selected(context, evaluations(runtime.state, sorted(selected - recorded.partitions.keys())))
        raise_if_failed(reports)


def _selected(
    context: dg.AssetExecutionContext, found: Iterator[dg.AssetCheckEvaluation]
) -> Iterator[dg.AssetCheckEvaluation]:
    """Keep the checks that this run has promised; a promised check without a verdict would look unfinished for ever."""
    return (evaluation for evaluation in found if evaluation.asset_check_key in context.selected_asset_check_keys)
