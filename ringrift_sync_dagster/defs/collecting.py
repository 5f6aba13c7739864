"""One run of collection, whether it was started as an asset or as a job: collect, record, then fail with the list.

One failed partition does not stop the others: all are tried, what changed is recorded, and only then the run fails.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

from ringrift_sync_dagster.core.model import DataType, Partition
from ringrift_sync_dagster.defs.batching import Context
from ringrift_sync_dagster.defs.recording import Recorded, answer_backfill, record_looks, record_materializations
from ringrift_sync_dagster.errors import CollectFailedError
from ringrift_sync_dagster.node.patterns import CONFIGS
from ringrift_sync_dagster.sync.collect import collect
from ringrift_sync_dagster.sync.report import CollectReport, Failure, Outcome
from ringrift_sync_dagster.sync.runtime import Runtime


class Collector(Protocol):
    """A use case that brings one data type from nodes to its owner."""

    def __call__(
        self, runtime: Runtime, *, configs: Sequence[str] | None, nodes: Sequence[str] | None, trigger: str
    ) -> CollectReport:
        """Collect the partitions of these configs and nodes (None: all); failures are in the report."""
        ...


COLLECTORS: Final[Mapping[DataType, Collector]] = {DataType.GAMES: collect}
"""Which use case brings which data type; an asset exists for each."""

# What started a run, as it is written into its changes; the first tag that a run has decides.
_TRIGGERS: Final = {
    "dagster/backfill": "backfill",
    "dagster/schedule_name": "schedule",
    "dagster/sensor_name": "sensor",
}


def collect_and_record(
    context: Context,
    runtime: Runtime,
    data_types: Iterable[DataType],
    configs: Sequence[str] | None,
    nodes: Sequence[str] | None,
) -> tuple[Recorded, list[CollectReport]]:
    """Collect the data types and record what changed, here and elsewhere; failures are in the reports.

    Args:
        context: The step.
        runtime: What to work with.
        data_types: Which to collect.
        configs: Only these configs; None means all.
        nodes: Only these nodes; None means all.

    """
    trigger = trigger_of(context)
    known = None if nodes is None else [node for node in nodes if node in runtime.inventory.nodes]
    gone = () if nodes is None else tuple(node for node in nodes if node not in runtime.inventory.nodes)
    reports = {
        data_type: _with_gone(
            COLLECTORS[data_type](runtime, configs=configs, nodes=known, trigger=trigger), configs, gone
        )
        for data_type in data_types
    }
    recorded = record_materializations(context, runtime.state)
    for data_type, report in reports.items():
        record_looks(context, data_type, report)
        answer_backfill(context, data_type, report, recorded)
    return recorded, list(reports.values())


def raise_if_failed(reports: Iterable[CollectReport]) -> None:
    """Do nothing when every partition went well.

    Raises:
        CollectFailedError: Some did not; all failures are in it.

    """
    failures = [failure for report in reports for failure in report.failures]
    if failures:
        raise CollectFailedError(failures)


def _with_gone(report: CollectReport, configs: Sequence[str] | None, gone: Sequence[str]) -> CollectReport:
    """Add a failure for each partition of a node that left the inventory; the others are collected all the same."""
    message = "the inventory has no host of this name any more; its history stays, but there is nobody to ask"
    partitions = [Partition(config, node) for config in configs or CONFIGS for node in gone]
    outcomes = [Outcome(partition, failure=Failure(partition, "ConfigError", message)) for partition in partitions]
    return replace(report, outcomes=(*report.outcomes, *outcomes))


def trigger_of(context: Context) -> str:
    """Say in a word what started the run."""
    return next((word for tag, word in _TRIGGERS.items() if tag in context.run.tags), "dagster")
