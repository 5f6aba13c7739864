"""Collect: bring every finished game of the selected nodes into the canonical store, down the one path.

A pass surveys the nodes and collects their partitions on one bounded pool of threads. Nodes take turns, so that one
with a backlog holds nobody back; a node that cannot be reached fails its own partitions only; one bad database never
stops the next.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any, Final

from ringrift_sync_dagster.core.fairness import Turns
from ringrift_sync_dagster.core.model import Partition
from ringrift_sync_dagster.errors import ConfigError, NextStep, Problem, SyncError, storable
from ringrift_sync_dagster.intake.changes import deliver_changes
from ringrift_sync_dagster.intake.games import collecting
from ringrift_sync_dagster.intake.sweep import sweep
from ringrift_sync_dagster.node.patterns import CONFIGS
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.state import nodes as node_state
from ringrift_sync_dagster.state.leases import hold
from ringrift_sync_dagster.state.nodes import NodeFile
from ringrift_sync_dagster.state.transfers import mark_abandoned
from ringrift_sync_dagster.sync.report import CollectReport, Failure, Note, Outcome
from ringrift_sync_dagster.sync.runtime import Runtime
from ringrift_sync_dagster.sync.source import SourceCollector, collect_source
from ringrift_sync_dagster.sync.survey import Survey, survey
from ringrift_sync_dagster.transports.base import Transport

SURVEYS: Final = 16
"""Nodes that are asked at the same time what they have; one that hangs must not keep others from being collected."""
PER_NODE: Final = 2
"""Partitions of one node at the same time: one is packed while another is merged."""
LEASE_WAIT_SECONDS: Final = 600.0
"""How long to wait for another process that collects the same partition."""
_NODE_WIDE: Final = frozenset({NextStep.NODE_DOWN, NextStep.NEXT_RUNG})

_LOG: Final = logging.getLogger(__name__)


def collect(
    runtime: Runtime,
    *,
    configs: Sequence[str] | None = None,
    nodes: Sequence[str] | None = None,
    trigger: str = "cli",
) -> CollectReport:
    """Collect the games of ``configs`` x ``nodes`` (None: all) and report on each partition.

    Failures are in the report. Safe to run at the same time in several processes, and idempotent: what is already
    there costs a look.

    Raises:
        ConfigError: A config or node is unknown.
        StateError: The state database cannot be used.

    """
    started = clock.monotonic()
    wanted = _checked_configs(configs)
    selected = runtime.nodes(nodes)
    recover(runtime, trigger)
    with (
        ThreadPoolExecutor(SURVEYS, thread_name_prefix="survey") as surveyors,
        ThreadPoolExecutor(runtime.settings.max_concurrent_syncs, thread_name_prefix="collect") as pool,
    ):
        outcomes, notes = _Pass(runtime, wanted, selected, trigger, surveyors, pool).run()
    return CollectReport(tuple(outcomes), tuple(notes), clock.monotonic() - started)


def recover(runtime: Runtime, trigger: str) -> None:
    """Finish what a killed process left.

    That is whole packs in ``incoming/``, changes not yet copied, and transfers without an end.
    """
    mark_abandoned(runtime.state)
    sweep(runtime.intake, trigger)
    for config in CONFIGS:
        try:
            deliver_changes(runtime.intake.store, runtime.state, config)
        except SyncError as error:
            _LOG.warning("config=%s error=%s", config, error)  # its partitions will fail with the same words


class _Pass:
    """One pass: a survey for each node, then its partitions, nodes in turn."""

    def __init__(
        self,
        runtime: Runtime,
        configs: Sequence[str],
        nodes: Sequence[Node],
        trigger: str,
        surveyors: ThreadPoolExecutor,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._runtime, self._configs, self._nodes, self._trigger = runtime, configs, nodes, trigger
        self._surveyors, self._pool = surveyors, pool
        self._outcomes = {
            partition: Outcome(partition)
            for partition in (Partition(config, node.name) for config in configs for node in nodes)
        }
        self._notes: list[Note] = []
        self._turns: Turns[Partition] = Turns(PER_NODE)
        self._sources: dict[Partition, Sequence[NodeFile]] = {}
        self._transports: dict[str, Transport] = {}

    def run(self) -> tuple[list[Outcome], list[Note]]:
        """Survey and collect; give an outcome for each partition of the selection."""
        try:
            self._survey_and_collect()
        finally:
            for transport in self._transports.values():
                transport.close()
        games = {config: self._canonical_games(config) for config in self._configs}
        outcomes = [
            replace(outcome, canonical_games=games[partition.config])
            for partition, outcome in sorted(self._outcomes.items())
        ]
        return outcomes, list(dict.fromkeys(self._notes))

    def _survey_and_collect(self) -> None:
        surveys = {self._surveyors.submit(self._survey, node): node for node in self._nodes}
        running: dict[Future[Outcome], Partition] = {}
        free = self._runtime.settings.max_concurrent_syncs
        while surveys or running or self._turns.waiting:
            while len(running) < free and (partition := self._turns.take()) is not None:
                running[self._pool.submit(self._collect, partition)] = partition
            under_way: list[Future[Any]] = [*surveys, *running]
            wait(under_way, return_when=FIRST_COMPLETED)
            for survey_ in [future for future in surveys if future.done()]:
                self._surveyed(surveys.pop(survey_), survey_)
            for collected in [future for future in running if future.done()]:
                partition = running.pop(collected)
                self._turns.done(partition.node)
                self._outcomes[partition] = collected.result()

    def _survey(self, node: Node) -> Survey:
        transport = self._runtime.transport_to(node)
        self._transports[node.name] = transport
        return survey(self._runtime, transport, node, self._configs)

    def _surveyed(self, node: Node, future: Future[Survey]) -> None:
        """Turn a survey into work, or its error into a failure of the node's partitions."""
        try:
            found = future.result()
        except Exception as raised:  # noqa: BLE001 - whatever one node does, the others are collected
            error = _ours(raised, node.name)
            node_state.failed(self._runtime.state, node.name, str(error), at=clock.wall())
            for config in self._configs:
                partition = Partition(config, node.name)
                self._outcomes[partition] = Outcome(partition, failure=_failure(partition, ("", error)))
            return
        self._notes += found.notes
        for config, sources in found.sources.items():
            partition = Partition(config, node.name)
            self._sources[partition] = sources
            self._turns.add(node.name, partition)

    def _collect(self, partition: Partition) -> Outcome:
        """Collect every database of one partition.

        An error that concerns the whole node ends the partition; any other ends only its database.
        """
        started = clock.monotonic()
        transport = self._transports[partition.node]
        collector = SourceCollector(self._runtime, transport, partition, Outcome(partition), self._trigger)
        try:
            with hold(self._runtime.state, collecting(partition), wait_seconds=LEASE_WAIT_SECONDS):
                errors = self._collect_sources(collector)
        except Exception as raised:  # noqa: BLE001 - as above
            errors = [("", _ours(raised, partition.node))]
        self._notes += collector.notes
        failure = _failure(partition, *errors) if errors else None
        outcome = replace(collector.outcome, seconds=clock.monotonic() - started, failure=failure)
        _log(outcome)
        return outcome

    def _collect_sources(self, collector: SourceCollector) -> list[tuple[str, SyncError]]:
        """Collect the partition's databases one after the other; give what went wrong with which."""
        errors = []
        for file in self._sources[collector.partition]:
            error = collect_source(collector, file)
            if error is not None:
                errors.append((file.path, error))
                if error.next_step in _NODE_WIDE:
                    break
            if collector.deadline.expired:
                break
        return errors

    def _canonical_games(self, config: str) -> int:
        try:
            return self._runtime.intake.store.games(config)
        except SyncError:
            return 0  # the partitions say what is wrong


def _ours(raised: Exception, node: str) -> SyncError:
    """Give an error that a report can hold: a fault of this program becomes one too, and its trace goes to the log."""
    if isinstance(raised, SyncError):
        return raised
    _LOG.error("node=%s fault=%r", node, raised, exc_info=raised)
    return SyncError(f"{node}: a fault of this program: {type(raised).__name__}: {storable(str(raised))}")


def _checked_configs(configs: Sequence[str] | None) -> tuple[str, ...]:
    unknown = [config for config in configs or () if config not in CONFIGS]
    if unknown:
        known = ", ".join(CONFIGS)
        raise ConfigError(
            [
                Problem("argument", None, "", "config", f"{config!r} is no config; use one of {known}")
                for config in unknown
            ]
        )
    return tuple(dict.fromkeys(configs)) if configs is not None else CONFIGS


def _failure(partition: Partition, *errors: tuple[str, SyncError]) -> Failure:
    """One failure from what went wrong with each database; the same words are told once, with the first database."""
    told: dict[str, list[str]] = {}
    for path, error in errors:
        told.setdefault(str(error), []).append(path)
    words = [
        (text if paths[0] in text else f"{paths[0]}: {text}") + (f" (and {len(paths) - 1} more)" if paths[1:] else "")
        for text, paths in told.items()
    ]
    return Failure(partition, type(errors[0][1]).__name__, "; ".join(words))


def _log(outcome: Outcome) -> None:
    _LOG.info(
        "partition=%s new=%d same=%d set_aside=%d bytes=%d seconds=%.2f failure=%s", outcome.partition,
        outcome.games_new, outcome.games_same, len(outcome.set_aside), outcome.bytes_moved, outcome.seconds,
        outcome.failure,
    )  # fmt: skip
