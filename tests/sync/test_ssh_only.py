"""An ephemeral node that can only be reached by SSH: nobody pushes there, so the coordinator looks at it every 5 s."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from ringrift_sync_dagster.demo.cluster import EmbeddedCluster
from ringrift_sync_dagster.demo.recorder import Recorder
from ringrift_sync_dagster.demo.schemas import Dialect
from ringrift_sync_dagster.demo.ssh_nodes import WITH_RSYNC
from ringrift_sync_dagster.settings.settings import load_settings
from ringrift_sync_dagster.state.changes import recent_changes
from ringrift_sync_dagster.state.leases import hold
from ringrift_sync_dagster.storage.canonical import CanonicalStore
from ringrift_sync_dagster.sync.acting import EphemeralLooks
from ringrift_sync_dagster.sync.cadence import Cadence
from ringrift_sync_dagster.sync.loop import Turn, work_at_marks
from ringrift_sync_dagster.sync.runtime import Runtime
from tests.node.merging import game

pytestmark = pytest.mark.cluster

NODE = "vast-900001"
CONFIG = "hex8_2p"


def play(cluster: EmbeddedCluster, *keys: str) -> None:
    with Recorder(cluster.node_root(NODE) / "data/games/selfplay.db", Dialect.V18) as recorder:
        recorder.record_all([game(key, config=CONFIG) for key in keys])


def looked_at(runtime: Runtime, seconds: float, stop: threading.Event | None = None) -> None:
    """Look at the marks of the default interval, as a run of ephemeral_sync does."""
    turn = Turn(runtime.state, "ephemeral", runtime.intake.owner, "this test")
    cadence = Cadence(runtime.settings.ephemeral_sync_interval)
    with EphemeralLooks(runtime, "ephemeral", cadence.interval) as looks, hold(runtime.state, turn.lease) as lease:
        work_at_marks(turn, lease, cadence, seconds, looks.look, stop=stop)


def test_its_games_are_here_an_interval_later_once_each_and_only_new_rows_travel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddedCluster(tmp_path / "c", nodes=(NODE,), ssh={NODE: WITH_RSYNC}) as cluster:
        for name, value in cluster.environment.items():
            monkeypatch.setenv(name, value)
        settings = load_settings()
        assert settings.ephemeral_sync_interval == 5.0
        play(cluster, "g1", "g2", "g3")
        with Runtime.open(settings) as runtime:
            stop = threading.Event()
            looker = threading.Thread(target=looked_at, args=(runtime, 60.0, stop))
            looker.start()
            assert arrives(runtime, "g1", "g2", "g3") < 30  # the kit is brought there first
            play(cluster, "g4")
            seconds = arrives(runtime, "g4")
            stop.set()
            looker.join()
        assert seconds < 10  # one interval of 5 s, and what a slow machine takes
        with Runtime.open(settings) as runtime:  # a coordinator that starts anew goes on from the cursor
            play(cluster, "g5")
            looked_at(runtime, 6.0)
            assert arrives(runtime, "g5") < 10
            changes = [one for one in recent_changes(runtime.state) if one.node == NODE and one.data_type == "games"]

    assert sum(one.games_new for one in changes) == 5
    assert sum(one.games_same for one in changes) == 0  # nothing was sent twice
    assert {one.transport for one in changes} <= {"rsync", "p2p_http"}


def arrives(runtime: Runtime, *keys: str) -> float:
    """Wait until games are canonical; give how long that took."""
    started, store = time.monotonic(), CanonicalStore(runtime.layout)
    while not set(keys) <= set(store.known(CONFIG, list(keys))):
        assert time.monotonic() - started < 60
        time.sleep(0.1)
    return time.monotonic() - started
