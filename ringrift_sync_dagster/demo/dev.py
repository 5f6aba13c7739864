"""The cluster of the demo for looking at it: agents, SSH servers, unhurried writers and Dagster's UI, until Ctrl-C.

What an earlier demo left stays and goes on: the same games, the same state, the same history in the UI.
"""

from __future__ import annotations

import signal
from pathlib import Path

from rich.console import Console

from ringrift_sync_dagster.demo.cluster import EmbeddedCluster
from ringrift_sync_dagster.demo.processes import PYTHON
from ringrift_sync_dagster.demo.story import BASE, DAGSTER_ENVIRONMENT, SETTINGS, SSH, start_writers, who_answers

ADDRESS, PORT = "127.0.0.1", 3000
GAMES_PER_SECOND = 0.5


def develop(console: Console, base: Path = BASE, port: int = PORT) -> int:
    """Run until the UI ends or Ctrl-C; give the UI's exit code (0 after Ctrl-C)."""
    with EmbeddedCluster(base, ssh=SSH, settings=SETTINGS) as cluster:
        start_writers(cluster, rate=GAMES_PER_SECOND, backlog=0)
        for line in who_answers(cluster):
            console.print(line, highlight=False, soft_wrap=True)
        console.print(f"The writers of {len(cluster.nodes)} nodes run; Dagster's UI: http://{ADDRESS}:{port}")
        console.print("In a shell of your own, this is the cluster that ringrift-sync works on:")
        for name, value in cluster.environment.items():
            console.print(f"  export {name}={value}", highlight=False, soft_wrap=True)
        cluster.processes.start(
            "dagster-dev",
            [PYTHON, "-m", "dagster", "dev", "-w", "workspace.yaml", "-h", ADDRESS, "-p", str(port)],
            {**cluster.environment, **DAGSTER_ENVIRONMENT},
            shown=True,
            stop_signal=signal.SIGINT,  # at SIGTERM it would leave its servers running
        )
        try:
            return cluster.processes.wait("dagster-dev", None)
        except KeyboardInterrupt:
            console.print("\nending the UI, the writers, the agents and the SSH servers")
            return 0
