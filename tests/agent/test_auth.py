"""Who may ask what, and where the agent listens at all."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest
import requests

from ringrift_sync_dagster.agent.auth import RevokedIds
from ringrift_sync_dagster.agent.serve import AgentConfig, run_agent, running
from ringrift_sync_dagster.agent.tls import check_listen
from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.errors import AuthenticationError, ConfigError
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.settings.identity import (
    CoordinatorKey,
    create_coordinator_key,
    issue_token,
    store_renewed_token,
    verify_token,
)
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.settings.revoked import set_revoked
from ringrift_sync_dagster.transports.networks import TrustedNetworks
from ringrift_sync_dagster.transports.p2p_http import P2PHttpTransport
from tests.agent.agents import AgentProcess, wait_until
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
    ("POST", "/v1/events"),
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


DAY = 24 * 3600.0
HEADER = "X-RingRift-Token"


@contextlib.contextmanager
def agent_in_thread(config: AgentConfig) -> Iterator[str]:
    """Run an agent with all options of ``AgentConfig`` while the body runs; gives its URL."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    service = running(config)
    try:
        yield asyncio.run_coroutine_threadsafe(service.__aenter__(), loop).result(30)
    finally:
        asyncio.run_coroutine_threadsafe(service.__aexit__(None, None, None), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def hub(tmp_path: Path, key: CoordinatorKey, *, signs: bool = True, revoked: Path | None = None) -> AgentConfig:
    (tmp_path / "hub").mkdir(exist_ok=True)
    return AgentConfig(
        "hub-1", (tmp_path / "hub",), port=0, public_key_pem=key.public_pem, revoked=revoked,
        coordinator_key=key if signs else None,
    )  # fmt: skip


def ask(url: str, token: str, path: str = "/v1/status") -> requests.Response:
    return requests.get(url + path, headers={"Authorization": f"Bearer {token}"}, timeout=10)


def aged(key: CoordinatorKey, days: float, *scopes: str, sub: str = "node-a") -> str:
    return issue_token(key, sub, scopes or ("node",), time.time() - days * DAY)


def test_the_coordinators_agent_renews_a_token_past_two_thirds_of_its_life_with_the_same_rights(
    coordinator_key: CoordinatorKey, tmp_path: Path
) -> None:
    with agent_in_thread(hub(tmp_path, coordinator_key)) as url:
        assert HEADER not in ask(url, aged(coordinator_key, 19.9)).headers
        answer = ask(url, aged(coordinator_key, 20.1, "node", "relay"))
        refused = ask(url, aged(coordinator_key, 31))
        unknown = ask(url, aged(coordinator_key, 20.1), "/nothing/here")
        health = requests.get(f"{url}/health", timeout=10)

    claims = verify_token(coordinator_key.public_pem, answer.headers[HEADER], time.time())
    assert claims.sub == "node-a"
    assert claims.scopes == {"node", "relay"}
    assert claims.expires == pytest.approx(time.time() + 30 * DAY, abs=60)
    assert (refused.status_code, HEADER in refused.headers) == (401, False)
    assert (unknown.status_code, HEADER in unknown.headers) == (404, True)
    assert HEADER not in health.headers


def test_an_agent_without_the_private_key_renews_nothing(coordinator_key: CoordinatorKey, tmp_path: Path) -> None:
    with agent_in_thread(hub(tmp_path, coordinator_key, signs=False)) as url:
        answer = ask(url, aged(coordinator_key, 29))
    assert (answer.status_code, HEADER in answer.headers) == (200, False)


def test_a_token_with_a_scope_that_this_version_does_not_know_is_served_but_not_renewed(
    coordinator_key: CoordinatorKey, tmp_path: Path
) -> None:
    payload = {"sub": "node-a", "scopes": ["node", "of-tomorrow"], "exp": int(time.time() + DAY)}
    with agent_in_thread(hub(tmp_path, coordinator_key)) as url:
        answer = ask(url, jwt.encode(payload, coordinator_key.private_pem, algorithm="EdDSA"))
    assert (answer.status_code, HEADER in answer.headers) == (200, False)


def test_an_agent_with_the_private_key_of_another_coordinator_does_not_start(
    coordinator_key: CoordinatorKey, tmp_path: Path
) -> None:
    stranger = create_coordinator_key(tmp_path / "keys")
    with pytest.raises(ConfigError, match="private key is not that of the public key"):
        run_agent(
            "hub-1", [tmp_path], port=0, public_key_pem=coordinator_key.public_pem, coordinator_key=stranger
        )  # fmt: skip


def transport(url: str, token_file: Path, received: list[str], key: CoordinatorKey) -> P2PHttpTransport:
    def keep(token: str) -> None:
        received.append(token)
        store_renewed_token(token_file, token, key.public_pem, time.time())

    node = Node(name="hub-1", ssh_host="127.0.0.1", ringrift_path="", agent_port=int(url.rpartition(":")[2]))
    return P2PHttpTransport(node, lambda: token_file.read_text().strip(), renewed=keep)


def test_a_node_keeps_its_renewed_token_and_uses_it_from_then_on(
    coordinator_key: CoordinatorKey, tmp_path: Path
) -> None:
    file, received = tmp_path / "node-a.jwt", list[str]()
    file.write_text(aged(coordinator_key, 25))
    with (
        agent_in_thread(hub(tmp_path, coordinator_key)) as url,
        transport(url, file, received, coordinator_key) as way,
    ):
        assert way.probe(Deadline(10)).reachable
        assert received == []  # a probe shows no token, so it gets none
        way.manifest(None, deadline=Deadline(30))
        way.manifest(None, deadline=Deadline(30))
    assert file.read_text() == f"{received[0]}\n"
    assert len(received) == 1
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_token_that_cannot_be_kept_does_not_fail_the_transfer(
    coordinator_key: CoordinatorKey, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key, file = coordinator_key, tmp_path / "pack"
    file.write_bytes(b"12345")
    artifact = Artifact("5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5", 5, "games")
    other, received = tmp_path / "other.jwt", list[str]()
    other.write_text(aged(key, 25, sub="node-q"))  # the reply renews node-a's token, and this file is another node's
    with agent_in_thread(hub(tmp_path, key)) as url:
        node = Node(name="hub-1", ssh_host="127.0.0.1", ringrift_path="", agent_port=int(url.rpartition(":")[2]))

        def keep(token: str) -> None:
            received.append(token)
            store_renewed_token(other, token, key.public_pem, time.time())

        with P2PHttpTransport(node, lambda: aged(key, 25), renewed=keep) as way:
            assert way.push(artifact, file, "node-a", deadline=Deadline(30)).bytes_moved == artifact.size_bytes
    assert received
    assert "was not kept node=hub-1" in caplog.text


def test_a_revoked_id_is_refused_at_once_without_a_restart_and_others_go_on(
    coordinator_key: CoordinatorKey, tmp_path: Path
) -> None:
    file = tmp_path / "keys" / "revoked"
    lost, well = aged(coordinator_key, 25, "coordinator", sub="lost-1"), aged(coordinator_key, 1, sub="well-1")
    with agent_in_thread(hub(tmp_path, coordinator_key, revoked=file)) as url:
        assert ask(url, lost).status_code == 200
        set_revoked(file, "lost-1", revoked=True)
        since = time.monotonic()
        wait_until(lambda: ask(url, lost).status_code == 403)
        assert time.monotonic() - since < 3
        answer = ask(url, lost)
        assert (answer.json()["error"]["code"], HEADER in answer.headers) == ("revoked", False)
        assert ask(url, well).status_code == 200
        assert requests.get(f"{url}/health", timeout=10).status_code == 200
        node = Node(name="hub-1", ssh_host="127.0.0.1", ringrift_path="", agent_port=int(url.rpartition(":")[2]))
        with P2PHttpTransport(node, lambda: lost) as way, pytest.raises(AuthenticationError, match="lost-1 is revoked"):
            way.manifest(None, deadline=Deadline(10))
        set_revoked(file, "lost-1", revoked=False)
        wait_until(lambda: ask(url, lost).status_code == 200)


def test_an_agent_that_starts_with_a_list_refuses_from_its_first_request(
    coordinator_key: CoordinatorKey, tmp_path: Path
) -> None:
    file = tmp_path / "revoked"
    file.write_text("# stolen in March\nlost-1  # the big one\n\n  lost-2\n")
    with agent_in_thread(hub(tmp_path, coordinator_key, revoked=file)) as url:
        statuses = [ask(url, aged(coordinator_key, 1, sub=name)).status_code for name in ("lost-1", "lost-2", "lost")]
    assert statuses == [403, 403, 200]


def test_a_list_that_cannot_be_read_stops_the_start_and_later_leaves_the_last_one_in_force(tmp_path: Path) -> None:
    file = tmp_path / "revoked"
    file.mkdir()
    with pytest.raises(ConfigError, match="the revoked ids cannot be read"):
        RevokedIds(file)
    file.rmdir()
    file.write_text("lost-1\n")
    ids = RevokedIds(file)
    file.replace(tmp_path / "aside")
    file.mkdir()
    time.sleep(1.1)
    assert "lost-1" in ids
    file.rmdir()
    file.write_text("lost-2\n")
    time.sleep(1.1)
    assert ("lost-1" in ids, "lost-2" in ids) == (False, True)
