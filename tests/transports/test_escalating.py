"""The ladder over real servers: an agent, an sshd with and without rsync, and a proxy that breaks connections."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ringrift_sync_dagster.core.breaker import CircuitBreakerConfig, CircuitState
from ringrift_sync_dagster.core.escalation import LADDER, SKIPPED, Rung, pause_seconds
from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.errors import (
    ArtifactGoneError,
    HostKeyError,
    LocalDiskError,
    NodeDownError,
    RungUnusableError,
    TransferCancelledError,
    TransferError,
)
from ringrift_sync_dagster.settings.clock import Deadline, monotonic
from ringrift_sync_dagster.settings.identity import CoordinatorKey
from ringrift_sync_dagster.settings.inventory import load_inventory
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.settings.settings import load_settings
from ringrift_sync_dagster.state import breakers, rungs
from ringrift_sync_dagster.state.events import events_since
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.sync.ladder import Ladder
from ringrift_sync_dagster.transports.base import Fetched, Transport
from ringrift_sync_dagster.transports.pacing import BucketPacer
from tests.agent.agents import AgentProcess
from tests.chaos_proxy import ChaosProxy
from tests.sshd import PROGRAMS, Sshd
from tests.transports.artifacts import MIB, made, named, part_of

NAME = "node-l"


class Host:
    """One machine: an agent and an sshd that serve the same directory, and a coordinator that reaches it."""

    def __init__(self, base: Path, address: str, key: CoordinatorKey, *, bare: bool = False) -> None:
        self.base, self.address = base, address
        (base / "root").mkdir(parents=True)
        self.agent = AgentProcess(NAME, base / "root", address, key)
        programs = (*PROGRAMS, "python3") if bare else None
        self.sshd = Sshd(base / "sshd", address, programs=programs)
        self.state = StateStore.open(f"sqlite:///{base}/state.db")
        self.node = self.sshd.node(NAME, base / "root")
        self.transports: list[Transport] = []
        (base / "token").write_text(self.agent.token())
        (base / "hosts.yaml").write_text("hosts: {hub-1: {ssh_host: 127.77.0.1, ringrift_path: /r, role: coordinator}}")

    def ladder(self, node: Node | None = None, forced: str = "", chance: float | None = None) -> Transport:
        settings = load_settings(
            home=self.base, hosts=self.base / "hosts.yaml", token_file=self.base / "token",
            known_hosts=self.sshd.known_hosts,
        )  # fmt: skip
        inventory = load_inventory(settings.hosts)
        transport = Ladder(settings, inventory, self.state, "hub-1", forced=forced).to(node or self.node)
        if chance is not None:
            transport._chance = lambda: chance  # type: ignore[attr-defined]
        self.transports.append(transport)
        return transport

    def with_agent(self) -> Node:
        self.agent.start()
        return replace(self.node, agent_port=self.agent.port)

    def place(self, data: bytes) -> Artifact:
        return self.agent.place(data)

    def close(self) -> None:
        for transport in self.transports:
            transport.close()
        self.agent.stop()
        self.sshd.stop()
        self.state.close()


@pytest.fixture
def host(tmp_path: Path, coordinator_key: CoordinatorKey, free_addresses: Iterator[str]) -> Iterator[Host]:
    opened = Host(tmp_path / "host", next(free_addresses), coordinator_key)
    yield opened
    opened.close()


@pytest.fixture
def bare(tmp_path: Path, coordinator_key: CoordinatorKey, free_addresses: Iterator[str]) -> Iterator[Host]:
    """A machine whose login finds no rsync."""
    opened = Host(tmp_path / "host", next(free_addresses), coordinator_key, bare=True)
    yield opened
    opened.close()


def tried(found: Fetched | TransferError) -> list[tuple[str, str]]:
    return [(attempt.rung, attempt.error) for attempt in found.attempts]  # type: ignore[attr-defined]


def state_of(host: Host, rung: Rung) -> CircuitState:
    return breakers.circuit_state(host.state, NAME, [rung.value])


def test_the_fastest_rung_serves_and_the_others_are_left_alone(host: Host, tmp_path: Path) -> None:
    node, data = host.with_agent(), made(MIB)
    fetched = host.ladder(node).fetch(host.place(data), tmp_path / "got", deadline=Deadline(60))
    assert (fetched.transport, tried(fetched)) == ("p2p_http", [("p2p_http", "")])
    assert (tmp_path / "got").read_bytes() == data


def test_a_closed_agent_port_is_passed_over_for_rsync_and_rsync_is_remembered(host: Host, tmp_path: Path) -> None:
    host.sshd.start()
    ladder, first, second = host.ladder(), host.place(made(MIB, 1)), host.place(made(MIB, 2))
    fetched = ladder.fetch(first, tmp_path / "first", deadline=Deadline(60))
    assert tried(fetched) == [("p2p_http", "UnreachableError"), ("rsync", "")]
    again = host.ladder().fetch(second, tmp_path / "second", deadline=Deadline(60))
    assert tried(again) == [("rsync", "")]
    assert rungs.remembered(host.state, NAME) == "rsync"


def test_a_login_without_rsync_is_served_by_base64_and_each_rung_says_why_not(bare: Host, tmp_path: Path) -> None:
    bare.sshd.start()
    data = made(3 * MIB)
    fetched = bare.ladder().fetch(bare.place(data), tmp_path / "got", deadline=Deadline(60))
    assert tried(fetched) == [("p2p_http", "UnreachableError"), ("rsync", "RungUnusableError"), ("base64", "")]
    assert "rsync" in fetched.attempts[1].message
    assert (tmp_path / "got").read_bytes() == data


@pytest.mark.cluster
def test_one_rung_alone_is_used_when_it_is_asked_for(host: Host, tmp_path: Path) -> None:
    host.sshd.start()
    node, data = host.with_agent(), made(MIB)
    for name, rung in (("rsync", "rsync"), ("base64", "base64"), ("p2p", "p2p_http")):
        fetched = host.ladder(node, name).fetch(host.place(data), tmp_path / name, deadline=Deadline(60))
        assert tried(fetched) == [(rung, "")]
    host.agent.kill()
    with pytest.raises(NodeDownError, match="p2p_http") as caught:
        host.ladder(replace(node, ssh_port=1), "p2p").fetch(host.place(data), tmp_path / "x", deadline=Deadline(60))
    assert {rung for rung, _ in tried(caught.value)} == {"p2p_http"}


def test_a_push_takes_the_same_way(bare: Host, tmp_path: Path) -> None:
    bare.sshd.start()
    data = made(MIB)
    (tmp_path / "source").write_bytes(data)
    pushed = bare.ladder().push(named(data), tmp_path / "source", "hub-1", deadline=Deadline(60))
    assert (pushed.transport, pushed.receipt.sha256) == ("base64", named(data).sha256)
    assert (bare.agent.scratch / "incoming" / "hub-1" / named(data).sha256).read_bytes() == data


def test_a_node_that_answers_nowhere_is_down_and_after_three_times_nobody_asks_it_for_a_minute(
    host: Host, tmp_path: Path
) -> None:
    artifact = named(b"x")
    for _ in range(3):
        with pytest.raises(NodeDownError, match="rsync") as caught:
            host.ladder().fetch(artifact, tmp_path / "got", deadline=Deadline(60))
        assert ("base64", SKIPPED) in tried(caught.value)
    assert {state_of(host, rung) for rung in Rung} == {CircuitState.OPEN}
    with pytest.raises(NodeDownError, match=r"not tried: tried again in \d+ s, after 3 failures") as caught:
        host.ladder().call("scan", {}, deadline=Deadline(60))
    assert {error for _, error in tried(caught.value)} == {SKIPPED}
    opened = [event.payload["transport"] for event in events_since(host.state, 0) if event.type == "CIRCUIT_OPENED"]
    assert opened == ["p2p_http", "rsync", "base64"]


def test_an_unknown_host_key_stops_the_ladder_and_opens_nothing(host: Host, tmp_path: Path) -> None:
    host.sshd.start()
    host.sshd.known_hosts.write_text("")
    for _ in range(4):
        with pytest.raises(HostKeyError, match="ssh-keyscan -p"):
            host.ladder(forced="rsync").fetch(named(b"x"), tmp_path / "got", deadline=Deadline(60))
    assert state_of(host, Rung.RSYNC) is CircuitState.CLOSED


def test_an_answer_is_no_failure_of_the_rung(host: Host, tmp_path: Path) -> None:
    node = host.with_agent()
    for _ in range(4):
        with pytest.raises(ArtifactGoneError):
            host.ladder(node).fetch(named(b"never placed"), tmp_path / "got", deadline=Deadline(60))
    assert state_of(host, Rung.P2P) is CircuitState.CLOSED
    assert rungs.remembered(host.state, NAME) == "p2p_http"


def test_our_own_disk_and_our_own_cancel_never_count_against_the_node(host: Host, tmp_path: Path) -> None:
    node, artifact = host.with_agent(), host.place(made(MIB))
    cancel = threading.Event()
    cancel.set()
    for _ in range(4):
        with pytest.raises(LocalDiskError):
            host.ladder(node).fetch(artifact, tmp_path / "missing" / "got", deadline=Deadline(60))
        with pytest.raises(TransferCancelledError):
            host.ladder(node).fetch(artifact, tmp_path / "got", deadline=Deadline(60), cancel=cancel)
    assert state_of(host, Rung.P2P) is CircuitState.CLOSED


@pytest.mark.cluster
def test_what_one_rung_brought_serves_the_next(host: Host, tmp_path: Path) -> None:
    host.sshd.start()
    host.agent.start()
    data = made(24 * MIB)
    artifact = host.place(data)
    with ChaosProxy((host.address, host.agent.port), host.address) as proxy:
        proxy.down.cut_after = 9 * MIB
        node = replace(host.node, agent_port=proxy.port)
        fetched = host.ladder(node).fetch(artifact, tmp_path / "got", deadline=Deadline(60))
    assert (tmp_path / "got").read_bytes() == data
    assert fetched.attempts[0].rung == "p2p_http"
    assert fetched.attempts[0].error == "TransientError"
    assert fetched.resumed_from > 0
    assert fetched.bytes_moved < 2 * len(data)


def test_a_killed_agent_in_the_middle_of_a_fetch_is_followed_by_rsync_from_there(host: Host, tmp_path: Path) -> None:
    host.sshd.start()
    node, data = host.with_agent(), made(64 * MIB)
    artifact, done = host.place(data), list[int]()

    def kill(received: int) -> None:
        if received > 20 * MIB and not done:
            done.append(received)
            host.agent.kill()

    fetched = host.ladder(node).fetch(artifact, tmp_path / "got", deadline=Deadline(60), progress=kill)
    assert (tmp_path / "got").read_bytes() == data
    assert fetched.transport == "rsync"
    assert fetched.resumed_from > 20 * MIB - MIB
    assert not part_of(tmp_path / "got").exists()


@pytest.mark.cluster
def test_a_black_hole_ends_the_ladder_inside_its_deadline(host: Host, tmp_path: Path) -> None:
    with ChaosProxy((host.address, 1), host.address) as proxy:
        proxy.black_hole = True
        node = replace(host.node, agent_port=proxy.port, ssh_port=proxy.port)
        started = monotonic()
        with pytest.raises(TransferError):
            host.ladder(node).fetch(named(b"x"), tmp_path / "got", deadline=Deadline(4))
        assert monotonic() - started < 4 + LADDER[Rung.P2P].stall_seconds


def test_a_probe_says_over_which_rung_the_node_answers_or_why_none_does(host: Host) -> None:
    silent = host.ladder().probe(Deadline(30))
    assert not silent.reachable
    assert isinstance(silent.cause, NodeDownError)
    host.sshd.start()
    found = host.ladder().probe(Deadline(30))
    assert (found.reachable, found.transport) == (True, "rsync")


def test_a_node_that_answers_and_has_nothing_that_could_serve_is_not_called_down(bare: Host, tmp_path: Path) -> None:
    bare.sshd.start()
    (bare.sshd.folder / "bin" / "base64").unlink()
    with pytest.raises(TransferError, match="base64 is missing") as caught:
        bare.ladder().fetch(bare.place(made(1000)), tmp_path / "got", deadline=Deadline(60))
    assert not isinstance(caught.value, NodeDownError)
    assert tried(caught.value)[0] == ("p2p_http", "UnreachableError")


@pytest.mark.cluster
def test_a_rung_that_was_forced_is_no_advice_for_others(host: Host, tmp_path: Path) -> None:
    host.sshd.start()
    node = host.with_agent()
    host.ladder(node, "base64").fetch(host.place(made(1000)), tmp_path / "got", deadline=Deadline(60))
    assert rungs.remembered(host.state, NAME) == ""


def test_a_connection_that_broke_is_tried_again_after_a_pause_and_then_the_next_rung(
    host: Host, tmp_path: Path
) -> None:
    host.sshd.start()
    host.agent.start()
    with ChaosProxy((host.address, host.agent.port), host.address) as proxy:
        proxy.down.reset_after = 0
        started = monotonic()
        fetched = host.ladder(replace(host.node, agent_port=proxy.port), chance=1.0).fetch(
            host.place(made(MIB)), tmp_path / "got", deadline=Deadline(60)
        )
    assert [rung for rung, error in tried(fetched) if error == "TransientError"] == ["p2p_http", "p2p_http"]
    assert fetched.transport == "rsync"
    assert monotonic() - started >= pause_seconds(1, 1.0)


def test_an_agent_that_is_busy_for_a_moment_is_asked_again_before_it_is_given_up(host: Host) -> None:
    node = host.with_agent()
    os.kill(host.agent.pid, signal.SIGSTOP)
    goes_on = threading.Timer(2.5, os.kill, (host.agent.pid, signal.SIGCONT))
    goes_on.start()
    found = host.ladder(node).probe(Deadline(6))  # a share of two seconds for each of three rungs
    goes_on.join()
    assert (found.reachable, found.transport) == (True, "p2p_http"), found.detail
    assert state_of(host, Rung.P2P) is CircuitState.CLOSED


def test_a_rung_that_hangs_leaves_the_later_ones_their_time(host: Host, tmp_path: Path) -> None:
    host.sshd.start()
    with ChaosProxy((host.address, 1), host.address) as proxy:
        proxy.black_hole = True
        node = replace(host.node, agent_port=proxy.port)
        fetched = host.ladder(node).fetch(host.place(made(MIB)), tmp_path / "got", deadline=Deadline(12))
    assert tried(fetched) == [("p2p_http", "DeadlineExceededError"), ("rsync", "")]


@pytest.mark.cluster
def test_who_only_is_slow_is_not_left_and_not_blamed(host: Host, tmp_path: Path) -> None:
    node, data = host.with_agent(), made(6 * MIB)
    pacer = BucketPacer(1.5 * MIB)  # four seconds, and a share of two for each of three rungs
    fetched = host.ladder(node).fetch(host.place(data), tmp_path / "got", deadline=Deadline(9), pacer=pacer)
    assert {rung for rung, _ in tried(fetched)} == {"p2p_http"}
    assert ("p2p_http", "DeadlineExceededError") in tried(fetched)
    assert state_of(host, Rung.P2P) is CircuitState.CLOSED
    assert fetched.bytes_moved == len(data)
    assert (tmp_path / "got").read_bytes() == data


@pytest.mark.cluster
def test_a_probe_that_we_stopped_ourselves_leaves_the_next_one_its_try(host: Host, tmp_path: Path) -> None:
    node, artifact = host.with_agent(), host.place(made(MIB))
    quick = CircuitBreakerConfig(failure_threshold=1, recovery_timeout_seconds=0.2)
    breakers.failed(host.state, NAME, "p2p_http", quick, "it broke")
    time.sleep(0.3)
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(TransferCancelledError):
        host.ladder(node).fetch(artifact, tmp_path / "got", deadline=Deadline(60), cancel=cancel)
    assert host.ladder(node).fetch(artifact, tmp_path / "got", deadline=Deadline(60)).transport == "p2p_http"


def test_when_ssh_answers_again_both_of_its_rungs_are_closed(host: Host) -> None:
    for _ in range(3):
        with pytest.raises(NodeDownError):
            host.ladder(forced="rsync").call("scan", {}, deadline=Deadline(20))
        assert not host.ladder(forced="base64").probe(Deadline(20)).reachable
    host.sshd.start()
    breakers.reset(host.state, NAME, "rsync")
    assert host.ladder().probe(Deadline(20)).transport == "rsync"
    assert {state_of(host, rung) for rung in (Rung.RSYNC, Rung.BASE64)} == {CircuitState.CLOSED}


@pytest.mark.cluster
def test_a_missing_token_is_no_reason_to_leave_ssh_aside(host: Host, tmp_path: Path) -> None:
    host.sshd.start()
    node = host.with_agent()
    (host.base / "token").unlink()
    fetched = host.ladder(node).fetch(host.place(made(1000)), tmp_path / "got", deadline=Deadline(60))
    assert tried(fetched) == [("p2p_http", "LocalToolError"), ("rsync", "")]
    assert state_of(host, Rung.P2P) is CircuitState.CLOSED


def test_a_node_without_an_address_says_so(host: Host, tmp_path: Path) -> None:
    nowhere = replace(host.node, ssh_host="", tailscale_ip="")
    for climb in (
        lambda: host.ladder(nowhere).fetch(named(b"x"), tmp_path / "got", deadline=Deadline(60)),
        lambda: host.ladder(nowhere).call("scan", {}, deadline=Deadline(60)),
    ):
        with pytest.raises(RungUnusableError, match="no address"):
            climb()


@pytest.mark.cluster
def test_a_rescue_has_thirty_minutes_and_anything_else_fifteen(host: Host, tmp_path: Path) -> None:
    node, seen = host.with_agent(), []

    class Watching(BucketPacer):
        def take(self, count: int, *, deadline: Deadline, cancel: threading.Event | None = None) -> None:
            seen.append(deadline.remaining())
            super().take(count, deadline=deadline, cancel=cancel)

    for number, seconds in enumerate((900, 1800)):
        pacer = Watching(10_000)  # 2 MiB would take 200 s, twice that is the budget's part
        with contextlib.suppress(TransferCancelledError):
            cancel = threading.Event()
            threading.Timer(0.5, cancel.set).start()
            host.ladder(node).fetch(
                host.place(made(12 * MIB, number)), tmp_path / str(number), deadline=Deadline(seconds), pacer=pacer,
                cancel=cancel,
            )  # fmt: skip
    assert max(seen) > 1000
    assert seen[0] <= 900
