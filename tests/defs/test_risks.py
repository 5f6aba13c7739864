"""Data at risk in Dagster: the check, the rescue, and the report of what went with a node."""

from pathlib import Path

import dagster as dg
import pytest

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.definitions import defs
from ringrift_sync_dagster.defs.checks import evaluations
from ringrift_sync_dagster.defs.ephemeral import LookConfig, ephemeral_sync
from ringrift_sync_dagster.defs.orphans import orphan_games_sensor
from ringrift_sync_dagster.demo.cluster import EmbeddedCluster
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.node_reports import NodeReport, take_report
from ringrift_sync_dagster.state.risks import Risk, put
from ringrift_sync_dagster.state.store import StateStore

HOSTS = """
hosts:
  hub-1: {{ssh_host: 127.0.0.1, role: coordinator, ringrift_path: /srv}}
  vast-1: {{ssh_host: 127.0.0.2, ringrift_path: /srv, is_ephemeral: true, status: {status}}}
"""


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "hosts.yaml"
    file.write_text(HOSTS.format(status="ready"))
    for name, value in (("HOSTS", file), ("ROOT", tmp_path / "root"), ("STATE_URL", f"sqlite:///{tmp_path}/state.db")):
        monkeypatch.setenv(f"RINGRIFT_SYNC_{name}", str(value))
    return file


def say(state: StateStore, games: int, age: float, *, ago: float = 0.0, node: str = "vast-1") -> None:
    now = clock.wall()
    ids = [f"game-{number}" for number in range(games)]
    put(state, Risk(node, games, 100 * games, ids, now - age if games else None, at=now - ago))


def tick(instance: dg.DagsterInstance) -> dg.SensorResult:
    context = dg.build_sensor_context(instance=instance, definitions=defs, resources=defs.resources)
    with context:
        result = orphan_games_sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


def verdict(state: StateStore, most_seconds: float) -> dg.AssetCheckEvaluation:
    found = evaluations(state, [DataType.GAMES], most_seconds)
    return next(one for one in found if one.check_name == "oldest_unsaved_game")


def test_the_check_fails_when_a_game_is_on_one_node_alone_for_too_long(state: StateStore) -> None:
    assert verdict(state, 300.0).passed
    say(state, 2, 299.0)
    assert verdict(state, 300.0).passed
    say(state, 2, 400.0)
    failed = verdict(state, 300.0)
    assert (failed.passed, failed.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "1 nodes, such as vast-1: 2 games, the oldest for 400 s" in str(failed.description)
    assert failed.metadata["games_at_risk"].value == 2
    say(state, 0, 0.0)
    assert verdict(state, 300.0).passed


def say_unread(state: StateStore, age: float | None) -> None:
    say(state, 0, 0.0)
    since = None if age is None else clock.wall() - age
    report = NodeReport(unread=2, unread_why="data/games/a.db: database is locked", unread_since=since)
    take_report(state, "vast-1", report, clock.wall())


def test_the_check_fails_when_a_database_was_not_read_for_too_long(state: StateStore) -> None:
    say_unread(state, 299.0)
    assert verdict(state, 300.0).passed
    say_unread(state, 400.0)
    failed = verdict(state, 300.0)
    assert not failed.passed
    assert "vast-1: data/games/a.db: database is locked" in str(failed.description)
    assert failed.metadata["unread_databases"].value == 2
    say_unread(state, None)  # a damaged file stays damaged: told, and no rescue could bring anything
    assert verdict(state, 300.0).passed


@pytest.mark.usefixtures("hosts")
def test_the_sensor_asks_for_a_rescue_of_what_a_node_cannot_read(
    instance: dg.DagsterInstance, state: StateStore
) -> None:
    say_unread(state, 299.0)
    assert not tick(instance).run_requests
    say_unread(state, 400.0)
    (request,) = tick(instance).run_requests or ()
    assert request.tags["ringrift/node"] == "vast-1"


@pytest.mark.usefixtures("hosts")
def test_the_sensor_asks_for_a_rescue_of_what_a_node_says_and_no_scan_knows(
    instance: dg.DagsterInstance, state: StateStore
) -> None:
    say(state, 2, 299.0)
    assert not tick(instance).run_requests
    say(state, 2, 400.0)
    (request,) = tick(instance).run_requests or ()
    assert request.tags["ringrift/node"] == "vast-1"


def test_the_sensor_reports_what_went_with_a_node_once(
    instance: dg.DagsterInstance, state: StateStore, hosts: Path
) -> None:
    hosts.write_text(HOSTS.format(status="terminated"))
    say(state, 2, 400.0, ago=120.0)
    first, second = tick(instance), tick(instance)

    (observation,) = first.asset_events
    assert observation.metadata["games_lost"].value == 2
    assert "vast-1 is gone with 2 games: its status is terminated" in str(first.skip_reason)
    assert not second.asset_events
    assert verdict(state, 300.0).passed


@pytest.mark.cluster
def test_the_run_of_a_minute_shows_what_is_at_risk(
    instance: dg.DagsterInstance, state: StateStore, owner: EmbeddedCluster
) -> None:
    say(state, 3, 10.0, node=owner.nodes[0])
    config = dg.RunConfig(ops={"look_at_ephemeral_nodes": LookConfig(seconds=0.1)})
    assert ephemeral_sync.execute_in_process(instance=instance, resources=defs.resources, run_config=config).success

    (record,) = instance.fetch_observations(dg.AssetKey("games"), limit=1).records
    assert record.asset_observation is not None
    assert record.asset_observation.metadata["games_at_risk"].value == 3
    evaluated = instance.get_records_for_run(record.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
    told = [one.event_log_entry.dagster_event for one in evaluated]
    names = [event.asset_check_evaluation_data.check_name for event in told if event is not None]
    assert names.count("oldest_unsaved_game") == 1  # once in a run, however many looks it takes
