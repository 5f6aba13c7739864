"""``up`` and ``daemon`` as an operator starts them: real processes, killed and ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import requests

from ringrift_sync_dagster.cli.plans import STRATEGIES
from ringrift_sync_dagster.sync.strategies import STRATEGY_NAMES
from tests.agent.agents import addresses

CHECKOUT = Path(__file__).resolve().parents[2]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def hub(tmp_path: Path) -> str:
    address = next(addresses())
    with socket.socket() as probe:  # `agent` listens on loopback, where other tests have agents too
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    host = f"ssh_host: {address}, ringrift_path: {tmp_path}/root, role: coordinator, agent_port: {port}"
    (tmp_path / "hosts.yaml").write_text(f"hosts:\n  hub-1: {{{host}}}\n")
    return address


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[subprocess.Popen[str]] = []

    def begin(*arguments: str, **variables: str) -> subprocess.Popen[str]:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RINGRIFT_", "DAGSTER_"))},
            "RINGRIFT_SYNC_HOME": str(tmp_path), "RINGRIFT_SYNC_HOSTS": str(tmp_path / "hosts.yaml"), **variables,
        }  # fmt: skip
        command = [sys.executable, "-m", "ringrift_sync_dagster.cli", *arguments]
        running.append(
            subprocess.Popen(
                command, env=environment, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
        return running[-1]

    yield begin
    for process in running:
        for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
            child.kill()
        process.kill()
        process.communicate()


def wait_for(found: Callable[[], object], seconds: float = 40) -> object:
    limit = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < limit
        time.sleep(0.1)
    return value


def child(process: subprocess.Popen[str], word: str) -> psutil.Process | None:
    for one in psutil.Process(process.pid).children(recursive=True):
        try:
            if word in one.cmdline():
                return one
        except psutil.Error:
            continue
    return None


def test_the_names_of_the_command_line_are_those_of_the_strategies() -> None:
    assert STRATEGIES == STRATEGY_NAMES


def test_up_keeps_its_parts_running_and_ends_them_all(start: Start, tmp_path: Path, hub: str) -> None:
    process = start("up", "--no-dagster")
    log = tmp_path / "logs" / "auto_sync.log"
    agent = wait_for(lambda: child(process, "agent"))
    wait_for(lambda: log.exists() and "strategy=ephemeral" in log.read_text())
    assert isinstance(agent, psutil.Process)
    agent.kill()
    other = wait_for(lambda: (found := child(process, "agent")) is not None and found.pid != agent.pid and found)
    everybody = psutil.Process(process.pid).children(recursive=True)

    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=40)

    assert process.returncode == 0, said
    assert "agent ended with -9; again in 1 s" in said
    assert isinstance(other, psutil.Process)
    assert psutil.wait_procs(everybody, timeout=5)[1] == []


def test_the_daemon_ends_well_at_sigterm_and_says_what_it_did(start: Start, tmp_path: Path, hub: str) -> None:
    process = start("daemon", "--json", "--strategy", "pull")
    log = tmp_path / "logs" / "auto_sync.log"
    wait_for(lambda: log.exists() and "mark=1" in log.read_text())
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate(timeout=40)

    assert process.returncode == 0
    assert json.loads(told)["marks"]["pull"] >= 1


def test_what_is_missing_is_said_before_anything_starts(start: Start, tmp_path: Path, hub: str) -> None:
    without = start("up", "--no-agent", DAGSTER_HOME=str(tmp_path))
    _, said = without.communicate(timeout=40)
    (tmp_path / "hosts.yaml").write_text("hosts:\n  n-1: {ssh_host: 127.0.0.1, ringrift_path: /x}\n")
    nobody = start("up", "--no-dagster")
    _, told = nobody.communicate(timeout=40)

    assert (without.returncode, "dagster.yaml" in said) == (3, True)
    assert (nobody.returncode, "coordinator" in told) == (3, True)


@pytest.mark.cluster
def test_up_runs_dagster_with_all_that_starts_by_itself(start: Start, tmp_path: Path, hub: str) -> None:
    home = tmp_path / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    process = start("up", "--port", "34567", DAGSTER_HOME=str(home))

    def answers() -> bool:
        try:
            return requests.get("http://127.0.0.1:34567/server_info", timeout=5).ok
        except requests.RequestException:
            return False

    wait_for(answers, 120)
    query = """{ schedulesOrError(repositorySelector: {repositoryName: "__repository__",
        repositoryLocationName: "ringrift_sync_dagster.definitions"})
        { ... on Schedules { results { name scheduleState { status } } } } }"""
    found = requests.post("http://127.0.0.1:34567/graphql", json={"query": query}, timeout=30).json()
    states = {one["name"]: one["scheduleState"]["status"] for one in found["data"]["schedulesOrError"]["results"]}
    everybody = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)

    assert {states["hybrid_schedule"], states["ephemeral_schedule"]} == {"RUNNING"}
    assert psutil.wait_procs(everybody, timeout=5)[1] == []
