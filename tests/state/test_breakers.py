"""A breaker that one process opened holds for all, and exactly one of them probes."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from ringrift_sync_dagster.core.breaker import CircuitBreakerConfig, CircuitState
from ringrift_sync_dagster.state import store as store_module
from ringrift_sync_dagster.state.breakers import (
    Verdict,
    admit,
    breaker_rows,
    circuit_state,
    failed,
    released,
    reset,
    succeeded,
)
from ringrift_sync_dagster.state.events import events_since
from ringrift_sync_dagster.state.schema import breakers
from ringrift_sync_dagster.state.store import StateStore

StartProgram = Callable[..., "subprocess.Popen[str]"]

CONFIG = CircuitBreakerConfig()
NODE, RUNG = "vast-1", "p2p_http"

RACER = """
import pathlib, sys, time
from ringrift_sync_dagster.core.breaker import CircuitBreakerConfig
from ringrift_sync_dagster.state.breakers import admit
from ringrift_sync_dagster.state.store import StateStore
with StateStore.open(sys.argv[1]) as store:
    print("ready", flush=True)
    while not pathlib.Path(sys.argv[2]).exists():
        time.sleep(0.001)
    print(*(admit(store, f"n{i}", "rsync", CircuitBreakerConfig()).verdict for i in range(5)), flush=True)
    sys.stdin.read()
"""


def _open(store: StateStore, node: str = NODE, rung: str = RUNG) -> None:
    for _ in range(3):
        failed(store, node, rung, CONFIG, "connection refused")


def _elapse(store: StateStore, seconds: float) -> None:
    with store.begin() as connection:
        past = {"open_until": breakers.c.open_until - seconds, "probe_expires": breakers.c.probe_expires - seconds}
        connection.execute(sa.update(breakers).values(past))


def _half_open(store: StateStore) -> None:
    _open(store)
    _elapse(store, 61.0)


def _types(store: StateStore) -> list[str]:
    return [event.type for event in events_since(store)]


def test_who_never_failed_is_allowed(store: StateStore) -> None:
    assert admit(store, NODE, RUNG, CONFIG).verdict is Verdict.ALLOWED
    failed(store, NODE, RUNG, CONFIG, "reset")
    failed(store, NODE, RUNG, CONFIG, "reset")
    assert admit(store, NODE, RUNG, CONFIG).allowed
    assert _types(store) == []


def test_a_success_starts_the_count_again_and_tells_nothing_of_a_breaker_that_was_closed(store: StateStore) -> None:
    failed(store, NODE, RUNG, CONFIG, "reset")
    failed(store, NODE, RUNG, CONFIG, "reset")
    succeeded(store, NODE, RUNG)
    assert failed(store, NODE, RUNG, CONFIG, "reset").failures == 1
    assert _types(store) == []


def test_the_third_failure_in_a_row_closes_the_door_for_60_seconds_and_tells_it(store: StateStore) -> None:
    _open(store)
    admission = admit(store, NODE, RUNG, CONFIG)
    assert (admission.verdict, admission.allowed) == (Verdict.REFUSED, False)
    assert 55 < admission.seconds_left <= 60
    assert re.fullmatch(r"tried again in \d+ s, after 3 failures in a row, the last: connection refused", admission.why)
    assert admit(store, NODE, "rsync", CONFIG).allowed
    assert admit(store, "vast-2", RUNG, CONFIG).allowed
    [event] = events_since(store)
    assert (event.type, event.payload) == (
        "CIRCUIT_OPENED",
        {
            "version": 1,
            "publisher": "",
            "node": NODE,
            "transport": RUNG,
            "failures": 3,
            "open_seconds": 60.0,
            "error": "connection refused",
        },
    )


def test_failures_of_what_was_under_way_neither_lengthen_it_nor_tell_it_again(store: StateStore) -> None:
    _open(store)
    _open(store)
    [row] = breaker_rows(store)
    assert (row.failures, row.opens) == (6, 1)
    assert row.seconds_left <= 60
    assert _types(store) == ["CIRCUIT_OPENED"]


def test_after_60_seconds_one_probe_is_let_through_and_its_success_closes(store: StateStore) -> None:
    _half_open(store)
    assert circuit_state(store, NODE, [RUNG]) is CircuitState.HALF_OPEN
    assert admit(store, NODE, RUNG, CONFIG).verdict is Verdict.PROBE
    second = admit(store, NODE, RUNG, CONFIG)
    assert second.verdict is Verdict.REFUSED
    assert second.why.startswith(f"process {os.getpid()} on ")
    assert 55 < second.seconds_left <= 60

    succeeded(store, NODE, RUNG)
    assert admit(store, NODE, RUNG, CONFIG).verdict is Verdict.ALLOWED
    assert events_since(store)[-1].payload == {"version": 1, "publisher": "", "node": NODE, "transport": RUNG}
    succeeded(store, NODE, RUNG)
    assert _types(store) == ["CIRCUIT_OPENED", "CIRCUIT_CLOSED"]


def test_a_probe_that_fails_opens_it_for_twice_as_long(store: StateStore) -> None:
    _half_open(store)
    assert admit(store, NODE, RUNG, CONFIG).verdict is Verdict.PROBE
    failed(store, NODE, RUNG, CONFIG, "still refused", jitter=1.0)
    assert 130 < admit(store, NODE, RUNG, CONFIG).seconds_left <= 132
    _elapse(store, 133.0)
    assert admit(store, NODE, RUNG, CONFIG).verdict is Verdict.PROBE
    assert _types(store) == ["CIRCUIT_OPENED", "CIRCUIT_OPENED"]


def test_a_probe_that_we_stopped_ourselves_leaves_the_answer_to_the_next_one(store: StateStore) -> None:
    _half_open(store)
    assert admit(store, NODE, RUNG, CONFIG).verdict is Verdict.PROBE
    released(store, NODE, RUNG)
    released(store, NODE, RUNG)
    assert admit(store, NODE, RUNG, CONFIG).verdict is Verdict.PROBE
    assert [row.failures for row in breaker_rows(store)] == [3]


def test_a_transfer_that_began_before_does_not_end_the_probe_of_another_thread(store: StateStore) -> None:
    _half_open(store)
    assert admit(store, NODE, RUNG, CONFIG).verdict is Verdict.PROBE
    other = threading.Thread(target=released, args=(store, NODE, RUNG))
    other.start()
    other.join()
    assert admit(store, NODE, RUNG, CONFIG).verdict is Verdict.REFUSED


def test_a_probe_that_never_says_how_it_ended_keeps_the_others_out_for_its_time_only(store: StateStore) -> None:
    _half_open(store)
    assert admit(store, NODE, RUNG, CONFIG, probe_seconds=30.0).verdict is Verdict.PROBE
    _elapse(store, 29.0)
    assert admit(store, NODE, RUNG, CONFIG).verdict is Verdict.REFUSED
    _elapse(store, 1.0)
    assert admit(store, NODE, RUNG, CONFIG).verdict is Verdict.PROBE


def test_of_eight_processes_at_once_exactly_one_probes_and_kill_9_lets_the_next_one(
    store: StateStore, url: str, tmp_path: Path, start_program: StartProgram
) -> None:
    for i in range(5):
        _open(store, f"n{i}", "rsync")
    _elapse(store, 61.0)
    go = tmp_path / "go"
    racers = [start_program(RACER, url, str(go)) for _ in range(8)]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    go.touch()
    answers = [racer.stdout.readline().split() for racer in racers if racer.stdout is not None]
    for column in zip(*answers, strict=True):
        assert sorted(column) == ["probe"] + ["refused"] * 7

    assert not admit(store, "n0", "rsync", CONFIG).allowed
    holder = racers[[answer[0] for answer in answers].index("probe")]
    # Nobody waits for the child here: as a zombie it still has an entry in /proc, and has ended all the same.
    holder.kill()
    deadline = time.monotonic() + 5
    while not (admission := admit(store, "n0", "rsync", CONFIG)).allowed and time.monotonic() < deadline:
        time.sleep(0.01)
    assert admission.verdict is Verdict.PROBE


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_a_wall_clock_that_jumps_changes_nothing(
    store: StateStore, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    _open(store)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + jump)
    with store.begin() as connection:
        connection.execute(sa.update(breakers).values(changed_at=now() + 7 * jump))
    assert 55 < admit(store, NODE, RUNG, CONFIG).seconds_left <= 60
    _elapse(store, 61.0)
    assert admit(store, NODE, RUNG, CONFIG).verdict is Verdict.PROBE
    assert 55 < admit(store, NODE, RUNG, CONFIG).seconds_left <= 60


def test_after_a_restart_of_the_machine_all_are_closed_and_count_from_0(store: StateStore) -> None:
    _open(store)
    with store.begin() as connection:
        connection.execute(sa.update(breakers).values(epoch="the boot before", open_until=1e12))
    assert admit(store, NODE, RUNG, CONFIG).verdict is Verdict.ALLOWED
    assert circuit_state(store, NODE, [RUNG]) is CircuitState.CLOSED
    assert failed(store, NODE, RUNG, CONFIG, "reset").failures == 1
    assert _types(store) == ["CIRCUIT_OPENED", "CIRCUIT_CLOSED"]
    failed(store, NODE, RUNG, CONFIG, "reset")
    assert admit(store, NODE, RUNG, CONFIG).allowed
    assert failed(store, NODE, RUNG, CONFIG, "reset").opens == 1


def test_without_failures_and_while_it_is_open_nobody_waits_for_a_writer(
    sqlite_store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    _open(sqlite_store, "dead")
    monkeypatch.setattr(store_module, "BUSY_SECONDS", 0.01)
    with StateStore(sqlite_store.url) as impatient, sqlite_store.begin():
        assert admit(impatient, NODE, RUNG, CONFIG).allowed
        assert not admit(impatient, "dead", RUNG, CONFIG).allowed
        succeeded(impatient, NODE, RUNG)
        released(impatient, "dead", RUNG)


def test_people_see_every_breaker_that_counted_a_failure(store: StateStore) -> None:
    _half_open(store)
    admit(store, NODE, RUNG, CONFIG)
    failed(store, "a-node", "rsync", CONFIG, "stalled")
    first, second = breaker_rows(store)
    assert (first.node, first.transport, first.state, first.failures, first.last_error, first.probe) == (
        "a-node", "rsync", CircuitState.CLOSED, 1, "stalled", None,
    )  # fmt: skip
    assert (second.node, second.state, second.opens, second.seconds_left) == (NODE, CircuitState.HALF_OPEN, 1, 0.0)
    assert second.probe is not None
    assert second.probe.pid == os.getpid()
    assert second.changed_at > 1.6e9


def test_a_person_may_close_one_rung_or_all_rungs_of_a_node(store: StateStore) -> None:
    for rung in ("p2p_http", "rsync", "base64"):
        _open(store, NODE, rung)
    _open(store, "other")
    assert reset(store, NODE, "rsync") == 1
    assert admit(store, NODE, "rsync", CONFIG).allowed
    assert not admit(store, NODE, "base64", CONFIG).allowed
    assert reset(store, NODE) == 2
    assert reset(store, NODE) == 0
    assert circuit_state(store, NODE, ["p2p_http", "rsync", "base64"]) is CircuitState.CLOSED
    assert circuit_state(store, "other", [RUNG]) is CircuitState.OPEN
    assert _types(store).count("CIRCUIT_CLOSED") == 3


def test_a_node_is_open_when_all_its_rungs_are_and_half_open_when_the_best_one_is(store: StateStore) -> None:
    rungs = ["p2p_http", "rsync"]
    _open(store, NODE, "p2p_http")
    assert circuit_state(store, NODE, rungs) is CircuitState.CLOSED
    _elapse(store, 61.0)
    _open(store, NODE, "rsync")
    assert circuit_state(store, NODE, rungs) is CircuitState.HALF_OPEN
    assert circuit_state(store, NODE, ["rsync"]) is CircuitState.OPEN
    assert circuit_state(store, NODE, []) is CircuitState.CLOSED
