"""Dagster's own old runs: which go, what is left of them on a real disk, and what must never be touched."""

import shutil
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage

from ringrift_sync_dagster.core.retention import DAY, HOUR
from ringrift_sync_dagster.definitions import defs
from ringrift_sync_dagster.defs.retention import newest, old_runs, prune_runs
from ringrift_sync_dagster.defs.run_remains import delete_runs, leftovers, remove_files
from ringrift_sync_dagster.demo.cluster import EmbeddedCluster
from ringrift_sync_dagster.settings import clock
from tests.marks import first_of

GAMES = dg.AssetKey("games")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance with the project's own layout on the disk."""
    home = tmp_path / "dagster"
    home.mkdir()
    settings = {
        "telemetry": {"enabled": False},
        "storage": {"sqlite": {"base_dir": str(home / "storage")}},
        "compute_logs": {
            "module": "dagster._core.storage.local_compute_log_manager",
            "class": "LocalComputeLogManager",
            "config": {"base_dir": str(home / "compute_logs")},
        },
        "local_artifact_storage": {
            "module": "dagster._core.storage.root",
            "class": "LocalArtifactStorage",
            "config": {"base_dir": str(home)},
        },
    }
    (home / "dagster.yaml").write_text(yaml.safe_dump(settings))
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


class NoteConfig(dg.Config):
    """What a run writes."""

    partitions: str = ""
    check: str = ""


@dg.op
def note(context: dg.OpExecutionContext, config: NoteConfig) -> None:
    """Write what the config names, and a line."""
    print("a line of a run")
    for partition in config.partitions.split():
        context.log_event(dg.AssetMaterialization(GAMES, partition=partition))
    if config.check:
        evaluation = dg.AssetCheckEvaluation(asset_key=GAMES, check_name=config.check, passed=True, metadata={})
        context.log_event(evaluation)  # type: ignore[arg-type]


@dg.job(executor_def=dg.in_process_executor, tags={"ringrift/strategy": "test"})
def noting() -> None:
    """One run."""
    note()


def run(instance: dg.DagsterInstance, partitions: str = "", check: str = "") -> str:
    config = {"ops": {"note": {"config": {"partitions": partitions, "check": check}}}}
    return noting.execute_in_process(instance=instance, run_config=config).run_id


def remains(instance: dg.DagsterInstance, run_id: str) -> list[str]:
    """Every file of the instance that carries the id of a run."""
    home = Path(instance.root_directory)
    return sorted(
        path.relative_to(home).as_posix() for path in home.rglob("*") if run_id in str(path.relative_to(home))
    )


def rows(instance: dg.DagsterInstance, run_id: str) -> int:
    """Rows about a run in the tables that all runs share."""
    events = instance.event_log_storage
    assert isinstance(events, SqliteEventLogStorage)
    count = 0
    with events.index_connection() as connection:
        for table in ("event_logs", "asset_check_executions"):
            count += connection.exec_driver_sql(
                f"SELECT COUNT(*) FROM {table} WHERE run_id = ?", (run_id,)
            ).scalar_one()
    with instance.run_storage.connect() as connection:  # type: ignore[attr-defined]
        for table in ("runs", "run_tags"):
            count += connection.exec_driver_sql(
                f"SELECT COUNT(*) FROM {table} WHERE run_id = ?", (run_id,)
            ).scalar_one()
    return count


def later(seconds: float) -> float:
    return clock.wall() + seconds


def test_old_runs_go_with_all_that_is_left_of_them_and_the_newest_of_each_partition_stays(
    disk: dg.DagsterInstance,
) -> None:
    replaced = run(disk, "hex8_2p|a", "counts_reconcile")
    newest_a = run(disk, "hex8_2p|a")
    newest_b = run(disk, "hex8_2p|b square8_2p|b")
    checked = run(disk, check="counts_reconcile")
    idle = run(disk)
    assert remains(disk, idle)

    assert old_runs(disk, later(47 * HOUR)) == []
    gone = prune_runs(disk, later(49 * HOUR))
    again = prune_runs(disk, later(49 * HOUR))

    assert (set(gone), again) == ({replaced, idle}, [])
    assert newest(disk) == {newest_a, newest_b, checked}
    for run_id in (replaced, idle):
        assert (remains(disk, run_id), rows(disk, run_id)) == ([], 0)
    for run_id in (newest_a, newest_b, checked):
        assert disk.has_run(run_id)
        assert remains(disk, run_id)
    assert disk.get_materialized_partitions(GAMES) == {"hex8_2p|a", "hex8_2p|b", "square8_2p|b"}


@pytest.mark.cluster
def test_a_run_that_has_not_ended_stays(disk: dg.DagsterInstance) -> None:
    run_id = run(disk)
    started = dg.DagsterRun("noting", run_id=str(uuid.uuid4()), status=dg.DagsterRunStatus.STARTED)
    disk.run_storage.add_historical_run(started, datetime.fromtimestamp(clock.wall() - 9 * DAY, UTC))

    assert prune_runs(disk, later(3 * DAY)) == [run_id]
    assert disk.has_run(started.run_id)


def test_what_a_killed_run_of_retention_left_is_removed_the_next_time(disk: dg.DagsterInstance) -> None:
    lost, kept = run(disk), run(disk)
    disk.delete_run(lost)
    assert remains(disk, lost)
    assert leftovers(disk) == [lost]

    assert prune_runs(disk, clock.wall()) == []

    assert remains(disk, lost) == []
    assert remains(disk, kept)


@pytest.mark.parametrize("name", first_of("../runs", "index", "", "..", "a/b", "0" * 36, "*"))
def test_nothing_but_the_files_of_a_run_can_be_named(disk: dg.DagsterInstance, name: str) -> None:
    run_id = run(disk)
    before = sorted(path for path in Path(disk.root_directory).rglob("*") if path.is_file())

    with pytest.raises(ValueError, match="not the id of a run"):
        delete_runs(disk, [run_id, name])
    with pytest.raises(ValueError, match="not the id of a run"):
        remove_files(disk, name)

    assert sorted(path for path in Path(disk.root_directory).rglob("*") if path.is_file()) == before


@pytest.mark.cluster
def test_files_of_a_run_that_is_still_known_are_refused(disk: dg.DagsterInstance) -> None:
    run_id = run(disk)

    with pytest.raises(ValueError, match="still known"):
        remove_files(disk, run_id)

    assert remains(disk, run_id)


@pytest.mark.cluster
def test_a_link_under_the_name_of_a_run_is_not_followed(disk: dg.DagsterInstance, tmp_path: Path) -> None:
    run_id = run(disk)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    storage = Path(disk.storage_directory())
    storage.mkdir(exist_ok=True)
    shutil.rmtree(storage / run_id, ignore_errors=True)
    (storage / run_id).symlink_to(outside)

    delete_runs(disk, [run_id])

    assert (outside / "precious").exists()


def test_the_job_runs_deletes_and_says_what(instance: dg.DagsterInstance, owner: EmbeddedCluster) -> None:
    job = defs.resolve_job_def("retention")
    config = {"ops": {"delete_old": {"config": {"dry_run": True}}}}

    results = [job.execute_in_process(instance=instance, run_config=one) for one in (config, None)]

    assert [result.success for result in results] == [True, True]
    text = "\n".join(entry.user_message for entry in instance.all_logs(results[1].run_id))
    assert "0 old runs are gone" in text
    assert "rows gone: none" in text


def test_ticks_go_by_the_instance_s_own_settings() -> None:
    kept = yaml.safe_load((ROOT / "dagster.yaml").read_text())["retention"]

    assert {name: days["purge_after_days"]["skipped"] for name, days in kept.items()} == {"schedule": 1, "sensor": 1}
    assert all(0 < days <= 30 for part in kept.values() for days in part["purge_after_days"].values())
