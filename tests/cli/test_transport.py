"""``sync --transport``: each one alone brings a game from a node that all of them reach."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ringrift_sync_dagster.demo.games import make_game
from ringrift_sync_dagster.demo.recorder import Recorder
from ringrift_sync_dagster.demo.schemas import Dialect
from ringrift_sync_dagster.settings.identity import create_coordinator_key
from tests.agent.agents import AgentProcess, addresses
from tests.marks import first_of
from tests.sshd import Sshd

HOSTS = """
hosts:
  hub-1: {{ssh_host: 127.77.0.1, ringrift_path: {base}/hub, role: coordinator}}
  node-t:
    ssh_host: {sshd.address}
    ssh_port: {sshd.port}
    ssh_key: {sshd.key}
    ringrift_path: {base}/root
    agent_port: {agent}
"""
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Run]]:
    base, address = tmp_path_factory.mktemp("transport"), next(addresses())
    agent = AgentProcess("node-t", base / "root", address, create_coordinator_key(base / "keys")).start()
    with Sshd(base / "sshd", address) as sshd, agent:
        (base / "token").write_text(agent.token())
        (base / "hosts.yaml").write_text(HOSTS.format(base=base, sshd=sshd, agent=agent.port))
        named = {
            "HOME": base, "HOSTS": base / "hosts.yaml", "ROOT": base / "hub", "TOKEN_FILE": base / "token",
            "KNOWN_HOSTS": sshd.known_hosts,
        }  # fmt: skip
        environment = os.environ | {f"RINGRIFT_SYNC_{name}": str(value) for name, value in named.items()}

        def run(*words: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "ringrift_sync_dagster.cli", "sync", "--type", "games"]
            command += ["--config", "hex8_2p", *words]
            return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=90)

        yield base / "root", run


@pytest.mark.parametrize("transport,rung", first_of(("base64", "base64"), ("p2p", "p2p_http"), ("rsync", "rsync")))
def test_the_transport_that_is_asked_for_brings_the_games(node: tuple[Path, Run], transport: str, rung: str) -> None:
    root, run = node
    with Recorder(root / "data" / "games" / f"selfplay_{transport}.db", Dialect.V18) as recorder:
        recorder.record_all([make_game(transport, "hex8_2p")])
    done = run("--transport", transport, "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["partitions"]
    brought: dict[str, Any] = {name: found[name] for name in ("games_new", "transport")}
    assert brought == {"games_new": 1, "transport": rung}


def test_a_transport_that_does_not_exist_is_refused_with_those_that_do(node: tuple[Path, Run]) -> None:
    done = node[1]("--transport", "pigeon")
    assert done.returncode == 2
    assert all(name in done.stderr for name in ("p2p", "rsync", "base64"))
