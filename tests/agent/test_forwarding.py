"""A node that stays keeps packs of others, and brings them to the owner by itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringrift_sync_dagster.agent.command import run
from ringrift_sync_dagster.settings.identity import CoordinatorKey
from tests.agent.agents import AgentProcess, wait_until
from tests.agent.conftest import StartAgent

IMPORTS = "__import__('ringrift_sync_dagster.agent.forwarding', fromlist=['Forward'])"
NODES = "__import__('ringrift_sync_dagster.settings.nodes', fromlist=['Node'])"


@pytest.fixture
def hub(coordinator_key: CoordinatorKey, free_addresses: Iterator[str], tmp_path: Path) -> AgentProcess:
    """The owner's agent, not started, at a port of its own."""
    return AgentProcess(
        "hub-1", tmp_path / "hub", next(free_addresses), coordinator_key, port=8765,
        more={"incoming": f"Path({str(tmp_path / 'hub-incoming')!r})"},
    )  # fmt: skip


def keeper(hub: AgentProcess, start_agent: StartAgent, tmp_path: Path, *scopes: str) -> AgentProcess:
    token = tmp_path / "token"
    token.write_text(hub.token(*scopes, sub="node-b"))
    owner = f"{NODES}.Node('hub-1', '', '', tailscale_ip={hub.host!r}, agent_port=8765)"
    forward = f"{IMPORTS}.Forward({owner}, Path({str(token)!r}), pause_seconds=0.2)"
    return start_agent(more={"forward": forward})


def push(agent: AgentProcess, data: bytes, origin: str) -> str:
    sha = hashlib.sha256(data).hexdigest()
    token = agent.token("node", sub=origin)
    assert agent.request("PUT", f"/v1/incoming/{origin}/{sha}", data=data, token=token).status_code == 201
    return sha


def test_a_pack_waits_for_the_owner_and_comes_under_its_origin_s_name(
    hub: AgentProcess, start_agent: StartAgent, tmp_path: Path
) -> None:
    agent = keeper(hub, start_agent, tmp_path, "node", "relay")
    theirs = push(agent, b"a pack of a node that died", "vast-1")
    own = push(agent, b"what the coordinator brought for this node", "hub-1")
    wait_until(lambda: "packs of others wait" in agent.log.read_text())
    with hub:
        wait_until((tmp_path / "hub-incoming/vast-1" / theirs).is_file, 5)
        later = push(agent, b"one more", "vast-1")
        wait_until((tmp_path / "hub-incoming/vast-1" / later).is_file, 5)

    assert not (tmp_path / "hub-incoming/hub-1" / own).exists()
    held = agent.request("GET", "/v1/receipts").json()["receipts"]
    assert next((one["sha256"], one["path"], one["durable"]) for one in held) == (theirs, f"vast-1/{theirs}", True)
    assert (agent.scratch / "incoming/vast-1" / theirs).is_file()  # until the coordinator lets it go


@pytest.mark.cluster
def test_an_owner_that_lost_a_pack_is_given_it_again_though_it_has_its_receipt(
    hub: AgentProcess, start_agent: StartAgent, tmp_path: Path
) -> None:
    agent = keeper(hub, start_agent, tmp_path, "node", "relay")
    with hub:
        there = tmp_path / "hub-incoming/vast-1" / push(agent, b"a pack of a node that died", "vast-1")
        wait_until(there.is_file, 5)
        there.unlink()
        agent.stop()
        agent.start()  # asks about everything at once, as it does each hour
        wait_until(there.is_file, 5)


@pytest.mark.cluster
def test_without_scope_relay_the_pack_stays_and_the_log_says_why(
    hub: AgentProcess, start_agent: StartAgent, tmp_path: Path
) -> None:
    with hub:
        agent = keeper(hub, start_agent, tmp_path, "node")
        sha = push(agent, b"a pack", "vast-1")
        wait_until(lambda: "may not push under the name vast-1" in agent.log.read_text())

    assert (agent.scratch / "incoming/vast-1" / sha).is_file()
    assert not (tmp_path / "hub-incoming/vast-1" / sha).exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--forward-to", "http://10.0.0.1:8765"],
        ["--forward-to", "hub-1=http://10.0.0.1:8765"],
        ["--forward-to", "hub-1=https://10.0.0.1:8765", "--token", "t"],
        ["--forward-to", "hub-1=ftp://10.0.0.1:8765", "--token", "t"],
    ],
)
def test_a_place_to_forward_to_that_makes_no_sense_is_refused_before_anything_runs(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(["--node", "node-b", "--root", str(tmp_path), *arguments])
    assert "--forward-to" in capsys.readouterr().err
