"""The agent in a virtual environment that holds requirements-agent.txt and nothing else: there is no Dagster."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.settings.identity import CoordinatorKey
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.transports.p2p_http import P2PHttpTransport
from tests.agent.agents import AgentProcess, wait_until

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the environment once; pip's cache makes it seconds."""
    folder = tmp_path_factory.mktemp("venv") / "agent"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True)
    pip = [str(folder / "bin" / "pip"), "install", "-q", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, "-r", "requirements-agent.txt"], cwd=CHECKOUT, check=False, capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stderr
    return folder / "bin" / "python"


@pytest.mark.cluster
def test_an_agent_runs_where_dagster_is_not_installed(
    bare_python: Path, tmp_path: Path, coordinator_key: CoordinatorKey, free_addresses: Iterator[str]
) -> None:
    missing = "import importlib.util, sys; sys.exit(importlib.util.find_spec('dagster') is not None)"
    assert subprocess.run([bare_python, "-c", missing], check=False).returncode == 0
    (tmp_path / "key").write_bytes(coordinator_key.public_pem)
    host = next(free_addresses)
    command = [str(bare_python), "-m", "ringrift_sync_dagster.agent", "--node", "bare"]
    command += [
        "--root",
        str(tmp_path / "root"),
        "--host",
        host,
        "--port",
        "8765",
        "--public-key",
        str(tmp_path / "key"),
    ]
    helper = AgentProcess("bare", tmp_path / "root", host, coordinator_key)
    node = Node(name="bare", ssh_host=host, ringrift_path="", agent_port=8765)
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stderr=log, cwd=CHECKOUT) as process:
        try:
            with P2PHttpTransport(node, helper.token) as transport:
                wait_until(lambda: transport.probe(Deadline(5)).reachable or process.poll() is not None, 30)
                assert process.poll() is None, (tmp_path / "log").read_text()
                artifact = helper.place(b"served without Dagster")
                transport.fetch(artifact, tmp_path / "got", deadline=Deadline(20))
                transport.push(artifact, tmp_path / "got", "bare", deadline=Deadline(20))
                assert transport.call("scan", {}, deadline=Deadline(30)) == {"entries": []}
        finally:
            process.terminate()
            assert process.wait(15) == 0
