"""Strategies as jobs, and what starts them: the hybrid pass every minute, models at once when one is promoted.

``hybrid_sync`` moves everything that changed, both ways, over all nodes; under a minute of ``sync_interval`` its run
goes on until the next one starts, over a minute the schedule leaves ticks out. One process acts at a time for an owner:
a second one says who acts, and ends well. Single nodes that fail are named and do not fail the run, because a cluster
of spot machines always lacks some; a run in which no node answered fails.
"""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import dagster as dg

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.defs.jobs import CollectConfig, move_once
from ringrift_sync_dagster.defs.moving import move_and_record, raise_if_failed
from ringrift_sync_dagster.defs.partitions import add_node_partitions
from ringrift_sync_dagster.defs.resources import SyncResource
from ringrift_sync_dagster.defs.sensors import partition_nodes
from ringrift_sync_dagster.errors import LeaseHeldError, SyncError
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.inventory import load_inventory
from ringrift_sync_dagster.settings.settings import Settings
from ringrift_sync_dagster.state.leases import holder_of
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.sync.cadence import MINUTE, Cadence
from ringrift_sync_dagster.sync.collect import Request
from ringrift_sync_dagster.sync.facade import priority_request
from ringrift_sync_dagster.sync.loop import Turn, strategy_lease, work_at_marks
from ringrift_sync_dagster.sync.promotions import Seen, look
from ringrift_sync_dagster.sync.report import CollectReport
from ringrift_sync_dagster.sync.runtime import Runtime, owner_of

HYBRID: Final = "hybrid"
STRATEGY_TAG: Final = "ringrift/strategy"
REASON_TAG: Final = "ringrift/reason"
LAST_MARK_SECONDS: Final = 50.0
"""How long a run of less than a minute's interval goes on starting passes; the next run has started by then."""
STARTING_SECONDS: Final = 30.0
"""A run that started so long ago has the turn, or will never have it."""
_WAITING: Final = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING]


class PullConfig(CollectConfig):
    """What to pull."""

    recover: bool = False


@dg.op
def hybrid(context: dg.OpExecutionContext, sync: SyncResource) -> None:
    """Do the passes of one minute, unless another process does."""
    with sync.runtime() as runtime:
        add_node_partitions(context.instance, partition_nodes(runtime.inventory))
        cadence = Cadence(runtime.settings.sync_interval)
        turn = Turn(runtime.state, HYBRID, runtime.intake.owner, f"run {context.run_id[:8]}")
        seconds = LAST_MARK_SECONDS if cadence.interval < MINUTE else 0.0
        try:
            with turn.taken() as lease:
                work_at_marks(turn, lease, cadence, seconds, lambda: _pass(context, runtime), again=True)
        except LeaseHeldError as error:
            context.log.info("nothing done: %s", error)


def _pass(context: dg.OpExecutionContext, runtime: Runtime) -> int:
    """Do one pass; give how many partitions changed."""
    _, reports = move_and_record(context, runtime, Request())
    failures = [failure for report in reports for failure in report.failures]
    silent = {failure.partition.node for failure in failures} - _answering(reports)
    # What a silent node says is the same for each of its partitions, and each line is a row of Dagster's storage.
    said = Counter((failure.partition.node, failure.error, failure.message) for failure in failures)
    for (node, error, message), count in list(said.items())[:20]:
        context.log.warning("%d partitions of %s: %s: %s", count, node, error, message)
    if silent and not _answering(reports):
        raise_if_failed(reports)
    return sum(outcome.changed for report in reports for outcome in report.outcomes)


def _answering(reports: Sequence[CollectReport]) -> set[str]:
    """The nodes of which at least one partition went well."""
    return {outcome.partition.node for report in reports for outcome in report.outcomes if outcome.failure is None}


@dg.job(executor_def=dg.in_process_executor, tags={STRATEGY_TAG: "hybrid"})
def hybrid_sync() -> None:
    """Move everything that changed, both ways, over all nodes; the work of persistent hosts."""
    hybrid()


@dg.op
def pull_data(context: dg.OpExecutionContext, config: PullConfig, sync: SyncResource) -> None:
    """Bring everything from the chosen nodes that the owner lacks; then fail if a partition failed."""
    configs, nodes = config.configs or None, config.nodes or None
    move_once(context, sync, Request(None, configs, nodes, down=False, recover=config.recover))


@dg.job(executor_def=dg.in_process_executor, tags={STRATEGY_TAG: "pull"})
def pull() -> None:
    """Bring everything from nodes; with ``recover`` also what was once brought to them."""
    pull_data()


class PriorityConfig(dg.Config):
    """What is urgent, and why."""

    reason: str
    source_node: str = ""
    config_key: str = ""


@dg.op
def pull_urgently(context: dg.OpExecutionContext, config: PriorityConfig, sync: SyncResource) -> None:
    """Bring everything from one node (or all) now; then fail if a partition failed."""
    context.instance.add_run_tags(context.run_id, {REASON_TAG: config.reason})
    move_once(context, sync, priority_request(config.reason, config.source_node or None, config.config_key or None))


@dg.job(executor_def=dg.in_process_executor, tags={STRATEGY_TAG: "priority", "dagster/priority": "3"})
def priority_sync() -> None:
    """Bring everything from a node before anything else is done, such as games that are on no other host."""
    pull_urgently()


@dg.op
def broadcast(context: dg.OpExecutionContext, config: CollectConfig, sync: SyncResource) -> None:
    """Bring the promoted models of the chosen configs to every node that plays or trains; then fail if one failed."""
    request = Request([DataType.MODELS], config.configs or None, config.nodes or None, up=False)
    move_once(context, sync, request)


@dg.job(executor_def=dg.in_process_executor, tags={STRATEGY_TAG: "broadcast", "dagster/priority": "2"})
def broadcast_models() -> None:
    """Bring promoted models to all nodes that play or train, before everything else."""
    broadcast()


@dg.schedule(
    name="hybrid_schedule",
    job=hybrid_sync,
    cron_schedule="* * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Starts the hybrid pass, every sync_interval seconds (60), while none is running.",
)
def hybrid_schedule(context: dg.ScheduleEvaluationContext, sync: SyncResource) -> dg.RunRequest | dg.SkipReason:
    """Ask for a run of the hybrid strategy, or say why there is none."""
    settings = sync.settings()
    runs = context.instance.get_run_records(dg.RunsFilter(job_name=hybrid_sync.name), limit=5)
    acting = _acting(settings)
    for record in runs:
        if _goes_on(record, acting=acting):
            return dg.SkipReason(f"run {record.dagster_run.run_id[:8]} of the strategy goes on")
    cadence = Cadence(settings.sync_interval)
    last = max((record.create_timestamp.timestamp() for record in runs), default=None)
    if cadence.interval > MINUTE and not cadence.is_due(last):
        return dg.SkipReason(f"sync_interval is {cadence.interval:g} s, and the last run began less than that ago")
    return dg.RunRequest(tags={REASON_TAG: f"every {cadence.interval:g} s"})


def _acting(settings: Settings) -> bool | None:
    """Whether a process has the turn; None where the state database does not say."""
    try:
        owner = owner_of(settings, load_inventory(settings.hosts, coordinator=settings.coordinator))
        with StateStore.open(settings.state_url) as state:
            return holder_of(state, strategy_lease(HYBRID, owner)) is not None
    except SyncError:
        return None


def _goes_on(record: dg.RunRecord, *, acting: bool | None) -> bool:
    """Whether a run is at work or will be.

    After Ctrl-C or a reboot in the middle of a pass, Dagster calls its run started until ``max_runtime_seconds`` is
    over (measured): whether it lives, the turn says.
    """
    if record.dagster_run.status in _WAITING:
        return True
    if record.dagster_run.status is not dg.DagsterRunStatus.STARTED:
        return False
    started_at = record.start_time or record.create_timestamp.timestamp()
    return acting is not False or clock.wall() - started_at < STARTING_SECONDS


@dg.sensor(
    name="model_promotion_sensor",
    job=broadcast_models,
    minimum_interval_seconds=4,  # a true 5 s
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Broadcasts a model as soon as it is promoted, by whomever.",
)
def model_promotion_sensor(context: dg.SensorEvaluationContext, sync: SyncResource) -> dg.SensorResult | dg.SkipReason:
    """Ask for one broadcast of the configs of which another model is published than at the last look.

    An event that tells of a promotion elsewhere asks for one too, as soon as its model is published here.
    """
    try:
        with StateStore.open(sync.settings().state_url) as state:
            found = look(state, Seen.read(json.loads(context.cursor) if context.cursor else {}))
    except SyncError as error:
        return dg.SkipReason(f"the state database cannot be read: {error}")
    cursor = json.dumps(found.seen.as_json(), sort_keys=True)
    if not found.broadcast:
        words = (f"the promoted models of {len(found.seen.published)} configs are as they were", *found.words)
        return dg.SensorResult(skip_reason="; ".join(words), cursor=cursor)
    configs = list(found.broadcast)
    run_config: dict[str, Any] = {"ops": {"broadcast": {"config": {"configs": configs}}}}
    request = dg.RunRequest(
        run_key=json.dumps([found.broadcast, *found.events], sort_keys=True),
        run_config=run_config,
        tags={REASON_TAG: f"promoted: {', '.join(configs)}"},
    )
    return dg.SensorResult(run_requests=[request], cursor=cursor)
