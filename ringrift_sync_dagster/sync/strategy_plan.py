"""``SyncPlanner``: the plan of a strategy, as a pure function of what is known of the cluster, and the reading of that.

A plan is an ordered list of transfers with the reason for each. It moves nothing; a pass of the same strategy works on
the same things, and writes what it took beside what was expected (``forecasting``). Source: the guide, SyncPlanner.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.sync.collect import Request
from ringrift_sync_dagster.sync.difference import Difference, difference
from ringrift_sync_dagster.sync.owner_state import OwnerState
from ringrift_sync_dagster.sync.planner import Measured, PlannedTransfer, SyncPlan, measured_before, plan
from ringrift_sync_dagster.sync.runtime import Runtime
from ringrift_sync_dagster.sync.strategies import AutoSyncConfig, ClusterView, requests
from ringrift_sync_dagster.sync.view import cluster_view


class SyncPlanner:
    """Plans for one runtime.

    Args:
        runtime: What to read from; nobody is asked.

    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def plan(self, config: AutoSyncConfig) -> SyncPlan:
        """Give the plan of the next pass of a strategy.

        Raises:
            StateError: The state database cannot be read.
            CanonicalStoreError: A merged database cannot be read.

        """
        nodes = self._runtime.nodes()
        view = cluster_view(self._runtime, config)
        return plan_strategy(config, view, self._differences(nodes), measured_before(self._runtime.state))

    def plan_request(self, request: Request) -> SyncPlan:
        """Give the plan of a pass that moves what is asked for.

        Raises:
            ConfigError: A node is unknown.
            StateError: The state database cannot be read.
            CanonicalStoreError: A merged database cannot be read.

        """
        names = None if request.nodes is None else [*request.nodes, *request.to]
        nodes = self._runtime.nodes(names)
        found = self._differences(nodes, asked=frozenset(request.to))
        return within([request], plan(found, measured_before(self._runtime.state)))

    def _differences(self, nodes: Sequence[Node], asked: frozenset[str] = frozenset()) -> list[Difference]:
        owner = OwnerState(self._runtime)
        return [difference(owner, node, asked=node.name in asked) for node in nodes]


def plan_strategy(
    config: AutoSyncConfig, view: ClusterView, differences: Iterable[Difference], measured: Measured
) -> SyncPlan:
    """Give the plan of a pass of a strategy; pure.

    Args:
        config: Which strategy, and how it works.
        view: The nodes now, ranked, and those that are no targets.
        differences: What each node and its owner lack of each other.
        measured: What earlier transfers took.

    """
    return within(requests(config, view, "plan"), plan(differences, measured))


def within(asked: Sequence[Request], whole: SyncPlan) -> SyncPlan:
    """Give the part of a plan that these requests move, request by request, in the order of the nodes they name."""
    lines: list[PlannedTransfer] = []
    for request in asked:
        mine = [line for line in whole.transfers if _moves(request, line) and line not in lines]
        ranks = {name: rank for rank, name in enumerate(request.nodes or ())}
        lines += sorted(mine, key=lambda line: (-line.priority.multiplier, ranks.get(line.missing.node, 0)))
    named = {name for request in asked for name in (*(request.nodes or whole.unknown_nodes), *request.to)}
    return SyncPlan(tuple(lines), tuple(name for name in whole.unknown_nodes if name in named))


def _moves(request: Request, line: PlannedTransfer) -> bool:
    missing = line.missing
    return (
        (request.up if missing.way == "up" else request.down)
        and (request.data_types is None or missing.data_type in request.data_types)
        and (request.nodes is None or missing.node in (*request.nodes, *request.to))
        and (request.configs is None or missing.config in (*request.configs, ""))
    )
