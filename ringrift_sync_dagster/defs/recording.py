"""From the state database into Dagster: every change becomes part of one materialization, at least once.

Protocol, under the lease ``record``: read what is pending; write one event for each (data type, partition), with summed
numbers and the ids of its changes; write the checks; only then mark the changes as recorded. A process that dies in
between leaves them pending, and the next run writes the event again with the same ids. Whoever runs next also records
what the command line and the agents did meanwhile, whatever partition it is. What did not change gets no event of its
own, but one row of an observation. Source: architecture.md, 7 "Record".
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import dagster as dg

from ringrift_sync_dagster.core.model import DataType, Partition
from ringrift_sync_dagster.defs.batching import Context, log_materializations
from ringrift_sync_dagster.defs.checks import TABLE_ROWS, evaluations
from ringrift_sync_dagster.defs.events import answer_event, changed_event
from ringrift_sync_dagster.defs.partitions import add_node_partitions
from ringrift_sync_dagster.defs.risks import MAX_AGE_SECONDS, risks_of_nodes
from ringrift_sync_dagster.node import faults
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.changes import mark_recorded, pending_groups
from ringrift_sync_dagster.state.leases import hold
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.sync.report import CollectReport, Outcome

WORDS_SHOWN: Final = 300
"""Letters of a failure in an observation; the run's log has all of them."""
LEASE: Final = "record"
LEASE_WAIT_SECONDS: Final = 120.0
"""A cluster of 3600 changed partitions takes 30 to 45 s to record one by one (measured)."""

BATCH_CHANGES: Final = 2000
BACKFILL_TAG: Final = "dagster/backfill"


@dataclass(frozen=True, slots=True)
class Recorded:
    """What one drain wrote into Dagster.

    Args:
        partitions: The partitions that got a materialization, by data type.
        changes: How many changes they were made of.

    """

    partitions: Mapping[DataType, frozenset[Partition]]
    changes: int


def record_materializations(
    context: Context,
    state: StateStore,
    wait_seconds: float = LEASE_WAIT_SECONDS,
    max_age_seconds: float = MAX_AGE_SECONDS,
) -> Recorded:
    """Write all pending changes into Dagster, whoever made them, and their checks; at least once.

    Args:
        context: The step.
        state: The shared facts.
        wait_seconds: How long to wait for another process that records.
        max_age_seconds: The setting ``ephemeral_max_data_age``, for the check of the oldest unsaved game.

    Raises:
        LeaseHeldError: Another process records all that time; the changes stay pending for the next run.
        LeaseLostError: This process was stopped for too long; what it wrote will be written again by the next run.
        StateError: The state database cannot be read or written.

    """
    partitions: dict[DataType, set[Partition]] = defaultdict(set)
    count = 0
    with hold(state, LEASE, wait_seconds=wait_seconds) as lease:
        while groups := pending_groups(state, BATCH_CHANGES):
            add_node_partitions(context.instance, {group.node for group in groups})
            risks = risks_of_nodes(state, {group.node for group in groups}, clock.wall())
            log_materializations(context, [changed_event(group, risks.get(group.node)) for group in groups])
            record_checks(context, state, {DataType(group.data_type) for group in groups}, max_age_seconds)
            faults.reached("record.before_mark")
            lease.check()
            change_ids = [change_id for group in groups for change_id in group.change_ids]
            mark_recorded(state, change_ids, context.run.run_id)
            count += len(change_ids)
            for group in groups:
                partitions[DataType(group.data_type)].add(Partition(group.config, group.node))
    return Recorded({data_type: frozenset(found) for data_type, found in partitions.items()}, count)


def record_checks(
    context: Context, state: StateStore, data_types: Iterable[DataType], max_age_seconds: float = MAX_AGE_SECONDS
) -> None:
    """Write the verdict of each check of the data types; assets and loops alike call it."""
    for evaluation in evaluations(state, sorted(data_types), max_age_seconds):
        # Dagster's own annotation forgets this kind of event; its body takes it (measured with 1.13).
        context.log_event(evaluation)  # type: ignore[arg-type]


def record_looks(context: Context, data_type: DataType, report: CollectReport) -> None:
    """Write one observation without a partition: what was looked at and did not change, and what was noticed."""
    unchanged = [outcome for outcome in report.outcomes if not outcome.changed or outcome.failure is not None]
    if not unchanged and not report.notes:
        return
    rows = _by_node(unchanged)
    notes = [
        dg.TableRecord({"node": n.node, "path": n.path, "code": n.code, "message": n.message}) for n in report.notes
    ]
    metadata: dict[str, dg.MetadataValue] = {
        "unchanged": dg.MetadataValue.int(sum(one.failure is None and not one.held for one in unchanged)),
        "failed": dg.MetadataValue.int(len(report.failures)),
        "held": dg.MetadataValue.int(report.held),
    }
    if rows:
        metadata["nodes"] = dg.MetadataValue.table(rows[:TABLE_ROWS])
    if notes:
        metadata["notes"] = dg.MetadataValue.table(notes[:TABLE_ROWS])
    context.log_event(dg.AssetObservation(asset_key=data_type.value, metadata=metadata))


def _by_node(outcomes: Iterable[Outcome]) -> list[dg.TableRecord]:
    """One row for what several partitions of a node have in common, failures first.

    Dagster keeps a table whole, twice, in every run of every minute: a row for each partition was most of its disk.
    """
    told: dict[tuple[str, str], int] = defaultdict(int)
    for outcome in outcomes:
        told[outcome.partition.node, _words(outcome)[:WORDS_SHOWN]] += 1
    ordered = sorted(told.items(), key=lambda item: (item[0][1] == "unchanged", item[0]))
    return [dg.TableRecord({"node": node, "partitions": count, "outcome": words}) for (node, words), count in ordered]


def answer_backfill(
    context: Context, state: StateStore, data_type: DataType, report: CollectReport, recorded: Recorded
) -> None:
    """In a backfill, also mark the partitions that were asked for, looked at and found unchanged.

    The backfill daemon calls a backfill failed when a partition that it asked for has no materialization, even though
    its run succeeded (measured). A partition that failed is not marked, so that the backfill names exactly those.
    """
    if BACKFILL_TAG not in context.run.tags:
        return
    written = recorded.partitions.get(data_type, frozenset())
    complete = [
        outcome
        for outcome in report.outcomes
        if outcome.failure is None and not outcome.held and outcome.partition not in written
    ]
    risks = risks_of_nodes(state, {outcome.partition.node for outcome in complete}, clock.wall())
    log_materializations(context, [_answer(data_type, one, risks.get(one.partition.node)) for one in complete])


def _answer(
    data_type: DataType, outcome: Outcome, risk: Mapping[str, dg.MetadataValue] | None
) -> dg.AssetMaterialization:
    """Answer for one partition; what changed but is not in this run was recorded by another one a moment ago."""
    words = "recorded by another run" if outcome.changed else "unchanged"
    return answer_event(data_type, outcome.partition, words, outcome.canonical_games, risk)


def _words(outcome: Outcome) -> str:
    if outcome.failure is not None:
        return f"failed: {outcome.failure.error}: {outcome.failure.message}"
    return "held by backpressure" if outcome.held else "unchanged"
