"""The mover of games: every finished game of a node's databases comes into the canonical store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ringrift_sync_dagster.errors import NextStep
from ringrift_sync_dagster.state.nodes import NodeFile
from ringrift_sync_dagster.sync.passes import Errors, Order, Work
from ringrift_sync_dagster.sync.source import SourceCollector, collect_source

_NODE_WIDE: Final = frozenset({NextStep.NODE_DOWN, NextStep.NEXT_RUNG})


@dataclass(frozen=True, slots=True)
class GamesMover:
    """How games move; see ``passes.Mover``."""

    def begin(self, order: Order) -> Errors:  # noqa: ARG002 - the contract
        """Nothing: merges keep the store in order."""
        return []

    def sources(self, files: Sequence[NodeFile], order: Order) -> Sequence[NodeFile]:  # noqa: ARG002 - the contract
        """Choose the databases with finished games that self-play wrote."""
        return [file for file in files if file.collectable and file.games]

    def up(self, work: Work, files: Sequence[NodeFile]) -> Errors:
        """Collect the databases one after the other; an error that concerns the whole node ends the partition."""
        collector = SourceCollector(work)
        errors: Errors = []
        for file in files:
            error = collect_source(collector, file)
            if error is not None:
                errors.append((file.path, error))
                if error.next_step in _NODE_WIDE:
                    break
            if work.deadline.expired:
                break
        return errors

    def down(self, work: Work, files: Sequence[NodeFile]) -> Errors:  # noqa: ARG002 - the contract
        """Nothing yet."""
        return []
