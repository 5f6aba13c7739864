"""Archives by Dagster: a weekly copy of the store, and a weekly proof that one of them can be restored.

Both schedules say why they skip while ``RINGRIFT_SYNC_ARCHIVE_DIR`` names no directory. The proof is an asset check of
games, logged by its job, as all checks here are.
"""

from pathlib import Path
from typing import Final

import dagster as dg
from pydantic import Field

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.defs.resources import SyncResource, as_failure
from ringrift_sync_dagster.errors import SyncError
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.storage.archive import ArchiveDirectory
from ringrift_sync_dagster.sync.archive import archive as write_archive
from ringrift_sync_dagster.sync.restore_check import RestoreChecked
from ringrift_sync_dagster.sync.restore_check import restore_check as check_archive

CHECK: Final = "archives_can_be_restored"
NO_DIRECTORY: Final = "no archive directory is set: RINGRIFT_SYNC_ARCHIVE_DIR is empty"
_TROUBLES: Final = 200


class ArchiveConfig(dg.Config):
    """What to archive, and where."""

    directory: str = Field(default="", description="The archive directory; empty: RINGRIFT_SYNC_ARCHIVE_DIR.")
    configs: list[str] = Field(default=[], description="Config keys such as hex8_2p; empty means all twelve.")


class RestoreConfig(dg.Config):
    """Which archive to restore."""

    directory: str = Field(default="", description="The archive directory; empty: RINGRIFT_SYNC_ARCHIVE_DIR.")
    name: str = Field(default="", description="The archive; empty: one by chance.")


def restore_spec() -> dg.AssetCheckSpec:
    """Give the spec of the check that a restored archive is judged by."""
    text = "An archive, chosen by chance, was restored: its bytes are whole, and its rows are in the store."
    return dg.AssetCheckSpec(CHECK, asset=DataType.GAMES.value, description=text)


def last_verdict(sync: SyncResource) -> dg.AssetCheckEvaluation:
    """Give what the newest restored archive was found to be; for runs of assets, which restore nothing themselves."""
    try:
        directory = sync.settings().archive_dir
    except SyncError as error:
        raise as_failure(error) from error
    found = ArchiveDirectory(Path(directory).expanduser()).last_check() if directory else None
    if found is None:
        return _evaluation(passed=True, text="no archive was restored yet" if directory else NO_DIRECTORY, metadata={})
    name, at, troubles = found
    text = f"{name} was restored at {clock.utc_iso(at)}: {troubles or 'no'} things were missing or different"
    return _evaluation(passed=not troubles, text=text, metadata={"archive": dg.MetadataValue.text(name)})


@dg.op
def archive_store(context: dg.OpExecutionContext, config: ArchiveConfig, sync: SyncResource) -> None:
    """Write one archive; then fail if a file is not in it."""
    directory = _directory(config.directory, sync)
    with sync.runtime() as runtime:
        done = write_archive(runtime, directory, configs=config.configs or None)
    words = "archive %s: %d files, %d bytes copied"
    context.log.info(words, directory / done.name, len(done.files), done.copied_bytes)
    if done.failures:
        told = "; ".join(f"{path}: {error}" for path, error in done.failures[:20])
        raise dg.Failure(f"{len(done.failures)} files are not in archive {done.name}: {told}", allow_retries=False)


@dg.job(executor_def=dg.in_process_executor)
def archive() -> None:
    """Write a verified, dated copy of the whole store; what did not change takes no room."""
    archive_store()


@dg.op
def restore_archive(context: dg.OpExecutionContext, config: RestoreConfig, sync: SyncResource) -> None:
    """Restore an archive, log the verdict as a check of games, and fail if something is missing or different."""
    directory = _directory(config.directory, sync)
    try:
        with sync.runtime() as runtime:
            found = check_archive(runtime, directory, name=config.name)
    except dg.Failure as failure:
        _log(context, _evaluation(passed=False, text=str(failure.description), metadata={}))
        raise
    text = f"{found.archive}: {len(found.troubles)} things are missing or different" if found.troubles else ""
    words = text or f"{found.archive} is whole"
    _log(context, _evaluation(passed=not found.troubles, text=words, metadata=_told(found)))
    if found.troubles:
        first = "; ".join(f"{one.path}: {one.message}" for one in found.troubles[:20])
        raise dg.Failure(f"{text}: {first}", allow_retries=False)


@dg.job(executor_def=dg.in_process_executor)
def restore_check() -> None:
    """Restore an archive, chosen by chance, to scratch, and audit its rows by the store."""
    restore_archive()


@dg.schedule(
    name="archive_schedule",
    job=archive,
    cron_schedule="30 3 * * 0",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Archives the store every Sunday at 03:30, where a directory is set.",
)
def archive_schedule(_context: dg.ScheduleEvaluationContext, sync: SyncResource) -> dg.RunRequest | dg.SkipReason:
    """Ask for an archive, or say why not."""
    return _asked(sync)


@dg.schedule(
    name="restore_check_schedule",
    job=restore_check,
    cron_schedule="30 4 * * 3",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Restores one archive to scratch every Wednesday at 04:30, where a directory is set.",
)
def restore_check_schedule(_context: dg.ScheduleEvaluationContext, sync: SyncResource) -> dg.RunRequest | dg.SkipReason:
    """Ask for a check of an archive, or say why not."""
    return _asked(sync)


def _asked(sync: SyncResource) -> dg.RunRequest | dg.SkipReason:
    try:
        directory = sync.settings().archive_dir
    except SyncError as error:
        return dg.SkipReason(f"the settings are wrong: {error}")
    return dg.RunRequest(tags={"ringrift/reason": "every week"}) if directory else dg.SkipReason(NO_DIRECTORY)


def _directory(given: str, sync: SyncResource) -> Path:
    try:
        chosen = given or sync.settings().archive_dir
    except SyncError as error:
        raise as_failure(error) from error
    if not chosen:
        raise dg.Failure(NO_DIRECTORY, allow_retries=False)
    return Path(chosen).expanduser().absolute()


def _log(context: dg.OpExecutionContext, evaluation: dg.AssetCheckEvaluation) -> None:
    context.log_event(evaluation)  # type: ignore[arg-type] # as in recording.record_checks


def _told(found: RestoreChecked) -> dict[str, dg.MetadataValue]:
    numbers = ("files", "bytes", "databases", "rows", "equal", "renamed", "revised", "hashed")
    metadata: dict[str, dg.MetadataValue] = {name: dg.MetadataValue.int(getattr(found, name)) for name in numbers}
    metadata["archive"] = dg.MetadataValue.text(found.archive)
    if found.troubles:
        rows = [dg.TableRecord({"path": one.path, "problem": one.message}) for one in found.troubles[:_TROUBLES]]
        metadata["troubles"] = dg.MetadataValue.table(rows)
    return metadata


def _evaluation(*, passed: bool, text: str, metadata: dict[str, dg.MetadataValue]) -> dg.AssetCheckEvaluation:
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(DataType.GAMES.value), check_name=CHECK, passed=passed, metadata=metadata,
        severity=dg.AssetCheckSeverity.ERROR, description=text,
    )  # fmt: skip
