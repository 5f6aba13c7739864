"""Leases: one holder at a time for a name, among all processes, and never longer than the holder lives.

A lease is free when nobody holds it, when it expired, or when its holder has certainly ended: its pid is dead or
belongs to another process now (same boot, same pid namespace), or, on SQLite, the machine has booted since. Expiry is
counted in CLOCK_BOOTTIME on SQLite and in the database's time on PostgreSQL: a wall clock that jumps changes nothing.
While held, a thread renews it every third of its time. An expired lease is never renewed, even when nobody took it: a
holder that was stopped for so long learns it from ``check`` every time, not only when it had bad luck.
The fence grows by one with each holder and never falls. Source: domain.md, 10 (43); architecture.md, 1 rules 5, 6, 10.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

import sqlalchemy as sa

from ringrift_sync_dagster.errors import LeaseHeldError, LeaseLostError, StateError
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state import ticks
from ringrift_sync_dagster.state.holder import Process, has_ended, process_of, this_process
from ringrift_sync_dagster.state.schema import leases
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.upsert import insert_new

DEFAULT_TTL_SECONDS: Final = 30.0
_FIRST_WAIT_SECONDS: Final = 0.02
_LONGEST_WAIT_SECONDS: Final = 0.5

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease that this process holds; made by ``hold``. It belongs to this process: a forked child does not hold it.

    Args:
        name: What it excludes.
        holder: This one taking of it; nobody else ever has the same.
        fence: Grows with each holder; whoever writes under a lease can refuse a smaller one.
        store: The database that it is in.
        ttl_seconds: How long it lasts without renewal.

    """

    name: str
    holder: str
    fence: int
    store: StateStore
    ttl_seconds: float

    def check(self) -> None:
        """Return while the lease is ours; call it right before you commit what the lease protects.

        Raises:
            LeaseLostError: It expired (this process was stopped too long) or somebody took it over.
            StateError: The database cannot be asked.

        """
        with self.store.read() as connection:
            ours = connection.execute(sa.select(leases.c.fence).where(self._mine(ticks.now(connection)))).first()
        if ours is None:
            raise LeaseLostError(
                f"lease {self.name} is no longer ours: it expired after {self.ttl_seconds:g} s without renewal, or "
                "another process took it over; the work was not committed, and the next cycle does it again"
            )

    def renew(self) -> bool:
        """Make the lease last its whole time again; False when it is no longer ours."""
        with self.store.begin() as connection:
            now = ticks.now(connection)
            statement = sa.update(leases).where(self._mine(now)).values(expires=now + self.ttl_seconds)
            return connection.execute(statement).rowcount == 1

    def release(self) -> None:
        """Set the lease free, if it is still ours. Idempotent."""
        with self.store.begin() as connection:
            mine = (leases.c.name == self.name) & (leases.c.holder == self.holder)
            connection.execute(sa.update(leases).where(mine).values(holder="", expires=0.0))

    def _mine(self, now: float) -> sa.ColumnElement[bool]:
        return (leases.c.name == self.name) & (leases.c.holder == self.holder) & (leases.c.expires > now)


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """One lease as people see it.

    Args:
        name: What it excludes.
        process: Who holds it.
        fence: Its number.
        free: True when the next one who asks gets it.

    """

    name: str
    process: Process
    fence: int
    free: bool


@contextlib.contextmanager
def hold(
    store: StateStore, name: str, *, ttl_seconds: float = DEFAULT_TTL_SECONDS, wait_seconds: float = 0.0
) -> Iterator[Lease]:
    """Hold the lease during the body; a thread renews it meanwhile.

    Args:
        store: The shared database.
        name: What to exclude, such as ``merge:hex8_2p``.
        ttl_seconds: How long the lease outlives its renewal; above 0.
        wait_seconds: How long to wait for another holder; 0 asks once.

    Raises:
        LeaseHeldError: Another holder has it, and still had it after the wait.
        StateError: The database cannot be used.

    """
    lease = _wait(store, name, ttl_seconds, wait_seconds)
    ended = threading.Event()
    heartbeat = threading.Thread(target=_beat, args=(lease, ended), name=f"lease {name}", daemon=True)
    heartbeat.start()
    try:
        yield lease
    finally:
        ended.set()
        heartbeat.join()
        try:
            lease.release()
        except StateError as error:
            # The work of the body is done, so its result stands; the lease expires by itself.
            _LOG.warning("lease=%s release=failed expires_in=%gs cause=%s", name, ttl_seconds, error)


def lease_rows(store: StateStore) -> list[LeaseRow]:
    """Give all leases that somebody holds or held and did not release, by name."""
    with store.read() as connection:
        rows = connection.execute(sa.select(leases).where(leases.c.holder != "").order_by(leases.c.name)).all()
        now = ticks.now(connection)
    return [LeaseRow(row.name, process_of(row), row.fence, free=_is_free(row, now, store)) for row in rows]


def holder_of(store: StateStore, name: str) -> Process | None:
    """Give the process that holds a lease now; None when it is free."""
    with store.read() as connection:
        row = connection.execute(sa.select(leases).where(leases.c.name == name)).one_or_none()
        now = ticks.now(connection)
    return None if row is None or _is_free(row, now, store) else process_of(row)


def _wait(store: StateStore, name: str, ttl_seconds: float, wait_seconds: float) -> Lease:
    deadline = clock.Deadline(wait_seconds)
    pause = _FIRST_WAIT_SECONDS
    while True:
        taken = _take(store, name, ttl_seconds)
        if isinstance(taken, Lease):
            return taken
        if deadline.expired:
            raise LeaseHeldError(name, str(taken))
        threading.Event().wait(deadline.at_most(pause))
        pause = min(pause * 1.5, _LONGEST_WAIT_SECONDS)


def _take(store: StateStore, name: str, ttl_seconds: float) -> Lease | Process:
    """Take the lease if it is free; else give its holder."""
    me, holder = this_process(), secrets.token_hex(16)
    with store.begin() as connection:
        insert_new(connection, leases, [{"name": name}], ("name",))
        # On PostgreSQL this waits for whoever is taking it now; only then is the time read.
        row = connection.execute(sa.select(leases).where(leases.c.name == name).with_for_update()).one()
        now = ticks.now(connection)
        if not _is_free(row, now, store):
            return process_of(row)
        values = {"holder": holder, "expires": now + ttl_seconds, "fence": row.fence + 1, **asdict(me)}
        connection.execute(sa.update(leases).where(leases.c.name == name).values(values))
    return Lease(name, holder, row.fence + 1, store, ttl_seconds)


def _is_free(row: sa.Row[Any], now: float, store: StateStore) -> bool:
    return not row.holder or bool(row.expires <= now) or has_ended(process_of(row), local=store.is_local)


def _beat(lease: Lease, ended: threading.Event) -> None:
    pause = lease.ttl_seconds / 3
    while not ended.wait(pause):
        try:
            if not lease.renew():
                return  # lost for good; the holder learns it from check()
            pause = lease.ttl_seconds / 3
        except StateError:
            pause = lease.ttl_seconds / 12  # a busy database: there are some tries left before the lease expires
