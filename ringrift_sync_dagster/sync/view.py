"""The cluster as a strategy sees it: the nodes by score, and those that are no targets now, with the reason.

Only a choice of targets needs that; where everybody is served, nothing is read.
"""

from __future__ import annotations

from ringrift_sync_dagster.core.model import DataType, SyncStrategy
from ringrift_sync_dagster.core.routing import Rules, quality, target_refusals, target_score
from ringrift_sync_dagster.sync.node_facts import load_facts
from ringrift_sync_dagster.sync.runtime import Runtime
from ringrift_sync_dagster.sync.strategies import AutoSyncConfig, ClusterView, TargetChoice


def cluster_view(runtime: Runtime, config: AutoSyncConfig) -> ClusterView:
    """Give what the strategy of this configuration works with.

    A node counts as refused when no data type may go to it. ``quality`` orders by how well nodes are connected, all
    others by score; of several data types the one that gives a node most counts.

    Raises:
        StateError: The state database cannot be read.

    """
    nodes = runtime.nodes()
    if config.target_choice is TargetChoice.ALL and config.strategy is not SyncStrategy.BROADCAST:
        return ClusterView(nodes)
    rules = Rules(
        runtime.intake.owner, config.min_quality_score, config.exclude_nfs_hosts, config.exclude_coordinators,
        runtime.bandwidth.disk_limits,
    )  # fmt: skip
    facts = load_facts(runtime, nodes, named_first=config.priority_hosts)
    scores: dict[str, tuple[float, float]] = {}
    refused: dict[str, str] = {}
    for name, known in facts.items():
        score = max(target_score(known, data_type).value for data_type in DataType)
        connected = quality(known) if config.target_choice is TargetChoice.QUALITY else 0.0
        scores[name] = (-connected, -score)
        found = [target_refusals(known, data_type, rules) for data_type in DataType]
        if all(found):
            refused[name] = str(min(found, key=len)[0])
    return ClusterView(nodes, sorted(facts, key=lambda name: (scores[name], name)), refused)
