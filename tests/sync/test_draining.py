"""A node that nobody can reach is drained by the answers to its heartbeats, and taken back; with real agents."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringrift_sync_dagster.cli.main import main
from ringrift_sync_dagster.settings.identity import CoordinatorKey, create_coordinator_key, issue_token
from ringrift_sync_dagster.state.risks import Risk, put
from ringrift_sync_dagster.state.store import StateStore
from tests.agent.agents import AgentProcess, addresses, wait_until
from tests.agent.through_parts import OWNER, SPOT, arrived, status, told
from tests.node.merging import game, record


class Hub:
    """The coordinator's agent with its state, and a spot node whose address in the inventory leads nowhere."""

    def __init__(self, folder: Path, key: CoordinatorKey) -> None:
        self.folder, self.key, places = folder, key, addresses()
        self.state_url = f"sqlite:///{folder}/state.db"
        self.owner = AgentProcess(
            OWNER, folder / OWNER, next(places), key, trusted=("127.0.0.0/8",), state_url=self.state_url
        )
        self.owner.start()
        base = f"ringrift_path: {folder}"
        (folder / "hosts.yaml").write_text(
            "trusted_networks: [127.0.0.0/8]\nhosts:\n"
            f"  {OWNER}: {{ssh_host: {self.owner.host}, {base}/{OWNER}, role: coordinator}}\n"
            f"  {SPOT}: {{tailscale_ip: {next(places)}, {base}/{SPOT}, is_ephemeral: true, nat_blocked: true}}\n"
        )
        (folder / "tokens").mkdir()
        (folder / "tokens/coordinator.jwt").write_text(issue_token(key, "coordinator", ["coordinator"], time.time()))
        root = folder / SPOT
        root.mkdir()
        (root / "token.jwt").write_text(self.owner.token("node", sub=SPOT))
        expression = told(root, self.owner, (), "", watch_seconds=0.1, heartbeat_seconds=0.2, drain_seconds=1.0)
        more = {"is_ephemeral": "True", "write_through": expression}
        self.spot = AgentProcess(SPOT, root, next(places), key, trusted=("127.0.0.0/8",), more=more)

    def run(self, *arguments: str) -> int:
        places = ["--home", str(self.folder), "--hosts", str(self.folder / "hosts.yaml")]
        return main(["drain", SPOT, *arguments, *places, "--state-url", self.state_url])


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(tmp_path, create_coordinator_key(tmp_path / "keys"))
    yield hub
    hub.spot.stop()
    hub.owner.stop()


@pytest.mark.cluster
def test_a_node_behind_nat_is_drained_by_its_heartbeat_until_it_is_resumed(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.spot.start()
    record(hub.spot.root / "data/games/selfplay.db", game("g1"))
    wait_until(lambda: arrived(hub.owner) == ["g1"], 20)

    assert hub.run("--seconds", "10") == 0
    found = capsys.readouterr()
    assert "all of its games are durable elsewhere; until --resume it takes no bulk" in found.out
    assert "cannot be reached, so it is asked with the answer to its next heartbeat" in found.err
    assert status(hub.spot)["draining"]
    assert _shown(hub, capsys)["trouble"] == "drained: takes no bulk until --resume"

    hub.spot.stop()  # the wish holds over a restart of its agent
    hub.spot.start()
    wait_until(lambda: status(hub.spot)["draining"], 20)

    in_the_way = hub.owner.scratch / "incoming" / SPOT
    in_the_way.rename(hub.folder / "aside")
    in_the_way.write_text("no room for packs of this node")
    record(hub.spot.root / "data/games/selfplay.db", game("g2"))
    wait_until(lambda: status(hub.spot)["games"] == 1, 20)
    assert hub.run("--seconds", "1", "--json") == 1
    answer = json.loads(capsys.readouterr().out)
    assert (answer["ok"], answer["by"], answer["drained"]) == (False, "heartbeat", False)
    assert (answer["games"], answer["ids"]) == (1, ["g2"])
    assert answer["error"]

    assert hub.run("--resume", "--seconds", "20") == 0
    assert "takes bulk again" in capsys.readouterr().out
    wait_until(lambda: not status(hub.spot)["draining"], 20)
    assert _shown(hub, capsys)["trouble"] == ""


@pytest.mark.cluster
def test_a_node_that_was_asked_directly_says_the_second_time_that_it_is_one_and_is_resumed(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.spot.start()
    hosts = hub.folder / "hosts.yaml"
    address = hosts.read_text().partition("tailscale_ip: ")[2].partition(",")[0]
    reachable = f"tailscale_ip: {hub.spot.host}, agent_port: {hub.spot.port}"
    hosts.write_text(hosts.read_text().replace(f"tailscale_ip: {address}", reachable).replace("nat_blocked: true", ""))
    wait_until((hub.spot.scratch / "through").exists)

    assert hub.run("--seconds", "10") == 0
    assert "until --resume, or a restart of its agent, it takes no bulk" in capsys.readouterr().out
    time.sleep(1)  # heartbeats that want no drain end none that was asked for directly
    assert status(hub.spot)["draining"]
    assert hub.run("--seconds", "10") == 0
    assert "it was drained before; it pushed once more" in capsys.readouterr().err
    assert hub.run("--resume", "--json") == 0
    assert json.loads(capsys.readouterr().out)["was_draining"] is True
    assert not status(hub.spot)["draining"]
    assert hub.run("--resume") == 0
    assert "it did before, too" in capsys.readouterr().out


def test_a_node_that_says_nothing_costs_the_deadline_and_one_that_never_did_costs_nothing(
    hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ringrift_sync_dagster.sync.draining.SLACK_SECONDS", 0.5)
    assert hub.run("--seconds", "1") == 1
    assert "spot-1" in capsys.readouterr().err

    with StateStore.open(hub.state_url) as state:
        put(state, Risk(SPOT, 2, 900, ["a", "b"], time.time() - 50, at=time.time() - 40))
    started = time.monotonic()
    assert hub.run("--seconds", "0.5") == 1
    assert time.monotonic() - started < 15
    found = capsys.readouterr()
    assert "spot-1: not saved: 2 games (900 B): a, b" in found.out
    assert "these numbers are of its last heartbeat, 4" in found.err


def _shown(hub: Hub, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    places = ["--home", str(hub.folder), "--hosts", str(hub.folder / "hosts.yaml"), "--state-url", hub.state_url]
    assert main(["status", "--json", *places]) == 0
    row: dict[str, Any]
    (row,) = json.loads(capsys.readouterr().out)["risks"]
    return row
