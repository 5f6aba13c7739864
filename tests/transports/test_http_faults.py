"""What the HTTP transport makes of a bad network before a real agent: the right error, in time, and nothing lost."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.errors import (
    ChecksumError,
    DeadlineExceededError,
    StallError,
    TransferCancelledError,
    TransferError,
    TransientError,
    UnreachableError,
)
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.settings.identity import CoordinatorKey
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.transports.p2p_http import P2PHttpTransport
from tests.agent.agents import AgentProcess
from tests.chaos_proxy import ChaosProxy, full_backlog
from tests.transports.artifacts import named, part_of

MIB = 1 << 20
DATA = random.Random(1).randbytes(16 * MIB)
STALL_SECONDS = 1.0
SLACK_SECONDS = 1.5


@pytest.fixture(scope="module")
def agent(
    tmp_path_factory: pytest.TempPathFactory, coordinator_key: CoordinatorKey, free_addresses: Iterator[str]
) -> Iterator[AgentProcess]:
    root = tmp_path_factory.mktemp("faults") / "root"
    with AgentProcess("node-f", root, next(free_addresses), coordinator_key) as started:
        yield started


@pytest.fixture
def proxy(agent: AgentProcess) -> Iterator[ChaosProxy]:
    with ChaosProxy((agent.host, agent.port)) as opened:
        yield opened


@pytest.fixture
def transport(agent: AgentProcess, proxy: ChaosProxy) -> Iterator[P2PHttpTransport]:
    node = Node("node-f", proxy.host, "", agent_port=proxy.port)
    with P2PHttpTransport(node, agent.token, stall_seconds=STALL_SECONDS) as opened:
        yield opened


@pytest.fixture
def artifact(agent: AgentProcess) -> Artifact:
    return agent.place(DATA)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file that no test has pushed before."""
    path = tmp_path / "source"
    path.write_bytes(random.Random(str(tmp_path)).randbytes(16 * MIB))
    return path


def once(fault: Callable[[], object], at: int) -> Callable[[int], None]:
    """A progress callback that switches a fault on."""
    done: list[int] = []

    def progress(there: int) -> None:
        if there >= at and not done:
            done.append(there)
            fault()

    return progress


@pytest.mark.cluster
def test_latency_and_a_low_rate_are_no_faults(
    transport: P2PHttpTransport, proxy: ChaosProxy, agent: AgentProcess, tmp_path: Path
) -> None:
    proxy.up.latency_seconds = proxy.down.latency_seconds = 0.2
    proxy.down.bytes_per_second = 200_000
    artifact = agent.place(DATA[:400_000])
    fetched = transport.fetch(artifact, tmp_path / "got", deadline=Deadline(20))
    assert fetched.seconds > STALL_SECONDS
    assert (tmp_path / "got").read_bytes() == DATA[:400_000]


@pytest.mark.parametrize("fault", ["cut_after", "reset_after"])
def test_a_broken_connection_is_transient_and_the_next_fetch_goes_on(
    transport: P2PHttpTransport, proxy: ChaosProxy, artifact: Artifact, tmp_path: Path, fault: str
) -> None:
    setattr(proxy.down, fault, 8 * MIB)
    with pytest.raises(TransientError) as caught:
        transport.fetch(artifact, tmp_path / "got", deadline=Deadline(20))
    assert type(caught.value) is TransientError
    assert proxy.connections == 1
    proxy.heal()
    fetched = transport.fetch(artifact, tmp_path / "got", deadline=Deadline(20))
    assert fetched.resumed_from > 0
    assert (tmp_path / "got").read_bytes() == DATA


@pytest.mark.parametrize("fault", ["cut_after", "reset_after"])
def test_a_push_over_a_broken_connection_is_transient_and_the_next_one_goes_on(
    transport: P2PHttpTransport, proxy: ChaosProxy, agent: AgentProcess, source: Path, fault: str
) -> None:
    setattr(proxy.up, fault, 8 * MIB)
    pushed = named(source.read_bytes())
    with pytest.raises(TransientError):
        transport.push(pushed, source, "node-f", deadline=Deadline(20))
    proxy.heal()
    time.sleep(0.5)  # the agent notices that the other one is gone
    assert transport.push(pushed, source, "node-f", deadline=Deadline(20)).resumed_from > 0


def test_a_black_hole_is_a_stall(
    transport: P2PHttpTransport, proxy: ChaosProxy, artifact: Artifact, source: Path, tmp_path: Path
) -> None:
    proxy.black_hole = True
    for work in (
        lambda: transport.fetch(artifact, tmp_path / "got", deadline=Deadline(20)),
        lambda: transport.push(named(source.read_bytes()), source, "node-f", deadline=Deadline(20)),
        lambda: transport.forget(artifact, deadline=Deadline(20)),
    ):
        started = time.monotonic()
        with pytest.raises(StallError):
            work()
        assert STALL_SECONDS <= time.monotonic() - started < STALL_SECONDS + SLACK_SECONDS


def test_the_deadline_ends_a_call_into_a_black_hole(transport: P2PHttpTransport, proxy: ChaosProxy) -> None:
    proxy.black_hole = True
    started = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        transport.call("scan", {}, deadline=Deadline(2))
    assert 2 <= time.monotonic() - started < 2 + SLACK_SECONDS


@pytest.mark.cluster
def test_a_full_backlog_is_unreachable_after_the_connect_timeout(tmp_path: Path) -> None:
    with full_backlog() as (host, port):
        transport = P2PHttpTransport(Node("node-f", host, "", agent_port=port), lambda: "t")
        started = time.monotonic()
        with transport, pytest.raises(UnreachableError):
            transport.fetch(named(DATA), tmp_path / "got", deadline=Deadline(20))
        assert 5 <= time.monotonic() - started < 5 + SLACK_SECONDS
        with transport, pytest.raises(DeadlineExceededError):
            transport.fetch(named(DATA), tmp_path / "got", deadline=Deadline(0.5))


def test_a_half_open_connection_is_a_stall_and_what_came_is_kept(
    transport: P2PHttpTransport, proxy: ChaosProxy, artifact: Artifact, tmp_path: Path
) -> None:
    proxy.down.bytes_per_second = 20_000_000
    progress = once(lambda: setattr(proxy.down, "dead", True), 2 * MIB)
    started = time.monotonic()
    with pytest.raises(StallError):
        transport.fetch(artifact, tmp_path / "got", deadline=Deadline(20), progress=progress)
    assert time.monotonic() - started < 2 + STALL_SECONDS + SLACK_SECONDS
    assert part_of(tmp_path / "got").stat().st_size >= 2 * MIB


def test_a_push_into_a_half_open_connection_is_a_stall(
    transport: P2PHttpTransport, proxy: ChaosProxy, source: Path
) -> None:
    proxy.up.bytes_per_second = 20_000_000
    progress = once(lambda: setattr(proxy.up, "dead", True), 2 * MIB)
    started = time.monotonic()
    with pytest.raises(StallError):
        transport.push(named(source.read_bytes()), source, "node-f", deadline=Deadline(20), progress=progress)
    assert time.monotonic() - started < 2 + 2 * STALL_SECONDS + SLACK_SECONDS


def test_a_flipped_bit_on_the_way_here_leaves_nothing_behind(
    transport: P2PHttpTransport, proxy: ChaosProxy, artifact: Artifact, tmp_path: Path
) -> None:
    proxy.down.flip_at = 5 * MIB
    with pytest.raises(ChecksumError):
        transport.fetch(artifact, tmp_path / "got", deadline=Deadline(20))
    assert list(tmp_path.iterdir()) == []


def test_a_flipped_bit_on_the_way_there_gets_no_receipt(
    transport: P2PHttpTransport, proxy: ChaosProxy, agent: AgentProcess, source: Path
) -> None:
    proxy.up.flip_at = 5 * MIB
    pushed = named(source.read_bytes())
    with pytest.raises(ChecksumError):
        transport.push(pushed, source, "node-f", deadline=Deadline(20))
    assert not (agent.scratch / "incoming" / "node-f" / pushed.sha256).exists()


@pytest.mark.parametrize("offset", range(0, 60, 7))
def test_a_flipped_bit_in_the_head_never_gives_a_file(
    transport: P2PHttpTransport, proxy: ChaosProxy, artifact: Artifact, tmp_path: Path, offset: int
) -> None:
    proxy.down.flip_at = offset
    try:
        transport.fetch(artifact, tmp_path / "got", deadline=Deadline(20))
    except TransferError:
        assert not (tmp_path / "got").exists()
    else:
        assert (tmp_path / "got").read_bytes() == DATA  # a header that means nothing was hit


def test_a_trickle_ends_at_the_deadline_and_what_came_is_kept(
    transport: P2PHttpTransport, proxy: ChaosProxy, artifact: Artifact, tmp_path: Path
) -> None:
    progress = once(lambda: setattr(proxy.down, "trickle_seconds", 0.1), MIB)
    proxy.down.bytes_per_second = 20_000_000
    started = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        transport.fetch(artifact, tmp_path / "got", deadline=Deadline(3), progress=progress)
    assert 3 <= time.monotonic() - started < 3 + SLACK_SECONDS
    assert part_of(tmp_path / "got").stat().st_size >= MIB


def test_a_cancel_ends_a_half_open_fetch_at_once(
    transport: P2PHttpTransport, proxy: ChaosProxy, artifact: Artifact, tmp_path: Path
) -> None:
    cancel = threading.Event()
    proxy.down.bytes_per_second = 20_000_000

    def die() -> None:
        proxy.down.dead = True
        threading.Timer(0.2, cancel.set).start()

    started = time.monotonic()
    with pytest.raises(TransferCancelledError):
        transport.fetch(artifact, tmp_path / "got", deadline=Deadline(20), progress=once(die, MIB), cancel=cancel)
    assert time.monotonic() - started < 2.0
