"""Which parts are active, from what they really leave: leases, marks, an agent's word, processes."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

import ringrift_sync_dagster
from ringrift_sync_dagster.core.daemons import DaemonState, DaemonType
from ringrift_sync_dagster.demo.cluster import EmbeddedCluster
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.inventory import Inventory, load_inventory
from ringrift_sync_dagster.settings.settings import Settings, load_settings
from ringrift_sync_dagster.state import marks
from ringrift_sync_dagster.state.events import publish
from ringrift_sync_dagster.state.leases import hold
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.sync.daemons import Daemon, daemons, event_router

HOSTS = """
hosts:
  hub-1: {{ssh_host: {address}, ringrift_path: /srv/x, role: coordinator, agent_port: {port}}}
"""
ACTIVE, STOPPED = DaemonState.ACTIVE, DaemonState.STOPPED
Cluster = tuple[Settings, Inventory, StateStore]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    (tmp_path / "hosts.yaml").write_text(HOSTS.format(address="127.77.0.1", port=1))
    settings = load_settings(home=tmp_path, hosts=tmp_path / "hosts.yaml", root=tmp_path / "root")
    with StateStore.open(settings.state_url) as state:
        yield settings, load_inventory(settings.hosts), state


def found(cluster: Cluster) -> dict[DaemonType, Daemon]:
    rows = daemons(*cluster)
    assert [row.type for row in rows] == list(DaemonType)
    return {row.type: row for row in rows}


def mark(state: StateStore, strategy: str, ago: float) -> None:
    began = clock.wall() - ago
    marks.begin(state, marks.Mark(strategy, "hub-1", began, began, "daemon 4711"))


def test_the_guides_name_is_importable_from_the_package() -> None:
    assert ringrift_sync_dagster.DaemonType is DaemonType


def test_nothing_runs_but_the_bus_which_needs_no_process(cluster: Cluster) -> None:
    rows = found(cluster)
    assert rows[DaemonType.EVENT_ROUTER].state is ACTIVE
    for kind in (DaemonType.AUTO_SYNC, DaemonType.EPHEMERAL_SYNC, DaemonType.AGENT):
        assert rows[kind].state is STOPPED
    assert rows[DaemonType.AUTO_SYNC].evidence == "nobody holds strategy:hybrid:hub-1, and it never began"


def test_a_strategy_is_active_while_its_lease_is_held_and_for_a_while_after_it_began(cluster: Cluster) -> None:
    state = cluster[2]
    with hold(state, "strategy:hybrid:hub-1"):
        assert found(cluster)[DaemonType.AUTO_SYNC].state is ACTIVE
    assert found(cluster)[DaemonType.AUTO_SYNC].state is STOPPED
    mark(state, "hybrid", 30)
    mark(state, "ephemeral", 1000)
    rows = found(cluster)
    assert rows[DaemonType.AUTO_SYNC].state is ACTIVE
    assert rows[DaemonType.AUTO_SYNC].since_at == pytest.approx(clock.wall() - 30, abs=5)
    assert rows[DaemonType.EPHEMERAL_SYNC].state is STOPPED


def test_the_bus_is_not_running_where_its_table_cannot_be_written(cluster: Cluster, tmp_path: Path) -> None:
    publish(cluster[2], "CIRCUIT_CLOSED", {"node": "vast-1", "transport": "rsync"})
    assert event_router(cluster[2]).evidence.endswith("the last event is 1, CIRCUIT_CLOSED")
    cluster[2].close()
    copy = tmp_path / "copy.db"
    shutil.copy(tmp_path / "state.db", copy)
    with StateStore.open(f"sqlite:///{copy}") as state:
        with state.begin() as connection:
            connection.execute(sa.text("DROP TABLE events"))
        assert event_router(state).state is STOPPED


def test_the_agent_of_the_coordinator_counts_and_that_of_another_does_not(
    cluster: Cluster, shared_cluster: EmbeddedCluster
) -> None:
    settings, _, state = cluster
    node = load_inventory(shared_cluster.hosts).get("vast-900001")
    hosts = HOSTS.format(address=node.ssh_host, port=node.agent_port)
    for name, expected in (("vast-900001", ACTIVE), ("hub-1", STOPPED)):
        settings.hosts.write_text(hosts.replace("hub-1", name))
        rows = daemons(settings, load_inventory(settings.hosts), state)
        (row,) = [row for row in rows if row.type is DaemonType.AGENT]
        assert row.state is expected


def test_a_daemon_of_dagster_is_found_among_the_processes(cluster: Cluster, tmp_path: Path) -> None:
    program = tmp_path / "dagster-daemon"
    program.write_text("import time; time.sleep(60)\n")
    with subprocess.Popen(["python3", str(program), "run"]) as process:
        try:
            time.sleep(0.2)
            row = found(cluster)[DaemonType.DAGSTER_DAEMON]
        finally:
            process.kill()
    assert row.state is ACTIVE
    assert row.since_at == pytest.approx(time.time(), abs=30)
