"""Copy the changes of a canonical database into the state database.

This is done after each merge, and for the changes that a killed process left. The change is written in the merge's
own transaction, so it exists exactly when the rows do. Copying is idempotent by the change's id.
"""

from __future__ import annotations

from typing import Any

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.node.faults import reached
from ringrift_sync_dagster.state.changes import Change, add_changes
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.storage.canonical import CanonicalStore


def deliver_changes(store: CanonicalStore, state: StateStore, config: str) -> int:
    """Bring the changes of one config into the state database; give how many were new there."""
    unsent = store.unsent_changes(config)
    if not unsent:
        return 0
    added = add_changes(state, [_change(summary) for _, summary in unsent])
    reached("changes.copied")
    store.mark_sent(config, unsent[-1][0])
    return added


def _change(summary: dict[str, Any]) -> Change:
    """A change from what the merge wrote; the list of games set aside stays in the checks, for people."""
    values = {name: value for name, value in summary.items() if name != "asides"}
    checks = {**values.pop("checks", {}), "asides": summary.get("asides", [])}
    return Change(data_type=DataType.GAMES.value, direction="up", checks=checks, **values)
