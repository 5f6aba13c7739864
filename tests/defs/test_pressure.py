"""What Dagster shows of backpressure: the sensor's ticks, and a run that holds something."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ringrift_sync_dagster.core.events import DataEventType
from ringrift_sync_dagster.definitions import defs
from ringrift_sync_dagster.defs.pressure import backpressure_sensor
from ringrift_sync_dagster.demo.cluster import EmbeddedCluster
from ringrift_sync_dagster.demo.ratings import make_matches, write_matches
from ringrift_sync_dagster.settings.settings import load_settings
from ringrift_sync_dagster.state.backpressure import is_active
from ringrift_sync_dagster.state.events import publish
from ringrift_sync_dagster.state.store import StateStore
from tests.defs.test_strategies import messages, run
from tests.sync.test_pressure import HOST, OWNER, overload


def tick(instance: dg.DagsterInstance, cursor: str | None = None) -> tuple[str, str | None, list[dict[str, Any]]]:
    """Evaluate once; give the reason, the cursor, and the metadata of what was observed."""
    context = dg.build_sensor_context(instance=instance, cursor=cursor, definitions=defs, resources=defs.resources)
    with context:
        data = backpressure_sensor.evaluate_tick(context)
    seen = [{name: value.value for name, value in event.metadata.items()} for event in data.asset_events]
    assert all(event.asset_key == dg.AssetKey("games") for event in data.asset_events)
    return data.skip_message or "", data.cursor, seen


def test_the_sensor_looks_every_ten_seconds() -> None:
    assert backpressure_sensor.minimum_interval_seconds == 9
    assert backpressure_sensor.default_status is dg.DefaultSensorStatus.RUNNING


def test_each_tick_says_the_pressure_and_a_transition_is_observed_once(
    instance: dg.DagsterInstance, owner: EmbeddedCluster, state: StateStore
) -> None:
    settings = load_settings()
    settings.root.mkdir(parents=True)
    reason, cursor, seen = tick(instance)
    assert reason.startswith("not active: pressure 0.")
    assert seen == []

    overload(settings)
    reason, cursor, (observed,) = tick(instance, cursor)
    assert reason.startswith("active by measured, at most ")
    assert "queue 60" in reason
    assert (observed["backpressure"], observed["source"], observed["signal/queue"]) == ("activated", "measured", 60.0)
    reason, cursor, seen = tick(instance, cursor)
    assert seen == []

    publish(state, DataEventType.BACKPRESSURE_RELEASED.value, {"source": "manual"})
    reason, cursor, (observed,) = tick(instance, cursor)
    assert "it may not begin for 300 s" in reason
    assert (observed["backpressure"], observed["source"]) == ("released", "manual")
    assert tick(instance, cursor)[2] == []


def test_the_sensor_itself_releases_when_the_load_is_gone(
    instance: dg.DagsterInstance, owner: EmbeddedCluster, state: StateStore
) -> None:
    settings = load_settings()
    overload(settings)
    cursor = tick(instance)[1]
    assert is_active(state, OWNER)
    for file in (settings.root / "data" / "incoming").glob("*/*"):
        file.unlink()
    reason, _, (observed,) = tick(instance, cursor)
    assert reason.startswith("not active: ")
    assert (observed["backpressure"], observed["source"]) == ("released", "measured")
    assert not is_active(state, OWNER)


def test_what_cannot_be_read_changes_nothing_and_is_said(
    instance: dg.DagsterInstance, owner: EmbeddedCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no database")
    broken = {
        "RINGRIFT_SYNC_HOSTS": str(tmp_path / "nowhere"),
        "RINGRIFT_SYNC_STATE_URL": f"sqlite:///{tmp_path}/file",
        "RINGRIFT_SYNC_ROOT": str(tmp_path / "nowhere"),
    }
    for name, value in broken.items():
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            assert tick(instance)[0].startswith("the load cannot be looked at, so nothing changes: "), name


def test_a_run_that_holds_something_says_so_and_the_next_one_moves_it(
    instance: dg.DagsterInstance, owner: EmbeddedCluster, state: StateStore
) -> None:
    write_matches(owner.node_root(HOST) / "data/unified_elo.db", make_matches("field", "hex8_2p", 5))
    overload(load_settings())
    held = run(instance, "hybrid_sync")
    assert held.success
    (line,) = [line for line in messages(instance, held).splitlines() if line.startswith("elo: ")]
    assert re.fullmatch(r"elo: \d+ partitions are held by backpressure and move later", line)
    (record,) = instance.fetch_observations(dg.AssetKey("elo"), limit=1).records
    assert record.asset_observation is not None
    metadata = record.asset_observation.metadata
    assert f"elo: {metadata['held'].value} partitions" in line

    publish(state, DataEventType.BACKPRESSURE_RELEASED.value, {"source": "manual"})
    assert run(instance, "hybrid_sync").success
    assert f"hex8_2p|{HOST}" in instance.get_materialized_partitions(dg.AssetKey("elo"))
