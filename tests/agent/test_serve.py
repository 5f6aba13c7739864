"""The life of an agent: it starts alone on its directory, survives bad clients, and ends in time."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from ringrift_sync_dagster.agent.command import run
from ringrift_sync_dagster.settings.identity import CoordinatorKey, make_tls_certificate
from tests.agent.agents import AgentProcess, wait_until
from tests.agent.conftest import StartAgent


def test_the_module_runs_without_the_other_commands(tmp_path: Path, coordinator_key: CoordinatorKey) -> None:
    public = tmp_path / "coordinator.pub"
    public.write_bytes(coordinator_key.public_pem)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "ringrift_sync_dagster.agent", "--node", "solo", "--root", str(tmp_path / "root")]
    command += ["--host", "127.0.0.1", "--port", str(port), "--public-key", str(public)]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/health"), 20)
        second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
        assert second.returncode == 2
        assert "another agent runs on this directory" in second.stderr
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0


def answers(url: str) -> bool:
    with contextlib.suppress(requests.RequestException):
        return requests.get(url, timeout=1).ok
    return False


@pytest.mark.parametrize(
    "more",
    [["--host", "0.0.0.0"], ["--tls-cert", "x", "--tls-key", "y"], ["--node", "a/b"], ["--public-key", "missing"]],
)
def test_an_agent_that_cannot_run_as_told_says_why(
    more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--node", "solo", "--root", str(tmp_path), *more]) == 2
    assert capsys.readouterr().err.startswith("the agent cannot run: ")


def test_a_certificate_without_its_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        run(["--node", "solo", "--root", str(tmp_path), "--tls-cert", "x"])


def test_sigterm_lets_a_request_under_way_finish(start_agent: StartAgent) -> None:
    agent = start_agent(limits={"shutdown_seconds": 10.0})
    placed = agent.place(random.Random(1).randbytes(64 << 20))
    with socket.create_connection((agent.host, agent.port), timeout=10) as reader:
        head = f"GET /v1/artifacts/{placed.sha256} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {agent.token()}\r\n\r\n"
        reader.sendall(head.encode())
        received = len(reader.recv(1 << 16))
        assert agent.process is not None
        agent.process.send_signal(signal.SIGTERM)
        while chunk := reader.recv(1 << 20):
            received += len(chunk)
    assert received > placed.size_bytes
    assert agent.stop() == 0


def test_sigterm_ends_the_agent_in_time_though_a_receiver_hangs(start_agent: StartAgent) -> None:
    agent = start_agent(limits={"shutdown_seconds": 0.5})
    placed = agent.place(random.Random(1).randbytes(64 << 20))
    with socket.create_connection((agent.host, agent.port), timeout=10) as reader:
        head = f"GET /v1/artifacts/{placed.sha256} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {agent.token()}\r\n\r\n"
        reader.sendall(head.encode())
        reader.recv(1000)
        started = time.monotonic()
        assert agent.stop() == 0
        assert time.monotonic() - started < 5


def test_bad_clients_are_cut_off_and_hold_nobody_up(start_agent: StartAgent) -> None:
    limits = {"headers_seconds": 0.5, "stall_seconds": 0.5, "window_seconds": 1.0, "connections": 6}
    agent = start_agent(limits=limits)
    placed = agent.place(random.Random(1).randbytes(64 << 20))
    authorized = f"Host: x\r\nAuthorization: Bearer {agent.token()}\r\n"
    opening = {
        "silent": b"",
        "slow headers": b"GET /health HTTP/1.1\r\nHost:",
        "slow JSON": f"POST /v1/call/scan HTTP/1.1\r\n{authorized}Content-Length: 10\r\n\r\n{{".encode(),
        "slow push": f"PUT /v1/incoming/node-b/{'3' * 64} HTTP/1.1\r\n{authorized}Content-Length: 10\r\n\r\nx".encode(),
        "hanging receiver": f"GET /v1/artifacts/{placed.sha256} HTTP/1.1\r\n{authorized}\r\n".encode(),
    }
    with contextlib.ExitStack() as stack:
        clients = []
        for sent in opening.values():
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(10)
            client.connect((agent.host, agent.port))
            client.sendall(sent)
            clients.append(client)
        assert requests.get(f"{agent.url}/health", timeout=5).ok
        time.sleep(1.5)
        for client, what in zip(clients, opening, strict=True):
            received = 0
            with contextlib.suppress(ConnectionResetError):
                while chunk := client.recv(1 << 20):
                    received += len(chunk)
            assert received < 32 << 20, what
    status = agent.request("GET", "/v1/status").json()
    assert (status["sending"], status["receiving"], status["calls"]) == (0, 0, 0)


def test_a_connection_too_many_is_closed_at_once(start_agent: StartAgent) -> None:
    agent = start_agent(limits={"connections": 3})
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection((agent.host, agent.port), timeout=5)) for _ in range(3)]
        time.sleep(0.2)
        extra = stack.enter_context(socket.create_connection((agent.host, agent.port), timeout=5))
        with contextlib.suppress(ConnectionResetError):
            assert extra.recv(1) == b""
        held.pop().close()
        wait_until(lambda: answers(f"{agent.url}/health"))
    wait_until(lambda: answers(f"{agent.url}/health"))
    assert "ringrift_agent_refused_connections_total" in agent.request("GET", "/metrics").text


def test_headers_without_end_are_refused(agent: AgentProcess) -> None:
    with socket.create_connection((agent.host, agent.port), timeout=10) as client, contextlib.suppress(OSError):
        client.sendall(b"GET /health HTTP/1.1\r\n" + b"X: " + b"y" * (1 << 20))
        assert b" 400 " in client.recv(20)


def test_a_tls_agent_speaks_no_plain_http(tmp_path: Path, start_agent: StartAgent) -> None:
    made = make_tls_certificate(tmp_path / "tls", "node-b", ["127.0.0.1"], time.time())
    agent = start_agent(tls=(made.certificate, made.key), fingerprint=made.fingerprint)
    assert agent.request("GET", "/v1/status").status_code == 200
    plain = agent.url.replace("https", "http")
    assert not answers(f"{plain}/health")


@pytest.mark.cluster
def test_memory_stays_bounded_while_a_large_artifact_is_sent_and_received(start_agent: StartAgent) -> None:
    agent = start_agent()
    data = random.Random(5).randbytes(96 << 20)
    placed = agent.place(data)
    with agent.request("GET", f"/v1/artifacts/{placed.sha256}", stream=True) as answer:
        assert sum(len(chunk) for chunk in answer.iter_content(1 << 20)) == len(data)
    assert agent.request("PUT", f"/v1/incoming/node-b/{placed.sha256}", data=data).status_code == 201
    status = Path(f"/proc/{agent.pid}/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    assert peak < 120_000, f"{peak} KiB at its peak"
