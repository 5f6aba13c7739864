"""What backpressure holds in a real pass and at a real admission, what it never holds, and that it all goes on."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ringrift_sync_dagster.core.bandwidth import TransferPriority
from ringrift_sync_dagster.core.events import DataEventType
from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.core.pressure import SIGNALS
from ringrift_sync_dagster.demo.games import make_game
from ringrift_sync_dagster.demo.ratings import make_matches, write_matches
from ringrift_sync_dagster.errors import BackpressureError, TransferCancelledError
from ringrift_sync_dagster.settings.settings import Settings
from ringrift_sync_dagster.state.admission import TransferRequest
from ringrift_sync_dagster.state.backpressure import is_active, look
from ringrift_sync_dagster.state.events import publish
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.transfers import start_transfer, transfer_rows
from ringrift_sync_dagster.storage.layout import Layout
from ringrift_sync_dagster.sync.archive import archive
from ringrift_sync_dagster.sync.collect import Request, move
from ringrift_sync_dagster.sync.facade import priority_request
from ringrift_sync_dagster.sync.pressure import measure
from ringrift_sync_dagster.sync.report import CollectReport
from ringrift_sync_dagster.sync.router import SyncRouter
from ringrift_sync_dagster.sync.runtime import Runtime
from tests.sync.conftest import Field

CONFIG = "hex8_2p"
SPOT, HOST = "vast-900001", "runpod-a1"
OWNER = "hub-1"
ELO = "data/unified_elo.db"
NORMAL, HIGH = TransferPriority.NORMAL, TransferPriority.HIGH


def overload(settings: Settings) -> None:
    """Put the coordinator under a real load that keeps up what a moment of a higher one has begun."""
    incoming = settings.root / "data" / "incoming" / SPOT
    incoming.mkdir(parents=True, exist_ok=True)
    for number in range(60):  # arrived a moment ago, and nobody has installed them yet
        (incoming / f"{number:064x}").write_bytes(b"PK\x03\x04")
    with StateStore.open(settings.state_url) as state:
        for _ in range(30):
            start_transfer(state, artifact="ab" * 32, node=SPOT, direction="push", transport="x", size_bytes=1)
        assert look(state, OWNER, {name: signal.high for name, signal in SIGNALS.items()}).active


def release(settings: Settings) -> None:
    with StateStore.open(settings.state_url) as state:
        publish(state, DataEventType.BACKPRESSURE_RELEASED.value, {"source": "manual"})


def passed(field_: Field, request: Request) -> dict[DataType, CollectReport]:
    with Runtime.open(field_.settings) as runtime:
        return move(runtime, request)


@pytest.fixture
def data(field_: Field) -> Field:
    """Games, evaluation games and matches on a spot machine and on one that stays."""
    for number, node in enumerate((SPOT, HOST)):
        for path, kind in (("selfplay", "own"), ("tournament", "judged")):
            games = [make_game(f"{node}-{kind}-{count}", CONFIG) for count in range(3)]
            field_.play(node, f"data/games/{path}_{CONFIG}.db", *games)
        matches = make_matches("field", CONFIG, 30)[number * 15 : number * 15 + 15]
        write_matches(field_.cluster.node_root(node) / ELO, matches)
    return field_


def moved(reports: dict[DataType, CollectReport]) -> dict[str, int]:
    games = {
        f"{kind} {one.partition.node}": count
        for one in reports[DataType.GAMES].outcomes
        for kind, count in (("own", one.games_new), ("judged", one.counts.get("evaluation_games", 0)))
    }
    rows = {
        f"{name} {one.partition.node}": one.counts.get(name, 0)
        for one in reports[DataType.ELO].outcomes
        for name in ("matches_new", "brought")
    }
    return {name: count for name, count in (games | rows).items() if count}


def test_a_pass_brings_what_may_be_the_only_copy_leaves_the_rest_and_the_next_one_goes_on(data: Field) -> None:
    types = [DataType.GAMES, DataType.ELO]
    overload(data.settings)
    reports = passed(data, Request(types, [CONFIG], data.nodes, "test"))

    assert not [failure for report in reports.values() for failure in report.failures]
    assert moved(reports) == {
        f"own {SPOT}": 3, f"judged {SPOT}": 3, f"own {HOST}": 3, f"matches_new {SPOT}": 15,
    }  # fmt: skip
    assert (reports[DataType.GAMES].held, reports[DataType.ELO].held) == (1, 2)
    (note,) = [note for note in reports[DataType.ELO].notes if note.code == "held"]
    assert note.message.startswith("2 partitions wait until backpressure is over")

    release(data.settings)
    reports = passed(data, Request(types, [CONFIG], data.nodes, "test"))
    assert moved(reports) == {
        f"judged {HOST}": 3, f"matches_new {HOST}": 15, f"brought {SPOT}": 15, f"brought {HOST}": 15,
    }  # fmt: skip
    assert not any(report.held for report in reports.values())


@pytest.mark.parametrize(
    "request_",
    [priority_request("orphan_games_recovery", None, CONFIG), Request(None, [CONFIG], down=False, recover=True)],
    ids=["priority", "recover"],
)
def test_a_rescue_and_a_recovery_are_never_held(data: Field, request_: Request) -> None:
    overload(data.settings)
    with Runtime.open(data.settings) as runtime:
        reports = move(runtime, Request(
            [DataType.GAMES, DataType.ELO], request_.configs, data.nodes, request_.trigger, down=False,
            recover=request_.recover,
        ))  # fmt: skip
        assert is_active(runtime.state, OWNER)
    assert not any(report.held for report in reports.values())
    assert moved(reports)[f"matches_new {HOST}"] == 15


def wanted(direction: str, priority: TransferPriority) -> TransferRequest:
    return TransferRequest("cd" * 32, HOST, direction, 10, priority)


def test_a_push_waits_without_a_row_and_goes_on_when_anybody_releases(field_: Field) -> None:
    overload(field_.settings)
    with Runtime.open(field_.settings) as runtime, ThreadPoolExecutor(1) as pool:

        def push() -> float:
            with runtime.bandwidth.transfer(wanted("push", NORMAL)):
                return time.monotonic()

        before = len(transfer_rows(runtime.state, running=True))
        waiting = pool.submit(push)
        time.sleep(0.7)
        assert not waiting.done()
        assert len(transfer_rows(runtime.state, running=True)) == before
        released = time.monotonic()
        release(field_.settings)
        assert 0 <= waiting.result() - released < 3.0


def test_work_of_the_owner_alone_waits_too(field_: Field) -> None:
    overload(field_.settings)
    with Runtime.open(field_.settings) as runtime, ThreadPoolExecutor(1) as pool:
        assert runtime.bandwidth.wait_while_held(HIGH) < 0.2
        waiting = pool.submit(runtime.bandwidth.wait_while_held, TransferPriority.BACKGROUND)
        time.sleep(0.3)
        release(field_.settings)
        assert 0.2 < waiting.result() < 4.0


def test_fetches_high_priorities_and_rescues_never_wait(field_: Field) -> None:
    overload(field_.settings)
    with Runtime.open(field_.settings) as runtime:
        assert SyncRouter(runtime).is_under_backpressure()
        started = time.monotonic()
        for one in (wanted("fetch", NORMAL), wanted("push", HIGH)):
            with runtime.bandwidth.transfer(one):
                pass
        with runtime.bandwidth.transfer(wanted("push", NORMAL), rescue=True):
            pass
        assert time.monotonic() - started < 2.0


def test_what_is_held_can_be_left_runs_out_of_time_or_is_cancelled(field_: Field) -> None:
    overload(field_.settings)
    with Runtime.open(field_.settings) as runtime:
        bandwidth, cancel = runtime.bandwidth, threading.Event()
        with pytest.raises(BackpressureError, match="ringrift-sync backpressure release"):  # noqa: SIM117
            with bandwidth.transfer(wanted("push", NORMAL), leave_held=True):
                pass
        with pytest.raises(BackpressureError), bandwidth.transfer(wanted("push", NORMAL), turn_seconds=0.2):
            pass
        cancel.set()
        with pytest.raises(TransferCancelledError), bandwidth.transfer(wanted("push", NORMAL), cancel=cancel):
            pass
        bandwidth.set_host_priority(HOST, HIGH)
        with bandwidth.transfer(wanted("push", NORMAL), leave_held=True):
            pass
        bandwidth.set_host_priority(HOST, None)


def test_every_signal_is_measured(field_: Field) -> None:
    with StateStore.open(field_.settings.state_url) as state:
        layout = Layout(field_.settings.root)
        layout.mkdirs()
        quiet = measure(state, layout)
        start_transfer(state, artifact="ab" * 32, node=SPOT, direction="push", transport="x", size_bytes=1)
        folder = layout.incoming(SPOT)
        folder.mkdir(parents=True)
        for name in ("ab" * 32, f"{'cd' * 32}.part", "litter"):
            (folder / name).write_bytes(b"")
        busy = measure(state, layout)
    assert quiet.keys() == SIGNALS.keys()
    assert (quiet["queue"], quiet["transfers"], busy["queue"], busy["transfers"]) == (0, 0, 1, 1)
    assert 0 < busy["memory"] < 100
    assert 0 < busy["disk"] < 100


def test_an_archive_waits_for_the_release_and_then_goes_on(field_: Field, tmp_path: Path) -> None:
    field_.play(SPOT, "data/games/x.db", make_game("a", CONFIG))
    field_.collect(CONFIG, nodes=(SPOT,))
    overload(field_.settings)
    with Runtime.open(field_.settings) as runtime, ThreadPoolExecutor(1) as pool:
        running = pool.submit(archive, runtime, tmp_path / "archive")
        time.sleep(0.4)
        waited = not running.done()
        release(field_.settings)
        done = running.result(20)

    assert waited
    assert (done.failures, len(done.files)) == ((), 1)
