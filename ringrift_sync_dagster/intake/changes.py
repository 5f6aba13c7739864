"""Copy the changes of a database into the state database.

This is done after each merge, and for the changes that a killed process left. The change is written in the merge's
own transaction, so it exists exactly when the rows do. Copying is idempotent by the change's id.
"""

from __future__ import annotations

from typing import Any, Protocol

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.node.faults import reached
from ringrift_sync_dagster.state.changes import Change, add_changes
from ringrift_sync_dagster.state.store import StateStore


class ChangeLog(Protocol):
    """A store of databases that keep their own changes; ``key`` says which database, such as a config."""

    def unsent_changes(self, key: str) -> list[tuple[int, dict[str, Any]]]:
        """What was merged and is not yet known to be in the state database, as (sequence number, summary)."""

    def mark_sent(self, key: str, up_to: int) -> None:
        """The state database holds the changes up to this sequence number."""


def deliver_changes(log: ChangeLog, state: StateStore, key: str) -> int:
    """Bring the changes of one database into the state database; give how many were new there.

    A summary has the fields of ``Change`` by name; ``data_type`` and ``direction`` are those of collected games where
    it does not say.
    """
    unsent = log.unsent_changes(key)
    if not unsent:
        return 0
    added = add_changes(state, [_change(summary) for _, summary in unsent])
    reached("changes.copied")
    log.mark_sent(key, unsent[-1][0])
    return added


def _change(summary: dict[str, Any]) -> Change:
    """A change from what the merge wrote; the list of what was set aside stays in the checks, for people."""
    usual = {"data_type": DataType.GAMES.value, "direction": "up"}
    values = {**usual, **{name: value for name, value in summary.items() if name != "asides"}}
    checks = {**values.pop("checks", {}), "asides": summary.get("asides", [])}
    return Change(checks=checks, **values)
