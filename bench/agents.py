"""Real agents for benchmarks that need no whole cluster: one process, with or without TLS, ended by its pid."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.harness import CannotMeasureError
from bench.peers import AGENT_ADDRESS, free_port
from ringrift_sync_dagster.demo.processes import PYTHON, Processes
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.identity import (
    PUBLIC_NAME,
    Scope,
    TlsCertificate,
    create_coordinator_key,
    issue_token,
)
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.transports.p2p_http import P2PHttpTransport

NAME: Final = "bench-1"
_READY_SECONDS: Final = 30.0
_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Agent:
    """A running agent.

    Args:
        node: How it is reached.
        token: A coordinator's token.
        pid: Its process.

    """

    node: Node
    token: str
    pid: int

    def transport(self) -> P2PHttpTransport:
        """The way to it."""
        return P2PHttpTransport(self.node, lambda: self.token)

    def cpu_seconds(self) -> float:
        """Processor time so far of the agent and all processes that it started; the kernel counts in 10 ms."""
        return tree_cpu_seconds(self.pid)


@contextmanager
def agent(
    folder: Path, root: Path, certificate: TlsCertificate | None = None, *, address: str = AGENT_ADDRESS
) -> Iterator[Agent]:
    """Run an agent on a root.

    Args:
        folder: For its key and logs; an agent that ran there before is continued.
        root: The node's root.
        certificate: With one it speaks TLS.
        address: Where it listens.

    """
    key = create_coordinator_key(folder / "keys")
    port = free_port(address)
    fingerprint = certificate.fingerprint if certificate else ""
    node = Node(NAME, address, str(root), agent_port=port, tls_fingerprint=fingerprint)
    command = [PYTHON, "-m", "ringrift_sync_dagster.agent", "--node", NAME, "--root", str(root)]
    command += ["--host", address, "--port", str(port), "--public-key", str(folder / "keys" / PUBLIC_NAME)]
    if certificate is not None:
        command += ["--tls-cert", str(certificate.certificate), "--tls-key", str(certificate.key)]
    processes = Processes(folder / "logs")
    try:
        pid = processes.start("agent", command)
        running = Agent(node, issue_token(key, "bench", [Scope.COORDINATOR], clock.wall()), pid)
        _wait_for(running, processes)
        yield running
    finally:
        processes.stop_all()


def _wait_for(running: Agent, processes: Processes) -> None:
    limit = time.monotonic() + _READY_SECONDS
    with running.transport() as transport:
        while not transport.probe(clock.Deadline.after(2.0)).reachable:
            if not processes.is_running("agent") or time.monotonic() > limit:
                raise CannotMeasureError(f"the agent does not answer: {processes.tail('agent')}")
            time.sleep(0.05)


def tree_cpu_seconds(top: int) -> float:
    """Processor time so far of a process and everything below it; the kernel counts in 10 ms."""
    return sum(_cpu_ticks(pid, with_ended=pid == top) for pid in tree_of(top)) / _TICKS


def tree_of(top: int) -> list[int]:
    """Give a process and everything below it."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (fields := _fields(int(folder.name))):
            parents.setdefault(int(fields[1]), []).append(int(folder.name))
    found = [top]
    for pid in found:
        found += parents.get(pid, [])
    return found


def _cpu_ticks(pid: int, *, with_ended: bool) -> int:
    """User and system time; of the agent also that of children that have ended."""
    fields = _fields(pid)
    return sum(map(int, fields[11 : 15 if with_ended else 13])) if fields else 0


def _fields(pid: int) -> list[str]:
    """What /proc/<pid>/stat says from the state on; empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
