"""What the router says of a node: from the breakers of its rungs, and from asking it over each of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ringrift_sync_dagster.core.breaker import CircuitBreakerConfig, CircuitState
from ringrift_sync_dagster.errors import ConfigError
from ringrift_sync_dagster.settings.identity import create_coordinator_key
from ringrift_sync_dagster.settings.settings import load_settings
from ringrift_sync_dagster.state import breakers
from ringrift_sync_dagster.sync.router import SyncRouter
from ringrift_sync_dagster.sync.runtime import Runtime
from tests.agent.agents import AgentProcess, addresses
from tests.sshd import PROGRAMS, Sshd

RUNGS = ("p2p_http", "rsync", "base64")
ONE_FAILURE = CircuitBreakerConfig(failure_threshold=1)
HOSTS = """
hosts:
  hub-1: {{ssh_host: 127.77.0.1, ringrift_path: {base}/hub, role: coordinator}}
  node-r:
    ssh_host: {sshd.address}
    ssh_port: {sshd.port}
    ssh_key: {sshd.key}
    ringrift_path: {base}/root
    agent_port: {agent}
"""


@dataclass
class Host:
    """One node whose agent and sshd a test starts, and a router that knows it."""

    agent: AgentProcess
    sshd: Sshd
    runtime: Runtime
    router: SyncRouter


@pytest.fixture(params=[None])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Host]:
    address, key = next(addresses()), create_coordinator_key(tmp_path / "keys")
    agent = AgentProcess("node-r", tmp_path / "root", address, key).start()
    sshd = Sshd(tmp_path / "sshd", address, programs=request.param)
    (tmp_path / "token").write_text(agent.token())
    (tmp_path / "hosts.yaml").write_text(HOSTS.format(base=tmp_path, sshd=sshd, agent=agent.port))
    settings = load_settings(
        home=tmp_path, hosts=tmp_path / "hosts.yaml", root=tmp_path / "hub", token_file=tmp_path / "token",
        known_hosts=sshd.known_hosts,
    )  # fmt: skip
    with sshd, agent, Runtime.open(settings) as runtime:
        yield Host(agent, sshd, runtime, SyncRouter(runtime))


def open_breaker(host: Host, rung: str) -> None:
    breakers.failed(host.runtime.state, "node-r", rung, ONE_FAILURE, "it broke")


def test_a_node_is_open_when_all_its_rungs_are(host: Host) -> None:
    states = [host.router.get_node_status("node-r").circuit_state]
    for rung in RUNGS:
        open_breaker(host, rung)
        states.append(host.router.get_node_status("node-r").circuit_state)
    assert states == [CircuitState.CLOSED] * 3 + [CircuitState.OPEN]
    assert str(states[-1]) == "open"
    assert set(host.router.get_node_status("node-r").rungs) == set(RUNGS)


def test_a_node_that_is_not_in_the_inventory_is_named(host: Host) -> None:
    for ask in (host.router.get_node_status, host.router.get_node_capabilities):
        with pytest.raises(ConfigError, match="no-such"):
            ask("no-such")


def test_what_answers_is_available_and_what_does_not_says_why(host: Host) -> None:
    both = host.router.get_node_capabilities("node-r")
    assert (both.p2p_available, both.ssh_available) == (True, True)
    host.agent.stop()
    only_ssh = host.router.get_node_capabilities("node-r")
    assert (only_ssh.p2p_available, only_ssh.ssh_available) == (False, True)
    assert "connection" in only_ssh.details["p2p_http"]
    host.sshd.stop()
    nothing = host.router.get_node_capabilities("node-r")
    assert (nothing.p2p_available, nothing.ssh_available) == (False, False)
    assert "not asked" in nothing.details["base64"]


@pytest.mark.parametrize("host", [PROGRAMS], indirect=True)
def test_a_login_without_rsync_is_available_all_the_same(host: Host) -> None:
    found = host.router.get_node_capabilities("node-r")
    assert found.ssh_available
    assert "rsync" in found.details["rsync"]
