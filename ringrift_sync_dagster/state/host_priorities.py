"""Priorities that a person gave to hosts: what moves to or from such a host has it instead of its data type's.

Source: sync guide, "Transfer Priorities" (``manager.set_host_priority``). They stay until they are taken back.
"""

from __future__ import annotations

import sqlalchemy as sa

from ringrift_sync_dagster.core.bandwidth import TransferPriority
from ringrift_sync_dagster.state.schema import host_priorities
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.upsert import insert_or_update


def set_host_priority(store: StateStore, host: str, priority: TransferPriority | None) -> None:
    """Give a host a priority for all processes; None takes it back. Idempotent."""
    with store.begin() as connection:
        if priority is None:
            connection.execute(sa.delete(host_priorities).where(host_priorities.c.host == host))
        else:
            row = {"host": host, "priority": priority.value}
            insert_or_update(connection, host_priorities, [row], ("host",), ("priority",))


def host_priority(store: StateStore, host: str) -> TransferPriority | None:
    """Give the priority of a host; None when nobody gave it one."""
    with store.read() as connection:
        query = sa.select(host_priorities.c.priority).where(host_priorities.c.host == host)
        found = connection.execute(query).scalar_one_or_none()
    return None if found is None else TransferPriority(found)
