"""Emptying a node before it goes: its agent is asked, and where nobody can reach it, by the answer to its heartbeat.

A node behind NAT calls the coordinator every few seconds. The wish stands in the state database, the coordinator's
agent puts it into the answer, and the node tells with a later heartbeat how that ended. Such a wish holds until it is
taken back (``resume``), over restarts of the node's agent; what the agent was asked directly holds until it restarts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ringrift_sync_dagster.errors import (
    DeadlineExceededError,
    NodeDownError,
    RungUnusableError,
    TransientError,
    UnreachableError,
)
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.state.node_reports import NodeReport, end_wish, report_in, wish_drain
from ringrift_sync_dagster.state.nodes import node_row
from ringrift_sync_dagster.state.risks import risk_of
from ringrift_sync_dagster.sync.runtime import Runtime

SLACK_SECONDS: Final = 20.0
"""What connecting, two heartbeats, and an answer after the node's own deadline may take."""
_CONNECT_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.5
_OUT_OF_REACH: Final = (RungUnusableError, NodeDownError, TransientError, DeadlineExceededError)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a node said, or what is known of it where it said nothing.

    Args:
        ok: It did as it was asked: nothing is on it alone any more, or it takes bulk again.
        told: Its words, as ``POST /v1/drain`` gives them.
        by_heartbeat: It was asked by the answer to its heartbeat, because it cannot be reached.

    """

    ok: bool
    told: Mapping[str, Any]
    by_heartbeat: bool = False


def drain(runtime: Runtime, node: Node, seconds: float, notice: Callable[[str], None] = lambda _: None) -> Answer:
    """Let a node take no more bulk and push what only it has; give what it could not save.

    Args:
        runtime: Ways to nodes, and the shared state.
        node: Which one.
        seconds: How long it may push.
        notice: Called with a sentence when it is asked by its heartbeat instead.

    Raises:
        SyncError: It refuses, or it can neither be reached nor does it send heartbeats.

    """
    try:
        found = _ask(runtime, node, {"seconds": seconds}, seconds + SLACK_SECONDS)
    except _OUT_OF_REACH as error:
        before = _heartbeat_at(runtime, node, error)
        wish = wish_drain(runtime.state, node.name, seconds, clock.wall())
        notice(f"{node.name} cannot be reached, so it is asked with the answer to its next heartbeat: {error}")
        report = _wait(runtime, node, seconds + SLACK_SECONDS, lambda one: one.drain.get("id") == wish.id)
        risk = risk_of(runtime.state, node.name)
        told = {
            "games": 0 if risk is None else risk.games, "bytes": 0 if risk is None else risk.bytes,
            "ids": [] if risk is None else list(risk.ids), "outbox_packs": 0 if risk is None else risk.outbox_packs,
        }  # fmt: skip
        if report is None:
            age = clock.wall() - (before if risk is None else risk.at)
            why = f"it did not say how that ended; these numbers are of its last heartbeat, {age:.0f} s ago"
            return Answer(ok=False, told={"drained": False, **told, "unread": "", "error": why}, by_heartbeat=True)
        return Answer(ok=report.drain.get("drained") is True, told={**told, **report.drain}, by_heartbeat=True)
    return Answer(ok=found.get("drained") is True, told=found)


def resume(runtime: Runtime, node: Node, seconds: float, notice: Callable[[str], None] = lambda _: None) -> Answer:
    """Let a node take bulk again.

    Args:
        runtime: Ways to nodes, and the shared state.
        node: Which one.
        seconds: How long its next heartbeat is waited for where it cannot be reached.
        notice: As in ``drain``.

    Raises:
        SyncError: As in ``drain``.

    """
    was_wished = end_wish(runtime.state, node.name)
    try:
        found = _ask(runtime, node, {"resume": True}, SLACK_SECONDS)
    except _OUT_OF_REACH as error:
        _heartbeat_at(runtime, node, error)
        notice(f"{node.name} cannot be reached, so its next heartbeat is waited for: {error}")
        report = _wait(runtime, node, seconds, lambda one: not one.draining)
        said = "" if report is not None else "it still refuses bulk as far as is known; its next heartbeat ends that"
        told = {"was_draining": was_wished, "draining": report is None, "error": said}
        return Answer(ok=report is not None, told=told, by_heartbeat=True)
    return Answer(ok=found.get("draining") is False, told=found)


def _ask(runtime: Runtime, node: Node, told: dict[str, Any], seconds: float) -> dict[str, Any]:
    with runtime.ladder.agent_of(node) as way:
        probe = way.probe(Deadline.after(min(seconds, _CONNECT_SECONDS)))
        if not probe.reachable:
            raise probe.cause or UnreachableError(node.name, "p2p_http", probe.detail)
        return way.tell("/v1/drain", told, deadline=Deadline.after(seconds))


def _heartbeat_at(runtime: Runtime, node: Node, error: Exception) -> float:
    """Say when the node sent its last heartbeat; one that never did can be asked in no way."""
    risk = risk_of(runtime.state, node.name)
    if risk is None:
        raise error
    return risk.at


def _wait(runtime: Runtime, node: Node, seconds: float, is_it: Callable[[NodeReport], bool]) -> NodeReport | None:
    deadline = Deadline.after(seconds)
    while True:
        row = node_row(runtime.state, node.name)
        report = NodeReport() if row is None else report_in(row)
        if is_it(report):
            return report
        if deadline.expired:
            return None
        threading.Event().wait(deadline.at_most(_POLL_SECONDS))
