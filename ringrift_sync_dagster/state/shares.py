"""Shares: what each running transfer may use of its node's bandwidth, computed anew every second over all processes.

The rows of ``transfers`` are the leases: one per running transfer, whatever its transport and direction. A process
renews all of its own in one commit and learns their rates. Formula: ``core/bandwidth.py``; architecture.md, 7.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

import sqlalchemy as sa

from ringrift_sync_dagster.core.bandwidth import shares
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state import ticks
from ringrift_sync_dagster.state.liveness import TTL_SECONDS, Liveness
from ringrift_sync_dagster.state.schema import transfers
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.transfers import TransferState, unfinished

Limits = Callable[[str], tuple[float, bool]]
"""Node -> its limit in bytes per second, and whether it is hard; quick, because a write transaction waits for it."""

_NOTHING: Final[Mapping[int, int]] = MappingProxyType({})


def rates(store: StateStore, ids: Collection[int], limits: Limits) -> dict[int, float]:
    """Give the rates that this process's transfers may use now, in bytes per second, and write nothing.

    For one that was just admitted, until the next ``renew``. One that is not running is missing in the answer.
    """
    with store.read() as connection:
        rows = connection.execute(sa.select(transfers).where(unfinished())).all()
        return _rates(rows, ids, limits, Liveness(ticks.moment(connection), local=store.is_local))


def renew(
    store: StateStore, ids: Collection[int], limits: Limits, *, received: Mapping[int, int] = _NOTHING
) -> dict[int, float]:
    """Renew the word of all transfers of this process, those that wait included, in one commit. Every second.

    Args:
        store: The shared database.
        ids: The transfers of this process.
        limits: The limits of nodes.
        received: How many bytes have arrived, by transfer; in the same commit, so that it costs nothing.

    Returns:
        Bytes per second that each running one may use from now on. One that is missing waits, has ended, or was
        silent for so long (60 s) that others took it for dead; it has no share any more, and should stop.

    Raises:
        StateError: The database cannot be written: go on at the rates of before, the next call may succeed.

    """
    if not ids:
        return {}
    with store.begin() as connection:
        rows = connection.execute(sa.select(transfers).where(unfinished())).all()
        liveness = Liveness(ticks.moment(connection), local=store.is_local)
        granted = _rates(rows, ids, limits, liveness)
        mine = [row for row in rows if row.id in ids]
        _write_words(connection, mine, granted, liveness.moment)
        _write_received(connection, [row for row in mine if row.id in received], received)
    return granted


def _rates(rows: Iterable[sa.Row[Any]], ids: Collection[int], limits: Limits, liveness: Liveness) -> dict[int, float]:
    by_node: defaultdict[str, list[sa.Row[Any]]] = defaultdict(list)
    for row in rows:
        # Whoever asks is alive, even when its word ran out meanwhile.
        if row.state == TransferState.RUNNING and (row.id in ids or liveness.is_live(row)):
            by_node[row.node].append(row)
    found: dict[int, float] = {}
    for node, running in by_node.items():
        if not any(row.id in ids for row in running):
            continue
        limit, hard = limits(node)
        given = shares(limit, [row.multiplier for row in running], hard=hard)
        found |= {row.id: rate for row, rate in zip(running, given, strict=True) if row.id in ids}
    return found


def _write_words(
    connection: sa.Connection, mine: Iterable[sa.Row[Any]], granted: Mapping[int, float], moment: ticks.Moment
) -> None:
    word = {"expires": moment.seconds + TTL_SECONDS, "epoch": moment.epoch, "updated_at": clock.wall()}
    statement = sa.update(transfers).where(transfers.c.id == sa.bindparam("row")).values(
        rate_granted=sa.bindparam("rate"), **word
    )  # fmt: skip
    given = [{"row": row.id, "rate": granted.get(row.id, 0.0)} for row in mine]
    if given:
        connection.execute(statement, given)


def _write_received(connection: sa.Connection, mine: Iterable[sa.Row[Any]], received: Mapping[int, int]) -> None:
    statement = sa.update(transfers).where(transfers.c.id == sa.bindparam("row"))
    # The last byte counts when everything is verified.
    given = [{"row": row.id, "bytes": min(received[row.id], max(0, row.size_bytes - 1))} for row in mine]
    if given:
        connection.execute(statement.values(received_bytes=sa.bindparam("bytes")), given)
