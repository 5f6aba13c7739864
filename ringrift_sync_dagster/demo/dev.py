"""The cluster of the demo for looking at it: agents, SSH servers, unhurried writers and Dagster's UI, until Ctrl-C.

What an earlier demo left stays and goes on: the same games, the same state, the same history in the UI.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from rich.console import Console

from ringrift_sync_dagster.demo.cluster import EmbeddedCluster
from ringrift_sync_dagster.demo.dagster_home import dagster_environment
from ringrift_sync_dagster.demo.processes import PYTHON
from ringrift_sync_dagster.demo.story import BASE, SETTINGS, SSH, start_writers, who_answers

ADDRESS, PORT = "127.0.0.1", 3000
GAMES_PER_SECOND = 0.5
DAGSTER: Final = "dagster-dev"
"""Name of Dagster's process: it starts one code server, and a webserver and a daemon that share it."""
_QUIET: Final = {"PYTHONWARNINGS": "ignore:Parameter `owners`,ignore:Function `dev_command`"}
"""Dagster warns of its own parameter in every process, and of ``dagster dev``, for which there is no other command."""


def develop(console: Console, base: Path = BASE, port: int = PORT) -> int:
    """Run until the UI ends or Ctrl-C; give the UI's exit code (0 after Ctrl-C)."""
    with living_cluster(base) as cluster:
        for line in who_answers(cluster):
            console.print(line, highlight=False, soft_wrap=True)
        console.print(f"The writers of {len(cluster.nodes)} nodes run; Dagster's UI: http://{ADDRESS}:{port}")
        console.print("In a shell of your own, this is the cluster that ringrift-sync works on:")
        for name, value in cluster.environment.items():
            console.print(f"  export {name}={value}", highlight=False, soft_wrap=True)
        with dagster(cluster, port, shown=True):
            console.print(
                "Dagster begins; what moves and what goes wrong comes below, the UI has the rest. Ctrl-C ends it all."
            )
            try:
                return cluster.processes.wait(DAGSTER, None)
            except KeyboardInterrupt:
                console.print("\nending the UI, the writers, the agents and the SSH servers")
                return 0


@contextlib.contextmanager
def living_cluster(base: Path, settings: Mapping[str, str] | None = None) -> Iterator[EmbeddedCluster]:
    """Run a cluster in which every node plays, and the spot node writes through to the coordinator's agent.

    Args:
        base: Folder for everything; what an earlier cluster left there goes on.
        settings: Further ``RINGRIFT_`` variables.

    """
    with EmbeddedCluster(base, ssh=SSH, settings={**SETTINGS, **(settings or {})}, write_through=True) as cluster:
        start_writers(cluster, rate=GAMES_PER_SECOND, backlog=0)
        yield cluster


@contextlib.contextmanager
def dagster(cluster: EmbeddedCluster, port: int, *, shown: bool = False) -> Iterator[None]:
    """Run Dagster on a cluster; it ends before the nodes do, so that no run tells of nodes that died.

    Args:
        cluster: What it works on.
        port: The UI's.
        shown: True: its warnings appear here; else everything goes to its log.

    """
    level = "warning" if shown else "info"
    cluster.processes.start(
        DAGSTER,
        [
            *(PYTHON, "-m", "dagster", "dev", "-w", "workspace.yaml", "-h", ADDRESS, "-p", str(port)),
            *("--log-level", level),
        ],
        {**cluster.environment, **dagster_environment(cluster.base), **_QUIET},
        shown=shown,
        stop_signal=signal.SIGINT,  # at SIGTERM it would leave its servers running
    )
    try:
        yield
    finally:
        cluster.processes.stop([DAGSTER])
