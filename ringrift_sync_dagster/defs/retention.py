"""Retention by Dagster, every hour: its own old runs, and everything that ``ringrift-sync gc`` deletes.

A run goes 48 h after it was made, unless it holds the newest materialization of a partition or the newest evaluation of
a check: Dagster's grid is made from those. Ticks go by the section ``retention`` of dagster.yaml.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

import dagster as dg

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.core.retention import RUNS
from ringrift_sync_dagster.defs.archives import restore_spec
from ringrift_sync_dagster.defs.checks import check_specs
from ringrift_sync_dagster.defs.resources import SyncResource
from ringrift_sync_dagster.defs.run_remains import delete_runs, leftovers, remove_files
from ringrift_sync_dagster.errors import LeaseHeldError
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.sync.retention import Kept, keep

BATCH_RUNS: Final = 500
LONGEST_SECONDS: Final = 1800.0
"""How long one run deletes old runs; what is left is for the next hour."""
_CHUNK: Final = 1000
_ENDED: Final = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


class RetentionConfig(dg.Config):
    """Whether to delete."""

    dry_run: bool = False


@dg.op
def delete_old(context: dg.OpExecutionContext, config: RetentionConfig, sync: SyncResource) -> None:
    """Delete old runs, then what the rules let go; say what stays above its quota."""
    old = old_runs(context.instance, clock.wall())
    if not config.dry_run:
        old = prune_runs(context.instance, clock.wall())
    context.log.info("%d old runs %s", len(old), "would go" if config.dry_run else "are gone")
    with sync.runtime() as runtime:
        try:
            done = keep(runtime, dry_run=config.dry_run)
        except LeaseHeldError as error:
            context.log.info("nothing else done: %s", error)
            return
    for line in _lines(done):
        context.log.info(line)
    for short in done.plan.shortages:
        context.log.warning("above its quota: %s", short)


@dg.job(executor_def=dg.in_process_executor)
def retention() -> None:
    """Delete runs, files and rows that have served their purpose; the guide's table says which, and when."""
    delete_old()


@dg.schedule(
    name="retention_schedule",
    job=retention,
    cron_schedule="40 * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Deletes what is old enough, every hour.",
)
def retention_schedule(_context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """Ask for a run."""
    return dg.RunRequest(tags={"ringrift/reason": "every hour"})


def prune_runs(instance: dg.DagsterInstance, now: float, seconds: float = LONGEST_SECONDS) -> list[str]:
    """Delete the runs of ``old_runs`` with all their remains; give their ids. Idempotent.

    Args:
        instance: Dagster's instance.
        now: Seconds since 1970.
        seconds: How long to go on at most.

    """
    deadline = clock.Deadline.after(seconds)
    gone: list[str] = []
    for run_id in leftovers(instance):
        remove_files(instance, run_id)
    old = old_runs(instance, now)
    for start in range(0, len(old), BATCH_RUNS):
        if deadline.expired:
            break
        batch = old[start : start + BATCH_RUNS]
        delete_runs(instance, batch)
        gone += batch
    return gone


def old_runs(instance: dg.DagsterInstance, now: float) -> list[str]:
    """Give the ids of runs that ended, are old, and hold nothing that is the newest of its kind; oldest first."""
    before = datetime.fromtimestamp(now - RUNS.number, UTC)
    records = instance.get_run_records(dg.RunsFilter(created_before=before, statuses=_ENDED), ascending=True)
    ids = [record.dagster_run.run_id for record in records]
    if not ids:
        return []
    needed = newest(instance)
    return [run_id for run_id in ids if run_id not in needed]


def newest(instance: dg.DagsterInstance) -> frozenset[str]:
    """Give the runs that hold the newest materialization of a partition, or evaluation of a check, or observation."""
    found: set[str] = set()
    for data_type in DataType:
        key = dg.AssetKey(data_type.value)
        latest = instance.event_log_storage.get_latest_storage_id_by_partition(
            key, dg.DagsterEventType.ASSET_MATERIALIZATION
        )
        found |= _runs_of(instance, key, sorted(latest.values()))
        looks = (instance.fetch_materializations(key, limit=1), instance.fetch_observations(key, limit=1))
        found |= {record.run_id for look in looks for record in look.records}
    checks = [spec.key for spec in (*check_specs(DataType), restore_spec())]
    evaluations = instance.event_log_storage.get_latest_asset_check_execution_by_key(checks)
    found |= {record.run_id for record in evaluations.values()}
    return frozenset(found)


def _runs_of(instance: dg.DagsterInstance, key: dg.AssetKey, storage_ids: Sequence[int]) -> set[str]:
    """Give the runs that wrote these materializations."""
    runs: set[str] = set()
    for start in range(0, len(storage_ids), _CHUNK):
        chosen = dg.AssetRecordsFilter(asset_key=key, storage_ids=storage_ids[start : start + _CHUNK])
        runs |= {record.run_id for record in instance.fetch_materializations(chosen, limit=_CHUNK).records}
    return runs


def _lines(done: Kept) -> Iterable[str]:
    """Say what went: one line for a class of files, one for the rows."""
    verb = "would go" if done.dry_run else "gone"
    by_kind: dict[str, list[int]] = {}
    for one in done.deleted:
        by_kind.setdefault(one.item.kind.value, []).append(one.item.size_bytes)
    for kind, sizes in sorted(by_kind.items()):
        yield f"{kind}: {len(sizes)} {verb}, {sum(sizes)} bytes"
    yield "rows " + verb + ": " + (", ".join(f"{count} {name}" for name, count in done.rows.items() if count) or "none")
    yield from (f"stays for now: {name}: {why}" for name, why in done.skipped)
    yield from (f"note: {note}" for note in done.notes)
