"""Transfers: one row for each moving of bytes, from its start on, so that anybody can watch it and count it later.

While a transfer runs, ``received_bytes`` is above 0 and below ``size_bytes``: the last bytes are counted when they are
verified. The caller decides how often to write (``progress`` commits each time). A transfer whose process has ended is
shown as abandoned, whatever its row says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

import sqlalchemy as sa

from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.holder import Process, has_ended, this_process
from ringrift_sync_dagster.state.schema import transfers
from ringrift_sync_dagster.state.store import StateStore

ABANDONED: Final = "Abandoned"
"""``error_class`` of a transfer whose process ended without a word."""


class TransferState(StrEnum):
    """How far a transfer is."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    ABANDONED = "abandoned"  # shown only: its process has ended, and nobody has marked it as failed yet


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
        started_at: Seconds since 1970.
        updated_at: When the row was last written.
        finished_at: When it ended; None while it runs.
        error_class: Name of the error that ended it; empty when none.
        error: Its message.
        process: Who runs it.

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
    """Record that a transfer starts now, run by this process; give its id."""
    now = clock.wall()
    values: dict[str, Any] = {
        "artifact": artifact, "node": node, "direction": direction, "transport": transport, "config": config,
        "trigger": trigger, "size_bytes": size_bytes, "received_bytes": resumed_from, "resumed_from": resumed_from,
        "state": TransferState.RUNNING.value, "started_at": now, "updated_at": now, **asdict(this_process()),
    }  # fmt: skip
    with store.begin() as connection:
        inserted = connection.execute(sa.insert(transfers).values(values)).inserted_primary_key
    if inserted is None:
        raise RuntimeError("the database gave no id for a new transfer")
    return int(inserted[0])


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


def finish(store: StateStore, transfer_id: int) -> None:
    """Record that all bytes have arrived and are verified. Idempotent."""
    done = {"state": TransferState.DONE.value, "received_bytes": transfers.c.size_bytes, "finished_at": clock.wall()}
    _set(store, transfer_id, **done)


def fail(store: StateStore, transfer_id: int, error: BaseException) -> None:
    """Record that the transfer ended with an error; how much had arrived stays. Idempotent."""
    failed = {"state": TransferState.FAILED.value, "finished_at": clock.wall()}
    _set(store, transfer_id, error_class=type(error).__name__, error=str(error), **failed)


def transfer_rows(store: StateStore, *, limit: int = 100, running: bool = False) -> list[Transfer]:
    """Give the newest transfers first.

    Args:
        store: The shared database.
        limit: How many at most.
        running: Only those that are recorded as running, the abandoned among them.

    """
    statement = sa.select(transfers).order_by(transfers.c.id.desc()).limit(limit)
    if running:
        statement = statement.where(_running())
    with store.read() as connection:
        rows = connection.execute(statement).all()
    return [_transfer(row, local=store.is_local) for row in rows]


def mark_abandoned(store: StateStore) -> int:
    """Record transfers of ended processes of this machine as failed; give how many. Idempotent."""
    with store.begin() as connection:
        rows = connection.execute(sa.select(transfers).where(_running())).all()
        dead = [row.id for row in rows if has_ended(_process(row), local=store.is_local)]
        _mark(connection, dead)
    return len(dead)


def _mark(connection: sa.Connection, ids: Sequence[int]) -> None:
    message = "the process that ran it ended without a word; what has arrived is kept, and the next cycle goes on"
    now = clock.wall()
    values = {
        "state": TransferState.FAILED.value, "error_class": ABANDONED, "error": message,
        "updated_at": now, "finished_at": now,
    }  # fmt: skip
    for transfer_id in ids:
        connection.execute(sa.update(transfers).where(transfers.c.id == transfer_id).values(values))


def _running() -> sa.ColumnElement[bool]:
    return transfers.c.state == TransferState.RUNNING.value


def _set(store: StateStore, transfer_id: int, **values: Any) -> None:  # noqa: ANN401 - values of any column
    statement = sa.update(transfers).where((transfers.c.id == transfer_id) & _running())
    with store.begin() as connection:
        connection.execute(statement.values(updated_at=clock.wall(), **values))


def _process(row: sa.Row[Any]) -> Process:
    return Process(row.host, row.pid, row.pid_started, row.boot_id)


def _transfer(row: sa.Row[Any], *, local: bool) -> Transfer:
    process, state = _process(row), TransferState(row.state)
    if state is TransferState.RUNNING and has_ended(process, local=local):
        state = TransferState.ABANDONED
    return Transfer(
        row.id, row.artifact, row.node, row.direction, row.transport, row.config, row.trigger,
        row.size_bytes, row.received_bytes, row.resumed_from, state, row.started_at, row.updated_at, row.finished_at,
        row.error_class, row.error, process,
    )  # fmt: skip
