"""Move data between nodes and their owner, down the one path: the use case that every way of starting it calls.

``move`` does one pass for any of the data types, both ways, and tells it as events; ``collect`` is the way up of games
alone.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.errors import ConfigError, Problem, SyncError
from ringrift_sync_dagster.intake.changes import deliver_changes
from ringrift_sync_dagster.intake.sweep import sweep
from ringrift_sync_dagster.node.patterns import CONFIGS
from ringrift_sync_dagster.node.records import FAMILIES
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.new_games import watch_new_games
from ringrift_sync_dagster.state.transfers import mark_abandoned
from ringrift_sync_dagster.sync.announcing import Announcer, is_asked_for
from ringrift_sync_dagster.sync.held import Brought, bring_held, bring_of_silent
from ringrift_sync_dagster.sync.mover import Order
from ringrift_sync_dagster.sync.movers import MOVERS
from ringrift_sync_dagster.sync.passes import SURVEYS, Pass
from ringrift_sync_dagster.sync.report import CollectReport, Outcome, failure_of
from ringrift_sync_dagster.sync.runtime import Runtime
from ringrift_sync_dagster.sync.targets import is_target

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """What to move.

    Args:
        data_types: Which data types (None: all), moved in the order of the guide's table.
        configs: Which configs (None: all).
        nodes: Which nodes (None: all that data is collected from); those of ``to`` come with them.
        trigger: What started it.
        up: Bring data from nodes.
        down: Bring data to nodes, as the flow table says.
        to: Nodes that are brought the data whatever they do.
        recover: Also collect files that we wrote on nodes, and their canonical ones.
        force: Also let a worse npz replace a better one.

    """

    data_types: Collection[DataType] | None = None
    configs: Sequence[str] | None = None
    nodes: Sequence[str] | None = None
    trigger: str = "cli"
    up: bool = True
    down: bool = True
    to: Collection[str] = ()
    recover: bool = False
    force: bool = False


def collect(
    runtime: Runtime,
    *,
    configs: Sequence[str] | None = None,
    nodes: Sequence[str] | None = None,
    trigger: str = "cli",
) -> CollectReport:
    """Collect the games of ``configs`` x ``nodes`` (None: all) and report on each partition; see ``move``."""
    return move(runtime, Request([DataType.GAMES], configs, nodes, trigger, down=False))[DataType.GAMES]


def move(runtime: Runtime, request: Request, *, settled: bool = False) -> dict[DataType, CollectReport]:
    """Do one pass; give a report for each data type.

    Failures are in the reports. Safe to run at the same time in several processes, and idempotent: what is already
    there costs a look.

    Args:
        runtime: What to work with.
        request: What to move.
        settled: True: ``settle`` was called a moment ago, because passes follow each other every few seconds.

    Raises:
        ConfigError: A config or node is unknown.
        StateError: The state database cannot be used.

    """
    started = clock.monotonic()
    names = None if request.nodes is None else [*request.nodes, *request.to]
    order = Order(
        _checked_configs(request.configs), runtime.nodes(names), request.trigger, up=request.up, down=request.down,
        to=frozenset(request.to), recover=request.recover, force=request.force, in_order=request.nodes is not None,
    )  # fmt: skip
    wanted = frozenset(MOVERS if request.data_types is None else request.data_types)
    movers = {data_type: make(runtime) for data_type, make in MOVERS.items() if data_type in wanted}
    to = [node.name for node in order.nodes if is_target(node, DataType.MODELS, asked=node.name in order.to)]
    announcer = Announcer(
        runtime.state, request.trigger, list(movers), order.configs, len(order.nodes), to if request.down else [],
        asked_for=is_asked_for(request.trigger) and not settled,
    )  # fmt: skip
    announcer.begin()
    if not settled:
        settle(runtime, request.trigger)
    held = bring_held(runtime, order.nodes, request.trigger) if order.recover and order.up else []
    with (
        ThreadPoolExecutor(SURVEYS, thread_name_prefix="survey") as surveyors,
        ThreadPoolExecutor(runtime.settings.max_concurrent_syncs, thread_name_prefix="move") as pool,
    ):
        outcomes, notes = Pass(runtime, movers, order, surveyors, pool, announcer.moved).run()
    if order.up and not order.recover and DataType.GAMES in movers:
        silent = {outcome.partition.node for outcome in outcomes if outcome.failure is not None}
        if silent:
            notes += [(DataType.GAMES, note) for note in bring_of_silent(runtime, silent, request.trigger)]
    games = _canonical_games(runtime, order.configs) if DataType.GAMES in movers else {}
    told = [
        replace(outcome, canonical_games=games[outcome.partition.config])
        if outcome.data_type is DataType.GAMES
        else outcome
        for outcome in outcomes
    ]
    told, notes = _with_held(told, held), [*notes, *((DataType.GAMES, note) for one in held for note in one.notes)]
    seconds = clock.monotonic() - started
    announcer.done(told, seconds)
    return {
        data_type: CollectReport(
            tuple(outcome for outcome in told if outcome.data_type is data_type),
            tuple(note for about, note in notes if about is data_type),
            seconds,
        )
        for data_type in movers
    }


def _with_held(told: list[Outcome], held: Sequence[Brought]) -> list[Outcome]:
    """Let a node of which we do not know whether it still holds packs of others fail one of its partitions."""
    errors = {one.holder: one.error for one in held if one.error is not None}
    found: list[Outcome] = []
    for outcome in told:
        if outcome.failure is not None:
            errors.pop(outcome.partition.node, None)  # it is told already that something of it is missing
    for outcome in told:
        error = errors.pop(outcome.partition.node, None)
        failure = None if error is None else failure_of(outcome.partition, [("", error)])
        found.append(outcome if failure is None else replace(outcome, failure=failure))
    return found


def settle(runtime: Runtime, trigger: str) -> None:
    """Finish what a killed process left.

    That is whole packs in ``incoming/``, changes not yet copied, and transfers without an end.
    """
    watch_new_games(runtime.state)
    mark_abandoned(runtime.state)
    sweep(runtime.intake, runtime.rows, trigger)
    for config in CONFIGS:
        try:
            deliver_changes(runtime.intake.store, runtime.state, config)
            deliver_changes(runtime.intake.evaluation, runtime.state, config)
        except SyncError as error:
            _LOG.warning("config=%s error=%s", config, error)  # its partitions will fail with the same words
    for family in FAMILIES:
        try:
            runtime.rows.settle(family, trigger)
        except SyncError as error:
            _LOG.warning("family=%s error=%s", family, error)


def _canonical_games(runtime: Runtime, configs: Sequence[str]) -> Mapping[str, int]:
    found = dict.fromkeys(configs, 0)
    for config in configs:
        try:
            found[config] = runtime.intake.store.games(config)
        except SyncError as error:
            _LOG.debug("config=%s error=%s", config, error)  # the partitions say what is wrong
    return found


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
