"""What tests of a living cluster with a real Dagster share: waiting, measuring, killing."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from ringrift_sync_dagster.demo.cluster import EmbeddedCluster
from ringrift_sync_dagster.demo.dev import ADDRESS, DAGSTER
from ringrift_sync_dagster.demo.processes import descendants, kill_tree
from ringrift_sync_dagster.settings import clock


def free_port() -> int:
    """A port of the UI's address that nobody uses now."""
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        return int(probe.getsockname()[1])


def digest(path: Path) -> str:
    """SHA-256 of a file; empty where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def until(cluster: EmbeddedCluster, ready: Callable[[], object], seconds: float, what: str) -> float:
    """Wait for something, and give how long it took; where it does not come, tell what Dagster printed last.

    Args:
        cluster: What Dagster works on.
        ready: Says whether it is there.
        seconds: How long it may take on a machine with nothing else to do.
        what: What is waited for, in words.

    """
    began = clock.monotonic()
    while not ready():
        late = clock.monotonic() - began
        assert cluster.processes.is_running(DAGSTER), cluster.processes.tail(DAGSTER, 40)
        assert late < seconds * slowness(), f"{what}: not in {late:.0f} s\n{cluster.processes.tail(DAGSTER, 40)}"
        time.sleep(0.2)
    return clock.monotonic() - began


def kill_with_children(pid: int) -> None:
    """``kill -9`` for a process and everything that it started."""
    started = descendants([pid])
    os.kill(pid, signal.SIGKILL)
    kill_tree(started)


def slowness() -> float:
    """How much longer than on an idle machine something takes: what waits for each processor, at least 1."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
