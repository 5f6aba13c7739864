"""Taking heartbeats at the owner's agent: what a node says is on it alone; the answer says what it may forget.

    POST /v1/heartbeat {"version": 1, "games": 3, "bytes": 900, "ids": [...], "oldest_age_seconds": 4.2,
                        "identities": [...], "outbox_bytes": 900, "outbox_packs": 1, "packs": ["<sha256>", ...],
                        "stopped_by": "",
                        "draining": false, "drain": {"id", "drained", "unread", "error"}, "outbox": "<its name>",
                        "unread": {"databases": 1, "oldest_age_seconds": 9.1, "why": "<path>: <what is in the way>"}}
        ->  {"durable": ["<sha256>", ...], "peers": [{"node", "url", "fingerprint", "ephemeral"}], "drain": false}

Where somebody wants a node emptied that he cannot reach, ``drain`` is true, beside ``drain_id`` and ``drain_seconds``.

``identities`` tells of each of ``ids`` how the identity digest of that game begins, since nodes may use one id for
different games; an agent that sends none tells ids only.

A token speaks for its node. A pack is durable when it is merged, or lies verified on a node that stays: a receipt says
so, and receipts name content. A pack without one is simply pushed again.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from ringrift_sync_dagster.agent.answers import Refusal, json_answer, json_object
from ringrift_sync_dagster.agent.auth import claims_of
from ringrift_sync_dagster.agent.limits import Limits
from ringrift_sync_dagster.agent.metrics import Metrics
from ringrift_sync_dagster.agent.peers import Peers
from ringrift_sync_dagster.core.model import SHA256
from ringrift_sync_dagster.errors import storable
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.identity import Scope
from ringrift_sync_dagster.state.node_reports import DrainWish, NodeReport, take_report
from ringrift_sync_dagster.state.receipts import holders_of
from ringrift_sync_dagster.state.risks import IDENTITY_CHARS, MAX_IDS, Risk, every, put
from ringrift_sync_dagster.state.store import StateStore

VERSION: Final = 1
MAX_PACKS: Final = 1000
_ID_CHARS: Final = 200
_OUTBOX_CHARS: Final = 32
_WORDS_CHARS: Final = 500
_MOST: Final = 1 << 62
_IDENTITY: Final = re.compile(f"([0-9a-f]{{{IDENTITY_CHARS}}})?")


@dataclass(frozen=True, slots=True)
class _Beat:
    """A heartbeat, checked; ``packs`` are those whose fate is asked for."""

    risk: Risk
    packs: tuple[str, ...]
    report: NodeReport


class HeartbeatDesk:
    """Takes heartbeats; its methods run in the event loop.

    Args:
        store: The shared database; None where this agent has none.
        node_id: This node.
        limits: Bounds of the agent.
        metrics: Shows what is at risk.
        hosts: The inventory; without it no peers are named.
        min_copies: So many persistent nodes with a pack are as good as this one.
        held: Says which of these packs this node holds now, by more than its receipts.

    """

    def __init__(
        self,
        store: StateStore | None,
        node_id: str,
        limits: Limits,
        metrics: Metrics,
        hosts: Path | None,
        min_copies: int = 1,
        held: Callable[[Sequence[str]], set[str]] = lambda _: set(),
    ) -> None:
        self._min_copies, self._held = min_copies, held
        self._store, self._node_id, self._limits, self._metrics = store, node_id, limits, metrics
        self._peers = None if store is None or hosts is None else Peers(store, hosts, node_id)
        self._one_at_a_time = asyncio.Lock()

    async def post(self, request: web.Request) -> web.Response:
        """``POST /v1/heartbeat``: 404 from an agent that is not the owner's."""
        store = self._store
        if store is None:
            message = f"{self._node_id} takes no heartbeats: send them to the agent of the coordinator"
            raise Refusal(HTTPStatus.NOT_FOUND, "no_heartbeats_here", message)
        claims = claims_of(request)
        if claims.scopes.isdisjoint({Scope.NODE, Scope.RELAY, Scope.COORDINATOR}):
            message = f"{claims.sub} may not send heartbeats: it needs scope node, and its token only reads"
            raise Refusal(HTTPStatus.FORBIDDEN, "scope", message)
        body = await json_object(request, self._limits.stall_seconds)
        try:
            beat = _checked(claims.sub, body, clock.wall())
        except (ValueError, TypeError) as error:
            message = f"this is no heartbeat: {storable(str(error), 300)}"
            raise Refusal(HTTPStatus.BAD_REQUEST, "bad_request", message) from error
        async with self._one_at_a_time:
            return json_answer(await asyncio.shield(asyncio.to_thread(self._take, store, beat)))

    async def show(self) -> None:
        """Bring the numbers of ``/metrics`` up to date."""
        if self._store is not None:
            self._metrics.show_risks(await asyncio.to_thread(every, self._store), clock.wall())

    def _take(self, store: StateStore, beat: _Beat) -> dict[str, Any]:
        risk = beat.risk
        waits = {"games": risk.games, "outbox_bytes": risk.outbox_bytes}
        wish = take_report(store, risk.node, beat.report, risk.at, **waits)
        put(store, risk)
        stays = frozenset[str]() if self._peers is None else self._peers.persistent - {self._node_id}
        here, there = self._held(beat.packs), holders_of(store, beat.packs)
        copies = {sha: len(stays.intersection(there.get(sha, ()))) for sha in beat.packs}
        durable = [sha for sha in beat.packs if sha in here or copies[sha] >= self._min_copies]
        peers = [] if self._peers is None else [peer.as_json() for peer in self._peers.of(risk.node)]
        return {"durable": durable, "peers": peers, **_drain(wish)}


def _checked(node: str, body: dict[str, Any], now: float) -> _Beat:
    """Check a heartbeat; keys that we do not know are a later version's.

    Raises:
        ValueError, TypeError: It is none.

    """
    if body.get("version") != VERSION:
        raise ValueError(f"its version is {body.get('version')!r}, and this agent knows {VERSION}")
    ids, packs, age = body.get("ids", []), body.get("packs", []), _age(body)
    identities = body.get("identities") or []
    if not isinstance(ids, list) or len(ids) > MAX_IDS:
        raise ValueError(f"ids must be a list of at most {MAX_IDS}")
    if not isinstance(packs, list) or len(packs) > MAX_PACKS:
        raise ValueError(f"packs must be a list of at most {MAX_PACKS}")
    if not all(isinstance(one, str) and 0 < len(one) <= _ID_CHARS and storable(one, _ID_CHARS) == one for one in ids):
        raise ValueError(f"an id is a text of 1 to {_ID_CHARS} characters that can be stored")
    if not isinstance(identities, list) or (identities and len(identities) != len(ids)):
        raise ValueError("identities must be as many as ids, or none")
    if not all(isinstance(one, str) and _IDENTITY.fullmatch(one) for one in identities):
        raise ValueError(f"an identity is the first {IDENTITY_CHARS} characters of a digest in hexadecimal, or nothing")
    if not all(isinstance(one, str) and SHA256.fullmatch(one) for one in packs):
        raise ValueError("packs are named by their SHA-256")
    games, size, outbox_bytes, outbox_packs = (
        _count(body, name) for name in ("games", "bytes", "outbox_bytes", "outbox_packs")
    )
    oldest_at = None if age is None else now - age
    risk = Risk(node, games, size, ids, oldest_at, outbox_bytes, outbox_packs, now, identities=identities)
    return _Beat(risk, tuple(packs), _report(body, now))


def _report(body: dict[str, Any], now: float) -> NodeReport:
    """Give what the agent says of itself; an older one says nothing."""
    drain = body.get("drain") or {}
    if not isinstance(drain, dict):
        raise TypeError("drain must be an object, or null")
    told = {name: _text(drain, name) for name in ("id", "unread", "error")} if drain else {}
    ended = {**told, "drained": drain.get("drained") is True} if told else {}
    outbox = _text(body, "outbox")[:_OUTBOX_CHARS]
    unread, why, age = _unread(body)
    return NodeReport(
        _text(body, "stopped_by"), body.get("draining") is True, ended, outbox=outbox,
        unread=unread, unread_why=why, unread_since=None if age is None else now - age,
    )  # fmt: skip


def _unread(body: dict[str, Any]) -> tuple[int, str, float | None]:
    """Give how many databases were not read, why, and for how long already."""
    told = body.get("unread") or {}
    if not isinstance(told, dict):
        raise TypeError("unread must be an object, or null")
    return _count(told, "databases"), _text(told, "why"), _age(told)


def _drain(wish: DrainWish | None) -> dict[str, Any]:
    if wish is None:
        return {"drain": False}
    return {"drain": True, "drain_id": wish.id, "drain_seconds": wish.seconds}


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name) or ""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be text")
    return storable(value, _WORDS_CHARS)


def _age(body: dict[str, Any]) -> float | None:
    age = body.get("oldest_age_seconds")
    if age is not None and (isinstance(age, bool) or not isinstance(age, int | float) or not 0 <= age < math.inf):
        raise ValueError("oldest_age_seconds must be a number of at least 0, or null")
    return age


def _count(body: dict[str, Any], name: str) -> int:
    value = body.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _MOST:
        raise ValueError(f"{name} must be a whole number of at least 0")
    return value
