"""Transfers: one row for each moving of bytes, so that anybody can watch it, wait for it, and count it later.

While a transfer runs, ``received_bytes`` is above 0 and below ``size_bytes``: the last bytes are counted when they are
verified. The caller decides how often to write (``progress`` commits each time). A transfer whose process has ended is
shown as abandoned, whatever its row says. Those that ``admission`` starts take part in the limits of all processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final, TypedDict, Unpack

import sqlalchemy as sa

from ringrift_sync_dagster.errors import storable
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state import ticks
from ringrift_sync_dagster.state.holder import Process, process_of, this_process
from ringrift_sync_dagster.state.liveness import Liveness
from ringrift_sync_dagster.state.schema import transfers
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.upsert import insert_row

ABANDONED: Final = "Abandoned"
"""``error_class`` of a transfer whose process ended without a word."""


class TransferState(StrEnum):
    """How far a transfer is."""

    WAITING = "waiting"  # for its turn
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    ABANDONED = "abandoned"  # shown only: its process has ended, and nobody has marked it as failed yet


class Ending(TypedDict, total=False):
    """What is known of a transfer when it has ended; what is left out stays as it is.

    Args:
        seconds: How long the bytes took, waiting for its turn not included.
        rungs: What was tried, in order; JSON values.
        resumed_from: How much was there at the start.
        transport: The transport that brought the last byte, or was tried last.
        rate_granted: Bytes per second that it might use, the last number.

    """

    seconds: float
    rungs: Sequence[Mapping[str, Any]]
    resumed_from: int
    transport: str
    rate_granted: float


@dataclass(frozen=True, slots=True)
class Transfer:
    """One moving of bytes.

    Args:
        id: Counts up in this database.
        artifact: SHA-256 of what moves.
        node: The other side.
        direction: ``fetch`` (to us) or ``push`` (from us).
        transport: The transport that carries it.
        config: The config that it belongs to; empty when none.
        trigger: What started it, such as ``cli`` or ``schedule``.
        size_bytes: The whole length.
        received_bytes: How much is there, including what a resumed transfer found.
        resumed_from: How much was there at the start.
        state: How far it is.
        started_at: When it started, or was asked for while it waits, in seconds since 1970.
        updated_at: When the row was last written.
        finished_at: When it ended; None while it runs.
        error_class: Name of the error that ended it; empty when none.
        error: Its message.
        process: Who runs it.
        priority: Name of its priority; empty when it takes no part in the limits.
        multiplier: Its weight in the bandwidth of the node.
        reserved_bytes: How much of ``disk`` it needs, what has arrived included.
        disk: The node whose disk it fills; empty when none is watched.
        rate_granted: Bytes per second that it may use, or might use last; 0 when nobody said.
        seconds: How long the bytes took; 0 until it has ended.
        rungs: What was tried, in order.

    """

    id: int
    artifact: str
    node: str
    direction: str
    transport: str
    config: str
    trigger: str
    size_bytes: int
    received_bytes: int
    resumed_from: int
    state: TransferState
    started_at: float
    updated_at: float
    finished_at: float | None
    error_class: str
    error: str
    process: Process
    priority: str
    multiplier: float
    reserved_bytes: int
    disk: str
    rate_granted: float
    seconds: float
    rungs: Sequence[Mapping[str, Any]]

    @property
    def bytes_moved(self) -> int:
        """Bytes that travelled, over all rungs and tries."""
        return sum(int(rung.get("bytes_moved", 0)) for rung in self.rungs)

    @property
    def rate_reached(self) -> float:
        """Bytes per second over the time that it took; 0 until it has ended."""
        return self.bytes_moved / self.seconds if self.seconds > 0 else 0.0


def start_transfer(  # noqa: PLR0913 - these are the columns of the row
    store: StateStore,
    *,
    artifact: str,
    node: str,
    direction: str,
    transport: str,
    size_bytes: int,
    config: str = "",
    trigger: str = "",
    resumed_from: int = 0,
) -> int:
    """Record that a transfer starts now, run by this process and outside all limits; give its id."""
    values = {
        "artifact": artifact, "node": node, "direction": direction, "transport": transport, "config": config,
        "trigger": trigger, "size_bytes": size_bytes, "received_bytes": resumed_from, "resumed_from": resumed_from,
    }  # fmt: skip
    with store.begin() as connection:
        return insert_transfer(connection, TransferState.RUNNING, values)


def insert_transfer(connection: sa.Connection, state: TransferState, values: Mapping[str, Any]) -> int:
    """Insert a row that this process is responsible for; give its id."""
    now = clock.wall()
    row = {**values, "state": state.value, "started_at": now, "updated_at": now, **asdict(this_process())}
    return insert_row(connection, transfers, row)


def progress(store: StateStore, transfer_id: int, received_bytes: int) -> None:
    """Record how much has arrived; without effect once the transfer has ended.

    The whole size is shown as one byte less: the bytes are not verified yet.
    """
    everything = transfers.c.size_bytes == received_bytes
    shown = sa.case((everything & (transfers.c.size_bytes > 0), received_bytes - 1), else_=received_bytes)
    _set(store, transfer_id, received_bytes=shown)


def resumed(store: StateStore, transfer_id: int, resumed_from: int) -> None:
    """Record that the transfer goes on from bytes that an earlier one left."""
    _set(store, transfer_id, resumed_from=resumed_from)


def finish(store: StateStore, transfer_id: int, **ending: Unpack[Ending]) -> None:
    """Record that all bytes have arrived and are verified. Idempotent."""
    done = {"state": TransferState.DONE.value, "received_bytes": transfers.c.size_bytes, "finished_at": clock.wall()}
    _set(store, transfer_id, **done, **_columns(ending))


def fail(store: StateStore, transfer_id: int, error: BaseException, **ending: Unpack[Ending]) -> None:
    """Record that the transfer ended with an error; how much had arrived stays. Idempotent."""
    failed = {"state": TransferState.FAILED.value, "finished_at": clock.wall()}
    _set(store, transfer_id, error_class=type(error).__name__, error=storable(str(error)), **failed, **_columns(ending))


def transfer_rows(store: StateStore, *, limit: int = 100, running: bool = False) -> list[Transfer]:
    """Give the newest transfers first.

    Args:
        store: The shared database.
        limit: How many at most.
        running: Only those that have not ended: running, waiting for their turn, and abandoned.

    """
    statement = sa.select(transfers).order_by(transfers.c.id.desc()).limit(limit)
    if running:
        statement = statement.where(unfinished())
    with store.read() as connection:
        liveness = Liveness(ticks.moment(connection), local=store.is_local)
        return [_transfer(row, liveness) for row in connection.execute(statement)]


def mark_abandoned(store: StateStore) -> int:
    """Record transfers of ended processes, and those that were silent for a minute, as failed; give how many.

    Idempotent.
    """
    with store.begin() as connection:
        rows = connection.execute(sa.select(transfers).where(unfinished())).all()
        return abandon(connection, rows, Liveness(ticks.moment(connection), local=store.is_local))


def abandon(connection: sa.Connection, rows: Sequence[sa.Row[Any]], liveness: Liveness) -> int:
    """Record those of the unfinished rows with which nobody will go on as failed; give how many."""
    gone = [row.id for row in rows if liveness.is_gone(row)]
    message = "the process that ran it ended without a word; what has arrived is kept, and the next cycle goes on"
    now = clock.wall()
    values = {
        "state": TransferState.FAILED.value, "error_class": ABANDONED, "error": message,
        "updated_at": now, "finished_at": now,
    }  # fmt: skip
    if gone:
        connection.execute(sa.update(transfers).where(transfers.c.id.in_(gone) & unfinished()).values(values))
    return len(gone)


def unfinished() -> sa.ColumnElement[bool]:
    """Choose the rows that wait or run, the abandoned among them."""
    return transfers.c.state.in_([TransferState.WAITING.value, TransferState.RUNNING.value])


def _set(store: StateStore, transfer_id: int, **values: Any) -> None:  # noqa: ANN401 - values of any column
    statement = sa.update(transfers).where((transfers.c.id == transfer_id) & unfinished())
    with store.begin() as connection:
        connection.execute(statement.values(updated_at=clock.wall(), **values))


def _columns(ending: Ending) -> dict[str, Any]:
    columns: dict[str, Any] = {**ending}
    if "rungs" in ending:
        columns["rungs"] = [
            {name: storable(value) if isinstance(value, str) else value for name, value in rung.items()}
            for rung in ending["rungs"]
        ]
    return columns


def _transfer(row: sa.Row[Any], liveness: Liveness) -> Transfer:
    state = TransferState(row.state)
    if state in {TransferState.WAITING, TransferState.RUNNING} and liveness.is_gone(row):
        state = TransferState.ABANDONED
    return Transfer(
        row.id, row.artifact, row.node, row.direction, row.transport, row.config, row.trigger,
        row.size_bytes, row.received_bytes, row.resumed_from, state, row.started_at, row.updated_at, row.finished_at,
        row.error_class, row.error, process_of(row), row.priority, row.multiplier, row.reserved_bytes, row.disk,
        row.rate_granted, row.seconds, row.rungs,
    )  # fmt: skip
