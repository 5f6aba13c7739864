"""The guide's functions that need no object of one's own: they work with the one runtime of the program.

from ringrift_sync_dagster import get_bandwidth_manager, get_sync_router
"""

from __future__ import annotations

from ringrift_sync_dagster.state import backpressure
from ringrift_sync_dagster.sync.bandwidth import BandwidthManager
from ringrift_sync_dagster.sync.process_runtime import shared_runtime
from ringrift_sync_dagster.sync.router import SyncRouter

__all__ = [
    "get_bandwidth_manager",
    "get_host_bandwidth_limit",
    "get_sync_router",
    "shared_runtime",
    "wait_until_released",
]


def get_bandwidth_manager() -> BandwidthManager:
    """Give the manager of limits, priorities and turns; what it is told holds for all processes."""
    return shared_runtime().bandwidth


def get_host_bandwidth_limit(host: str) -> float:
    """Give the limit of a host in MB/s (10**6 bytes per second), before priorities."""
    return get_bandwidth_manager().get_host_bandwidth_limit(host)


def wait_until_released(timeout: float) -> bool:
    """Wait while this coordinator holds transfers; False when the time is over and it still does.

    Args:
        timeout: Seconds to wait at most; a pause never lasts longer than 900.

    Raises:
        StateError: The state database cannot be read.

    """
    runtime = shared_runtime()
    return backpressure.wait_until_released(runtime.state, runtime.intake.owner, timeout)


def get_sync_router() -> SyncRouter:
    """Give the router: what is known of nodes, how they can be reached, and to and from which of them data goes."""
    return SyncRouter(shared_runtime())
