"""HTTP at a rate: it holds in every second both ways, on the wire too, follows changes, and waiting is no stall."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ringrift_sync_dagster.errors import DeadlineExceededError, TransferCancelledError
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.settings.identity import CoordinatorKey
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.transports.p2p_http import P2PHttpTransport
from ringrift_sync_dagster.transports.pacing import BucketPacer
from tests.agent.agents import AgentProcess
from tests.chaos_proxy import ChaosProxy, Faults
from tests.marks import first_of
from tests.transports.artifacts import named

MB = 1_000_000
TRIES = 3  # the machine may be busy with something else


@pytest.fixture(scope="module")
def agent(
    tmp_path_factory: pytest.TempPathFactory, coordinator_key: CoordinatorKey, free_addresses: Iterator[str]
) -> Iterator[AgentProcess]:
    root = tmp_path_factory.mktemp("pacing") / "root"
    with AgentProcess("node-p", root, next(free_addresses), coordinator_key) as started:
        yield started


@pytest.fixture
def proxy(agent: AgentProcess) -> Iterator[ChaosProxy]:
    with ChaosProxy((agent.host, agent.port)) as opened:
        yield opened


@pytest.fixture
def transport(agent: AgentProcess, proxy: ChaosProxy) -> Iterator[P2PHttpTransport]:
    node = Node("node-p", proxy.host, "", agent_port=proxy.port)
    with P2PHttpTransport(node, agent.token, stall_seconds=0.5) as opened:
        yield opened


Move = Callable[..., None]


@pytest.fixture(params=["fetch", "push"])
def move(
    request: pytest.FixtureRequest, transport: P2PHttpTransport, agent: AgentProcess, tmp_path: Path
) -> tuple[str, Move]:
    """Move so many bytes that nobody has moved before, with the given limits."""
    verb: str = request.param
    numbers = itertools.count()

    def fetch(count: int, deadline: float = 30.0, **limits: Any) -> None:  # noqa: ANN401 - what fetch takes
        number = next(numbers)
        data = random.Random(f"{tmp_path} {number}").randbytes(count)
        transport.fetch(agent.place(data), tmp_path / f"got{number}", deadline=Deadline(deadline), **limits)

    def push(count: int, deadline: float = 30.0, **limits: Any) -> None:  # noqa: ANN401 - what push takes
        source = tmp_path / f"source{next(numbers)}"
        data = random.Random(str(source)).randbytes(count)
        source.write_bytes(data)
        transport.push(named(data), source, "node-p", deadline=Deadline(deadline), **limits)

    return verb, fetch if verb == "fetch" else push


class Meter:
    """When how many bytes had been moved."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, int]] = []

    def __call__(self, there: int) -> None:
        self.seen.append((time.monotonic(), there))

    def seconds(self) -> float:
        return self.seen[-1][0] - self.seen[0][0]

    def most_in_a_second(self) -> int:
        most, first = 0, 0
        for at, there in self.seen:
            while at - self.seen[first][0] > 1.0:
                first += 1
            most = max(most, there - self.seen[first][1])
        return most


@pytest.mark.parametrize("rate", first_of(12 * MB, MB))
def test_a_rate_holds_in_every_second_within_five_percent(move: tuple[str, Move], rate: int) -> None:
    count, worst = rate * 5 // 2, list[int]()
    for _ in range(TRIES):
        meter, pacer = Meter(), BucketPacer(rate)
        move[1](count, progress=meter, pacer=pacer)
        assert meter.seconds() >= count / rate * 0.95
        assert meter.most_in_a_second() <= rate * 1.12  # one burst for the time that we were not let run
        assert pacer.moved == count
        worst.append(meter.most_in_a_second())
        if worst[-1] <= rate * 1.05 and meter.seconds() <= count / rate * 1.05:
            return
    raise AssertionError(worst)


@pytest.mark.parametrize("move", first_of("push", "fetch"), indirect=True)
def test_the_wire_follows_the_rate_too(move: tuple[str, Move], proxy: ChaosProxy) -> None:
    verb, work = move
    direction: Faults = proxy.down if verb == "fetch" else proxy.up
    thread = threading.Thread(target=work, args=(4 * MB,), kwargs={"pacer": BucketPacer(2 * MB)})
    thread.start()
    time.sleep(1.0)
    before = direction.moved
    time.sleep(0.8)
    moved = direction.moved - before
    thread.join(10)
    assert moved == pytest.approx(2 * MB * 0.8, rel=0.15)


def test_another_rate_counts_at_once(move: tuple[str, Move]) -> None:
    pacer = BucketPacer(200_000)
    threading.Timer(0.5, pacer.set_rate, (100 * MB,)).start()
    started = time.monotonic()
    move[1](4 * MB, pacer=pacer)
    assert 0.5 <= time.monotonic() - started < 2.0


def test_waiting_for_the_pacer_is_no_stall(move: tuple[str, Move]) -> None:
    pacer = BucketPacer(MB)
    pacer.take(MB * 4 // 5, deadline=Deadline(5))
    started = time.monotonic()
    move[1](MB // 5, pacer=pacer)
    assert time.monotonic() - started >= 0.8


def test_a_cancel_ends_the_waiting_for_the_pacer(move: tuple[str, Move]) -> None:
    pacer, cancel = BucketPacer(1000.0), threading.Event()
    pacer.take(MB, deadline=Deadline(5))
    threading.Timer(0.3, cancel.set).start()
    started = time.monotonic()
    with pytest.raises(TransferCancelledError):
        move[1](MB, pacer=pacer, cancel=cancel)
    assert time.monotonic() - started < 1.0


def test_the_deadline_ends_the_waiting_for_the_pacer(move: tuple[str, Move]) -> None:
    pacer = BucketPacer(1000.0)
    pacer.take(MB, deadline=Deadline(5))
    started = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        move[1](MB, deadline=0.5, pacer=pacer)
    assert time.monotonic() - started < 1.2
