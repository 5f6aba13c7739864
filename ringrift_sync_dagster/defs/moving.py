"""One run, whether it was started as an asset or as a job: move, record, then fail with the list.

All selected data types move in one pass: each node is asked once what it has. One failed partition does not stop the
others: all are tried, what changed is recorded, and only then the run fails.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from ringrift_sync_dagster.core.model import DataType, Partition
from ringrift_sync_dagster.defs.batching import Context
from ringrift_sync_dagster.defs.recording import Recorded, answer_backfill, record_looks, record_materializations
from ringrift_sync_dagster.errors import CollectFailedError
from ringrift_sync_dagster.node.patterns import CONFIGS
from ringrift_sync_dagster.sync.collect import Request, move
from ringrift_sync_dagster.sync.report import CollectReport, Failure, Outcome
from ringrift_sync_dagster.sync.runtime import Runtime

# What started a run, as it is written into its changes; the first tag that a run has decides.
_TRIGGERS: Final = {
    "dagster/backfill": "backfill",
    "dagster/schedule_name": "schedule",
    "dagster/sensor_name": "sensor",
}


def move_and_record(context: Context, runtime: Runtime, request: Request) -> tuple[Recorded, list[CollectReport]]:
    """Move what is asked for and record what changed, here and elsewhere; failures are in the reports.

    Args:
        context: The step.
        runtime: What to work with.
        request: What to move; a node that the inventory does not know fails its own partitions only.

    """
    nodes, known = request.nodes, runtime.inventory.nodes
    here = None if nodes is None else [node for node in nodes if node in known]
    gone = () if nodes is None else tuple(node for node in nodes if node not in known)
    moved = move(runtime, replace(request, nodes=here, trigger=trigger_of(context)))
    reports = {data_type: _with_gone(data_type, report, request.configs, gone) for data_type, report in moved.items()}
    recorded = record_materializations(context, runtime.state, max_age_seconds=runtime.settings.ephemeral_max_data_age)
    for data_type, report in reports.items():
        if report.held:
            context.log.warning("%s: %d partitions are held by backpressure and move later", data_type, report.held)
        record_looks(context, data_type, report)
        answer_backfill(context, runtime.state, data_type, report, recorded)
    return recorded, list(reports.values())


def raise_if_failed(reports: Iterable[CollectReport]) -> None:
    """Do nothing when every partition went well.

    Raises:
        CollectFailedError: Some did not; all failures are in it.

    """
    failures = [failure for report in reports for failure in report.failures]
    if failures:
        raise CollectFailedError(failures)


def _with_gone(
    data_type: DataType, report: CollectReport, configs: Sequence[str] | None, gone: Sequence[str]
) -> CollectReport:
    """Add a failure for each partition of a node that left the inventory; the others are moved all the same."""
    message = "the inventory has no host of this name any more; its history stays, but there is nobody to ask"
    partitions = [Partition(config, node) for config in configs or CONFIGS for node in gone]
    outcomes = [
        Outcome(partition, data_type, failure=Failure(partition, "ConfigError", message)) for partition in partitions
    ]
    return replace(report, outcomes=(*report.outcomes, *outcomes))


def trigger_of(context: Context) -> str:
    """Say in a word what started the run."""
    return next((word for tag, word in _TRIGGERS.items() if tag in context.run.tags), "dagster")
