"""Kit operations through the agent: in their own processes, bounded, equal ones once, gone with the agent."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from tests.agent.agents import AgentProcess, alive, children, wait_until
from tests.agent.conftest import StartAgent
from tests.marks import first_of

SLOW = {"path": "data/training/hex8_2p.npz"}


@pytest.fixture
def slow_root(tmp_path: Path) -> Path:
    """A root with a file that takes minutes to hash, and no space: it is one hole."""
    root = tmp_path / "root"
    (root / "data" / "training").mkdir(parents=True)
    with (root / SLOW["path"]).open("wb") as stream:
        stream.truncate(1 << 40)
    return root


def workers(agent: AgentProcess) -> list[int]:
    found = []
    for pid in children(agent.pid):
        with contextlib.suppress(FileNotFoundError):  # it has ended since
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def test_an_operation_gives_its_result_and_a_refusal_its_code(agent: AgentProcess) -> None:
    assert agent.request("POST", "/v1/call/scan").json() == {"ok": True, "result": {"entries": []}}
    answer = agent.request("POST", "/v1/call/hash", json={"path": "../etc/passwd"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "outside")
    answer = agent.request("POST", "/v1/call/no-such-op", json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "bad_arguments")


@pytest.mark.parametrize("op", ["merge", "digest"])
def test_what_the_kit_does_only_on_its_own_machine_is_no_operation_of_an_agent(agent: AgentProcess, op: str) -> None:
    answer = agent.request("POST", f"/v1/call/{op}", json={"path": "data/games/hex8_2p.db"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "bad_arguments")
    known = "applied, apply, disk, facts, hash, keys, list, pack, publish, published, rows, scan, storage"
    assert answer.json()["error"]["message"] == f"there is no operation {op!r}; there are {known}"


@pytest.mark.parametrize("body", [b"[1]", b"{", b"\xff", b"[" * 100_000])
def test_arguments_that_are_no_json_object_are_refused(agent: AgentProcess, body: bytes) -> None:
    answer = agent.request("POST", "/v1/call/scan", data=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_json")


def test_arguments_above_the_limit_are_refused(agent: AgentProcess) -> None:
    answer = agent.request("POST", "/v1/call/scan", data=b'{"x":"' + b"y" * (5 << 20) + b'"}')
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


def test_a_worker_imports_the_kit_and_no_server(agent: AgentProcess) -> None:
    agent.request("POST", "/v1/call/scan")
    maps = Path(f"/proc/{workers(agent)[0]}/maps").read_text()
    assert "aiohttp" not in maps
    assert "cryptography" not in maps


def test_a_worker_that_was_killed_is_replaced(agent: AgentProcess) -> None:
    agent.request("POST", "/v1/call/scan")
    for pid in workers(agent):
        os.kill(pid, signal.SIGKILL)
    assert agent.request("POST", "/v1/call/scan").status_code == 200


def test_workers_are_replaced_after_their_number_of_calls(start_agent: StartAgent) -> None:
    agent = start_agent(limits={"calls_per_worker": 1})
    agent.request("POST", "/v1/call/scan")
    first = workers(agent)
    agent.request("POST", "/v1/call/scan", json={})
    agent.request("POST", "/v1/call/hash", json={"path": "x"})
    agent.request("POST", "/v1/call/hash", json={"path": "y"})
    wait_until(lambda: not any(alive(pid) for pid in first))


def test_a_call_that_takes_too_long_is_ended_and_its_worker_with_it(start_agent: StartAgent, slow_root: Path) -> None:
    agent = start_agent(root=slow_root, limits={"call_seconds": 1.0})
    started = time.monotonic()
    answer = agent.request("POST", "/v1/call/hash", json=SLOW)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "timeout")
    assert time.monotonic() - started < 5
    wait_until(lambda: workers(agent) == [])
    assert agent.request("POST", "/v1/call/hash", json={"path": "../x"}).status_code == 422


def test_equal_calls_at_the_same_time_run_once(start_agent: StartAgent, slow_root: Path) -> None:
    agent = start_agent(root=slow_root, limits={"call_seconds": 1.5})
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(agent.request, "POST", "/v1/call/hash", json=SLOW) for _ in range(8)]
        wait_until(lambda: agent.request("GET", "/v1/status").json()["calls"] >= 1)
        time.sleep(0.3)
        assert agent.request("GET", "/v1/status").json()["calls"] == 1
        assert {one.result().status_code for one in asked} == {503}
    text = agent.request("GET", "/metrics").text
    assert 'ringrift_agent_call_failures_total{code="timeout",op="hash"} 1.0' in text


@pytest.mark.parametrize("number", first_of(signal.SIGKILL, signal.SIGTERM))
def test_workers_end_with_their_agent_even_in_the_middle_of_a_call(
    start_agent: StartAgent, slow_root: Path, number: int
) -> None:
    agent = start_agent(root=slow_root, limits={"shutdown_seconds": 0.5})
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(agent.request, "POST", "/v1/call/hash", json=SLOW)
        wait_until(lambda: len(workers(agent)) == 1)
        pids = workers(agent)
        time.sleep(0.3)
        agent.stop(number, seconds=8)
        wait_until(lambda: not any(alive(pid) for pid in pids), seconds=8)
        asked.exception()
