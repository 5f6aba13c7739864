"""An agent that makes packs and serves downloads stays small and keeps answering; so does a run that collects."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from ringrift_sync_dagster.demo.cluster import EmbeddedCluster
from ringrift_sync_dagster.demo.recorder import Recorder
from ringrift_sync_dagster.demo.schemas import Dialect
from tests.agent.agents import AgentProcess, children
from tests.agent.conftest import coordinator_key, free_addresses, start_agent
from tests.defs.test_three_ways import owner
from tests.node.merging import game

__all__ = ["coordinator_key", "free_addresses", "start_agent"]

MB = 1_000_000
AGENT_BYTES = 150 * MB
RUN_BYTES = 100 * MB
DOWNLOADS = 8


def resident_bytes(pid: int) -> int:
    """Proportional share of memory of a process and its children (pages that several share count once)."""
    total = 0
    for one in (pid, *children(pid)):
        try:
            rollup = Path(f"/proc/{one}/smaps_rollup").read_text()
        except OSError:
            continue  # it has just ended
        total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) * 1024
    return total


@contextmanager
def busy(agent: AgentProcess, artifact: str, seconds: float) -> Iterator[None]:
    """Downloads in a row on eight connections, and packs of everything there is, one after the other."""
    stop = time.monotonic() + seconds
    headers = {"Authorization": f"Bearer {agent.token()}"}

    def download() -> None:
        while time.monotonic() < stop:
            with requests.get(f"{agent.url}/v1/artifacts/{artifact}", headers=headers, stream=True, timeout=30) as body:
                assert body.status_code == 200
                while body.raw.read(1 << 20):
                    pass

    def pack() -> None:
        number = 0
        while time.monotonic() < stop:
            number += 1  # another request each time, so that none is remembered
            arguments = {"path": "data/games/x.db", "config": "hex8_2p", "max_bytes": (64 << 20) + number}
            answer = requests.post(f"{agent.url}/v1/call/pack", headers=headers, json=arguments, timeout=60)
            assert answer.json()["ok"], answer.text

    with ThreadPoolExecutor(DOWNLOADS + 1) as pool:
        work = [pool.submit(download) for _ in range(DOWNLOADS)] + [pool.submit(pack)]
        yield
        for one in work:
            one.result()


def loaded(start_agent: Callable[..., AgentProcess], games: int, megabytes: int) -> tuple[AgentProcess, str]:
    """An agent with a database of many games and one large artifact."""
    agent = start_agent()
    with Recorder(agent.root / "data" / "games" / "x.db", Dialect.V18) as recorder:
        recorder.record_all([game(f"g{number}", length=40) for number in range(games)])
    return agent, agent.place(os.urandom(1 << 20) * megabytes).sha256


def test_an_agent_stays_under_150_mb_while_it_packs_and_serves_eight_downloads(
    start_agent: Callable[..., AgentProcess],
) -> None:
    agent, artifact = loaded(start_agent, games=600, megabytes=64)

    highest = 0
    with busy(agent, artifact, seconds=3.0):
        end = time.monotonic() + 3.0
        while time.monotonic() < end:
            highest = max(highest, resident_bytes(agent.pid))
            time.sleep(0.05)

    assert 0 < highest < AGENT_BYTES


@pytest.mark.soak
def test_health_answers_within_100_ms_while_the_agent_is_busy(start_agent: Callable[..., AgentProcess]) -> None:
    agent, artifact = loaded(start_agent, games=4_000, megabytes=256)
    times: list[float] = []
    highest = 0

    with busy(agent, artifact, seconds=30.0), requests.Session() as session:
        end = time.monotonic() + 30.0
        while time.monotonic() < end:
            began = time.monotonic()
            assert session.get(f"{agent.url}/health", timeout=5).ok
            times.append(time.monotonic() - began)
            highest = max(highest, resident_bytes(agent.pid))
            time.sleep(0.02)

    p99 = statistics.quantiles(times, n=100)[98]
    print(f"health p99 {p99 * 1000:.1f} ms over {len(times)} requests; agent at most {highest / MB:.0f} MB")
    assert p99 < 0.1
    assert highest < AGENT_BYTES


def peak_bytes(arguments: list[str], environment: dict[str, str]) -> int:
    """Run a program to its end and give the largest resident size that it had."""
    process = subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    timer = threading.Timer(100, process.kill)
    timer.start()
    _, status, usage = os.wait4(process.pid, 0)
    timer.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * 1024


@pytest.mark.cluster
def test_a_run_that_collects_needs_at_most_100_mb_more_than_an_empty_one(
    shared_cluster: EmbeddedCluster, tmp_path: Path
) -> None:
    node, config = "vast-900001", "hex8_2p"
    environment = owner(shared_cluster, tmp_path / "owner")
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"ops": {"collect_games": {"config": {"nodes": [node], "configs": [config]}}}}))
    job = ["-m", "ringrift_sync_dagster.definitions", "-j", "collect_games_job", "--config", str(file)]
    command = [sys.executable, "-m", "dagster", "job", "execute", *job]

    empty = peak_bytes(command, environment)
    with Recorder(shared_cluster.node_root(node) / "data" / "games" / "x.db", Dialect.V18) as recorder:
        recorder.record_all([game(f"g{number}", length=60, config=config) for number in range(1_500)])
    full = peak_bytes(command, environment)

    assert full - empty < RUN_BYTES
