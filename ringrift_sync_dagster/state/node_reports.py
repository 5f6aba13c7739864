"""What a node's agent says of itself with its heartbeats, and the one thing that it is asked for in the answers: drain.

Both are further facts of the node's row, written when they change. That a node's outbox or disk is full is told once as
an event, in the transaction that takes the news in; a node that goes from full to not full and back is told of again
after ``TELL_AGAIN_SECONDS``. A drain that is asked for here holds until it is taken back, over restarts of the node.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final
from uuid import uuid4

from ringrift_sync_dagster.core.events import DataEventType
from ringrift_sync_dagster.state import events, risks
from ringrift_sync_dagster.state.nodes import NodeRow, node_row, node_rows, put_fact
from ringrift_sync_dagster.state.store import StateStore

TELL_AGAIN_SECONDS: Final = 300.0
_REPORT: Final = "agent_report"
_WISH: Final = "drain_wish"
_NAME_CHARS: Final = 100
_SAME_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What an agent said of itself last.

    Args:
        stopped_by: Why new games stay in their databases; empty while they do not.
        draining: Whether it refuses others' bulk.
        drain: How the last drain that was asked for here ended (``id``, ``drained``, ``unread``, ``error``); empty
            where none has.
        told_at: When ``stopped_by`` was told as an event last.
        outbox: Name of its outbox; a node with another one than before has lost what it had.
        unread: How many databases hold what it could not read: games that may be at risk, and that nobody can count.
        unread_why: Which, and what is in the way.
        unread_since: Since when the oldest of them waits, in seconds since 1970 by our clock; None where there is none,
            or where nobody can read it until a person does something.

    """

    stopped_by: str = ""
    draining: bool = False
    drain: Mapping[str, Any] = field(default_factory=dict)
    told_at: float = 0.0
    outbox: str = ""
    unread: int = 0
    unread_why: str = ""
    unread_since: float | None = None


@dataclass(frozen=True, slots=True)
class DrainWish:
    """A drain that a node is asked for with the answer to its heartbeat.

    Args:
        id: Names this wish; a node that was asked again drains again.
        seconds: How long it may push.
        at: When it was asked for, in seconds since 1970.

    """

    id: str
    seconds: float
    at: float


def take_report(store: StateStore, node: str, report: NodeReport, now: float, **waits: int) -> DrainWish | None:
    """Take in what an agent says of itself; that it cannot take in games is told as DISK_SPACE_LOW. Idempotent.

    It goes before what the agent says is at risk: where it has another outbox than before, what was at risk then is
    kept apart.

    Args:
        store: The shared database.
        node: Whose agent.
        report: What it says.
        now: Seconds since 1970.
        waits: Numbers that the event tells too, such as ``games=3``.

    Returns:
        The drain that the node is asked for; None where it is asked for none.

    Raises:
        StateError: The database cannot be used.

    """
    row = node_row(store, node)
    known, wish = (NodeReport(), None) if row is None else (report_in(row), wish_in(row))
    if _is_same_moment(known.unread_since, report.unread_since):
        report = replace(report, unread_since=known.unread_since)  # no row is written because a heartbeat took its time
    if replace(known, told_at=0.0) == replace(report, told_at=0.0):
        return wish
    if known.outbox and report.outbox and known.outbox != report.outbox:
        _set_apart(store, node, known.outbox)
    is_news = bool(report.stopped_by) and not known.stopped_by and now - known.told_at >= TELL_AGAIN_SECONDS
    with store.begin() as connection:
        put_fact(connection, node, _REPORT, asdict(replace(report, told_at=now if is_news else known.told_at)))
        if is_news:
            told = {"node": node, "path": "outbox", "details": {"reason": report.stopped_by, **waits}}
            events.publish(connection, DataEventType.DISK_SPACE_LOW, told)
    return wish


def _is_same_moment(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and abs(one - other) < _SAME_SECONDS


def _set_apart(store: StateStore, node: str, before: str) -> None:
    """Keep what a node said last under a name of its own: another outbox speaks for it now. Idempotent.

    A node that is back, empty, under its old name would take the place of what went with the one before it, and nobody
    would ever be told.
    """
    gone = risks.risk_of(store, node)
    if gone is not None and gone.games and gone.lost_at is None:
        mark = hashlib.sha256(before.encode()).hexdigest()[:8]
        risks.put(store, replace(gone, node=f"{node[:_NAME_CHARS]}{risks.PREDECESSOR}{mark}"))


def report_in(row: NodeRow) -> NodeReport:
    """Give what the agent of a node said of itself last; what it says in good times where it never said anything."""
    found = row.extra.get(_REPORT)
    return NodeReport() if found is None else NodeReport(**found)


def unread_for(store: StateStore, seconds: float, now: float) -> dict[str, NodeReport]:
    """Give what the agents said, by node, that have been unable to read a database for longer than ``seconds``.

    Raises:
        StateError: The database cannot be read.

    """
    reports = {row.name: report_in(row) for row in node_rows(store)}
    return {
        name: report
        for name, report in reports.items()
        if report.unread and report.unread_since is not None and now - report.unread_since > seconds
    }


def trouble_in(row: NodeRow) -> str:
    """Say what is in the way of a node's agent, by its own word and our wish; empty where nothing is."""
    report = report_in(row)
    stopped = f"new games stay in their databases: {report.stopped_by}" if report.stopped_by else ""
    unread = f"{report.unread} databases cannot be read: {report.unread_why}" if report.unread else ""
    drained = "drained" if report.draining else "" if wish_in(row) is None else "to be drained"
    return "; ".join(part for part in (stopped, unread, drained and f"{drained}: takes no bulk until --resume") if part)


def wish_in(row: NodeRow) -> DrainWish | None:
    """Give the drain that a node is asked for; None where it is asked for none."""
    found = row.extra.get(_WISH)
    return None if found is None else DrainWish(**found)


def wish_drain(store: StateStore, node: str, seconds: float, now: float) -> DrainWish:
    """Ask a node to drain with the answer to its next heartbeat; an earlier wish is replaced.

    Raises:
        ValueError: The name cannot name a node.

    """
    wish = DrainWish(uuid4().hex, seconds, now)
    with store.begin() as connection:
        put_fact(connection, node, _WISH, asdict(wish))
    return wish


def end_wish(store: StateStore, node: str) -> bool:
    """Ask a node for no drain any more; give whether it was asked for one. Idempotent."""
    row = node_row(store, node)
    if row is None or wish_in(row) is None:
        return False
    with store.begin() as connection:
        put_fact(connection, node, _WISH, None)
    return True
