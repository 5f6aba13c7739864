"""Agents that only SSH can reach: the tunnel leads to the right one, is shared, and ends with whoever held it."""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ringrift_sync_dagster.errors import (
    AuthenticationError,
    DeadlineExceededError,
    HostKeyError,
    RungUnusableError,
    TransferError,
    TransientError,
    UnreachableError,
)
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.settings.identity import CoordinatorKey, make_tls_certificate
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.transports import tunnel as tunnels
from ringrift_sync_dagster.transports.p2p_http import P2PHttpTransport
from ringrift_sync_dagster.transports.ssh import SshEndpoint, SshSettings
from ringrift_sync_dagster.transports.tunnel import Tunnel
from tests.agent.agents import AgentProcess, alive, children, wait_until
from tests.marks import first_of
from tests.sshd import Sshd
from tests.transports.bad_server import closed_port

DATA = random.Random(1).randbytes(3_000_000)


class NoForwarding(Sshd):
    """An sshd that makes no tunnels."""

    def _limits(self) -> str:
        return f"AllowTcpForwarding no\n{super()._limits()}"


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory, coordinator_key: CoordinatorKey) -> Iterator[AgentProcess]:
    """An agent on the loopback of its node, which is the one of this machine."""
    root = tmp_path_factory.mktemp("agent") / "agent"
    with AgentProcess("node-t", root, "127.0.0.1", coordinator_key) as started:
        yield started


@pytest.fixture
def sshd(tmp_path: Path, free_addresses: Iterator[str]) -> Iterator[Sshd]:
    with Sshd(tmp_path / "sshd", next(free_addresses)) as started:
        yield started


def only_ssh(sshd: Sshd, port: int, name: str = "node-t", fingerprint: str = "") -> Node:
    return sshd.node(name, sshd.folder, agent_port=port, proxied_ssh=True, tls_fingerprint=fingerprint)


def transport_to(node: Node, sshd: Sshd, token: str = "") -> P2PHttpTransport:
    tunnel = Tunnel(SshEndpoint(node, sshd.settings, "p2p_http"))
    return P2PHttpTransport(node, lambda: token, tunnel=tunnel)


def logins(sshd: Sshd) -> int:
    return sshd.log.count("Accepted publickey")


def ssh_of(pid: int) -> list[int]:
    """The ssh that a process started."""
    return [child for child in children(pid) if Path(f"/proc/{child}/comm").read_text().strip() == "ssh"]


def test_a_node_without_an_address_of_its_own_is_reached_through_ssh(
    agent: AgentProcess, sshd: Sshd, tmp_path: Path
) -> None:
    artifact = agent.place(DATA)
    with transport_to(only_ssh(sshd, agent.port), sshd, agent.token()) as transport:
        probe = transport.probe(Deadline(20))
        assert probe.reachable, probe.detail
        assert f"through SSH to {sshd.address}:{sshd.port}" in probe.detail
        fetched = transport.fetch(artifact, tmp_path / "got", deadline=Deadline(20))
        assert (fetched.transport, (tmp_path / "got").read_bytes()) == ("p2p_http", DATA)
        pushed = transport.push(artifact, tmp_path / "got", "node-t", deadline=Deadline(20))
        assert pushed.receipt.node == "node-t"
        assert transport.call("scan", {}, deadline=Deadline(20)) is not None
    assert logins(sshd) == 1


@pytest.mark.cluster
def test_a_node_at_whose_address_nothing_answers_is_reached_through_ssh(agent: AgentProcess, sshd: Sshd) -> None:
    node = replace(only_ssh(sshd, agent.port), proxied_ssh=False)
    assert node.own_addresses == (sshd.address,)
    with transport_to(node, sshd) as transport:
        assert "through SSH" in transport.probe(Deadline(20)).detail


def test_a_token_goes_through_the_tunnel_where_it_may_not_go_in_the_clear(agent: AgentProcess, sshd: Sshd) -> None:
    node = only_ssh(sshd, agent.port)
    outside = replace(node, tailscale_ip="203.0.113.9")
    tunnel = Tunnel(SshEndpoint(node, sshd.settings, "p2p_http"))
    with P2PHttpTransport(outside, agent.token, tunnel=tunnel) as transport:
        started = time.monotonic()
        transport.call("scan", {}, deadline=Deadline(20))
        assert time.monotonic() - started < 4
    with P2PHttpTransport(outside, agent.token) as direct, pytest.raises(AuthenticationError, match="in the clear"):
        direct.call("scan", {}, deadline=Deadline(20))


@pytest.mark.cluster
def test_an_agent_with_a_pinned_certificate_keeps_it_inside_the_tunnel(
    sshd: Sshd, tmp_path: Path, coordinator_key: CoordinatorKey
) -> None:
    made = make_tls_certificate(tmp_path / "tls", "node-t", ["127.0.0.1"], time.time())
    tls = (made.certificate, made.key)
    with AgentProcess("node-t", tmp_path / "agent", "127.0.0.1", coordinator_key, tls, made.fingerprint) as agent:
        artifact = agent.place(DATA)
        with transport_to(only_ssh(sshd, agent.port, fingerprint=made.fingerprint), sshd, agent.token()) as transport:
            transport.fetch(artifact, tmp_path / "got", deadline=Deadline(20))
        wrong = transport_to(only_ssh(sshd, agent.port, fingerprint="ab" * 32), sshd, agent.token())
        with wrong, pytest.raises(AuthenticationError, match="agent_tls_fingerprint"):
            wrong.fetch(artifact, tmp_path / "other", deadline=Deadline(20))


@pytest.mark.cluster
def test_a_shell_that_prints_a_banner_is_no_hindrance(
    agent: AgentProcess, tmp_path: Path, free_addresses: Iterator[str]
) -> None:
    loud = Sshd(tmp_path / "loud", next(free_addresses), banner="Welcome!\n* * *")
    with loud, transport_to(only_ssh(loud, agent.port), loud) as transport:
        assert transport.probe(Deadline(20)).reachable


@pytest.mark.cluster
def test_the_tunnel_ends_with_the_transport_and_starts_again_when_it_is_needed(
    agent: AgentProcess, sshd: Sshd, coordinator_key: CoordinatorKey
) -> None:
    node = only_ssh(sshd, agent.port)
    tunnel = Tunnel(SshEndpoint(node, sshd.settings, "p2p_http"))
    transport = P2PHttpTransport(node, agent.token, tunnel=tunnel)
    assert transport.probe(Deadline(20)).reachable
    port = tunnel.open(Deadline(5))
    transport.close()
    transport.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=2)
    assert transport.probe(Deadline(20)).reachable
    transport.close()


@pytest.mark.cluster
def test_a_transport_that_needs_no_tunnel_starts_none(
    sshd: Sshd, tmp_path: Path, coordinator_key: CoordinatorKey, free_addresses: Iterator[str]
) -> None:
    with AgentProcess("node-t", tmp_path / "agent", next(free_addresses), coordinator_key) as agent:
        node = replace(only_ssh(sshd, agent.port), tailscale_ip=agent.host)
        with transport_to(node, sshd, agent.token()) as transport:
            assert transport.probe(Deadline(10)).detail == f"agent at {agent.url}"
    assert logins(sshd) == 0


HOLDER = """
import json, sys, time
from pathlib import Path
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.transports.p2p_http import P2PHttpTransport
from ringrift_sync_dagster.transports.ssh import SshEndpoint, SshSettings
from ringrift_sync_dagster.transports.tunnel import Tunnel
given = json.loads(sys.argv[1])
node = Node(**given["node"])
tunnel = Tunnel(SshEndpoint(node, SshSettings(Path(given["known"]), Path(given["control"])), "p2p_http"))
transport = P2PHttpTransport(node, lambda: "t", tunnel=tunnel)
assert transport.probe(Deadline(20)).reachable
print(tunnel.open(Deadline(5)), flush=True)
time.sleep(60)
"""


def test_the_tunnel_ends_when_its_process_is_killed(agent: AgentProcess, sshd: Sshd) -> None:
    settings = sshd.settings
    fields = ("name", "ssh_host", "ssh_port", "ssh_key", "ssh_user", "ringrift_path", "agent_port", "proxied_ssh")
    node = only_ssh(sshd, agent.port)
    given = {
        "node": {name: getattr(node, name) for name in fields},
        "known": str(settings.known_hosts), "control": str(settings.control_dir),
    }  # fmt: skip
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, json.dumps(given)], stdout=subprocess.PIPE, text=True)
    with holder:
        assert holder.stdout is not None
        port = int(holder.stdout.readline())
        (ssh,) = ssh_of(holder.pid)
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
        holder.send_signal(signal.SIGKILL)
        holder.wait(5)
        wait_until(lambda: not alive(ssh), 5)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=2)
    wait_until(lambda: "Disconnected from user" in sshd.log, 5)


def test_no_agent_at_the_far_end_means_nothing_answers_there(sshd: Sshd) -> None:
    with closed_port() as port, transport_to(only_ssh(sshd, port), sshd) as transport:
        with pytest.raises(UnreachableError, match="is the agent running there"):
            transport.call("scan", {}, deadline=Deadline(20))
        assert not transport.probe(Deadline(20)).reachable


@pytest.mark.cluster
def test_an_sshd_that_forbids_forwarding_is_a_way_that_does_not_work(
    agent: AgentProcess, tmp_path: Path, free_addresses: Iterator[str]
) -> None:
    closed = NoForwarding(tmp_path / "closed", next(free_addresses))
    forbidden = pytest.raises(RungUnusableError, match="AllowTcpForwarding")
    with closed, transport_to(only_ssh(closed, agent.port), closed) as transport, forbidden as caught:
        transport.call("scan", {}, deadline=Deadline(20))
    assert type(caught.value) is RungUnusableError


def test_another_nodes_agent_at_the_far_end_gets_nothing(agent: AgentProcess, sshd: Sshd, tmp_path: Path) -> None:
    artifact = agent.place(DATA)
    with transport_to(only_ssh(sshd, agent.port, "node-u"), sshd, agent.token()) as transport:
        with pytest.raises(RungUnusableError, match="answers as 'node-t'"):
            transport.fetch(artifact, tmp_path / "got", deadline=Deadline(20))
        probe = transport.probe(Deadline(20))
        assert (probe.reachable, "node-t" in probe.detail) == (False, True)


def test_a_host_key_that_is_not_known_stops_everything(agent: AgentProcess, sshd: Sshd) -> None:
    sshd.known_hosts.write_text("")
    with transport_to(only_ssh(sshd, agent.port), sshd) as transport, pytest.raises(HostKeyError, match="ssh-keyscan"):
        transport.call("scan", {}, deadline=Deadline(20))


def test_when_neither_agent_nor_sshd_answers_both_are_named(tmp_path: Path, sshd: Sshd) -> None:
    sshd.stop()
    with closed_port() as port:
        node = replace(only_ssh(sshd, port), tailscale_ip="127.0.0.1")
        tunnel = Tunnel(SshEndpoint(only_ssh(sshd, port), sshd.settings, "p2p_http"))
        with P2PHttpTransport(node, lambda: "t", tunnel=tunnel) as transport, pytest.raises(UnreachableError) as caught:
            transport.call("scan", {}, deadline=Deadline(20))
    assert f"127.0.0.1:{port}" in caught.value.message
    assert f"{sshd.address}:{sshd.port}" in caught.value.message


def test_a_node_without_any_way_says_so() -> None:
    node = Node("node-t", "ssh1.vast.ai", "", proxied_ssh=True)
    with P2PHttpTransport(node, lambda: "t") as transport, pytest.raises(RungUnusableError, match="no address"):
        transport.call("scan", {}, deadline=Deadline(20))


@pytest.mark.parametrize("seconds, error", first_of((30.0, TransferError), (1.5, DeadlineExceededError)))
def test_an_sshd_that_takes_connections_and_hangs_is_given_up(
    tmp_path: Path, seconds: float, error: type[TransferError]
) -> None:
    settings = SshSettings(tmp_path / "known_hosts", tmp_path / "control", connect_seconds=2.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        node = Node("node-t", "127.0.0.1", "", ssh_port=silent.getsockname()[1], proxied_ssh=True)
        tunnel = Tunnel(SshEndpoint(node, settings, "p2p_http"))
        started = time.monotonic()
        with P2PHttpTransport(node, lambda: "t", tunnel=tunnel) as transport, pytest.raises(error):
            transport.call("scan", {}, deadline=Deadline(seconds))
        assert time.monotonic() - started < 6


def test_after_an_sshd_was_killed_the_fetch_goes_on_through_a_new_tunnel(
    agent: AgentProcess, sshd: Sshd, tmp_path: Path
) -> None:
    data = random.Random(2).randbytes(32 << 20)
    artifact = agent.place(data)
    with transport_to(only_ssh(sshd, agent.port), sshd, agent.token()) as transport:
        killed: list[int] = []

        def kill_once(received: int) -> None:
            if received > 4 << 20 and not killed:
                killed.append(received)
                sshd.kill()

        with pytest.raises(TransientError):
            transport.fetch(artifact, tmp_path / "got", deadline=Deadline(20), progress=kill_once)
        sshd.start()
        fetched = transport.fetch(artifact, tmp_path / "got", deadline=Deadline(20))
    assert fetched.resumed_from >= killed[0]
    assert (tmp_path / "got").read_bytes() == data


@pytest.mark.cluster
def test_a_local_port_that_was_taken_meanwhile_is_not_used(
    agent: AgentProcess, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = tunnels._free_port
    with socket.create_server(("127.0.0.1", 0)) as taken:
        drawn = iter([taken.getsockname()[1]])
        monkeypatch.setattr(tunnels, "_free_port", lambda: next(drawn, None) or free())
        with transport_to(only_ssh(sshd, agent.port), sshd) as transport:
            assert transport.probe(Deadline(20)).reachable
