"""The whole examination: the coordinator first, then its nodes; what cannot be read ends it with the reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from sqlalchemy.engine import make_url

from ringrift_sync_dagster.errors import ConfigError, Problem
from ringrift_sync_dagster.settings.inventory import Inventory, load_inventory
from ringrift_sync_dagster.settings.settings import Settings
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.sync.bandwidth import BandwidthManager
from ringrift_sync_dagster.sync.doctor.coordinator import examine_coordinator
from ringrift_sync_dagster.sync.doctor.findings import Finding, Level
from ringrift_sync_dagster.sync.doctor.nodes import NODE_SECONDS, examine_nodes
from ringrift_sync_dagster.sync.ladder import Ladder
from ringrift_sync_dagster.sync.runtime import owner_of

HERE: Final = "coordinator"
"""How the coordinator is called while nobody knows its name."""


def examine(
    read_settings: Callable[[], Settings], names: Sequence[str], *, seconds: float = NODE_SECONDS
) -> list[Finding]:
    """Examine the coordinator and nodes.

    Args:
        read_settings: Gives the settings; what it raises is a finding.
        names: Which nodes; empty: all active ones. A name that the inventory does not know is a finding.
        seconds: How long one node may take.

    """
    try:
        settings = read_settings()
        inventory = load_inventory(settings.hosts, coordinator=settings.coordinator)
    except ConfigError as error:
        return [_problem(problem) for problem in error.problems]
    # No node is asked over breakers here, so nothing opens this database.
    state = StateStore(make_url(f"sqlite:///{settings.home / 'state.db'}"))
    try:
        limits = BandwidthManager(settings, inventory, state).disk_limits
        found = list(examine_coordinator(settings, inventory, limits).found)
        found += [_unknown(name, settings, inventory) for name in names if name not in inventory.nodes]
        chosen = [node for node in inventory.nodes.values() if (node.name in names if names else node.collectable)]
        ladder = Ladder(settings, inventory, state, owner_of(settings, inventory))
        nodes = [node for node in chosen if not node.is_coordinator]
        return found + examine_nodes(ladder, nodes, limits, seconds=seconds)
    finally:
        state.close()


def _problem(problem: Problem) -> Finding:
    level = Level.WARNING if problem.severity == "warning" else Level.ERROR
    return Finding(HERE, "settings", level, str(problem), f"change {problem.key or problem.file}")


def _unknown(name: str, settings: Settings, inventory: Inventory) -> Finding:
    known = ", ".join(inventory.nodes) or "none"
    return Finding(name, "hosts", Level.ERROR, f"{settings.hosts} has no host of this name", f"use one of: {known}")
