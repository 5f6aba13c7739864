"""The strategy of nodes that may vanish: a run for each minute that looks at them every 5 s, without gap or overlap.

The schedule starts a run a minute before everything else, while there is an ephemeral node. The run takes over from the
one before it, works at the marks of the clock, and ends when the next one waits, after two minutes at the latest; only
a transfer that goes on keeps it a little longer, without the turn. A sensor asks for a run where nobody has the turn,
such as after a crash. Source: dagster.md, 1 and 10.
"""

from dataclasses import dataclass
from typing import Final

import dagster as dg
from pydantic import Field

from ringrift_sync_dagster.defs.partitions import add_node_partitions
from ringrift_sync_dagster.defs.recording import record_materializations
from ringrift_sync_dagster.defs.resources import SyncResource
from ringrift_sync_dagster.defs.risks import record_risks
from ringrift_sync_dagster.defs.sensors import partition_nodes
from ringrift_sync_dagster.defs.strategies import REASON_TAG, STRATEGY_TAG
from ringrift_sync_dagster.errors import LeaseHeldError, SyncError
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.inventory import load_inventory
from ringrift_sync_dagster.state.changes import pending
from ringrift_sync_dagster.state.leases import holder_of
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.sync.acting import EphemeralLooks
from ringrift_sync_dagster.sync.cadence import Cadence
from ringrift_sync_dagster.sync.loop import Turn, strategy_lease, who_acts, work_at_marks
from ringrift_sync_dagster.sync.runtime import OWNER, Runtime
from ringrift_sync_dagster.sync.strategies import ephemeral_types

STRATEGY: Final = "ephemeral"
SCHEDULE: Final = "ephemeral_schedule"
RUN_SECONDS: Final = 110.0
"""For how long a run begins new looks when no successor comes."""
STARTING_SECONDS: Final = 20.0
"""A run that was asked for so long ago has begun by now, or never will."""
AFTER_END_SECONDS: Final = 10.0
"""After a run that has ended, another one is asked for so much later than it was; less would flood a broken cluster."""
_WAITING: Final = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING]


class LookConfig(dg.Config):
    """How long to look."""

    seconds: float = Field(default=RUN_SECONDS, gt=0, le=RUN_SECONDS, description="For how long looks are begun.")


@dg.op
def look_at_ephemeral_nodes(context: dg.OpExecutionContext, config: LookConfig, sync: SyncResource) -> None:
    """Look at the ephemeral nodes at each mark of some minutes, and record what changed."""
    with sync.runtime() as runtime:
        add_node_partitions(context.instance, partition_nodes(runtime.inventory))
        turn = Turn(runtime.state, STRATEGY, runtime.intake.owner, f"run {context.run_id[:8]}")
        cadence = Cadence(runtime.settings.ephemeral_sync_interval)
        with EphemeralLooks(runtime, STRATEGY, cadence.interval) as looks:
            try:
                with turn.taken_over() as lease:
                    count = work_at_marks(
                        turn, lease, cadence, config.seconds, lambda: _look(context, runtime, looks), hands_over=True
                    )
                    context.log.info("%d marks, %d partitions changed", count, looks.changed)
            except LeaseHeldError as error:
                context.log.info("nothing done: %s", error)
        _record(context, runtime)
        record_risks(context, runtime)


def _look(context: dg.OpExecutionContext, runtime: Runtime, looks: EphemeralLooks) -> int:
    changes = looks.look()
    _record(context, runtime)
    return changes


def _record(context: dg.OpExecutionContext, runtime: Runtime) -> None:
    """Record what changed, unless another process records everything at this moment."""
    if not pending(runtime.state, limit=1):
        return
    try:
        record_materializations(
            context, runtime.state, wait_seconds=0.0, max_age_seconds=runtime.settings.ephemeral_max_data_age
        )
    except LeaseHeldError as error:
        context.log.debug("recorded by another process: %s", error)


@dg.job(executor_def=dg.in_process_executor, tags={STRATEGY_TAG: STRATEGY, "dagster/priority": "10"})
def ephemeral_sync() -> None:
    """Look at nodes that may vanish every 5 s, for a minute or two; what changed is recorded at once."""
    look_at_ephemeral_nodes()


@dg.schedule(
    name=SCHEDULE,
    job=ephemeral_sync,
    cron_schedule="* * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Starts the run that looks at ephemeral nodes every ephemeral_sync_interval seconds (5).",
)
def ephemeral_schedule(context: dg.ScheduleEvaluationContext, sync: SyncResource) -> dg.RunRequest | dg.SkipReason:
    """Ask for the run of this minute, or say why there is none."""
    waiting = context.instance.get_run_records(dg.RunsFilter(job_name=ephemeral_sync.name, statuses=_WAITING), limit=1)
    if waiting:
        return dg.SkipReason(f"run {waiting[0].dagster_run.run_id[:8]} waits to be started")
    needed = _needed(sync)
    if needed.why_not:
        return dg.SkipReason(needed.why_not)
    return dg.RunRequest(tags={REASON_TAG: f"every {needed.interval:g} s"})


@dataclass(frozen=True, slots=True)
class _Needed:
    """Whether anybody must look at ephemeral nodes.

    Args:
        why_not: Why no run is needed; empty: one is.
        interval: Seconds between two looks.
        holder: The process that has the turn; 0 where nobody has.

    """

    why_not: str = ""
    interval: float = 0.0
    holder: int = 0


def _needed(sync: SyncResource) -> _Needed:
    try:
        settings = sync.settings()
        inventory = load_inventory(settings.hosts, coordinator=settings.coordinator)
        names = [node.name for node in inventory.nodes.values() if node.collectable and ephemeral_types(node)]
        owner = inventory.coordinator.name if inventory.coordinator else settings.coordinator or OWNER
        with StateStore.open(settings.state_url) as state:
            acting, unrecorded = who_acts(state, STRATEGY, owner), bool(pending(state, limit=1))
            holder = holder_of(state, strategy_lease(STRATEGY, owner))
    except SyncError as error:
        return _Needed(f"nothing can be looked at: {error}")
    if acting.startswith("daemon"):
        return _Needed(f"{acting} acts for this strategy")
    if not names and not unrecorded:
        return _Needed("no node of the inventory is ephemeral and active")
    return _Needed("", settings.ephemeral_sync_interval, 0 if holder is None else holder.pid)


@dg.sensor(
    name="loop_guard_sensor",
    job=ephemeral_sync,
    minimum_interval_seconds=4,  # a true 5 s
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Asks for a run where nobody looks at ephemeral nodes, such as after a crash.",
)
def loop_guard_sensor(context: dg.SensorEvaluationContext, sync: SyncResource) -> dg.RunRequest | dg.SkipReason:
    """Ask for a run when the turn lapsed although there are ephemeral nodes."""
    if any(one.name == SCHEDULE and one.status.value == "STOPPED" for one in context.instance.all_instigator_state()):
        return dg.SkipReason(f"{SCHEDULE} is stopped: a person wants no looks")
    needed = _needed(sync)
    if needed.why_not or needed.holder:
        return dg.SkipReason(needed.why_not or f"process {needed.holder} has the turn")
    runs = context.instance.get_run_records(dg.RunsFilter(job_name=ephemeral_sync.name), limit=1)
    for record in runs:
        asked = clock.wall() - record.create_timestamp.timestamp()
        if asked < (AFTER_END_SECONDS if record.dagster_run.is_finished else STARTING_SECONDS):
            return dg.SkipReason(f"a run was asked for {asked:.0f} s ago")
    return dg.RunRequest(tags={REASON_TAG: "nobody had the turn"})
