"""One acts at a time, and another one follows: threads and processes with one state database."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringrift_sync_dagster.core.model import SyncStrategy
from ringrift_sync_dagster.errors import LeaseHeldError, LeaseLostError
from ringrift_sync_dagster.state import marks
from ringrift_sync_dagster.state.leases import hold
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.sync.cadence import Cadence
from ringrift_sync_dagster.sync.daemon import AutoSyncDaemon
from ringrift_sync_dagster.sync.loop import Turn, who_acts, work_at_marks
from ringrift_sync_dagster.sync.strategies import AutoSyncConfig
from tests.node.merging import game
from tests.sync.conftest import Field

CONFIG = "hex8_2p"


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateStore]:
    with StateStore.open(f"sqlite:///{tmp_path}/loop.db") as store:
        yield store


def turn(state: StateStore, holder: str = "run 1") -> Turn:
    return Turn(state, "ephemeral", "hub", holder)


def test_work_is_done_once_for_each_mark_and_written_down(state: StateStore) -> None:
    mine = turn(state)
    with mine.taken() as lease:
        count = work_at_marks(mine, lease, Cadence(0.05), 0.32, lambda: 2)
    found = marks.recent(state, "ephemeral", "hub")

    assert count == len(found) >= 5
    assert len({mark.mark for mark in found}) == count
    assert all((mark.changes, mark.holder) == (2, "run 1") for mark in found)


def test_a_mark_that_the_holder_before_worked_for_is_done_unless_somebody_asks(state: StateStore) -> None:
    mine = turn(state)
    with mine.taken() as lease:
        assert work_at_marks(mine, lease, Cadence(1000), 0.0, lambda: 1) == 1
        assert work_at_marks(mine, lease, Cadence(1000), 0.0, lambda: 1) == 0
        assert work_at_marks(mine, lease, Cadence(1000), 0.0, lambda: 1, again=True) == 1


@pytest.mark.parametrize("off", [0.0, 1e-7, -1e-7, 1000.0])
def test_a_mark_is_the_same_mark_however_its_seconds_are_rounded(state: StateStore, off: float) -> None:
    mine, cadence = turn(state), Cadence(1000, wall=lambda: 5_000_500.0)
    marks.begin(state, marks.Mark("ephemeral", "hub", 5_000_000.0 + off, 5_000_000.0, "run 0"))
    with mine.taken() as lease:
        assert work_at_marks(mine, lease, cadence, 0.0, lambda: 1) == 0


def test_the_holder_ends_when_a_successor_waits_and_no_mark_is_lost_or_doubled(state: StateStore) -> None:
    first, second, entered = turn(state), turn(state, "run 2"), threading.Event()

    def succeed() -> None:
        with second.taken_over() as lease:
            entered.set()
            work_at_marks(second, lease, Cadence(0.2), 0.7, lambda: 0)

    with first.taken() as lease:
        follower = threading.Thread(target=succeed)
        follower.start()
        work_at_marks(first, lease, Cadence(0.2), 30.0, lambda: 0, hands_over=True)
    follower.join(10)
    found = marks.recent(state, "ephemeral", "hub")
    gaps = [round(after.mark - before.mark, 3) for before, after in itertools.pairwise(found)]

    assert entered.is_set()
    assert {mark.holder for mark in found} == {"run 1", "run 2"}
    assert min(gaps) > 0
    assert len({mark.mark for mark in found}) == len(found)


def test_only_one_successor_waits_and_a_daemon_hands_over_to_nobody(state: StateStore) -> None:
    mine = turn(state, f"daemon {os.getpid()}")
    with mine.taken():
        assert who_acts(state, "ephemeral", "hub")
        with hold(state, mine.next_lease), pytest.raises(LeaseHeldError), turn(state).taken_over():
            pass
    assert who_acts(state, "ephemeral", "hub") == ""


def test_who_lost_the_turn_while_he_was_stopped_begins_no_other_work(state: StateStore) -> None:
    mine, done = turn(state), list[int]()

    def work() -> int:
        done.append(1)
        return 0

    with mine.taken() as lease:
        lease.release()  # as if it had lapsed
        with pytest.raises(LeaseLostError):
            work_at_marks(mine, lease, Cadence(0.05), 1.0, work)
    assert done == []


async def until(daemon: AutoSyncDaemon, marks_: int, seconds: float = 30) -> None:
    limit = time.monotonic() + seconds
    while sum(rhythm.marks for rhythm in daemon.status().rhythms) < marks_:
        assert time.monotonic() < limit, daemon.status()
        await asyncio.sleep(0.05)


def test_a_daemon_moves_what_there_is_logs_it_and_ends(field_: Field) -> None:
    field_.play(field_.nodes[0], "data/games/x.db", *(game(f"g{n}", config=CONFIG) for n in range(3)))
    config = AutoSyncConfig(strategy=SyncStrategy.EPHEMERAL, ephemeral_sync_interval_seconds=0.3)
    daemon = AutoSyncDaemon(config=config, settings=field_.settings)

    async def live() -> None:
        await daemon.start()
        await daemon.start()
        await until(daemon, 2)
        await daemon.stop()

    asyncio.run(live())
    status = daemon.status()

    assert (status.running, status.acting) == (False, False)
    assert sum(rhythm.changes for rhythm in status.rhythms) >= 1
    assert field_.canonical(CONFIG).exists()
    assert "mark=1" in daemon.log.read_text()
    assert daemon.log == field_.base / "logs" / "auto_sync.log"


PROGRAM = """
import asyncio, sys
from ringrift_sync_dagster import AutoSyncConfig, AutoSyncDaemon, SyncStrategy
async def live():
    config = AutoSyncConfig(strategy=SyncStrategy.EPHEMERAL, ephemeral_sync_interval_seconds=0.5)
    await AutoSyncDaemon(config=config).start()
    print("started", flush=True)
    await asyncio.sleep(120)
asyncio.run(live())
"""


def test_of_two_daemons_one_acts_and_after_kill_9_the_other_one_within_seconds(field_: Field) -> None:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RINGRIFT_")},
        "RINGRIFT_SYNC_HOME": str(field_.base), "RINGRIFT_SYNC_HOSTS": str(field_.settings.hosts),
        "RINGRIFT_SYNC_ROOT": str(field_.settings.root), "RINGRIFT_SYNC_STATE_URL": field_.settings.state_url,
        "RINGRIFT_SYNC_TOKEN_FILE": str(field_.settings.token_file),
    }  # fmt: skip
    daemons = [
        subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, stdout=subprocess.DEVNULL) for _ in range(2)
    ]
    try:
        with StateStore.open(field_.settings.state_url) as state:
            first = acting(state, not_by="")
            time.sleep(2.5)
            holders = {mark.holder for mark in marks.recent(state, "ephemeral", "hub-1")}
            killed_at = time.monotonic()
            os.kill(int(first.removeprefix("daemon ")), signal.SIGKILL)
            second = acting(state, not_by=first)
    finally:
        for daemon in daemons:
            daemon.kill()
            daemon.wait()

    assert holders == {first}
    assert {first, second} == {f"daemon {daemon.pid}" for daemon in daemons}
    assert time.monotonic() - killed_at < 15


def acting(state: StateStore, not_by: str) -> str:
    """Wait until somebody else works for a mark; give who."""
    limit = time.monotonic() + 30
    while True:
        last = marks.last(state, "ephemeral", "hub-1")
        if last is not None and last.holder != not_by:
            return last.holder
        assert time.monotonic() < limit
        time.sleep(0.1)
