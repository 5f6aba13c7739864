"""Delete rows of the state database that nobody needs any more; receipts, versions and cursors are never among them.

What is decided from stays, whatever its age: the newest change of each partition carries the verdicts of the checks,
and the newest transfer of each node its measures. An event goes only behind the slowest subscriber.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import sqlalchemy as sa

from ringrift_sync_dagster.core.retention import CHANGES, EVENTS, FORECASTS, MARKS, RISKS, TRANSFERS
from ringrift_sync_dagster.state.events import OTHER_IDS
from ringrift_sync_dagster.state.schema import changes, event_cursors, events, forecasts, marks, risks, transfers
from ringrift_sync_dagster.state.store import StateStore

_ENDED: Final = ("done", "failed")


def prune(store: StateStore, now: float, *, dry_run: bool = False) -> dict[str, int]:
    """Delete what is old enough, table by table; give how many rows of each. Idempotent.

    Args:
        store: The state database.
        now: Seconds since 1970.
        dry_run: Only count.

    Raises:
        StateError: The database cannot be read or written.

    """
    found: dict[str, int] = {}
    for name, (table, old) in _rules(now).items():
        if dry_run:
            with store.read() as connection:
                found[name] = int(
                    connection.execute(sa.select(sa.func.count()).select_from(table).where(old)).scalar_one()
                )
        else:
            with store.begin() as connection:
                found[name] = connection.execute(sa.delete(table).where(old)).rowcount
    return found


def _rules(now: float) -> Mapping[str, tuple[sa.Table, sa.ColumnElement[bool]]]:
    newest_transfers = sa.select(sa.func.max(transfers.c.id)).group_by(transfers.c.node, transfers.c.state)
    per_partition = (changes.c.data_type, changes.c.direction, changes.c.config, changes.c.node)
    newest_changes = sa.select(sa.func.max(changes.c.id)).group_by(*per_partition)
    has_checks = sa.cast(changes.c.checks, sa.Text) != "{}"
    newest_verdicts = sa.select(sa.func.max(changes.c.id)).where(has_checks).group_by(*per_partition)
    # No subscriber: nobody waits for any event.
    of_events = ~event_cursors.c.subscriber.startswith(OTHER_IDS, autoescape=True)
    read_by_all = sa.select(sa.func.min(event_cursors.c.event_id)).where(of_events).scalar_subquery()
    return {
        "transfers": (
            transfers,
            transfers.c.state.in_(_ENDED)
            & (transfers.c.finished_at < now - TRANSFERS.number)
            & transfers.c.id.not_in(newest_transfers),
        ),
        "events": (
            events,
            (events.c.at < now - EVENTS.number) & (read_by_all.is_(None) | (events.c.id <= read_by_all)),
        ),
        "changes": (
            changes,
            changes.c.recorded_at.is_not(None)
            & (changes.c.at < now - CHANGES.number)
            & changes.c.id.not_in(newest_changes)
            & changes.c.id.not_in(newest_verdicts),
        ),
        "marks": (marks, marks.c.began_at < now - MARKS.number),
        "forecasts": (forecasts, forecasts.c.at < now - FORECASTS.number),
        "risks": (
            risks,
            (risks.c.at < now - RISKS.number) & ((risks.c.games == 0) | (risks.c.lost_at < now - RISKS.number)),
        ),
    }
