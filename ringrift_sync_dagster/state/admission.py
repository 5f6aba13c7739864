"""Admission: how many transfers run at a time over all processes, and which of those that wait starts next.

A transfer asks (``request``), waits until ``try_admit`` says yes, runs, and ends with ``transfers.finish`` or ``fail``:
one row of ``transfers`` from the first word to the last. Its process renews its word meanwhile (``shares.renew``); a
row whose process has ended gives its slot back at once, one that fell silent after 5 seconds. The order is that of
``core/bandwidth.py``: by priority, then who came first, and nobody waits for ever.
Source: sync guide, "AutoSyncConfig" (``max_concurrent_syncs``); architecture.md, 7 and 1 rule 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import sqlalchemy as sa

from ringrift_sync_dagster.core.bandwidth import TransferPriority, Waiting, effective_order, head_start
from ringrift_sync_dagster.errors import LeaseLostError
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state import ticks
from ringrift_sync_dagster.state.liveness import TTL_SECONDS, Liveness
from ringrift_sync_dagster.state.schema import transfers
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.transfers import TransferState, abandon, insert_transfer, unfinished

_ADVISORY_LOCK: Final = 0x52524144


@dataclass(frozen=True, slots=True)
class TransferRequest:
    """What a process wants to move.

    Args:
        artifact: SHA-256 of what moves.
        node: The other side, whose bandwidth it shares.
        direction: ``fetch`` (to us) or ``push`` (from us).
        size_bytes: The whole length.
        priority: How important it is.
        multiplier: Its weight, above 0; that of the priority when None.
        config: The config that it belongs to; empty when none.
        trigger: What started it, such as ``cli`` or ``schedule``.
        reserved_bytes: How much of ``disk`` it needs.
        disk: The node whose disk it fills; the owner's own name for a fetch; empty when none is watched.
        transport: The transport, when there is no choice.
        boost: Of at least 1; its turn comes as early as if its weight were so many times larger.

    Raises:
        ValueError: The multiplier is not above 0.

    """

    artifact: str
    node: str
    direction: str
    size_bytes: int
    priority: TransferPriority
    multiplier: float | None = None
    config: str = ""
    trigger: str = ""
    reserved_bytes: int = 0
    disk: str = ""
    transport: str = ""
    boost: float = 1.0

    def __post_init__(self) -> None:
        if self.multiplier is not None and not self.multiplier > 0:
            raise ValueError(f"the multiplier of a transfer is above 0, not {self.multiplier!r}")


def request(store: StateStore, wanted: TransferRequest) -> int:
    """Let a transfer wait for its turn; give its id, which is also its ticket."""
    with store.begin() as connection:
        return _insert(connection, wanted)


def request_and_admit(store: StateStore, wanted: TransferRequest, *, max_running: int) -> tuple[int, bool]:
    """Do ``request`` and ``try_admit`` in one commit; give the id, and whether it may start now."""
    with store.begin() as connection:
        _lock(connection)
        transfer_id = _insert(connection, wanted)
        return transfer_id, _admit(connection, transfer_id, max_running, local=store.is_local)


def try_admit(store: StateStore, transfer_id: int, *, max_running: int) -> bool:
    """Say whether the transfer may start now; call it again until it may, or end the transfer with ``fail``.

    The word of a waiting transfer is renewed when it is half over; a call that changes nothing writes nothing.

    Args:
        store: The shared database.
        transfer_id: A transfer of this process.
        max_running: How many may run at a time over all processes.

    Returns:
        True when it runs from now on, or did already.

    Raises:
        LeaseLostError: It has ended, or this process was stopped for so long that it was taken for dead.

    """
    with store.read() as connection:
        queue = _read_queue(connection, transfer_id, local=store.is_local)
    if not queue.is_turn(max_running) and queue.liveness.word_left(queue.mine) > TTL_SECONDS / 2:
        return False
    with store.begin() as connection:
        _lock(connection)
        return _admit(connection, transfer_id, max_running, local=store.is_local)


def reserved(store: StateStore, disk: str, *, up_to: int | None = None) -> int:
    """Give the bytes that transfers will still put on a disk; those that wait for their turn count too.

    Args:
        store: The shared database.
        disk: The node whose disk it is.
        up_to: Only transfers up to this id. Of several that ask at the same moment, each after its ``request``, the
            first one then does not give way to the later ones.

    """
    chosen = unfinished() & (transfers.c.disk == disk) & (transfers.c.reserved_bytes > transfers.c.received_bytes)
    with store.read() as connection:
        rows = connection.execute(sa.select(transfers).where(chosen)).all()
        liveness = Liveness(ticks.moment(connection), local=store.is_local)
    counted = (row for row in rows if (up_to is None or row.id <= up_to) and liveness.is_live(row))
    return sum(row.reserved_bytes - row.received_bytes for row in counted)


def begun(store: StateStore, seconds: float) -> int:
    """Give how many transfers asked for a turn within the last seconds and have not ended, of all processes."""
    with store.read() as connection:
        moment = ticks.moment(connection)
        recent = (transfers.c.epoch == moment.epoch) & (transfers.c.requested > moment.seconds - seconds)
        counted = sa.select(sa.func.count()).select_from(transfers).where(unfinished() & recent)
        return int(connection.execute(counted).scalar_one())


@dataclass(frozen=True, slots=True)
class _Queue:
    """All unfinished transfers at one moment, seen from one of them."""

    rows: Sequence[sa.Row[Any]]
    mine: sa.Row[Any]
    liveness: Liveness

    def is_turn(self, max_running: int) -> bool:
        """Whether it runs, or may: those before it in the order leave it a slot."""
        if self.mine.state == TransferState.RUNNING:
            return True
        # Whoever asks is alive, even when its word ran out meanwhile.
        live = [row for row in self.rows if row is self.mine or self.liveness.is_live(row)]
        waiting = [row for row in live if row.state == TransferState.WAITING]
        order = effective_order(Waiting(row.id, row.multiplier, row.requested) for row in waiting)
        slots = max(0, max_running - (len(live) - len(waiting)))
        return self.mine.id in {one.ticket for one in order[:slots]}


def _read_queue(connection: sa.Connection, transfer_id: int, *, local: bool) -> _Queue:
    rows = connection.execute(sa.select(transfers).where(unfinished())).all()
    mine = next((row for row in rows if row.id == transfer_id), None)
    if mine is None:
        raise LeaseLostError(
            f"transfer {transfer_id} no longer waits: it has ended, or its process was silent for so long that others "
            "took it for dead; nothing was moved, and the next cycle does it again"
        )
    return _Queue(rows, mine, Liveness(ticks.moment(connection), local=local))


def _admit(connection: sa.Connection, transfer_id: int, max_running: int, *, local: bool) -> bool:
    queue = _read_queue(connection, transfer_id, local=local)
    turn, now = queue.is_turn(max_running), clock.wall()
    values: dict[str, Any] = {**_word(queue.liveness.moment), "updated_at": now}
    if turn and queue.mine.state == TransferState.WAITING:
        values |= {"state": TransferState.RUNNING.value, "started_at": now}
    connection.execute(sa.update(transfers).where(transfers.c.id == transfer_id).values(values))
    abandon(connection, [row for row in queue.rows if row is not queue.mine], queue.liveness)
    return turn


def _insert(connection: sa.Connection, wanted: TransferRequest) -> int:
    moment = ticks.moment(connection)
    multiplier = wanted.priority.multiplier if wanted.multiplier is None else wanted.multiplier
    told = {name: value for name, value in asdict(wanted).items() if name != "boost"}
    values = {
        **told, **_word(moment), "requested": moment.seconds - head_start(multiplier, wanted.boost),
        "priority": wanted.priority.value, "multiplier": multiplier,
    }  # fmt: skip
    return insert_transfer(connection, TransferState.WAITING, values)


def _word(moment: ticks.Moment) -> dict[str, Any]:
    return {"expires": moment.seconds + TTL_SECONDS, "epoch": moment.epoch}


def _lock(connection: sa.Connection) -> None:
    """Let one process at a time count the slots; SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
