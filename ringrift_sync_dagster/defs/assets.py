"""The data types as assets: one step for all, because what has changed is known only afterwards.

The specs are skippable and the step yields no output: only the events of ``recording`` mark a partition, so that one
without news stays as it was. A data type becomes an asset by a line in ``ASSETS``, and moves by one in ``sync.movers``.
Source: architecture.md, 3 (flow table); dagster.md is measured on this shape.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Final

import dagster as dg

from ringrift_sync_dagster.core.model import DataType, Partition
from ringrift_sync_dagster.defs.archives import last_verdict, restore_spec
from ringrift_sync_dagster.defs.checks import check_specs, evaluations
from ringrift_sync_dagster.defs.moving import move_and_record, raise_if_failed
from ringrift_sync_dagster.defs.partitions import all_nodes_of_the_config, config_by_node
from ringrift_sync_dagster.defs.resources import SyncResource
from ringrift_sync_dagster.sync.collect import Request

EMPTY_RANGE: Final = (
    "the range holds no partition: nodes stand in the order in which they became partitions, not in that of their"
    " names; let the range begin with the node that stands first"
)
"""Dagster runs an empty range as if there were nothing wrong, and it would look like a success."""
GROUP: Final = "cluster_data"
OWNER: Final = "team:ringrift-data"


@dataclass(frozen=True, slots=True)
class AssetCard:
    """What an asset shows of itself.

    Args:
        kinds: The badges in the graph.
        description: What a materialized partition means, and where the data lies.
        store: The file at the owner, for the metadata; ``{config}`` stands for the config.
        made_of: The data types that it is made of: its parents in the graph.
        columns: The columns of its rows that matter, with their types and meaning.

    """

    kinds: frozenset[str]
    description: str
    store: str
    made_of: tuple[DataType, ...] = ()
    columns: tuple[tuple[str, str, str], ...] = ()


ASSETS: Final[Mapping[DataType, AssetCard]] = {
    DataType.GAMES: AssetCard(
        frozenset({"sqlite"}),
        "Finished self-play games of one config from one node, merged into the canonical store of the config. A "
        "partition is materialized when its node brought games that were new, longer or better annotated; a node "
        "without news leaves it as it is.",
        "data/games/canonical_{config}.db",
        columns=(
            ("game_id", "TEXT", "the game, unique in the cluster"),
            ("board_type", "TEXT", "the board"),
            ("num_players", "INTEGER", "2, 3 or 4"),
            ("winner", "INTEGER", "the player who won"),
            ("total_moves", "INTEGER", "as many rows as the game has in game_moves"),
            ("quality_score", "REAL", "annotation, grows later"),
        ),
    ),
    DataType.NPZ: AssetCard(
        frozenset({"numpy"}),
        "Training samples exported from games. A node's valid export is kept as a version; the best one by feature "
        "version and number of samples is published under data/training/{config}.npz, here and on the nodes that "
        "train. A worse one never replaces it unless forced.",
        "data/training/{config}.npz",
        (DataType.GAMES,),
        (
            ("features", "float32 (N, C, H, W)", "the board, history stacked"),
            ("globals", "float32 (N, G)", "what belongs to the whole position"),
            ("values", "float32 (N,)", "the result"),
            ("policy_indices", "object (N,)", "ragged; never loaded here"),
            ("policy_values", "object (N,)", "ragged; never loaded here"),
        ),
    ),
    DataType.MODELS: AssetCard(
        frozenset({"pytorch"}),
        "Candidates and checkpoints that nodes trained, kept by content, and the promoted model, which every node that "
        "plays or trains has under models/canonical_{config}.pth and models/ringrift_best_{config}.pth: bytes first, "
        "then the links.",
        "models/canonical_{config}.pth",
        (DataType.NPZ,),
    ),
    DataType.ELO: AssetCard(
        frozenset({"sqlite"}),
        "Matches of one config from one node, united with those of all nodes; the ratings are computed from them. A "
        "node gets the matches that it lacks inside its own live database.",
        "data/unified_elo.db",
        (DataType.MODELS,),
        (
            ("participant_id", "TEXT", "the model"),
            ("board_type", "TEXT", "the board"),
            ("num_players", "INTEGER", "2, 3 or 4"),
            ("rating", "REAL", "a function of match_history alone"),
            ("games_played", "INTEGER", "matches that counted"),
        ),
    ),
    DataType.REGISTRY: AssetCard(
        frozenset({"sqlite"}),
        "Registered model versions of one config with their stages and validations, united with those of all nodes. "
        "Rows that belong to no config are merged too and shown in the observation without a partition.",
        "data/model_registry/registry.db",
        (DataType.MODELS,),
        (
            ("model_id", "TEXT", "the model"),
            ("version", "INTEGER", "its version"),
            ("stage", "TEXT", "where its last transition led"),
            ("file_hash", "TEXT", "SHA-256 of its file"),
        ),
    ),
}


def asset_specs() -> list[dg.AssetSpec]:
    """Give one spec for each data type of the table."""
    return [
        dg.AssetSpec(
            data_type.value,
            deps=[dg.AssetDep(parent.value, partition_mapping=all_nodes_of_the_config()) for parent in card.made_of],
            description=card.description,
            partitions_def=config_by_node,
            skippable=True,
            kinds=set(card.kinds),
            owners=[OWNER],
            group_name=GROUP,
            metadata={"store": card.store, "partition": "config|node", **_schema(card)},
        )
        for data_type, card in ASSETS.items()
    ]


def _schema(card: AssetCard) -> dict[str, dg.TableSchema]:
    """The columns, under the name that Dagster's pages look for."""
    columns = [dg.TableColumn(name, kind, description) for name, kind, description in card.columns]
    return {"dagster/column_schema": dg.TableSchema(columns)} if columns else {}


def _one_run_per_rectangle() -> dg.BackfillPolicy:
    """Let a selected rectangle be one run for each config, not one for each partition; Dagster calls this a beta."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.BackfillPolicy.single_run()


@dg.multi_asset(
    name="cluster_data",
    specs=asset_specs(),
    check_specs=[*check_specs(ASSETS), restore_spec()],
    can_subset=True,
    backfill_policy=_one_run_per_rectangle(),
)
def cluster_data(context: dg.AssetExecutionContext, sync: SyncResource) -> Iterator[dg.AssetCheckEvaluation]:
    """Move the selected data types of the selected partitions both ways, and record what changed here and elsewhere.

    A run of the checks alone moves nothing, and only tells how the latest changes stand.
    """
    selected = {data_type for data_type in ASSETS if dg.AssetKey(data_type.value) in context.selected_asset_keys}
    with sync.runtime() as runtime:
        most = runtime.settings.ephemeral_max_data_age
        if not selected:
            yield from _selected(
                context,
                chain(evaluations(runtime.state, ASSETS, most), [last_verdict(sync)]),
            )
            return
        partitions = [Partition.parse(key) for key in context.partition_keys]
        if not partitions:
            raise dg.Failure(EMPTY_RANGE)
        configs = sorted({partition.config for partition in partitions})
        nodes = sorted({partition.node for partition in partitions})
        recorded, reports = move_and_record(context, runtime, Request(sorted(selected), configs, nodes))
        rest = evaluations(runtime.state, sorted(selected - recorded.partitions.keys()), most)
        yield from _selected(context, chain(rest, [last_verdict(sync)]))
        raise_if_failed(reports)


def _selected(
    context: dg.AssetExecutionContext, found: Iterable[dg.AssetCheckEvaluation]
) -> Iterator[dg.AssetCheckEvaluation]:
    """Keep the checks that this run has promised; a promised check without a verdict would look unfinished for ever."""
    return (evaluation for evaluation in found if evaluation.asset_check_key in context.selected_asset_check_keys)
