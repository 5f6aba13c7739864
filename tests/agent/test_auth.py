"""Who may ask what, and where the agent listens at all."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
import requests

from ringrift_sync_dagster.agent.serve import run_agent
from ringrift_sync_dagster.agent.tls import check_listen
from ringrift_sync_dagster.errors import ConfigError
from ringrift_sync_dagster.settings.identity import create_coordinator_key, issue_token
from ringrift_sync_dagster.transports.networks import TrustedNetworks
from tests.agent.agents import AgentProcess
from tests.agent.conftest import StartAgent

GUARDED = [
    ("GET", "/v1/status"),
    ("GET", "/v1/manifest"),
    ("GET", "/v1/receipts"),
    ("GET", "/metrics"),
    ("GET", f"/v1/artifacts/{'0' * 64}"),
    ("GET", f"/v1/artifacts/{'0' * 64}/blocks"),
    ("DELETE", f"/v1/artifacts/{'0' * 64}"),
    ("POST", "/v1/call/scan"),
    ("PUT", f"/v1/incoming/node-a/{'0' * 64}"),
    ("GET", f"/v1/incoming/node-a/{'0' * 64}"),
    ("GET", "/nothing/here"),
]


def test_health_is_open_and_tells_nothing_else(agent: AgentProcess) -> None:
    answer = requests.get(f"{agent.url}/health", timeout=5).json()
    assert sorted(answer) == ["node_id", "status", "version"]
    assert (answer["status"], answer["node_id"]) == ("up", "node-a")


@pytest.mark.parametrize("method,path", GUARDED)
def test_everything_else_needs_a_valid_token(agent: AgentProcess, method: str, path: str, tmp_path: Path) -> None:
    stranger = create_coordinator_key(tmp_path)
    assert agent.key is not None
    bad = {
        "none": "",
        "foreign key": "Bearer " + issue_token(stranger, "node-a", ["coordinator"], time.time()),
        "expired": "Bearer " + issue_token(agent.key, "node-a", ["coordinator"], time.time() - 40 * 24 * 3600),
        "not bearer": "Basic eDp5",
        "rubbish": "Bearer a.b.c",
        "unsigned": "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJub2RlLWEiLCJleHAiOjk5OTk5OTk5OTl9.",
    }
    for authorization in bad.values():
        answer = requests.request(method, agent.url + path, headers={"Authorization": authorization}, timeout=5)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "token")
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_nodes_token_reads_but_orders_nothing(agent: AgentProcess) -> None:
    token = agent.token("node", sub="node-q")
    for path in ("/v1/status", "/v1/manifest", "/v1/receipts", "/metrics"):
        assert agent.request("GET", path, token=token).status_code == 200
    assert agent.request("POST", "/v1/call/scan", token=token).status_code == 403


def test_what_does_not_exist_is_said_in_json(agent: AgentProcess) -> None:
    answer = agent.request("GET", "/nothing/here")
    assert answer.status_code == 404
    assert answer.json() == {"ok": False, "error": {"code": "not_found", "message": "Not Found"}}
    answer = agent.request("POST", "/v1/status")
    assert (answer.status_code, "GET" in answer.headers["Allow"]) == (405, True)


def test_without_a_key_only_loopback_is_served_and_only_under_its_own_name(start_agent: StartAgent) -> None:
    keyless = start_agent(key=None)
    assert requests.get(f"{keyless.url}/v1/status", timeout=5).status_code == 200
    answer = requests.get(f"{keyless.url}/v1/status", headers={"Host": "rebound.example"}, timeout=5)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "loopback_only")


@pytest.mark.parametrize(
    "host,has_key,has_tls,allowed",
    [
        ("127.0.0.1", False, False, True),
        ("localhost", False, False, True),
        ("::1", False, False, True),
        ("10.1.2.3", False, False, False),
        ("10.1.2.3", False, True, False),
        ("0.0.0.0", False, False, False),
        ("", False, False, False),
        ("10.1.2.3", True, False, True),
        ("100.64.9.9", True, False, True),
        ("203.0.113.5", True, False, False),
        ("203.0.113.5", True, True, True),
        ("0.0.0.0", True, False, True),
        ("::", True, False, True),
    ],
)
def test_where_the_agent_may_listen(host: str, has_key: bool, has_tls: bool, allowed: bool) -> None:  # noqa: FBT001
    trusted = TrustedNetworks()
    if allowed:
        check_listen(host, trusted, has_key=has_key, has_tls=has_tls)
    else:
        with pytest.raises(ConfigError):
            check_listen(host, trusted, has_key=has_key, has_tls=has_tls)


def test_an_agent_that_may_not_listen_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="public key"):
        run_agent("node-a", [tmp_path], "0.0.0.0", 0)


def test_plain_http_from_outside_the_trusted_networks_is_refused(start_agent: StartAgent) -> None:
    """Loopback is always trusted, so this machine asks itself over its own outward address, if it has one."""
    outward = own_address()
    if outward is None:
        pytest.skip("this machine has no address but loopback")
    agent = start_agent(host="0.0.0.0", trusted=())
    url = f"http://{outward}:{agent.port}/health"
    answer = requests.get(url, timeout=5)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "plain_http")


def own_address() -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        address: str = probe.getsockname()[0]
    return None if address.startswith("127.") else address


@pytest.mark.parametrize(
    "address,trusted",
    [
        ("127.9.9.9", True),
        ("::1", True),
        ("10.0.0.1", True),
        ("::ffff:10.0.0.1", True),
        ("100.100.1.1", True),
        ("100.128.0.1", False),
        ("8.8.8.8", False),
        ("::ffff:8.8.8.8", False),
        ("2001:db8::1", False),
        ("fd00::5", True),
        ("not an address", False),
        ("", False),
    ],
)
def test_which_addresses_are_trusted(address: str, trusted: bool) -> None:  # noqa: FBT001
    assert TrustedNetworks().holds(address) is trusted
