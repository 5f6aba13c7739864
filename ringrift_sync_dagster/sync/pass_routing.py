"""What routing means for one pass: whose turn it is first, who is skipped, and what the pass learns of nodes.

The facts are read once, when the first data goes down.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Final

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.core.routing import Facts, Rules, target_refusals, target_score
from ringrift_sync_dagster.errors import StateError, TransferError
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.state import exclusions, measures
from ringrift_sync_dagster.sync.node_facts import full_nodes, load_facts
from ringrift_sync_dagster.sync.runtime import Runtime
from ringrift_sync_dagster.sync.targets import is_target
from ringrift_sync_dagster.sync.transferring import disk_of_node
from ringrift_sync_dagster.transports.base import Transport

_SKIPPING: Final = {"min_quality_score", "shared_storage"}

_LOG: Final = logging.getLogger(__name__)


class PassRouting:
    """Routing of one pass; safe in several threads once it was made.

    Args:
        runtime: What to work with.
        nodes: Those of the pass.
        to: Names of those that a person wants served, whatever is measured.
        in_order: True: the nodes stand in the order in which the caller wants them served.

    """

    def __init__(self, runtime: Runtime, nodes: Sequence[Node], to: Collection[str], *, in_order: bool) -> None:
        self._runtime, self._nodes, self._to, self._in_order = runtime, nodes, to, in_order
        self._full = full_nodes(runtime)

    @cached_property
    def _facts(self) -> dict[str, Facts]:
        return load_facts(self._runtime, self._nodes, named_first=self._to)

    def in_turn(self, data_type: DataType) -> list[Node]:
        """Give the nodes in the order in which this data goes down: as the caller wants it, else by score."""
        if self._in_order:
            return list(self._nodes)
        scores = {name: target_score(known, data_type).value for name, known in self._facts.items()}
        return sorted(self._nodes, key=lambda node: -scores[node.name])

    def brings(self, node: Node, data_type: DataType) -> bool:
        """Say whether this data goes down to the node: it is for it, and neither connection nor disk speaks against.

        The settings say what a bad connection is; a person who named the node wants it all the same.
        """
        asked = node.name in self._to
        return is_target(node, data_type, asked=asked) and (asked or not self._is_skipped(node, data_type))

    def look_again(self, node: Node, transport: Transport) -> None:
        """Ask a node whose disk was full for its disk: somebody may have freed space, and nothing else finds out."""
        if node.name in self._full:
            with contextlib.suppress(TransferError):
                disk_of_node(self._runtime, transport, node.name)

    def remember(self, round_trips: Mapping[str, float], failed: Mapping[str, str]) -> None:
        """Take what the pass measured; it does not depend on that, so that an error is a line in the log.

        Args:
            round_trips: Seconds by node, of those that answered.
            failed: Nodes that could not be asked, and why.

        """
        state = self._runtime.state
        try:
            measures.update_averages(state)
            measures.record_round_trips(state, round_trips)
            for name in exclusions.surveyed(state, answered=round_trips.keys(), failed=failed):
                _LOG.warning("node=%s excluded=as a target, for a while cause=%s", name, failed[name])
        except StateError as error:
            _LOG.warning("measured=not remembered cause=%s", error)

    def _is_skipped(self, node: Node, data_type: DataType) -> bool:
        settings = self._runtime.settings
        rules = Rules(self._runtime.intake.owner, settings.min_quality_score, settings.exclude_nfs_hosts)
        return any(one.rule in _SKIPPING for one in target_refusals(self._facts[node.name], data_type, rules))
