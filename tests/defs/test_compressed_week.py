"""A week at full cadence in minutes: what lies on the disk stays below 2 GB, and stops growing.

The instance is a real one on the disk, laid out by the project's own dagster.yaml. Real runs of ``ephemeral_sync`` and
``hybrid_sync`` against live agents and two silent nodes, one of each that brought games and one without news, are the
templates (the ephemeral ones look for a second, not for two minutes). The week is then made of copies of them with
other ids and back-dated times: the event file of a run as Dagster wrote it, its rows in the tables that all runs share,
its logs, the ticks of schedules and sensors (5 s), and the marks, events and transfers of the state database. After
each simulated hour the job's own functions prune, and the instance's own retention purges ticks.

Full cadence is 1,440 hybrid and 1,440 ephemeral runs a day, half of them with news, and six sensors. One part in
``share`` of it is run in ``make cluster``, and the measured size is multiplied; the whole of it in ``make soak``, where
nothing is scaled. What is fixed for an instance (schema, snapshots) is multiplied along, so the scaled figure errs
upwards. A cluster of four nodes is small: observations grow by a row for each node of the inventory.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
import yaml
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import TickData, TickStatus

from ringrift_sync_dagster.core.retention import DAY, HOUR
from ringrift_sync_dagster.defs.retention import prune_runs
from ringrift_sync_dagster.demo.cluster import EmbeddedCluster
from ringrift_sync_dagster.state import schema
from ringrift_sync_dagster.state.pruning import prune
from ringrift_sync_dagster.state.store import StateStore
from tests.defs.test_ephemeral import look
from tests.defs.test_strategies import CONFIG, NODE, Play, run

ROOT = Path(__file__).resolve().parents[2]
RUNS_A_DAY = 2 * 1440
SENSORS = 6
LIMIT_BYTES = 2_000_000_000
# Beside what the run worker of a run from a schedule logs: queue, launch, start and end of its process.
WORKER_EVENTS = 12


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance by the project's dagster.yaml, under another directory."""
    home = tmp_path / "dagster"
    home.mkdir()
    text = (ROOT / "dagster.yaml").read_text().replace(".ringrift/dagster", str(home))
    (home / "dagster.yaml").write_text(text)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


def used(folder: Path) -> int:
    """What the files take on the disk, as ``du`` counts."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


@dataclass
class Template:
    """A run that was really done, to be copied."""

    instance: dg.DagsterInstance
    run: dg.DagsterRun
    shard: Path
    index: Path
    logs: Path

    @classmethod
    def of(cls, instance: dg.DagsterInstance, run_id: str) -> Template:
        events: Any = instance.event_log_storage
        manager: Any = instance.compute_log_manager
        shard = Path(events.path_for_shard(run_id))
        with contextlib.closing(sqlite3.connect(shard)) as connection:
            rows = connection.execute("SELECT * FROM event_logs ORDER BY id LIMIT ?", (WORKER_EVENTS,)).fetchall()
            places = ", ".join("?" * len(rows[0]))
            connection.executemany(f"INSERT INTO event_logs VALUES ({places})", [(None, *row[1:]) for row in rows])
            connection.commit()
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        found = instance.get_run_by_id(run_id)
        assert found is not None
        logs = Path(manager.get_captured_local_path([run_id, "x"], "out")).parent
        return cls(instance, found, shard, Path(events.path_for_shard("index")), logs)

    def copy(self, index: sqlite3.Connection, at: float) -> None:
        """Let the same run have been done at another time."""
        new, old = str(uuid.uuid4()), self.run.run_id
        run_ = dg.DagsterRun(
            self.run.job_name, run_id=new, status=dg.DagsterRunStatus.SUCCESS, tags=self.run.tags,
            run_config=self.run.run_config, job_snapshot_id=self.run.job_snapshot_id,
            execution_plan_snapshot_id=self.run.execution_plan_snapshot_id,
        )  # fmt: skip
        self.instance.run_storage.add_historical_run(run_, datetime.fromtimestamp(at, UTC))
        shard = self.shard.with_name(f"{new}.db")
        shutil.copyfile(self.shard, shard)
        with contextlib.closing(sqlite3.connect(shard)) as connection:
            connection.execute("PRAGMA synchronous=OFF")
            connection.execute("UPDATE event_logs SET run_id = ?, event = REPLACE(event, ?, ?)", (new, old, new))
            connection.commit()
        for table in ("event_logs", "asset_check_executions"):
            self._copy_rows(index, table, new, at)
        if self.logs.is_dir():
            shutil.copytree(self.logs, self.logs.with_name(new) if self.logs.name == old else self.logs.parent / new)

    def _copy_rows(self, index: sqlite3.Connection, table: str, new: str, at: float) -> None:
        cursor = index.execute(f"SELECT * FROM {table} WHERE run_id = ?", (self.run.run_id,))
        names = [column[0] for column in cursor.description]
        moment = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
        for row in cursor.fetchall():
            values = dict(zip(names, row, strict=True))
            old_id = values.pop("id")
            values["run_id"] = new
            for name in ("event", "evaluation_event"):
                if values.get(name):
                    values[name] = str(values[name]).replace(self.run.run_id, new)
            for name in ("timestamp", "create_timestamp", "evaluation_event_timestamp"):
                if values.get(name):
                    values[name] = moment
            places = ", ".join("?" * len(values))
            made = index.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({places})", list(values.values()))
            if table == "event_logs":
                index.execute(
                    "INSERT INTO asset_event_tags (event_id, asset_key, key, value, event_timestamp)"
                    " SELECT ?, asset_key, key, value, ? FROM asset_event_tags WHERE event_id = ?",
                    (made.lastrowid, moment, old_id),
                )


class Ticks:
    """Ticks of schedules and sensors: one is made by Dagster, the others are its copies."""

    def __init__(self, instance: dg.DagsterInstance, kept: dict[str, Any]) -> None:
        self._instance, self._kept = instance, kept
        self._path = Path(instance.root_directory) / "storage" / "schedules" / "schedules.db"

    def make(self, kind: InstigatorType, status: TickStatus, count: int, at: float) -> None:
        """Let ``count`` ticks have been evaluated in the hour before."""
        name, skipped = kind.value.lower(), status is TickStatus.SKIPPED
        data = TickData(
            name,
            name,
            kind,
            status,
            at,
            selector_id=name,
            skip_reason="the promoted models of 12 configs are as they were" if skipped else None,
            run_ids=[] if skipped else [str(uuid.uuid4())],
            run_keys=[],
        )
        tick = self._instance.create_tick(data)
        moment = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
        with contextlib.closing(sqlite3.connect(self._path, timeout=30)) as connection:
            connection.execute("UPDATE job_ticks SET timestamp = ? WHERE id = ?", (moment, tick.tick_id))
            names = [row[1] for row in connection.execute("PRAGMA table_info(job_ticks)") if row[1] != "id"]
            columns = ", ".join(names)
            statement = (
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
                f" INSERT INTO job_ticks ({columns}) SELECT {columns} FROM job_ticks, n WHERE id = ?"
            )
            connection.execute(statement, (max(1, count - 1), tick.tick_id))
            connection.commit()

    def purge(self, now: float) -> None:
        """Do as the daemon does, by the section ``retention`` of dagster.yaml."""
        for kind in (InstigatorType.SENSOR, InstigatorType.SCHEDULE):
            name = kind.value.lower()
            for status, days in self._kept[name]["purge_after_days"].items():
                statuses = [TickStatus(status.upper())]
                self._instance.purge_ticks(name, name, before=now - days * DAY, tick_statuses=statuses)


def mark(state: StateStore, at: float, share: int) -> None:
    """Let an hour's marks, events and transfers have been written."""
    marks = [
        {"strategy": "ephemeral", "owner": "hub-1", "mark": at + second, "began_at": at + second, "holder": "run"}
        for second in range(0, 3600, 5 * share)
    ]
    events = [
        {"at": at + second, "type": "DATA_SYNC_COMPLETED", "payload": {"host": "hub-1", "games_synced": 3}}
        for second in range(0, 3600, 10 * share)
    ]
    transfers = [
        {
            "artifact": "0" * 64, "node": f"node-{second % 30}", "direction": "fetch", "state": "done", "rungs": [],
            "started_at": at, "updated_at": at, "finished_at": at + second,
        }
        for second in range(0, 3600, 30 * share)
    ]  # fmt: skip
    with state.begin() as connection:
        for table, rows in ((schema.marks, marks), (schema.events, events), (schema.transfers, transfers)):
            connection.execute(sa.insert(table), rows)


@pytest.mark.cluster
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("share", [30, pytest.param(1, marks=pytest.mark.soak)])
def test_a_week_at_full_cadence_stays_below_2_gb_and_stops_growing(
    disk: dg.DagsterInstance, owner: EmbeddedCluster, play: Play, state: StateStore, tmp_path: Path, share: int
) -> None:
    play(NODE, CONFIG, 3)
    runs = [look(disk, 1.0).run_id for _ in range(2)]
    play(NODE, "square8_2p", 3)
    runs += [run(disk, "hybrid_sync").run_id for _ in range(2)]
    templates = [Template.of(disk, run_id) for run_id in runs]
    home = Path(disk.root_directory)
    ticks = Ticks(disk, yaml.safe_load((home / "dagster.yaml").read_text())["retention"])
    per_hour, week = max(len(templates), RUNS_A_DAY // 24 // share), 7 * 24
    end = time.time()
    start, sizes, pruned = end - week * HOUR, list[int](), 0
    for hour in range(week):
        at = start + hour * HOUR
        with contextlib.closing(sqlite3.connect(templates[0].index, timeout=30)) as index:
            for number in range(per_hour):
                templates[number % len(templates)].copy(index, at + number * HOUR / per_hour)
            index.commit()
        ticks.make(InstigatorType.SENSOR, TickStatus.SKIPPED, SENSORS * 720 // share, at)
        ticks.make(InstigatorType.SCHEDULE, TickStatus.SUCCESS, 120 // share, at)
        mark(state, at, share)
        ticks.purge(at + HOUR)
        prune(state, at + HOUR)
        pruned += len(prune_runs(disk, at + HOUR))
        if hour % 24 == 23:
            sizes.append((used(home) + sum(path.stat().st_size for path in tmp_path.glob("state.db*"))) * share)

    told = ", ".join(f"{size / 1e6:.0f}" for size in sizes)
    print(
        f"\nat the end of each day, MB at full cadence: {told}; {pruned} of {week * per_hour} runs deleted; 1:{share}"
    )
    assert max(sizes) < LIMIT_BYTES
    assert sizes[-1] < 1.1 * sizes[3], "it must have stopped growing by the end of the fourth day"
    assert disk.get_runs_count() <= 49 * per_hour + len(templates) + 50
    assert f"{CONFIG}|{NODE}" in disk.get_materialized_partitions(dg.AssetKey("games"))
    files = list((home / "storage" / "history" / "runs").glob("*.db"))
    assert len(files) == disk.get_runs_count() + 1, "an event file without its run was left"
