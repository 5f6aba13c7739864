"""The check of freshness, one for each data type: every node that has data of a config was asked about it lately.

It is taken from what the state database knows, so that a node that nobody reaches makes its configs stale although no
run says anything about it. It is a warning: stale is not wrong, and what was collected stays.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

import dagster as dg
import sqlalchemy as sa

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.state.schema import node_files, nodes
from ringrift_sync_dagster.state.store import StateStore

FRESH_SECONDS: Final = 600.0
"""Ten intervals of the hybrid strategy as the guide sets them (60 s)."""
GONE_SECONDS: Final = 86_400.0
"""A node that told nothing for a day is gone, as spot machines go; it is counted, and makes nothing stale."""
NAME: Final = "fresh_per_config"
_DESCRIPTION: Final = "Every node with data of a config has told its files within the last ten minutes."
_ROWS: Final = 200


def freshness_spec(data_type: DataType) -> dg.AssetCheckSpec:
    """Give the spec of the check of a data type."""
    return dg.AssetCheckSpec(NAME, asset=data_type.value, description=_DESCRIPTION)


def freshness(state: StateStore, data_type: DataType, now: float) -> dg.AssetCheckEvaluation:
    """Evaluate the check of a data type.

    Args:
        state: The shared facts.
        data_type: Which.
        now: Seconds since 1970, by the clock that wrote when nodes told their files.

    """
    everything = list(_told(state, data_type))
    told = [(config, node, at) for config, node, at in everything if now - at <= GONE_SECONDS]
    gone = {node for _, node, at in everything if now - at > GONE_SECONDS}
    stale = [(config, node, age) for config, node, at in told if (age := now - at) > FRESH_SECONDS]
    oldest: dict[str, float] = defaultdict(float)
    for config, _, at in told:
        oldest[config] = max(oldest[config], now - at)
    metadata: dict[str, dg.MetadataValue] = {
        "configs_looked_at": dg.MetadataValue.int(len(oldest)),
        "nodes_gone": dg.MetadataValue.int(len(gone)),
        "oldest_seconds": dg.MetadataValue.float(max(oldest.values(), default=0.0)),
    }
    text = _DESCRIPTION
    if stale:
        records = [
            dg.TableRecord({"config": config, "node": node, "told_seconds_ago": round(age)})
            for config, node, age in stale[:_ROWS]
        ]
        metadata["stale"] = dg.MetadataValue.table(records)
        configs = ", ".join(sorted({config for config, _, _ in stale}))
        text = f"{len(stale)} partitions of {configs} are stale, such as {stale[0][0]} of {stale[0][1]}"
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(data_type.value), check_name=NAME, passed=not stale, metadata=metadata,
        severity=dg.AssetCheckSeverity.WARN, description=text,
    )  # fmt: skip


def _told(state: StateStore, data_type: DataType) -> Iterator[tuple[str, str, float]]:
    """Give (config, node, when it told its files) of each partition with data; oldest first."""
    told_at = sa.func.coalesce(nodes.c.manifest_at, 0.0)
    query = (
        sa.select(node_files.c.config, node_files.c.node, told_at)
        .join(nodes, nodes.c.name == node_files.c.node)
        .where(node_files.c.data_type == data_type.value, node_files.c.collectable)
        .distinct()
        .order_by(told_at, node_files.c.config, node_files.c.node)
    )
    with state.read() as connection:
        for config, node, at in connection.execute(query):
            yield config or "all", node, float(at)
