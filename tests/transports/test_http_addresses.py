"""Which of its addresses a node's agent is called at: its own, in order; the one that answered is kept for a while."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ringrift_sync_dagster.errors import AuthenticationError, RungUnusableError, StallError, UnreachableError
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.settings.identity import CoordinatorKey
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.transports import http_routes
from ringrift_sync_dagster.transports.networks import as_called_by_others
from ringrift_sync_dagster.transports.p2p_http import P2PHttpTransport
from tests.agent.agents import AgentProcess
from tests.chaos_proxy import ChaosProxy
from tests.transports.bad_server import BadServer, raw

HEALTH = b'{"status":"up","version":"1","node_id":"node-a"}'


@pytest.fixture(scope="module")
def agent(
    tmp_path_factory: pytest.TempPathFactory, coordinator_key: CoordinatorKey, free_addresses: Iterator[str]
) -> Iterator[AgentProcess]:
    root = tmp_path_factory.mktemp("agent") / "root"
    with AgentProcess("node-a", root, next(free_addresses), coordinator_key) as started:
        yield started


def node(agent: AgentProcess, first: str) -> Node:
    """The agent's node, with another address before the one where it really is."""
    return Node("node-a", agent.host, "", tailscale_ip=first, agent_port=agent.port)


def asked(transport: P2PHttpTransport) -> str:
    """Where a probe was answered."""
    probe = transport.probe(Deadline(10))
    assert probe.reachable, probe.detail
    return probe.detail


def test_the_private_address_comes_first(agent: AgentProcess) -> None:
    with (
        ChaosProxy((agent.host, agent.port), port=agent.port) as proxy,
        P2PHttpTransport(node(agent, proxy.host), agent.token) as transport,
    ):
        assert asked(transport) == f"agent at http://{proxy.host}:{agent.port}"
        transport.call("scan", {}, deadline=Deadline(10))
        assert proxy.connections == 1


def test_when_nothing_answers_there_the_next_one_is_called_and_kept(
    agent: AgentProcess, free_addresses: Iterator[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = next(free_addresses)
    with P2PHttpTransport(node(agent, first), agent.token) as transport:
        assert asked(transport) == f"agent at {agent.url}"
        with ChaosProxy((agent.host, agent.port), first, agent.port) as proxy:
            transport.call("scan", {}, deadline=Deadline(10))
            assert proxy.connections == 0
            monkeypatch.setattr(http_routes, "KEPT_SECONDS", 0.0)
            assert asked(transport) == f"agent at http://{first}:{agent.port}"
            assert proxy.connections == 1


def test_when_the_kept_one_ends_the_others_are_called_again(agent: AgentProcess) -> None:
    with ChaosProxy((agent.host, agent.port), port=agent.port) as proxy:
        transport = P2PHttpTransport(node(agent, proxy.host), agent.token)
        assert asked(transport) == f"agent at http://{proxy.host}:{agent.port}"
    with transport:
        assert asked(transport) == f"agent at {agent.url}"


def test_an_answer_that_does_not_come_is_no_reason_to_ask_elsewhere(agent: AgentProcess) -> None:
    with ChaosProxy((agent.host, agent.port), port=agent.port) as proxy:
        proxy.black_hole = True
        transport = P2PHttpTransport(node(agent, proxy.host), agent.token, stall_seconds=0.5)
        with transport, pytest.raises(StallError):
            transport.forget(agent.place(b"x"), deadline=Deadline(5))


def test_all_addresses_that_do_not_answer_are_named(free_addresses: Iterator[str]) -> None:
    first, second = next(free_addresses), next(free_addresses)
    transport = P2PHttpTransport(Node("node-a", second, "", tailscale_ip=first, agent_port=9), lambda: "t")
    with transport, pytest.raises(UnreachableError) as caught:
        transport.call("scan", {}, deadline=Deadline(10))
    assert first in caught.value.message
    assert second in caught.value.message


@pytest.mark.parametrize("proxied,nat_blocked", [(True, False), (False, True)])
def test_an_ssh_proxy_gets_no_http(*, proxied: bool, nat_blocked: bool) -> None:
    with BadServer(raw(f"HTTP/1.1 200 OK\nContent-Length: {len(HEALTH)}", HEALTH)) as server:
        there = Node("node-a", "127.0.0.1", "", agent_port=server.port, proxied_ssh=proxied, nat_blocked=nat_blocked)
        with P2PHttpTransport(there, lambda: "t") as transport:
            assert not transport.probe(Deadline(5)).reachable
            with pytest.raises(RungUnusableError):
                transport.call("scan", {}, deadline=Deadline(5))
        assert server.requests == []


def test_secrecy_is_asked_for_each_address(free_addresses: Iterator[str]) -> None:
    silent = next(free_addresses)
    both = Node("node-a", "203.0.113.9", "", tailscale_ip=silent, agent_port=9)
    with P2PHttpTransport(both, lambda: "t") as transport, pytest.raises(UnreachableError, match="in the clear"):
        transport.call("scan", {}, deadline=Deadline(10))
    two = Node("node-a", "203.0.113.9", "", tailscale_ip="203.0.113.8", agent_port=9)
    with P2PHttpTransport(two, lambda: "t") as transport, pytest.raises(AuthenticationError, match=r"203\.0\.113\.8"):
        transport.call("scan", {}, deadline=Deadline(10))


@pytest.mark.parametrize(
    "private, public, others, expected",
    [
        ("", "localhost", ("10.0.0.2",), ()),
        ("", "LOCALHOST.", ("10.0.0.2",), ()),
        ("100.64.0.9", "127.0.1.1", ("10.0.0.2",), ("100.64.0.9",)),
        ("::1", "10.0.0.1", ("127.0.0.1",), ("10.0.0.1",)),
        ("", "127.0.0.1", ("127.0.0.2", "localhost"), ("127.0.0.1",)),
        ("", "10.0.0.1", ("127.0.0.2",), ("10.0.0.1",)),
    ],
)
def test_others_call_no_node_on_loopback_unless_all_nodes_are_there(
    private: str, public: str, others: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    called = Node("a", public, "/srv", tailscale_ip=private)
    found = as_called_by_others(called, [called, *(Node(f"b-{other}", other, "/srv") for other in others)])
    assert found.own_addresses == expected
