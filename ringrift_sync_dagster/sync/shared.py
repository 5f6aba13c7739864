"""One runtime for a program that uses the guide's functions, opened when the first of them is called.

    from ringrift_sync_dagster import get_bandwidth_manager, get_sync_router

The settings are those of that moment. Programs that open and close their own use ``Runtime.open`` instead.
"""

from __future__ import annotations

import atexit
import functools
import threading
from contextlib import ExitStack
from typing import Final

from ringrift_sync_dagster.settings.settings import load_settings
from ringrift_sync_dagster.state import backpressure
from ringrift_sync_dagster.sync.bandwidth import BandwidthManager
from ringrift_sync_dagster.sync.router import SyncRouter
from ringrift_sync_dagster.sync.runtime import Runtime

_LOCK: Final = threading.Lock()


def shared_runtime() -> Runtime:
    """Give the runtime of this program's settings; it is closed when the program ends.

    Raises:
        ConfigError: The settings or the inventory are wrong.
        StateError: The state database cannot be used.

    """
    with _LOCK:  # the first callers may be several threads
        return _opened()


@functools.lru_cache(maxsize=1)
def _opened() -> Runtime:
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(Runtime.open(load_settings()))


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
    """Give the router: what is known of nodes, and how they can be reached."""
    return SyncRouter(shared_runtime())
