"""What a mover is, what it is asked for, and what it works with: the contract between a pass and the data types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias

from ringrift_sync_dagster.core.bandwidth import Direction, data_type_priority
from ringrift_sync_dagster.core.model import DataType, Partition
from ringrift_sync_dagster.core.pressure import may_be_last_copy
from ringrift_sync_dagster.errors import SyncError
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.state.nodes import NodeFile
from ringrift_sync_dagster.sync.owner_state import OwnerState
from ringrift_sync_dagster.sync.report import Note, Outcome
from ringrift_sync_dagster.sync.runtime import Runtime
from ringrift_sync_dagster.transports.base import Transport

PARTITION_SECONDS: Final = 1800.0
"""How long a pass stays with one partition: a node whose games have no end, or that only says so, holds up no other."""

Errors: TypeAlias = list[tuple[str, SyncError]]
"""What went wrong with which file; the empty name stands for the whole partition."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a pass is asked to do.

    Args:
        configs: Which configs.
        nodes: Which nodes.
        trigger: What started it, such as ``cli``.
        up: Whether data comes up from nodes.
        down: Whether data goes down to nodes.
        to: Names of nodes that are brought everything, whatever they do.
        recover: Also collect the files that we wrote on nodes, and their canonical ones.
        force: Also let a worse file replace a better one.
        in_order: True: the nodes stand in the order in which the caller wants them served; else the best come first.

    """

    configs: Sequence[str]
    nodes: Sequence[Node]
    trigger: str
    up: bool = True
    down: bool = True
    to: frozenset[str] = frozenset()
    recover: bool = False
    force: bool = False
    in_order: bool = False


@dataclass(slots=True)
class Work:
    """One partition of one data type, one way: what a mover works with, and what it did so far.

    Args:
        runtime: What to work with.
        order: What the pass is asked to do.
        transport: The way to the node.
        node: The node.
        partition: Config and node.
        outcome: What was done so far; grows.
        notes: What a person should know; grows as well.
        deadline: When this pass leaves the rest of the partition to the next one.

    """

    runtime: Runtime
    order: Order
    transport: Transport
    node: Node
    partition: Partition
    outcome: Outcome
    notes: list[Note] = field(default_factory=list)
    deadline: clock.Deadline = field(default_factory=lambda: clock.Deadline.after(PARTITION_SECONDS))

    def call(self, op: str, arguments: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Run a kit operation on the node within ``seconds``.

        Raises:
            TransferError: The node could not be asked.
            RemoteCallError: The kit refused.

        """
        return self.transport.call(op, arguments, deadline=clock.Deadline.after(seconds))

    def is_held(self, data_type: DataType, *, up: bool, evaluation: bool = False) -> bool:
        """Say whether backpressure holds such data of this node now; after a loss nothing is held."""
        way: Direction = "up" if up else "down"
        # Whatever a pass brings down as npz and models is what was published.
        priority = data_type_priority(data_type, way, promoted=not up, archive=evaluation)
        last = may_be_last_copy(data_type, way, ephemeral=self.node.is_ephemeral, evaluation=evaluation)
        last_copy = last or self.order.recover
        return self.runtime.bandwidth.holds(self.node.name, priority, last_copy=last_copy, trigger=self.order.trigger)


class Mover(Protocol):
    """How one data type moves; one object serves one pass, from several threads.

    Errors that concern one file are returned; one that is raised ends the partition. What was done before stays.
    """

    def begin(self, order: Order) -> Errors:
        """Do once, before any node is asked, what belongs to the owner's disk alone."""

    def sources(self, files: Sequence[NodeFile], order: Order) -> Sequence[NodeFile]:
        """Choose the files that are to come up; a partition without any is not worked on."""

    def quiet(
        self, known: OwnerState, partition: Partition, files: Sequence[NodeFile], order: Order, *, up: bool
    ) -> bool:
        """Say whether the way up (``files`` are its sources) or down would find nothing to do; asks nobody.

        Only what is certain by what is known here counts: where it is in doubt, the answer is no.
        """

    def gathered(self, order: Order) -> Errors:
        """Do once, when all that was to come up has come, what is best done for all of it."""

    def up(self, work: Work, files: Sequence[NodeFile]) -> Errors:
        """Bring what the files hold for this config, and the owner lacks."""

    def down(self, work: Work, files: Sequence[NodeFile]) -> Errors:
        """Bring the node what it lacks; ``files`` are all of this data type that it told."""
