"""Taking events from nodes and from programs elsewhere, such as upstream's controller, into the shared database.

    POST /v1/events {"type": "...", "payload": {...}}  ->  {"id": 7}

Only the coordinator's agent has that database. A node's token speaks for its node: what it publishes is marked with its
name, and an event about another node is refused; so is one that the owner alone can know, such as DATA_SYNC_COMPLETED.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from ringrift_sync_dagster.agent.answers import Refusal, json_answer, json_object
from ringrift_sync_dagster.agent.auth import claims_of
from ringrift_sync_dagster.agent.limits import Limits
from ringrift_sync_dagster.core.dialects import normalised
from ringrift_sync_dagster.core.events import DataEventType
from ringrift_sync_dagster.errors import EventError, storable
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.identity import Claims, Scope
from ringrift_sync_dagster.state.events import publish
from ringrift_sync_dagster.state.payloads import PAYLOADS, event_type, read_payload
from ringrift_sync_dagster.state.store import StateStore

OF_THE_OWNER: Final = frozenset(
    {
        DataEventType.DATA_SYNC_STARTED,
        DataEventType.DATA_SYNC_COMPLETED,
        DataEventType.DATA_SYNC_FAILED,
        DataEventType.MODEL_DISTRIBUTION_STARTED,
        DataEventType.MODEL_DISTRIBUTION_COMPLETE,
        DataEventType.MODEL_DISTRIBUTION_FAILED,
        DataEventType.ORPHAN_GAMES_REGISTERED,
        DataEventType.GAMES_LOST,
        DataEventType.SYNC_NODE_UNREACHABLE,
        DataEventType.NODE_RECOVERED,
        DataEventType.CIRCUIT_OPENED,
        DataEventType.CIRCUIT_CLOSED,
    }
)
"""What only the owner can know; a token without scope coordinator may not publish it."""

_MOST_NAMES: Final = 1000


@dataclass(slots=True)
class _Allowance:
    """How many events a name may still send, as of a moment."""

    left: float
    at: float


class EventDesk:
    """Takes events; its method runs in the event loop.

    Args:
        store: The shared database; None where this agent has none.
        node_id: This node.
        limits: Bounds of the agent.

    """

    def __init__(self, store: StateStore | None, node_id: str, limits: Limits) -> None:
        self._store = store
        self._node_id = node_id
        self._limits = limits
        self._allowances: dict[str, _Allowance] = {}

    async def post(self, request: web.Request) -> web.Response:
        """``POST /v1/events``: 200 with the event's id, 422 for a payload that its type does not allow."""
        store = self._store
        if store is None:
            message = f"{self._node_id} keeps no events: send them to the agent of the coordinator"
            raise Refusal(HTTPStatus.NOT_FOUND, "no_events_here", message)
        claims = claims_of(request)
        self._spend(claims.sub)
        kind, payload = await self._read(request)
        try:
            told = _checked(claims, kind, payload)
        except EventError as error:
            raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, "bad_event", str(error)) from error
        # Shielded: who goes away meanwhile has published all the same.
        event_id = await asyncio.shield(asyncio.to_thread(publish, store, kind, told))
        return json_answer({"ok": True, "id": event_id})

    async def _read(self, request: web.Request) -> tuple[str, dict[str, Any]]:
        most = self._limits.event_bytes
        if request.content_length is None or request.content_length > most:
            message = f"an event has at most {most} bytes, and says its length (Content-Length)"
            raise Refusal(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", message, headers={"Connection": "close"}
            )  # fmt: skip
        body = await json_object(request, self._limits.stall_seconds)
        kind, payload = body.get("type"), body.get("payload", {})
        if not isinstance(kind, str) or not isinstance(payload, dict) or body.keys() - {"type", "payload"}:
            message = 'an event is {"type": "...", "payload": {...}}, and nothing else'
            raise Refusal(HTTPStatus.BAD_REQUEST, "bad_request", message)
        return kind, payload

    def _spend(self, name: str) -> None:
        """Count one event of a name; the allowance fills again with time."""
        now, rate, most = clock.monotonic(), self._limits.events_per_second, self._limits.events_at_once
        if len(self._allowances) >= _MOST_NAMES:  # those that are full again need not be remembered
            full = [one for one, had in self._allowances.items() if had.left + (now - had.at) * rate >= most]
            for one in full:
                del self._allowances[one]
        had = self._allowances.setdefault(name, _Allowance(float(most), now))
        had.left, had.at = min(float(most), had.left + (now - had.at) * rate), now
        if had.left < 1:
            message = f"{name} sends more than {rate:g} events per second; send fewer, an event is no heartbeat"
            wait = str(math.ceil((1 - had.left) / rate))
            raise Refusal(HTTPStatus.TOO_MANY_REQUESTS, "too_many", message, headers={"Retry-After": wait})
        had.left -= 1


def _checked(claims: Claims, name: str, payload: dict[str, Any]) -> dict[str, Any]:
    """Give the payload in our shape, with who sent it.

    Raises:
        EventError: It is not what its type says.
        Refusal: 403 where the token may not say this.

    """
    kind = event_type(name)
    if Scope.COORDINATOR in claims.scopes:
        told = read_payload(kind, payload).model_dump(mode="json")
        return {**told, "publisher": told["publisher"] or claims.sub}
    if claims.scopes.isdisjoint({Scope.NODE, Scope.RELAY}):
        message = f"{claims.sub} may not publish events: it needs scope node, and its token only reads"
        raise Refusal(HTTPStatus.FORBIDDEN, "scope", message)
    if kind in OF_THE_OWNER:
        raise Refusal(HTTPStatus.FORBIDDEN, "scope", f"{claims.sub} may not publish {kind}: only the owner knows it")
    fields = PAYLOADS[kind].model_fields
    told = normalised(kind, payload, fields)
    for field in ("publisher", "node"):
        if field in fields:
            if told.get(field) not in (None, "", claims.sub):  # whatever JSON holds, a list too
                message = f"{claims.sub} may not publish about {told[field]} (field {field}): a node speaks for itself"
                raise Refusal(HTTPStatus.FORBIDDEN, "scope", storable(message, 500))
            told[field] = claims.sub
    return read_payload(kind, told).model_dump(mode="json")
