"""Archives by Dagster: jobs, the check that they log, and schedules that say why they skip."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.schedule_definition import ScheduleExecutionData

from ringrift_sync_dagster.definitions import defs
from ringrift_sync_dagster.defs.archives import CHECK, archive_schedule, restore_check_schedule
from ringrift_sync_dagster.defs.reports import verify_schedule
from ringrift_sync_dagster.demo.cluster import EmbeddedCluster
from ringrift_sync_dagster.storage.archive import ArchiveDirectory
from tests.defs.test_moving import failure_of
from tests.defs.test_strategies import CONFIG, NODE, Play, run
from tests.marks import first_of

KEY = dg.AssetCheckKey(dg.AssetKey("games"), CHECK)


def verdict(instance: dg.DagsterInstance) -> tuple[bool, str]:
    record = instance.event_log_storage.get_latest_asset_check_execution_by_key([KEY])[KEY]
    assert record.evaluation is not None
    return record.evaluation.passed, record.evaluation.description or ""


def test_an_archive_is_written_and_restored_and_the_check_of_games_says_so(
    instance: dg.DagsterInstance,
    owner: EmbeddedCluster,
    play: Play,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = tmp_path / "archives"
    monkeypatch.setenv("RINGRIFT_SYNC_ARCHIVE_DIR", str(place))
    play(NODE, CONFIG, 3)
    run(instance, "collect_games_job")  # other nodes are silent

    assert run(instance, "archive").success
    assert run(instance, "restore_check").success

    (name,) = ArchiveDirectory(place).names()
    assert verdict(instance) == (True, f"{name} is whole")
    for path in (place / "objects").rglob("*"):
        if path.is_file():
            path.unlink()
    failed = run(instance, "restore_check")
    assert not failed.success
    assert "not in the archive any more" in failure_of(failed)
    assert not verdict(instance)[0]


@pytest.mark.parametrize("job", first_of("archive", "restore_check"))
def test_without_a_directory_jobs_fail_with_the_variable_s_name(
    instance: dg.DagsterInstance, owner: EmbeddedCluster, job: str
) -> None:
    assert "RINGRIFT_SYNC_ARCHIVE_DIR" in failure_of(run(instance, job))


@pytest.mark.parametrize("schedule", [archive_schedule, restore_check_schedule], ids=lambda found: found.name)
def test_schedules_skip_with_the_reason_until_a_directory_is_set(
    owner: EmbeddedCluster, schedule: dg.ScheduleDefinition, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tick() -> ScheduleExecutionData:
        with dg.build_schedule_context(resources=defs.resources) as context:
            return schedule.evaluate_tick(context)

    assert "RINGRIFT_SYNC_ARCHIVE_DIR is empty" in (tick().skip_message or "")
    monkeypatch.setenv("RINGRIFT_SYNC_ARCHIVE_DIR", "/somewhere")
    assert len(tick().run_requests or ()) == 1


def test_whole_files_are_looked_at_every_day() -> None:
    found = verify_schedule.evaluate_tick(dg.build_schedule_context())

    (request,) = found.run_requests or ()
    assert request.run_config == {"ops": {"verify_data": {"config": {"deep": True}}}}
    assert (verify_schedule.job_name, verify_schedule.cron_schedule) == ("verify", "15 2 * * *")
