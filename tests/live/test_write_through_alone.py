"""Games of a spot node without Dagster, and without the coordinator's agent, on a cluster of the real commands.

The judge is the demo's: it compares the writers' ledgers with databases, and no counter of the product has a say. Which
games had a receipt when a node died is read from its outbox, as the dead node left it.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import dagster as dg
import pytest

from ringrift_sync_dagster.agent.outbox import DATABASE
from ringrift_sync_dagster.demo import findings, scenario
from ringrift_sync_dagster.demo.cluster import EmbeddedCluster
from ringrift_sync_dagster.demo.dagster_home import dagster_environment
from ringrift_sync_dagster.demo.ledger import Entry, read_ledger
from ringrift_sync_dagster.demo.story import JOB
from ringrift_sync_dagster.demo.verdict import judge
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.leases import hold
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.storage.layout import SCRATCH_DIR
from tests import looking
from tests.storage.test_power_cut import disk

__all__ = ["disk"]

SPOT = scenario.VAST.node
RATE = 4.0
WRITER = f"selfplay-{SPOT}"


Disk = tuple[Path, Callable[[], None]]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[EmbeddedCluster]:
    with EmbeddedCluster(tmp_path / "cluster", write_through=True) as found:
        yield found


def play(cluster: EmbeddedCluster) -> None:
    """Start the writer of the spot node."""
    root, ledger = str(cluster.node_root(SPOT)), str(cluster.base / "ledger.jsonl")
    arguments = ["--node", SPOT, "--root", root, "--ledger", ledger, "--rate", str(RATE)]
    cluster.processes.start(WRITER, [sys.executable, "-m", "ringrift_sync_dagster.demo.selfplay", *arguments])


def ledger(cluster: EmbeddedCluster) -> list[Entry]:
    """What the writer says it played."""
    return read_ledger(cluster.base / "ledger.jsonl")


def whole(cluster: EmbeddedCluster) -> set[str]:
    """The ids of finished games that are no planned oddity: those that nothing but write-through has to bring home."""
    return {entry.game_id for entry in ledger(cluster) if entry.finished and entry.moves > scenario.SHORT_MOVES}


def canonical(cluster: EmbeddedCluster) -> set[str]:
    """The ids of games in the canonical store; a database that is only just being made has none."""
    found = set[str]()
    for file in (cluster.root / "data" / "games").glob("canonical_*.db"):
        with contextlib.suppress(sqlite3.OperationalError):
            found |= set(findings.canonical_games(file))
    return found


def receipted(root: Path) -> set[str]:
    """The ids of games that had a receipt, by the outbox of a node that has ended."""
    with closing(sqlite3.connect(root / SCRATCH_DIR / DATABASE)) as conn:
        return {row[0] for row in conn.execute("SELECT game_id FROM saved")}


def until(ready: Callable[[], object], seconds: float, what: str) -> None:
    limit = clock.monotonic() + seconds
    while not ready():
        assert clock.monotonic() < limit, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.1)


def execute(cluster: EmbeddedCluster) -> None:
    """Run the job that moves everything, by Dagster's own command."""
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "ringrift_sync_dagster.definitions", "-j", JOB]
    ended = cluster.run(command, seconds=240, extra=dagster_environment(cluster.base))
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]


def test_games_become_durable_without_dagster_which_later_records_each_change_once(cluster: EmbeddedCluster) -> None:
    play(cluster)
    until(lambda: len(whole(cluster)) >= 12, 60, "a dozen games")
    cluster.processes.stop([WRITER])
    until(lambda: canonical(cluster) >= whole(cluster), 30, "all of them in the canonical store, and no Dagster ran")

    execute(cluster)
    execute(cluster)

    assert judge(ledger(cluster), cluster.root, cluster.node_root).passed
    home = dagster_environment(cluster.base)["DAGSTER_HOME"]
    with StateStore.open(cluster.state_url) as state, dg.DagsterInstance.from_config(home) as instance:
        found = looking.materializations(instance)
        assert looking.unfounded(found, state) == []
        assert looking.unrecorded(state, clock.wall()) == 0
    told = {one.partition for one in found if one.data_type == "games"}
    assert {f"{config}|{SPOT}" for config in scenario.VAST.configs} <= told


@pytest.mark.parametrize("away", [4.0, pytest.param(120.0, marks=[pytest.mark.cluster, pytest.mark.timeout(400)])])
def test_while_the_coordinator_is_away_a_node_dies_and_what_had_a_receipt_comes_home_from_the_peers(
    cluster: EmbeddedCluster, tmp_path: Path, away: float
) -> None:
    play(cluster)
    until(lambda: canonical(cluster), 30, "games of a whole cluster")
    cluster.kill_agent(cluster.coordinator)
    before, stopped = canonical(cluster), clock.monotonic()
    until(lambda: clock.monotonic() - stopped >= away and len(whole(cluster) - before) >= 8, away + 30, "more games")

    for name in (WRITER, f"agent-{SPOT}"):
        cluster.processes.kill(name)
    shutil.move(cluster.node_root(SPOT), tmp_path / "evidence")
    had = receipted(tmp_path / "evidence")
    lost = whole(cluster) - had
    assert had - before, "no peer took a game while the coordinator was away"
    assert len(lost) <= RATE * 5, "more was at risk than a look, a pack and a push account for"
    cluster.start_agent(cluster.coordinator)

    until(lambda: canonical(cluster) >= had & whole(cluster), 60, "what had a receipt, brought home by the peers")
    safe = had | canonical(cluster)
    home = [one for one in ledger(cluster) if one.game_id in safe]
    verdict = judge(home, cluster.root, lambda _: tmp_path / "evidence")
    assert verdict.passed, "\n".join(map(str, verdict.checks))


@pytest.mark.cluster
def test_what_had_a_receipt_survives_a_power_cut_of_the_coordinator_and_the_end_of_its_node(
    disk: Disk, tmp_path: Path
) -> None:
    """Another process keeps the coordinator from merging, so that nothing but what was pushed is on its disk."""
    mounted, cut = disk
    owner, settings = mounted / "hub-1", {"RINGRIFT_SYNC_STATE_URL": f"sqlite:///{mounted}/state.db"}
    owner.mkdir()
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "hub-1").symlink_to(owner)
    nodes = (SPOT,)
    with EmbeddedCluster(tmp_path / "cluster", nodes=nodes, settings=settings, write_through=True) as cluster:
        with contextlib.ExitStack() as stack:
            state = stack.enter_context(StateStore.open(cluster.state_url))
            for config in scenario.VAST.configs:
                stack.enter_context(hold(state, f"canonical:{config}"))
            play(cluster)
            until(lambda: len(whole(cluster)) >= 20, 60, "games whose packs lie in incoming/")
        for name in (WRITER, f"agent-{SPOT}", f"agent-{cluster.coordinator}"):
            cluster.processes.kill(name)
        cut()
        shutil.move(cluster.node_root(SPOT), tmp_path / "evidence")
        had = receipted(tmp_path / "evidence")
        assert len(had) > 10
        assert not canonical(cluster) & had
        cluster.start_agent(cluster.coordinator)

        until(lambda: canonical(cluster) >= had & whole(cluster), 40, "what had a receipt before the power was cut")
        safe = had | canonical(cluster)
        home = [one for one in ledger(cluster) if one.game_id in safe]
        verdict = judge(home, cluster.root, lambda _: tmp_path / "evidence")
        assert verdict.passed, "\n".join(map(str, verdict.checks))
