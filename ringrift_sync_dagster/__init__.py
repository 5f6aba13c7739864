"""RingRift's data synchronisation as a Dagster project; the public names live here and are imported when first used.

Importing the package imports nothing else: the node kit inside it must start on Python 3.8 with the standard library
alone.
"""

from __future__ import annotations

from importlib import import_module

__version__ = "0.1.0"

# Public name -> module that defines it. A name is added here in the change that makes it exist.
_MODULES: dict[str, str] = {
    "AutoSyncConfig": "sync.strategies",
    "AutoSyncDaemon": "sync.daemon",
    "BandwidthCoordinatedRsync": "sync.coordinated_rsync",
    "BatchRsync": "sync.batch_rsync",
    "CircuitBreakerConfig": "core.breaker",
    "CircuitState": "core.breaker",
    "DataEventType": "core.events",
    "DaemonType": "core.daemons",
    "Inventory": "settings.inventory",
    "Settings": "settings.settings",
    "SyncPlanner": "sync.strategy_plan",
    "SyncRouter": "sync.router",
    "SyncStrategy": "core.model",
    "TransferPriority": "core.bandwidth",
    "collect": "sync.collect",
    "get_bandwidth_manager": "sync.shared",
    "get_event_bus": "sync.event_router",
    "get_host_bandwidth_limit": "sync.shared",
    "get_manifest": "state.manifest",
    "get_router": "sync.event_router",
    "get_sync_facade": "sync.facade",
    "get_sync_router": "sync.shared",
    "load_inventory": "settings.inventory",
    "load_settings": "settings.settings",
    "wait_until_released": "sync.shared",
    "write_through": "agent.asking",
}

__all__ = [
    "AutoSyncConfig",
    "AutoSyncDaemon",
    "BandwidthCoordinatedRsync",
    "BatchRsync",
    "CircuitBreakerConfig",
    "CircuitState",
    "DaemonType",
    "DataEventType",
    "Inventory",
    "Settings",
    "SyncPlanner",
    "SyncRouter",
    "SyncStrategy",
    "TransferPriority",
    "__version__",
    "collect",
    "get_bandwidth_manager",
    "get_event_bus",
    "get_host_bandwidth_limit",
    "get_manifest",
    "get_router",
    "get_sync_facade",
    "get_sync_router",
    "load_inventory",
    "load_settings",
    "wait_until_released",
    "write_through",
]


def __getattr__(name: str) -> object:
    """Import a public name when somebody first asks for it."""
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, whether they are loaded or not."""
    return sorted(__all__)
