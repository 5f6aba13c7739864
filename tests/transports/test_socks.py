"""Nodes behind a SOCKS5 proxy of this machine: HTTP, TLS with a pin, ssh and paramiko go through it, or directly."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.errors import AuthenticationError, HostKeyError, UnreachableError
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.settings.identity import CoordinatorKey, make_tls_certificate
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.transports import process
from ringrift_sync_dagster.transports.p2p_http import P2PHttpTransport
from ringrift_sync_dagster.transports.socks_connect import listens
from ringrift_sync_dagster.transports.ssh import SshEndpoint
from ringrift_sync_dagster.transports.ssh_link import SshLink
from tests.agent.agents import AgentProcess
from tests.socks_server import SocksServer
from tests.sshd import Sshd
from tests.transports.bad_server import closed_port

DATA = random.Random(1).randbytes(3_000_000)


@pytest.fixture(scope="module")
def agent(
    tmp_path_factory: pytest.TempPathFactory, coordinator_key: CoordinatorKey, free_addresses: Iterator[str]
) -> Iterator[AgentProcess]:
    root = tmp_path_factory.mktemp("agent") / "agent"
    with AgentProcess("node-s", root, next(free_addresses), coordinator_key) as started:
        yield started


@pytest.fixture
def sshd(tmp_path: Path, free_addresses: Iterator[str]) -> Iterator[Sshd]:
    with Sshd(tmp_path / "sshd", next(free_addresses)) as started:
        yield started


def behind(node: Node, proxy: SocksServer) -> Node:
    return replace(node, socks5_port=proxy.port)


def round_trip(transport: P2PHttpTransport, artifact: Artifact, folder: Path) -> None:
    """Fetch an artifact and push it back under another node's name."""
    transport.fetch(artifact, folder / "got", deadline=Deadline(20))
    assert (folder / "got").read_bytes() == DATA
    transport.push(artifact, folder / "got", "node-s", deadline=Deadline(20))


def test_http_goes_through_the_proxy_and_the_probe_says_so(agent: AgentProcess, tmp_path: Path) -> None:
    with SocksServer() as proxy, P2PHttpTransport(behind(agent.inventory_node(), proxy), agent.token) as transport:
        probe = transport.probe(Deadline(10))
        assert probe.reachable, probe.detail
        assert f"through the SOCKS proxy on port {proxy.port}" in probe.detail
        round_trip(transport, agent.place(DATA), tmp_path)
        assert set(proxy.asked) == {(agent.host, agent.port)}


def test_the_proxy_resolves_the_name(agent: AgentProcess, tmp_path: Path) -> None:
    node = replace(agent.inventory_node(), ssh_host="node-s.tailnet.invalid", tls_fingerprint="")
    with SocksServer({"node-s.tailnet.invalid": agent.host}) as proxy:
        transport = P2PHttpTransport(behind(node, proxy), agent.token)
        with transport:
            assert transport.probe(Deadline(10)).reachable
        assert proxy.asked == [("node-s.tailnet.invalid", agent.port)]


@pytest.mark.cluster
def test_the_pinned_certificate_is_checked_through_the_proxy_too(
    tmp_path: Path, coordinator_key: CoordinatorKey, free_addresses: Iterator[str]
) -> None:
    made = make_tls_certificate(tmp_path / "tls", "node-s", ["127.0.0.1"], time.time())
    tls = (made.certificate, made.key)
    address = next(free_addresses)
    with (
        AgentProcess("node-s", tmp_path / "agent", address, coordinator_key, tls, made.fingerprint) as agent,
        SocksServer() as proxy,
    ):
        artifact, node = agent.place(DATA), behind(agent.inventory_node(), proxy)
        with P2PHttpTransport(node, agent.token) as transport:
            round_trip(transport, artifact, tmp_path)
        wrong = P2PHttpTransport(replace(node, tls_fingerprint="ab" * 32), agent.token)
        with wrong, pytest.raises(AuthenticationError, match="agent_tls_fingerprint"):
            wrong.fetch(artifact, tmp_path / "other", deadline=Deadline(20))
        assert proxy.connections > 1


def test_without_a_proxy_that_listens_everything_goes_directly(agent: AgentProcess, sshd: Sshd, tmp_path: Path) -> None:
    with closed_port() as port:
        node = replace(agent.inventory_node(), socks5_port=port)
        with P2PHttpTransport(node, agent.token) as transport:
            assert "SOCKS" not in transport.probe(Deadline(10)).detail
            round_trip(transport, agent.place(DATA), tmp_path)
        with SshLink(SshEndpoint(sshd.node("node-s", tmp_path, socks5_port=port), sshd.settings, "rsync")) as link:
            assert link.run("echo there", deadline=Deadline(20)).text == "there"


@pytest.mark.cluster
def test_a_proxy_that_ends_is_no_longer_asked(agent: AgentProcess) -> None:
    with SocksServer() as proxy:
        transport = P2PHttpTransport(behind(agent.inventory_node(), proxy), agent.token)
        assert transport.probe(Deadline(10)).reachable
    with transport:
        assert not transport.probe(Deadline(10)).reachable
        probe = transport.probe(Deadline(10))
        assert (probe.reachable, "SOCKS" in probe.detail) == (True, False)


def test_a_target_that_the_proxy_cannot_reach_is_unreachable(tmp_path: Path) -> None:
    with SocksServer() as proxy, closed_port() as port:
        node = Node("node-s", "127.0.0.1", "", agent_port=port, ssh_port=port, socks5_port=proxy.port)
        with P2PHttpTransport(node, lambda: "t") as transport, pytest.raises(UnreachableError):
            transport.call("scan", {}, deadline=Deadline(10))
        assert proxy.asked == [("127.0.0.1", port)]


@pytest.mark.cluster
def test_a_proxy_that_hangs_ends_within_the_connect_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        node = Node("node-s", "127.0.0.1", "", socks5_port=silent.getsockname()[1])
        started = time.monotonic()
        with P2PHttpTransport(node, lambda: "t") as transport, pytest.raises(UnreachableError):
            transport.call("scan", {}, deadline=Deadline(30))
        assert time.monotonic() - started < 8


def test_paramiko_goes_through_the_proxy(sshd: Sshd, tmp_path: Path) -> None:
    with SocksServer() as proxy:
        endpoint = SshEndpoint(behind(sshd.node("node-s", tmp_path), proxy), sshd.settings, "base64")
        with SshLink(endpoint) as link:
            assert link.run("cat", deadline=Deadline(20), stdin=DATA).stdout == DATA
        assert proxy.asked == [(sshd.address, sshd.port)]


def test_ssh_goes_through_the_proxy_with_all_its_bytes(sshd: Sshd, tmp_path: Path) -> None:
    with SocksServer() as proxy:
        endpoint = SshEndpoint(behind(sshd.node("node-s", tmp_path), proxy), sshd.settings, "rsync")
        arguments = endpoint.arguments(Deadline(20), "-S", "none")
        before = len(proxy.asked)
        ended = process.run([*arguments, "--", "cat"], deadline=Deadline(30), stdin=DATA)
        assert (ended.status, ended.stdout == DATA) == (0, True), ended.stderr
        assert proxy.asked[before:] == [(sshd.address, sshd.port)]


def test_the_proxy_command_says_why_there_is_no_connection() -> None:
    with SocksServer() as proxy, closed_port() as port:
        done = connect_program(str(proxy.port), "127.0.0.1", str(port))
    assert done.returncode == 1
    assert "refused" in done.stderr.decode().lower()
    assert f"through the SOCKS proxy on port {proxy.port}" in done.stderr.decode()


def test_the_proxy_command_ends_with_either_side() -> None:
    with SocksServer() as proxy, socket.create_server(("127.0.0.1", 0)) as listener:
        for end in ("ssh", "server"):
            program = started_program(str(proxy.port), "127.0.0.1", str(listener.getsockname()[1]))
            taken, _ = listener.accept()
            with taken, program:
                assert program.stdin is not None
                if end == "ssh":
                    program.stdin.close()
                else:
                    taken.close()
                assert program.wait(5) == 0


def test_nothing_listens_at_port_0_or_at_a_closed_one() -> None:
    with closed_port() as port, SocksServer() as proxy:
        assert (listens(0), listens(port), listens(proxy.port)) == (False, False, True)


def connect_program(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "ringrift_sync_dagster.transports.socks_connect", *arguments]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=20)


def started_program(*arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ringrift_sync_dagster.transports.socks_connect", *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_the_command_that_adds_a_key_behind_the_proxy_needs_no_connection(sshd: Sshd, tmp_path: Path) -> None:
    sshd.known_hosts.unlink()
    with SocksServer() as proxy:
        node = behind(sshd.node("node-s", tmp_path), proxy)
        with SshLink(SshEndpoint(node, sshd.settings, "rsync")) as link:
            with pytest.raises(HostKeyError) as refused:
                link.run("echo there", deadline=Deadline(10))
            command = str(refused.value).rpartition("then run: ")[2]
            assert command.startswith(f"echo '{sshd.place} ssh-ed25519 ")
            process.run(["sh", "-c", command], deadline=Deadline(10))
            assert link.run("echo there", deadline=Deadline(10)).text == "there"
