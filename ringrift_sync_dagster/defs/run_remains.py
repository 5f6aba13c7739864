"""Delete a run of Dagster with all that ``delete_run`` leaves of it: event file, logs, tags, evaluations of checks.

On SQLite each run has a database file of its own, and ``delete_run`` empties it and leaves it there; rows of tags and
of check evaluations stay in shared tables with either storage (measured with 1.13). Everything that reaches into
Dagster's own storage is in this file. It touches only what carries the id of a run that is deleted, in the folders that
the instance itself names.
"""

import contextlib
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final
from uuid import UUID

import dagster as dg
import sqlalchemy as sa
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.runs import SqlRunStorage
from dagster._core.storage.runs.schema import RunTagsTable

_SIDES: Final = ("", "-wal", "-shm", "-journal")
_CHUNK: Final = 500


def delete_runs(instance: dg.DagsterInstance, run_ids: Sequence[str]) -> None:
    """Delete runs that have ended, and what is left of them. Idempotent: what a killed process left goes next time.

    Raises:
        ValueError: An id is not one of a run; nothing was deleted.

    """
    checked = [checked_run_id(run_id) for run_id in run_ids]
    for run_id in checked:
        instance.delete_run(run_id)
        remove_files(instance, run_id)
    for start in range(0, len(checked), _CHUNK):
        _delete_rows(instance, checked[start : start + _CHUNK])


def remove_files(instance: dg.DagsterInstance, run_id: str) -> None:
    """Remove the event file, the logs and the stored outputs of a run that the instance does not know any more.

    Raises:
        ValueError: The id is not one of a run, or the instance still knows the run; nothing was removed.

    """
    checked_run_id(run_id)
    if instance.has_run(run_id):
        raise ValueError(f"run {run_id} is still known to Dagster; delete it first")
    events = instance.event_log_storage
    if isinstance(events, SqliteEventLogStorage):
        path = Path(events.path_for_shard(run_id))
        for side in _SIDES:
            _unlink(path.with_name(path.name + side), run_id)
    logs = instance.compute_log_manager
    if isinstance(logs, LocalComputeLogManager):
        with contextlib.suppress(FileNotFoundError):
            logs.delete_logs(prefix=[run_id])
    outputs = Path(instance.storage_directory()) / run_id
    if outputs.is_dir() and not outputs.is_symlink():
        shutil.rmtree(outputs)


def leftovers(instance: dg.DagsterInstance) -> list[str]:
    """Give the ids of runs of which only files are left: whoever deleted them was killed before it was done."""
    named: set[str] = set()
    events, logs = instance.event_log_storage, instance.compute_log_manager
    if isinstance(events, SqliteEventLogStorage):
        named.update(events.get_all_run_ids())
    if isinstance(logs, LocalComputeLogManager):
        folder = Path(logs.get_captured_local_path(["any"], "out")).parent
        named.update(entry.name for entry in (folder.iterdir() if folder.is_dir() else ()) if entry.is_dir())
    runs = {run_id for run_id in named if _is_run_id(run_id)}
    return sorted(runs - set(instance.get_run_ids())) if runs else []


def checked_run_id(run_id: str) -> str:
    """Give the id back where it is one of a run, and so a harmless file name.

    Raises:
        ValueError: It is not.

    """
    if not _is_run_id(run_id):
        raise ValueError(f"{run_id!r} is not the id of a run")
    return run_id


def _is_run_id(run_id: str) -> bool:
    try:
        return str(UUID(run_id)) == run_id
    except ValueError:
        return False


def _unlink(path: Path, run_id: str) -> None:
    if not path.name.startswith(f"{run_id}.db"):
        raise ValueError(f"{path} does not belong to run {run_id}")
    path.unlink(missing_ok=True)


def _delete_rows(instance: dg.DagsterInstance, run_ids: Iterable[str]) -> None:
    """Delete what shared tables still hold of deleted runs."""
    ids = list(run_ids)
    events, runs = instance.event_log_storage, instance.run_storage
    if isinstance(events, SqlEventLogStorage):
        with events.index_connection() as connection:
            connection.execute(sa.delete(AssetCheckExecutionsTable).where(AssetCheckExecutionsTable.c.run_id.in_(ids)))
    if isinstance(runs, SqlRunStorage):
        with runs.connect() as connection:
            connection.execute(sa.delete(RunTagsTable).where(RunTagsTable.c.run_id.in_(ids)))
