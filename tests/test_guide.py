"""docs/guide.md: each of its examples runs against real servers, and each of its tables is the code's."""

from __future__ import annotations

import getpass
import os
import re
import shlex
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from ringrift_sync_dagster.core.bandwidth import PROVIDER_LIMITS_MB_PER_S, TransferPriority
from ringrift_sync_dagster.core.breaker import CircuitBreakerConfig
from ringrift_sync_dagster.core.escalation import LADDER, Rung
from ringrift_sync_dagster.core.events import DataEventType
from ringrift_sync_dagster.core.routing import SOURCE_WEIGHTS, TARGET_WEIGHTS, Weight
from ringrift_sync_dagster.settings.identity import create_coordinator_key
from ringrift_sync_dagster.state.payloads import PAYLOADS, Payload
from tests.agent.agents import AgentProcess, addresses
from tests.sshd import Sshd

ROOT = Path(__file__).resolve().parent.parent
GUIDE = ROOT / "docs" / "guide.md"
BLOCK = re.compile(r"^( *)```(?P<language>python|bash)\n(?P<code>.*?)^ *```", re.MULTILINE | re.DOTALL)
# A snippet may await at its top level, as in the guide.
RUN = """
import ast, asyncio, inspect, sys
code = compile(sys.stdin.read(), "snippet", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
names = {}
found = eval(code, names)
if inspect.isawaitable(found):
    asyncio.run(found)
if "result" in names:
    print("result:", names["result"])
"""
HOSTS = """
trusted_networks: [127.0.0.0/8]
x-training: &training
  ssh_host: {training}
  ssh_port: {training_port}
  ssh_key: {training_key}
  ssh_user: {user}
  ringrift_path: {base}/training
hosts:
  coordinator-1: {{ssh_host: 127.77.0.1, ringrift_path: {base}/hub, role: coordinator}}
  node-name:
    ssh_host: {address}
    ssh_port: {port}
    ssh_key: {key}
    ssh_user: {user}
    ringrift_path: {base}/node-name
    agent_port: {agent}
    provider: vultr
  training-node: {{<<: *training}}
  slow-node: {{<<: *training, status: offline}}
  runpod-h100: {{<<: *training, ringrift_path: {base}/runpod, training_enabled: true}}
  nebius-h100-1: {{<<: *training, ringrift_path: {base}/nebius, training_enabled: true}}
"""


def blocks(language: str) -> list[str]:
    found = [match for match in BLOCK.finditer(GUIDE.read_text()) if match["language"] == language]
    return [textwrap.dedent(match["code"]) for match in found]


def table_after(heading: str) -> list[list[str]]:
    text = GUIDE.read_text().partition(f"# {heading}\n")[2]
    lines = text[text.index("| ") :].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines[2:]]


@dataclass
class Cluster:
    """The hosts that the guide names, and what a program of an operator has in its environment."""

    base: Path
    environment: dict[str, str]
    replaced: dict[str, str]

    def run(self, command: list[str], text: str = "") -> str:
        done = subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            env=self.environment,
            cwd=self.base,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def real(self, code: str) -> str:
        for written, there in self.replaced.items():
            code = code.replace(written, there)
        return code


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    base = tmp_path_factory.mktemp("guide")
    free, key = addresses(), create_coordinator_key(base / "keys")
    games = base / "games"
    for folder in ("node-name", "training/games", "training/npz", "games", "npz", "hub", "runpod", "nebius"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    for name in ("hex8_2p.npz", "square8_2p.npz"):
        (base / "npz" / name).write_bytes(name.encode() * 1000)
    with sqlite3.connect(games / "canonical_hex8.db") as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES (1)")
    connection.close()
    node, training = Sshd(base / "sshd-node", next(free)), Sshd(base / "sshd-training", next(free))
    with node, training, AgentProcess("node-name", base / "node-name", node.address, key) as agent:
        (base / "token").write_text(agent.token())
        (base / "known_hosts").write_text(node.known_hosts.read_text() + training.known_hosts.read_text())
        user = getpass.getuser()
        (base / "hosts.yaml").write_text(
            HOSTS.format(
                base=base,
                address=node.address,
                port=node.port,
                key=node.key,
                user=user,
                agent=agent.port,
                training=training.address,
                training_port=training.port,
                training_key=training.key,
            )
        )
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RINGRIFT_SYNC_HOME": str(base / "home"),
            "RINGRIFT_SYNC_HOSTS": str(base / "hosts.yaml"),
            "RINGRIFT_SYNC_TOKEN_FILE": str(base / "token"),
            "RINGRIFT_SYNC_KNOWN_HOSTS": str(base / "known_hosts"),
        }
        login = f"-p {node.port} -i {node.key} -o UserKnownHostsFile={base}/known_hosts {user}@{node.address}"
        replaced = {
            "ubuntu@training:/data/games/": f"{user}@{training.address}:{base}/training/games/",
            "ubuntu@training:/data/training/": f"{user}@{training.address}:{base}/training/npz/",
            "/data/games/": f"{games}/",
            "/data/training": f"{base}/npz",
            "http://node:8765": agent.url,
            "user@node": login,
        }
        yield Cluster(base, environment, replaced)


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_every_python_example_runs(cluster: Cluster, number: int) -> None:
    code = blocks("python")[number]
    assert "from ringrift_sync_dagster import " in code
    printed = cluster.run([sys.executable, "-W", "error", "-c", RUN], cluster.real(code))
    expected = {
        "get_host_bandwidth_limit": "75.0",
        "get_node_status": "Circuit: closed",
        "get_node_capabilities": "P2P: True, SSH: True",
        "sync_with_checksum": "success=True",
        "batch.sync": "square8_2p.npz",
        "priority_hosts": "['runpod-h100', 'nebius-h100-1']",
        "get_sync_sources": "nebius-h100-1 110.0",
    }
    for name, words in expected.items():
        assert name not in code or words in printed, printed


@pytest.mark.parametrize(
    "line", [line for block in blocks("bash") for line in block.splitlines() if line and not line.startswith("#")]
)
def test_every_command_runs(cluster: Cluster, line: str) -> None:
    cluster.run(shlex.split(cluster.real(line)))


def test_the_providers_are_the_codes() -> None:
    told = {name.lower().removesuffix(".ai"): float(limit) for name, limit in table_after("Bandwidth limits")}
    assert told == PROVIDER_LIMITS_MB_PER_S


def test_the_priorities_are_the_codes() -> None:
    told = {
        name.strip("`"): float(multiplier.rstrip("x")) for name, multiplier, _ in table_after("Transfer priorities")
    }
    assert told == {priority.name: priority.multiplier for priority in TransferPriority}


@pytest.mark.parametrize("heading, weights", [("quality-based", TARGET_WEIGHTS), ("sources", SOURCE_WEIGHTS)])
def test_the_parts_of_scores_are_the_codes(heading: str, weights: Mapping[str, Weight]) -> None:
    rows = table_after("quality-based") if heading == "quality-based" else _second_table("quality-based")
    told = {name.strip("`"): (float(points), why) for name, points, why in rows}
    assert told == {name: (weight.points, weight.why) for name, weight in weights.items()}


def _second_table(heading: str) -> list[list[str]]:
    text = GUIDE.read_text().partition(f"# {heading}\n")[2].partition("| Part of a source's score")[2]
    lines = text.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]


def test_the_ladder_is_the_codes() -> None:
    rungs = dict(zip(("P2P HTTP", "SSH/rsync", "Base64"), Rung, strict=True))
    for name, connect, transfer, tries in table_after("Transport escalation"):
        limits = LADDER[rungs.pop(name)]
        told = (float(connect.removesuffix(" s")), float(transfer.removesuffix(" s")), int(tries))
        assert told == (limits.connect_seconds, limits.transfer_seconds, limits.tries)
    assert not rungs


def test_the_breakers_are_the_codes() -> None:
    default, fast, slow = CircuitBreakerConfig(), CircuitBreakerConfig.aggressive(), CircuitBreakerConfig.patient()
    numbers = [(one.failure_threshold, one.recovery_timeout_seconds) for one in (default, fast, slow)]
    assert numbers == [(3, 60), (2, 30), (5, 120)]
    text = GUIDE.read_text()
    assert all(words in text for words in ("(3 failures)", "(60 s)", "2 failures, 30s", "5 failures, 120s"))


def test_the_events_are_the_codes() -> None:
    told = {name.strip("`"): fields.split(", ") for name, fields, _ in table_after("Types of events")}
    ours = {
        kind.value: [
            name + "*" * field.is_required()
            for name, field in PAYLOADS[kind].model_fields.items()
            if name not in Payload.model_fields
        ]
        for kind in DataEventType
    }
    assert told == ours
