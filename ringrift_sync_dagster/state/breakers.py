"""Circuit breakers that all processes share: one row per node and transport, one probe at a time among all of them.

``admit`` before a rung is used; then ``succeeded``, or ``failed`` when the node is to blame, or ``released`` when
nobody can tell (we stopped it ourselves, our disk is full). What a breaker does is decided by ``core/breaker.py``; here
it is remembered, and told as an event in the same transaction. A closed breaker costs one read. After a restart of the
machine all are closed. Source: sync guide, "Circuit Breaker"; architecture.md, 7 (breaker) and 1 rules 5 to 7.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

import sqlalchemy as sa

from ringrift_sync_dagster.core.breaker import Breaker, CircuitBreakerConfig, CircuitState, node_state
from ringrift_sync_dagster.errors import storable
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state import ticks
from ringrift_sync_dagster.state.events import publish
from ringrift_sync_dagster.state.holder import Process, has_ended, process_of, this_process
from ringrift_sync_dagster.state.schema import breakers
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.upsert import insert_new

CIRCUIT_OPENED: Final = "CIRCUIT_OPENED"
"""Event: ``node``, ``transport``, ``failures`` in a row, ``open_seconds``, ``error``."""
CIRCUIT_CLOSED: Final = "CIRCUIT_CLOSED"
"""Event: ``node``, ``transport``."""

UNREACHABLE: Final = "UnreachableError"
"""How the text of an error begins that says: nothing answers at the port."""

_NO_PROBE: Final = {"host": "", "pid": 0, "pid_started": None, "boot_id": "", "thread": 0, "probe_expires": None}


class Verdict(StrEnum):
    """What ``admit`` says."""

    ALLOWED = "allowed"
    PROBE = "probe"  # go on, and say how it ended: the others wait for it
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a rung may be used now.

    Args:
        verdict: The answer.
        seconds_left: After how long to ask again; 0 unless refused.
        why: Whose failure it was, or who probes; empty unless refused.

    """

    verdict: Verdict
    seconds_left: float = 0.0
    why: str = ""

    @property
    def allowed(self) -> bool:
        """True when the rung may be used, as a probe or without more ado."""
        return self.verdict is not Verdict.REFUSED


@dataclass(frozen=True, slots=True)
class BreakerRow:
    """One breaker as people see it.

    Args:
        node: The node.
        transport: The rung.
        state: What it says now.
        failures: Failures in a row.
        opens: Openings in a row.
        seconds_left: How long it stays open.
        probe: Who finds out; None when nobody does.
        last_error: The latest error that counted.
        changed_at: When the row was last written, in seconds since 1970.

    """

    node: str
    transport: str
    state: CircuitState
    failures: int
    opens: int
    seconds_left: float
    probe: Process | None
    last_error: str
    changed_at: float


def admit(
    store: StateStore,
    node: str,
    transport: str,
    config: CircuitBreakerConfig,
    *,
    probe_seconds: float | None = None,
) -> Admission:
    """Ask whether the rung may be used; only a probe writes.

    Args:
        store: The shared database.
        node: The node.
        transport: The rung.
        config: How it opens.
        probe_seconds: How long a probe keeps the others out when it never says how it ended; its recovery time of
            ``config`` when None.

    Raises:
        StateError: The database cannot be used.

    """
    with store.read() as connection:
        admission = _load(connection, node, transport, local=store.is_local).admission()
    if admission.verdict is not Verdict.PROBE:
        return admission
    with store.begin() as connection:
        found = _load(connection, node, transport, local=store.is_local, lock=True)
        admission = found.admission()
        if admission.verdict is Verdict.PROBE:
            lasting = config.recovery_timeout_seconds if probe_seconds is None else probe_seconds
            expires = found.moment.seconds + lasting
            probe = {**asdict(this_process()), "thread": threading.get_native_id(), "probe_expires": expires}
            _update(connection, node, transport, probe)
    return admission


def failed(
    store: StateStore, node: str, transport: str, config: CircuitBreakerConfig, error: str, jitter: float = 0.0
) -> Breaker:
    """Count a failure that the node is to blame for; give the breaker after it.

    Args:
        store: The shared database.
        node: The node.
        transport: The rung.
        config: When it opens, and for how long.
        error: What people are shown.
        jitter: By chance from -1 to 1.

    """
    with store.begin() as connection:
        insert_new(connection, breakers, [_new(node, transport)], ("node", "transport"))
        before = _load(connection, node, transport, local=store.is_local, lock=True)
        after = before.breaker.on_failure(before.moment.seconds, config, jitter)
        values: dict[str, Any] = {**asdict(after), "epoch": before.moment.epoch, "last_error": storable(error)}
        opens_now = after.open_until != before.breaker.open_until
        if opens_now:
            values |= _NO_PROBE
        _update(connection, node, transport, values)
        if opens_now:
            open_seconds = round(after.seconds_left(before.moment.seconds), 3)
            told = {"failures": after.failures, "open_seconds": open_seconds, "error": storable(error)}
            publish(connection, CIRCUIT_OPENED, {"node": node, "transport": transport, **told})
        elif before.was_open and after.open_until is None:
            _tell_closed(connection, node, transport)
    return after


def succeeded(store: StateStore, node: str, transport: str) -> None:
    """Say that the rung works: the breaker closes. Without failures nothing is written."""
    with store.read() as connection:
        if not _load(connection, node, transport, local=store.is_local).has_failures:
            return
    _close(store, _is(node, transport))


def answered(store: StateStore, node: str, transport: str) -> None:
    """Say that the port which this rung needs answers again, for another rung: what it failed of is over.

    A failure of its own, such as a program that is missing on the node, stays counted.
    """
    with store.read() as connection:
        row = _load(connection, node, transport, local=store.is_local).row
        if row is None or not row.last_error.startswith(UNREACHABLE):
            return
    succeeded(store, node, transport)


def released(store: StateStore, node: str, transport: str) -> None:
    """Say that nobody can tell whether the rung works; if this thread has the probe, the next one who asks may probe.

    Idempotent; writes nothing for a thread without a probe. Call it in the thread that was admitted.
    """
    me = this_process()
    ours = (breakers.c.host == me.host) & (breakers.c.pid == me.pid) & (breakers.c.boot_id == me.boot_id)
    ours &= _is(node, transport) & (breakers.c.thread == threading.get_native_id())
    with store.read() as connection:
        if connection.execute(sa.select(breakers.c.node).where(ours)).first() is None:
            return
    with store.begin() as connection:
        connection.execute(sa.update(breakers).where(ours).values(_NO_PROBE))


def reset(store: StateStore, node: str, transport: str | None = None) -> int:
    """Close the breaker of one rung, or of all rungs of the node; give how many had counted failures."""
    return _close(store, breakers.c.node == node if transport is None else _is(node, transport))


def breaker_rows(store: StateStore) -> list[BreakerRow]:
    """Give all breakers that ever counted a failure, by node and transport."""
    with store.read() as connection:
        moment = ticks.moment(connection)
        rows = connection.execute(sa.select(breakers).order_by(breakers.c.node, breakers.c.transport)).all()
    return [_row(row, moment, local=store.is_local) for row in rows]


def circuit_state(store: StateStore, node: str, transports: Iterable[str]) -> CircuitState:
    """Give the state of a node over its usable rungs: OPEN when all are, HALF_OPEN when the best is, else CLOSED."""
    with store.read() as connection:
        return node_state([_load(connection, node, rung, local=store.is_local).state for rung in transports])


@dataclass(frozen=True, slots=True)
class _Found:
    """What the database says of one breaker at one moment; no row is a closed one."""

    row: sa.Row[Any] | None
    moment: ticks.Moment
    local: bool

    @property
    def breaker(self) -> Breaker:
        row = self.row
        if row is None or row.epoch != self.moment.epoch:
            return Breaker()
        return Breaker(row.failures, row.opens, row.open_until)

    @property
    def state(self) -> CircuitState:
        return self.breaker.state(self.moment.seconds)

    @property
    def has_failures(self) -> bool:
        return self.row is not None and (self.row.failures > 0 or self.was_open)

    @property
    def was_open(self) -> bool:
        """Whether it was open when it was written, perhaps before a restart."""
        return self.row is not None and self.row.open_until is not None

    @property
    def probe_left(self) -> float:
        """How long a living process may still keep its probe; 0 when there is none."""
        left = 0.0 if self.row is None else self.moment.left(self.row.probe_expires, self.row.epoch)
        return 0.0 if left <= 0 or has_ended(process_of(self.row), local=self.local) else left

    def admission(self) -> Admission:
        state = self.state
        if self.row is None or state is CircuitState.CLOSED:
            return Admission(Verdict.ALLOWED)
        why = f"{self.row.failures} failures in a row, the last: {self.row.last_error}"
        if state is CircuitState.OPEN:
            left = self.breaker.seconds_left(self.moment.seconds)
            return Admission(Verdict.REFUSED, left, f"tried again in {left:.0f} s, after {why}")
        left = self.probe_left
        if left > 0:
            return Admission(Verdict.REFUSED, left, f"{process_of(self.row)} finds out whether it works again; {why}")
        return Admission(Verdict.PROBE)


def _load(connection: sa.Connection, node: str, transport: str, *, local: bool, lock: bool = False) -> _Found:
    statement = sa.select(breakers).where(_is(node, transport))
    # On PostgreSQL a locked row waits for whoever writes it; only then is the time read.
    row = connection.execute(statement.with_for_update() if lock else statement).first()
    return _Found(row, ticks.moment(connection), local)


def _close(store: StateStore, which: sa.ColumnElement[bool]) -> int:
    counted = which & ((breakers.c.failures > 0) | breakers.c.open_until.is_not(None))
    with store.begin() as connection:
        rows = connection.execute(sa.select(breakers).where(counted).with_for_update()).all()
        for row in rows:
            _update(connection, row.node, row.transport, {**asdict(Breaker()), **_NO_PROBE})
            if row.open_until is not None:
                _tell_closed(connection, row.node, row.transport)
    return len(rows)


def _tell_closed(connection: sa.Connection, node: str, transport: str) -> None:
    publish(connection, CIRCUIT_CLOSED, {"node": node, "transport": transport})


def _update(connection: sa.Connection, node: str, transport: str, values: dict[str, Any]) -> None:
    statement = sa.update(breakers).where(_is(node, transport))
    connection.execute(statement.values(changed_at=clock.wall(), **values))


def _new(node: str, transport: str) -> dict[str, Any]:
    return {"node": node, "transport": transport, "changed_at": clock.wall()}


def _is(node: str, transport: str) -> sa.ColumnElement[bool]:
    return (breakers.c.node == node) & (breakers.c.transport == transport)


def _row(row: sa.Row[Any], moment: ticks.Moment, *, local: bool) -> BreakerRow:
    found = _Found(row, moment, local)
    breaker = found.breaker
    probe = process_of(row) if found.probe_left > 0 else None
    return BreakerRow(
        row.node, row.transport, found.state, breaker.failures, breaker.opens, breaker.seconds_left(moment.seconds),
        probe, row.last_error, row.changed_at,
    )  # fmt: skip
