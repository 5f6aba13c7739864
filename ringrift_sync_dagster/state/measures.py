"""What was measured of each node: moving averages of throughput, success and round trip, and of its disk.

The averages follow the rows of ``transfers``: a row counts once, when it has ended, and a node's rows in the order of
their ids. The line without a node's name remembers up to which id every row was counted, so that one look at what is
newer is enough. A failure counts when the node is to blame, not when we stopped or a disk was full.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import sqlalchemy as sa

from ringrift_sync_dagster import errors
from ringrift_sync_dagster.core.averages import moved_average, throughput
from ringrift_sync_dagster.core.model import checked_node_name
from ringrift_sync_dagster.core.room import Disk
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.schema import measures, transfers
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.transfers import TransferState, unfinished
from ringrift_sync_dagster.state.upsert import insert_new, insert_or_update

_MARK: Final = ""
_ENDED: Final = (TransferState.DONE.value, TransferState.FAILED.value)
_ROWS: Final = 5_000
"""How many transfers one update counts at most, from the oldest that was not counted."""
_SAME_RTT: Final = 0.25
"""A round trip that differs by less from the average is not worth a write in each pass."""
_AVERAGES: Final = ("bytes_per_second", "success", "last_transfer", "at")


@dataclass(frozen=True, slots=True)
class Measures:
    """What was measured of a node; None is what was not.

    Args:
        node: The node.
        bytes_per_second: Moving average of what its transfers reached.
        success: Moving average of 1 (done) and 0 (failed by the node's fault).
        rtt_seconds: Moving average of the round trip, connecting included.
        disk: Its disk when it was looked at last, with what is not free as used.
        storage: Names the disk that its data lies on; nodes with the same text share it. Empty: nobody looked.
        last_transfer: Id of the last transfer that counted; 0 when none did.
        at: When anything of this was last written, in seconds since 1970.

    """

    node: str
    bytes_per_second: float | None = None
    success: float | None = None
    rtt_seconds: float | None = None
    disk: Disk | None = None
    storage: str = ""
    last_transfer: int = 0
    at: float = 0.0


def all_measures(store: StateStore) -> dict[str, Measures]:
    """Give what was measured, by node."""
    with store.read() as connection:
        rows = connection.execute(sa.select(measures).where(measures.c.node != _MARK)).all()
    return {row.node: _measures(row) for row in rows}


def update_averages(store: StateStore) -> int:
    """Count what has ended since the last update; give how many rows. Idempotent; with nothing new it is one read."""
    with store.read() as connection:
        mark = _mark(connection)
        newer = sa.select(transfers.c.id).where(transfers.c.id > mark, transfers.c.state.in_(_ENDED)).limit(1)
        if connection.execute(newer).first() is None:
            return 0
    with store.begin() as connection:
        insert_new(connection, measures, [{"node": _MARK, "at": clock.wall()}], ("node",))
        return _count(connection, _mark(connection, lock=True))


def record_round_trips(store: StateStore, seconds: Mapping[str, float]) -> None:
    """Take the round trips that a pass met, by node, in one transaction; about the same as before writes nothing."""
    found = {checked_node_name(node): value for node, value in seconds.items() if value > 0}
    query = sa.select(measures.c.node, measures.c.rtt_seconds)
    known = query.where(measures.c.rtt_seconds.is_not(None), measures.c.node.in_(sorted(found)))
    with store.read() as connection:
        before = {row.node: row.rtt_seconds for row in connection.execute(known)}
    found = {
        node: value
        for node, value in found.items()
        if node not in before or abs(value - before[node]) > _SAME_RTT * before[node]
    }
    if not found:
        return
    with store.begin() as connection:
        now = clock.wall()
        rows = [
            {"node": node, "rtt_seconds": moved_average(before.get(node), value), "at": now}
            for node, value in found.items()
        ]
        insert_or_update(connection, measures, rows, ("node",), ("rtt_seconds", "at"))


def record_disk(store: StateStore, node: str, disk: Disk) -> None:
    """Take what a node told of its disk; free is what its user may use."""
    row = {
        "node": checked_node_name(node), "disk_free_bytes": disk.free_bytes,
        "disk_total_bytes": disk.used_bytes + disk.free_bytes, "at": clock.wall(),
    }  # fmt: skip
    with store.begin() as connection:
        insert_or_update(connection, measures, [row], ("node",), ("disk_free_bytes", "disk_total_bytes", "at"))


def record_storage(store: StateStore, storage: Mapping[str, str]) -> None:
    """Take which disk the data of each node lies on, in one transaction."""
    now = clock.wall()
    rows = [{"node": checked_node_name(node), "storage": name, "at": now} for node, name in storage.items()]
    with store.begin() as connection:
        insert_or_update(connection, measures, rows, ("node",), ("storage", "at"))


def sharing(found: Iterable[Measures]) -> dict[str, frozenset[str]]:
    """Give for each node the others whose data lies on the same disk."""
    groups: dict[str, set[str]] = {}
    for one in found:
        if one.storage:
            groups.setdefault(one.storage, set()).add(one.node)
    return {node: frozenset(group - {node}) for group in groups.values() for node in group}


def is_to_blame(error_class: str) -> bool:
    """Say whether an error of this class counts against the node that a transfer went to or came from."""
    found = getattr(errors, error_class, None)
    if not isinstance(found, type) or not issubclass(found, errors.TransferError):
        return False
    return found.next_step is not errors.NextStep.OURS and not issubclass(
        found, errors.RemoteCallError | errors.LocalToolError
    )


def _mark(connection: sa.Connection, *, lock: bool = False) -> int:
    query = sa.select(measures.c.last_transfer).where(measures.c.node == _MARK)
    return connection.execute(query.with_for_update() if lock else query).scalar_one_or_none() or 0


def _count(connection: sa.Connection, mark: int) -> int:
    """Count every row that has ended and has no older one of its node before it that has not."""
    columns = (
        transfers.c.id, transfers.c.node, transfers.c.state, transfers.c.size_bytes, transfers.c.resumed_from,
        transfers.c.seconds, transfers.c.rate_granted, transfers.c.error_class,
    )  # fmt: skip
    oldest = {
        row.node: row.id
        for row in connection.execute(
            sa.select(transfers.c.node, sa.func.min(transfers.c.id).label("id"))
            .where(unfinished())
            .group_by(transfers.c.node)
        )
    }
    query = sa.select(*columns).where(transfers.c.id > mark, transfers.c.state.in_(_ENDED)).order_by(transfers.c.id)
    rows = connection.execute(query.limit(_ROWS)).all()
    names = {row.node for row in rows}
    found = {
        row.node: _measures(row)
        for row in connection.execute(sa.select(measures).where(measures.c.node.in_(sorted(names))))
    }
    counted = 0
    for row in rows:
        before = found.get(row.node, Measures(row.node))
        if before.last_transfer < row.id < oldest.get(row.node, row.id + 1):
            found[row.node] = _after(before, row)
            counted += 1
    _write(connection, found.values() if counted else ())
    up_to = min([row.id for row in rows[-1:]] + [first - 1 for first in oldest.values()], default=mark)
    values = {"last_transfer": max(mark, up_to), "at": clock.wall()}
    connection.execute(sa.update(measures).where(measures.c.node == _MARK).values(values))
    return counted


def _after(before: Measures, row: Any) -> Measures:  # noqa: ANN401 - a row of SQLAlchemy with the columns above
    if row.state == TransferState.DONE.value:
        moved = row.size_bytes - row.resumed_from
        rate = throughput(before.bytes_per_second, moved, row.seconds, row.rate_granted)
        return replace(
            before, bytes_per_second=rate, success=moved_average(before.success, 1.0), last_transfer=row.id
        )  # fmt: skip
    if is_to_blame(row.error_class):
        return replace(before, success=moved_average(before.success, 0.0), last_transfer=row.id)
    return replace(before, last_transfer=row.id)


def _write(connection: sa.Connection, found: Iterable[Measures]) -> None:
    now = clock.wall()
    rows = [
        {
            "node": one.node, "bytes_per_second": one.bytes_per_second or 0.0,
            "success": 1.0 if one.success is None else one.success, "last_transfer": one.last_transfer, "at": now,
        }
        for one in found
    ]  # fmt: skip
    insert_or_update(connection, measures, rows, ("node",), _AVERAGES)


def _measures(row: sa.Row[Any]) -> Measures:
    free, total = row.disk_free_bytes, row.disk_total_bytes
    return Measures(
        row.node, row.bytes_per_second or None, row.success if row.last_transfer else None, row.rtt_seconds,
        None if free is None or total is None else Disk(max(0, total - free), free), row.storage, row.last_transfer,
        row.at,
    )  # fmt: skip
