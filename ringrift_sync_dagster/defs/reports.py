"""The tables of ``ringrift-sync report`` in the UI: an observation of each asset, with tables and numbers to plot.

Dagster draws a line of each number over the observations of an asset: games per config, bytes by transport, lag. The
tables are those of ``state.frames``; pandas is loaded by this job alone.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import dagster as dg

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.defs.resources import SyncResource
from ringrift_sync_dagster.node.patterns import CONFIGS
from ringrift_sync_dagster.sync.runtime import Runtime
from ringrift_sync_dagster.sync.verify import verify as look_again

if TYPE_CHECKING:
    import pandas as pd

TABLE_ROWS: Final = 200
_Metadata = dict[str, Any]


@dg.op
def report(context: dg.OpExecutionContext, sync: SyncResource) -> None:
    """Write an observation of each asset with the tables and numbers of now."""
    with sync.runtime() as runtime:
        for data_type, metadata in report_metadata(runtime):
            context.log_event(dg.AssetObservation(data_type.value, metadata=metadata))


@dg.job(executor_def=dg.in_process_executor)
def report_job() -> None:
    """Show throughput, games by day, lag and ratings as tables and plots of the assets."""
    report()


class VerifyConfig(dg.Config):
    """How closely to look."""

    deep: bool = False
    repair: bool = True


@dg.op
def verify_data(context: dg.OpExecutionContext, config: VerifyConfig, sync: SyncResource) -> None:
    """Look again at what was verified once; fail when something could not be repaired."""
    with sync.runtime() as runtime:
        found = look_again(runtime, deep=config.deep, repair=config.repair)
    context.log.info("%d files and databases looked at, %d findings", found.looked_at, len(found.findings))
    for one in found.findings:
        context.log.warning("%s %s: %s: %s", one.node, one.path, one.condition, one.detail)
    if found.unrepaired:
        words = [f"{one.node} {one.path}: {one.condition}: {one.detail}" for one in found.unrepaired]
        raise dg.Failure(f"{len(words)} things could not be repaired: {'; '.join(words[:20])}", allow_retries=False)


@dg.job(executor_def=dg.in_process_executor)
def verify() -> None:
    """Look again at what was verified once, and repair what was lost or rotted; ``deep`` hashes everything anew."""
    verify_data()


@dg.schedule(
    name="verify_schedule",
    job=verify,
    cron_schedule="15 2 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every day at 02:15 the owner's files are hashed again, those of nodes and all databases looked at.",
)
def verify_schedule(_context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """Ask for a look at whole files."""
    return dg.RunRequest(
        tags={"ringrift/reason": "every day"}, run_config={"ops": {"verify_data": {"config": {"deep": True}}}}
    )


def report_metadata(runtime: Runtime) -> Iterator[tuple[DataType, _Metadata]]:
    """Give each data type's tables and numbers.

    Raises:
        StateError: The state database cannot be read.

    """
    from ringrift_sync_dagster.state import frames  # noqa: PLC0415 - pandas takes a second; other runs need none

    moved, done = frames.moves(runtime.state), frames.transfers(runtime.state)
    for data_type in DataType:
        mine = moved[moved["data_type"] == data_type.value]
        metadata: _Metadata = {f"changes/{way}": int((mine["direction"] == way).sum()) for way in ("up", "down")}
        for transport, part in mine[mine["size_bytes"] > 0].groupby("transport"):
            metadata[f"bytes/{transport}"] = int(part["size_bytes"].sum())
        if data_type is DataType.GAMES:
            metadata |= _games(runtime)
            metadata["games_by_day"] = _table(frames.games_by_day(runtime.state).tail(TABLE_ROWS))
            metadata["lag_seconds"] = _table(frames.lag(runtime.state))
            metadata["throughput"] = _table(frames.throughput(runtime.state).tail(TABLE_ROWS))
            metadata["transfers_failed"] = int((done["state"] == "failed").sum())
        if data_type is DataType.ELO:
            metadata["ratings"] = _table(frames.ratings(runtime.layout.elo).head(TABLE_ROWS))
        yield data_type, metadata


def _games(runtime: Runtime) -> _Metadata:
    found = {config: runtime.intake.store.games(config) for config in CONFIGS}
    return {f"games/{config}": count for config, count in found.items() if count}


def _table(frame: "pd.DataFrame") -> dg.MetadataValue:
    """Give a frame as a table of Dagster; times as text, what is not known as null."""
    records = [
        dg.TableRecord({str(name): _cell(value) for name, value in row.items()}) for row in frame.to_dict("records")
    ]
    columns = [dg.TableColumn(str(name)) for name in frame.columns]
    return dg.MetadataValue.table(records, schema=dg.TableSchema(columns))


def _cell(value: Any) -> str | int | float | None:  # noqa: ANN401 - a cell of pandas
    if isinstance(value, int | str):
        return value
    if isinstance(value, float):
        return value if value == value else None  # noqa: PLR0124 - not a number
    return str(value)
