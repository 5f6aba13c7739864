"""``agent --write-through`` and ``drain``: what the inventory calls ephemeral is watched, and can be emptied."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from ringrift_sync_dagster.cli.main import main
from ringrift_sync_dagster.settings.identity import create_coordinator_key, issue_token
from tests.agent.agents import AgentProcess, addresses
from tests.agent.through_parts import arrived
from tests.node.merging import game, record

CHECKOUT = Path(__file__).resolve().parents[2]
CLI = [sys.executable, "-m", "ringrift_sync_dagster.cli"]
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[AgentProcess]:
    """The coordinator's agent, with an inventory, keys and tokens beside it."""
    host = next(addresses())
    key = create_coordinator_key(tmp_path / "home/keys")
    with AgentProcess("hub-1", tmp_path / "hub", host, key, trusted=("127.0.0.0/8",)) as running:
        (tmp_path / "home/tokens").mkdir()
        for name, scope in (("spot-1", "node"), ("coordinator", "coordinator")):
            token = issue_token(key, name, [scope], time.time())
            (tmp_path / f"home/tokens/{name}.jwt").write_text(token)
        base = f"ringrift_path: {tmp_path}"
        (tmp_path / "hosts.yaml").write_text(
            "trusted_networks: [127.0.0.0/8]\nhosts:\n"
            f"  hub-1: {{ssh_host: {host}, {base}/hub, role: coordinator, agent_port: {running.port}}}\n"
            f"  spot-1: {{ssh_host: 127.0.0.1, {base}/spot, is_ephemeral: true, agent_port: PORT}}\n"
        )
        yield running


def start(folder: Path, *more: str) -> tuple[subprocess.Popen[str], str]:
    """Run the agent of the spot node as a person does; give its process and its URL."""
    (folder / "spot").mkdir(exist_ok=True)
    (folder / "inventory.yaml").write_text((folder / "hosts.yaml").read_text().replace("PORT", "8765"))
    places = {"HOME": folder / "home", "HOSTS": folder / "inventory.yaml", "ROOT": folder / "hub"}
    told = {f"RINGRIFT_SYNC_{name}": str(path) for name, path in places.items()}
    environment = dict(os.environ) | {"PYTHONPATH": str(CHECKOUT), **told}
    command = [*CLI, "agent", "--node", "spot-1", "--port", "0", *more]
    agent = subprocess.Popen(command, env=environment, cwd=folder, stderr=subprocess.PIPE, text=True)
    assert agent.stderr is not None
    line = next(line for line in agent.stderr if "agent is up" in line)
    url = re.search(r"url=(\S+)", line)
    assert url is not None
    return agent, url[1]


@pytest.fixture
def spot(owner: AgentProcess, tmp_path: Path) -> Iterator[str]:
    agent, url = start(tmp_path)
    yield url
    agent.send_signal(signal.SIGTERM)
    agent.communicate(timeout=30)


@pytest.fixture
def run(tmp_path: Path, spot: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    hosts = (tmp_path / "hosts.yaml").read_text().replace("PORT", spot.rpartition(":")[2])
    (tmp_path / "inventory.yaml").write_text(hosts)
    for name in [name for name in os.environ if name.startswith("RINGRIFT_")]:
        monkeypatch.delenv(name)
    for name, path in (("HOME", "home"), ("HOSTS", "inventory.yaml"), ("ROOT", "hub")):
        monkeypatch.setenv(f"RINGRIFT_SYNC_{name}", str(tmp_path / path))

    def called(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        code = main(list(arguments))
        return code, capsys.readouterr().out

    return called


@pytest.mark.cluster
def test_an_ephemeral_node_of_the_inventory_writes_through_and_can_be_drained(
    owner: AgentProcess, run: Run, tmp_path: Path
) -> None:
    record(tmp_path / "spot/data/games/selfplay.db", game("g1"))

    code, text = run("drain", "spot-1", "--seconds", "20")

    assert (code, "all of its games are durable elsewhere" in text) == (0, True)
    assert arrived(owner) == ["g1"]
    owner.stop()
    record(tmp_path / "spot/data/games/selfplay.db", game("g2"))
    code, text = run("drain", "spot-1", "--seconds", "1")
    assert (code, text.splitlines()[0].endswith(": g2")) == (1, True)
    code, text = run("drain", "spot-1", "--seconds", "0.2", "--json")
    told = json.loads(text)
    assert (code, told["ok"], told["games"], told["ids"]) == (1, False, 1, ["g2"])
    assert run("drain", "hub-1", "--seconds", "1")[0] == 1
    assert run("drain", "nobody")[0] == 3


@pytest.mark.cluster
def test_write_through_is_off_where_somebody_says_so_or_there_is_no_token(owner: AgentProcess, tmp_path: Path) -> None:
    headers = {"Authorization": f"Bearer {owner.token()}"}
    for more in (["--no-write-through"], ["--token-file", str(tmp_path / "none")]):
        agent, url = start(tmp_path, *more)
        status = requests.get(f"{url}/v1/status", headers=headers, timeout=10).json()
        agent.send_signal(signal.SIGTERM)
        agent.communicate(timeout=30)
        assert "write_through" not in status


def test_asked_for_where_it_cannot_be_it_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hosts = tmp_path / "hosts.yaml"
    hosts.write_text(f"hosts:\n  hub-1: {{ssh_host: 127.0.0.1, ringrift_path: {tmp_path}, role: coordinator}}\n")
    places = ["--root", str(tmp_path), "--hosts", str(hosts), "--home", str(tmp_path)]

    assert main(["agent", "--node", "hub-1", "--write-through", *places]) == 2
    assert "write-through needs an inventory that names another node" in capsys.readouterr().err
    mac = f"  mac: {{ssh_host: localhost, ringrift_path: {tmp_path}, role: coordinator}}\n"
    hosts.write_text(f"hosts:\n{mac}  spot-1: {{ssh_host: 10.0.0.9, ringrift_path: {tmp_path}, is_ephemeral: true}}\n")
    assert main(["agent", "--node", "spot-1", "--write-through", *places]) == 2  # localhost would be spot-1 itself
    assert "write-through needs an inventory that names another node" in capsys.readouterr().err
