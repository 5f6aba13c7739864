"""The accident of the demo: a node's agent is killed while one of its packs is partly received.

The pack travels over a slow link (``relay``), so there is time to look at the row in ``transfers``, and to kill the
agent with ``kill -9`` in the middle. What had arrived stays on the coordinator's disk, and the next collection goes on
from there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from ringrift_sync_dagster.demo.cluster import PORT, EmbeddedCluster
from ringrift_sync_dagster.demo.processes import PYTHON
from ringrift_sync_dagster.demo.relay import SlowRelay
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.transfers import Transfer, TransferState, transfer_rows

LINK_BYTES_PER_SECOND: Final = 1_000_000
_ENOUGH: Final = 0.1  # kill once this part of the pack has arrived
_POLL_SECONDS: Final = 0.02
_WAIT_SECONDS: Final = 60.0
_COLLECTING: Final = "collecting-over-slow-link"


class NotInterruptedError(Exception):
    """The transfer was over, or had failed, before the agent could be killed."""


@dataclass(frozen=True, slots=True)
class Interruption:
    """What the state database said of the transfer.

    Args:
        artifact: SHA-256 of the pack.
        size_bytes: Its length.
        received_bytes: How much had arrived when the agent was killed.
        killed_pid: The agent that was killed.
        new_pid: The one that took its place.

    """

    artifact: str
    size_bytes: int
    received_bytes: int
    killed_pid: int
    new_pid: int


def interrupt(cluster: EmbeddedCluster, node: str, config: str) -> Interruption:
    """Collect one partition over a slow link, kill its agent half way, and start the agent again.

    Raises:
        NotInterruptedError: The pack was never seen partly received.

    """
    hosts = cluster.base / "hosts-slow-link"
    cluster.write_hosts_through_relay(hosts, node)
    relay = SlowRelay((cluster.relay_address(node), PORT), (cluster.address(node), PORT), LINK_BYTES_PER_SECOND)
    with relay, StateStore.open(cluster.state_url) as state:
        cluster.processes.start(
            _COLLECTING,
            [PYTHON, "-m", "ringrift_sync_dagster.demo.collecting", "--config", config, "--node", node],
            {**cluster.environment, "RINGRIFT_SYNC_HOSTS": str(hosts)},
        )
        _wait_for_the_middle(cluster, state)
        killed = cluster.pid(node)
        cluster.kill_agent(node)
        status = cluster.processes.wait(_COLLECTING, _WAIT_SECONDS)
        row = transfer_rows(state, limit=1)[0]
    if status == 0 or row.state is TransferState.DONE or not 0 < row.received_bytes < row.size_bytes:
        raise NotInterruptedError(
            f"{node} was killed, but the transfer is {row.state} with {row.received_bytes} of {row.size_bytes} bytes"
        )
    return Interruption(row.artifact, row.size_bytes, row.received_bytes, killed, cluster.start_agent(node))


def _wait_for_the_middle(cluster: EmbeddedCluster, state: StateStore) -> None:
    """Return when a good part of the pack has arrived, and not all of it."""
    limit = clock.monotonic() + _WAIT_SECONDS
    while not any(_is_midway(row) for row in transfer_rows(state, limit=5, running=True)):
        if not cluster.processes.is_running(_COLLECTING) or clock.monotonic() > limit:
            raise NotInterruptedError(f"no pack was seen half received:\n{cluster.processes.tail(_COLLECTING)}")
        time.sleep(_POLL_SECONDS)


def _is_midway(row: Transfer) -> bool:
    return row.state is TransferState.RUNNING and _ENOUGH * row.size_bytes < row.received_bytes < row.size_bytes


def resumed_from(state: StateStore, interruption: Interruption) -> int:
    """From which byte a later transfer of the same pack went on and ended well; 0 when none did."""
    rows = [row for row in transfer_rows(state, limit=1000) if row.artifact == interruption.artifact]
    return max((row.resumed_from for row in rows if row.state is TransferState.DONE), default=0)
