"""One pass over nodes: ask each what it has, then move the data types up from it and down to it, nodes in turn.

A pass knows nothing of games or models: for each data type a *mover* does the work of one partition. A node's data goes
up as soon as the node has told its files; a data type goes down once all of it that was to come up has come, so that
what arrives in a pass goes down in the same one, first to the nodes that need it most (``core/routing``). Nodes take
turns, so that one with a backlog holds nobody back; a node that cannot be reached fails its own partitions only; one
bad file never stops the next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any, Final, TypeAlias

from ringrift_sync_dagster.core.fairness import Turns
from ringrift_sync_dagster.core.model import DataType, Partition
from ringrift_sync_dagster.errors import BackpressureError, LeaseHeldError, SyncError, storable
from ringrift_sync_dagster.intake.games import collecting
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.state import nodes as node_state
from ringrift_sync_dagster.state.leases import hold
from ringrift_sync_dagster.state.nodes import NodeFile
from ringrift_sync_dagster.sync.announcing import is_asked_for
from ringrift_sync_dagster.sync.forecasting import Forecaster
from ringrift_sync_dagster.sync.mover import Errors, Mover, Order, Work
from ringrift_sync_dagster.sync.owner_state import OwnerState
from ringrift_sync_dagster.sync.pass_routing import PassRouting
from ringrift_sync_dagster.sync.report import Note, Outcome, failure_of
from ringrift_sync_dagster.sync.runtime import Runtime
from ringrift_sync_dagster.sync.survey import Survey, survey
from ringrift_sync_dagster.transports.base import Transport

SURVEYS: Final = 16
"""Nodes that are asked at the same time what they have; one that hangs must not keep others from being collected."""
FEW_NODES: Final = 20  # above it, what is known of nodes is read once for all of them
PER_NODE: Final = 2
"""Partitions of one node at the same time: one is packed while another is merged."""
LEASE_WAIT_SECONDS: Final = 600.0
"""How long somebody who asked for it waits for another process that works on the same partition."""
BUSY_SECONDS: Final = 1.0
"""How long a strategy's pass does; then it leaves the partition to that process."""

_LOG: Final = logging.getLogger(__name__)

_Item: TypeAlias = tuple[DataType, Partition, bool]
"""A data type, a partition, and True for the way up."""


class Pass:
    """One pass; ``run`` does it once, and calls ``moved`` with what was done for a partition, one at a time."""

    def __init__(
        self,
        runtime: Runtime,
        movers: Mapping[DataType, Mover],
        order: Order,
        surveyors: ThreadPoolExecutor,
        pool: ThreadPoolExecutor,
        moved: Callable[[Outcome], None] = lambda _: None,
    ) -> None:
        self._runtime, self._movers, self._order = runtime, movers, order
        self._surveyors, self._pool, self._told = surveyors, pool, moved
        self._nodes = {node.name: node for node in order.nodes}
        self._outcomes = {
            (data_type, partition): Outcome(partition, data_type)
            for data_type in movers
            for partition in (Partition(config, node.name) for config in order.configs for node in order.nodes)
        }
        self._notes: list[tuple[DataType, Note]] = []
        self._turns: Turns[_Item] = Turns(PER_NODE)
        self._surveys: dict[str, Survey] = {}
        self._ups_left: dict[DataType, int] = dict.fromkeys(movers, 0)
        self._gathers_left = set(movers) if order.up else set()
        self._downs_left = set(movers) if order.down else set()
        self._transports: dict[str, Transport] = {}
        few = tuple(self._nodes) if len(self._nodes) <= FEW_NODES else None
        self._known = OwnerState(runtime, few)
        self._unchanged: list[str] = []
        self._came_up = False
        self._forecaster = Forecaster(runtime, order.trigger)
        self._failed: dict[str, str] = {}
        self._routing = PassRouting(runtime, order.nodes, order.to, in_order=order.in_order)

    def run(self) -> tuple[list[Outcome], list[tuple[DataType, Note]]]:
        """Do the pass; give an outcome for each data type and partition of the order, and the notes by data type."""
        self._runtime.bandwidth.look()
        try:
            for data_type, mover in self._movers.items():
                self._once(data_type, mover.begin)
            self._survey_and_move()
            self._routing.remember({name: one.rtt_seconds for name, one in self._surveys.items()}, self._failed)
            self._forecaster.write()
        finally:
            for transport in self._transports.values():
                transport.close()
        self._tell_held()
        return [self._outcomes[key] for key in sorted(self._outcomes)], list(dict.fromkeys(self._notes))

    def _tell_held(self) -> None:
        """Note for each data type how many partitions wait, and until when."""
        for data_type in self._movers:
            held = sum(outcome.held for (about, _), outcome in self._outcomes.items() if about is data_type)
            if held:
                words = (
                    f"{held} partitions wait until backpressure is over, and then move by themselves; "
                    "`ringrift-sync backpressure` says why and how long"
                )
                self._notes.append((data_type, Note(self._runtime.intake.owner, "", "held", words)))

    def _once(self, data_type: DataType, work: Callable[[Order], Errors]) -> None:
        """Do a data type's share that concerns no single node."""
        try:
            errors = work(self._order)
        except Exception as raised:  # noqa: BLE001 - whatever one data type does, the others are moved
            errors = [("", ours(raised, data_type.value))]
        self._notes += [
            (data_type, Note(self._runtime.intake.owner, path, type(error).__name__, str(error)))
            for path, error in errors
        ]

    def _survey_and_move(self) -> None:
        files = self._known.files if self._known.nodes is None else None
        surveys = {self._surveyors.submit(self._survey, node, files): node for node in self._order.nodes}
        running: dict[Future[Outcome], _Item] = {}
        gathering: dict[Future[None], DataType] = {}
        free = self._runtime.settings.max_concurrent_syncs
        while True:
            if not surveys:
                self._write_seen()
                gathering |= self._let_gather()
                self._let_go_down(set(gathering.values()))
            while len(running) < free and (item := self._turns.take()) is not None:
                running[self._pool.submit(self._move, item)] = item
            if not (surveys or running or gathering):
                return
            under_way: list[Future[Any]] = [*surveys, *running, *gathering]
            wait(under_way, return_when=FIRST_COMPLETED)
            for survey_ in [future for future in surveys if future.done()]:
                self._surveyed(surveys.pop(survey_), survey_)
            for moved in [future for future in running if future.done()]:
                self._moved(running.pop(moved), moved.result())
            for gathered in [future for future in gathering if future.done()]:
                gathering.pop(gathered)

    def _write_seen(self) -> None:
        """Write once for all nodes of which nothing changed that they answered."""
        node_state.seen_all(self._runtime.state, self._unchanged, at=clock.wall())
        self._unchanged.clear()

    def _survey(self, node: Node, files: Mapping[str, Sequence[NodeFile]] | None) -> Survey:
        transport = self._runtime.transport_to(node)
        self._transports[node.name] = transport
        known = None if files is None else files.get(node.name, ())
        found = survey(self._runtime, transport, node, tuple(self._movers), known)
        self._routing.look_again(node, transport)
        return found

    def _surveyed(self, node: Node, future: Future[Survey]) -> None:
        """Turn a survey into work, or its error into a failure of the node's partitions."""
        try:
            found = future.result()
        except Exception as raised:  # noqa: BLE001 - whatever one node does, the others are collected
            error = ours(raised, node.name)
            self._failed[node.name] = str(error)
            node_state.failed(self._runtime.state, node.name, str(error), at=clock.wall())
            for data_type in self._movers:
                for config in self._order.configs:
                    partition = Partition(config, node.name)
                    self._outcomes[data_type, partition] = Outcome(
                        partition, data_type, failure=failure_of(partition, [("", error)])
                    )
            return
        self._notes += found.notes
        self._surveys[node.name] = found
        if found.unchanged:
            self._unchanged.append(node.name)
        for data_type, mover in self._movers.items() if self._order.up else ():
            for config in self._order.configs:
                partition = Partition(config, node.name)
                sources = mover.sources(found.of(data_type, config), self._order)
                if sources and not self._is_quiet((data_type, partition, True), self._known, sources):
                    self._turns.add(node.name, (data_type, partition, True))
                    self._ups_left[data_type] += 1
                    self._came_up = True

    def _let_gather(self) -> dict[Future[None], DataType]:
        """Let each data type finish what has come up, once nothing is on its way; every node was asked by now."""
        ready = [one for one in self._movers if one in self._gathers_left and not self._ups_left[one]]
        self._gathers_left.difference_update(ready)
        return {self._pool.submit(self._once, one, self._movers[one].gathered): one for one in ready}

    def _let_go_down(self, gathering: Collection[DataType]) -> None:
        """Let each data type go down of which nothing is on its way up any more."""
        ready = self._downs_left - self._gathers_left - set(gathering)
        for data_type in [one for one in self._movers if one in ready and not self._ups_left[one]]:
            self._downs_left.remove(data_type)
            known = self._known.after_ups() if self._came_up else self._known
            for node in self._routing.in_turn(data_type):
                if node.name in self._surveys and self._routing.brings(node, data_type):
                    self._let_go_down_to(node, data_type, known)

    def _let_go_down_to(self, node: Node, data_type: DataType, known: OwnerState) -> None:
        for config in self._order.configs:
            partition, files = Partition(config, node.name), self._surveys[node.name].of(data_type, config)
            if not self._is_quiet((data_type, partition, False), known, files):
                self._turns.add(node.name, (data_type, partition, False))

    def _is_quiet(self, item: _Item, known: OwnerState, files: Sequence[NodeFile]) -> bool:
        data_type, partition, up = item
        try:
            return self._movers[data_type].quiet(known, partition, files, self._order, up=up)
        except Exception as raised:  # noqa: BLE001 - what cannot be told here, the mover itself will tell
            _LOG.debug("partition=%s quiet=unknown cause=%r", partition, raised)
            return False

    def _moved(self, item: _Item, outcome: Outcome) -> None:
        data_type, partition, up = item
        self._turns.done(partition.node)
        self._outcomes[data_type, partition] = outcome
        self._told(outcome)
        if up:
            self._ups_left[data_type] -= 1

    def _move(self, item: _Item) -> Outcome:
        """Do one partition's share; an error that is raised ends it, and what was done before stays."""
        data_type, partition, up = item
        started = clock.monotonic()
        before = self._outcomes[data_type, partition]
        mover = self._movers[data_type]
        work = Work(
            self._runtime, self._order, self._transports[partition.node], self._nodes[partition.node], partition, before
        )  # fmt: skip
        files = self._surveys[partition.node].of(data_type, partition.config)
        move: Callable[[Work, Sequence[NodeFile]], Errors] = mover.up if up else mover.down
        if work.is_held(data_type, up=up):
            return replace(before, held=True)
        expected = self._forecaster.expect(item, work.node, self._known)
        lease, asked = lease_name(data_type, partition, up=up), is_asked_for(self._order.trigger)
        try:
            with hold(self._runtime.state, lease, wait_seconds=LEASE_WAIT_SECONDS if asked else BUSY_SECONDS):
                errors = move(work, mover.sources(files, self._order) if up else files)
        except LeaseHeldError as busy:
            if busy.name != lease or asked:
                errors = [("", busy)]
            else:  # whoever works on it moves what there is; this pass must not wait for one slow node
                self._notes.append((data_type, Note(partition.node, "", "busy", f"{partition}: {busy}")))
                return before
        except Exception as raised:  # noqa: BLE001 - as above
            errors = [("", ours(raised, partition.node))]
        self._notes += [(data_type, note) for note in work.notes]
        held = any(isinstance(error, BackpressureError) for _, error in errors)
        errors = [(path, error) for path, error in errors if not isinstance(error, BackpressureError)]
        failure = failure_of(partition, errors) if errors else None
        if failure is not None and before.failure is not None:
            failure = replace(before.failure, message=f"{before.failure.message}; {failure.message}")
        took = clock.monotonic() - started
        self._forecaster.came(expected, size_bytes=work.outcome.bytes_moved - before.bytes_moved, seconds=took)
        outcome = replace(
            work.outcome, seconds=before.seconds + took, failure=failure or before.failure,
            held=held or work.outcome.held,
        )  # fmt: skip
        _log(outcome)
        return outcome


def lease_name(data_type: DataType, partition: Partition, *, up: bool) -> str:
    """Name of the lease that whoever moves a data type of a partition this way holds."""
    if not up:
        return f"bring:{data_type}:{partition.key}"
    return collecting(partition) if data_type is DataType.GAMES else f"collect:{data_type}:{partition.key}"


def ours(raised: Exception, node: str) -> SyncError:
    """Give an error that a report can hold: a fault of this program becomes one too, and its trace goes to the log."""
    if isinstance(raised, SyncError):
        return raised
    _LOG.error("node=%s fault=%r", node, raised, exc_info=raised)
    return SyncError(f"{node}: a fault of this program: {type(raised).__name__}: {storable(str(raised))}")


def _log(outcome: Outcome) -> None:
    level = logging.INFO if outcome.changed or outcome.failure else logging.DEBUG  # a row in Dagster's storage, or none
    _LOG.log(level,
        "type=%s partition=%s new=%d same=%d set_aside=%d counts=%s bytes=%d seconds=%.2f failure=%s",
        outcome.data_type, outcome.partition, outcome.games_new, outcome.games_same, len(outcome.set_aside),
        dict(outcome.counts), outcome.bytes_moved, outcome.seconds, outcome.failure,
    )  # fmt: skip
