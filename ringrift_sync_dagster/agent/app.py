"""The agent's HTTP interface: which path does what, and who may call it.

    GET    /health                     open
    GET    /v1/status                  any token
    GET    /v1/manifest?since=         any token
    GET    /v1/receipts?since=         any token
    GET    /metrics                    any token
    GET    /v1/artifacts/{sha}         any token (HEAD too)
    GET    /v1/artifacts/{sha}/blocks  any token
    DELETE /v1/artifacts/{sha}         coordinator
    POST   /v1/call/{op}               coordinator
    POST   /v1/pull                    coordinator
    POST   /v1/events                  a node's token, about itself; coordinator: about any (only at its own agent)
    POST   /v1/heartbeat               a node's token, about itself (only at the coordinator's own agent)
    GET    /v1/incoming/{node}/{sha}   who may push under the name of {node}
    PUT    /v1/incoming/{node}/{sha}   the same
    POST   /v1/write-through           this machine, with write-through only
    POST   /v1/drain                   coordinator, or this machine; with write-through only

Handlers are short; what blocks (disk, SQLite, the kit) runs in threads and worker processes. Any reply but that of
``/health`` may bring its caller a new token (``auth``).
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from ringrift_sync_dagster import __version__
from ringrift_sync_dagster.agent.answers import Refusal, errors_as_json, json_answer, json_object
from ringrift_sync_dagster.agent.auth import Authenticator, require_coordinator
from ringrift_sync_dagster.agent.calls import Calls
from ringrift_sync_dagster.agent.downloads import Downloads
from ringrift_sync_dagster.agent.events import EventDesk
from ringrift_sync_dagster.agent.forwarding import Forwarder
from ringrift_sync_dagster.agent.heartbeats import HeartbeatDesk
from ringrift_sync_dagster.agent.limits import Limits
from ringrift_sync_dagster.agent.manifest import Manifest
from ringrift_sync_dagster.agent.merging import Merger
from ringrift_sync_dagster.agent.metrics import CONTENT_TYPE, Metrics
from ringrift_sync_dagster.agent.pulls import Pulls
from ringrift_sync_dagster.agent.receipts import ReceiptBook
from ringrift_sync_dagster.agent.through import Through
from ringrift_sync_dagster.agent.uploads import Uploads
from ringrift_sync_dagster.settings import clock

_RECEIPTS_PER_PAGE: Final = 1000
_NUMBER_MAX_DIGITS: Final = 18


@dataclass(frozen=True, slots=True)
class Parts:
    """What an agent is made of.

    Args:
        node_id: This node.
        root: The node's own root; its disk is the one that status tells of.
        limits: Bounds of the agent.
        metrics: Its numbers.
        downloads: Serves artifacts.
        uploads: Takes artifacts.
        pulls: Fetches artifacts from other agents.
        calls: Runs the kit.
        manifest: Tells what the node has.
        receipts: Tells what this node holds of others.
        events: Takes events.
        heartbeats: Takes heartbeats.
        merger: Merges what is pushed; None where passes do.
        forwarder: Brings packs of others to the owner; None where nobody does.
        through: Makes finished games durable elsewhere; None where that is off.

    """

    node_id: str
    root: Path
    limits: Limits
    metrics: Metrics
    downloads: Downloads
    uploads: Uploads
    pulls: Pulls
    calls: Calls
    manifest: Manifest
    receipts: ReceiptBook
    events: EventDesk
    heartbeats: HeartbeatDesk
    merger: Merger | None = None
    forwarder: Forwarder | None = None
    through: Through | None = None


class Interface:
    """The handlers that need no file of their own.

    Args:
        parts: What the agent is made of.

    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._started = clock.monotonic()

    async def health(self, _request: web.Request) -> web.Response:
        """``GET /health``: up, and who we are; nothing else, because it is open to all."""
        return json_answer({"status": "up", "version": __version__, "node_id": self._parts.node_id})

    async def status(self, _request: web.Request) -> web.Response:
        """``GET /v1/status``: load and disk of this node."""
        parts = self._parts
        disk = await asyncio.to_thread(shutil.disk_usage, parts.root)
        answer: dict[str, Any] = {
            "node_id": parts.node_id,
            "version": __version__,
            "up_seconds": round(clock.monotonic() - self._started, 1),
            "disk": {"total_bytes": disk.total, "free_bytes": disk.free},
            "files": parts.manifest.files,
            "sending": parts.downloads.running,
            "receiving": parts.uploads.running,
            "calls": parts.calls.running,
            "sqlite_version": sqlite3.sqlite_version,
        }
        if parts.through is not None:
            answer["write_through"] = await parts.through.status()
        return json_answer(answer)

    async def call(self, request: web.Request) -> web.Response:
        """``POST /v1/call/{op}``: run a kit operation; 200 with the result, 422 with the kit's refusal."""
        require_coordinator(request)
        args = await json_object(request, self._parts.limits.stall_seconds)
        answer = await self._parts.calls.call(request.match_info["op"], args)
        return json_answer(answer, HTTPStatus.OK if answer["ok"] else HTTPStatus.UNPROCESSABLE_ENTITY)

    async def delete(self, request: web.Request) -> web.Response:
        """``DELETE /v1/artifacts/{sha}``: for the coordinator, after what it holds is durable."""
        require_coordinator(request)
        return await self._parts.downloads.delete(request)

    async def let_go(self, request: web.Request) -> web.Response:
        """``DELETE /v1/incoming/{node}/{sha}``: for the coordinator, once it holds the artifact itself."""
        require_coordinator(request)
        return await self._parts.uploads.delete(request)

    async def receipts(self, request: web.Request) -> web.Response:
        """``GET /v1/receipts?since=ID``: up to 1,000 receipts with a larger id; ask again until the list is empty."""
        text = request.query.get("since", "0") or "0"
        if not (text.isascii() and text.isdigit() and len(text) <= _NUMBER_MAX_DIGITS):
            raise Refusal(HTTPStatus.BAD_REQUEST, "bad_request", "since must be the id of a receipt, a whole number")
        found = await self._parts.receipts.since(int(text), _RECEIPTS_PER_PAGE)
        return json_answer({"receipts": [self._parts.receipts.as_json(receipt) for receipt in found]})

    async def metrics(self, _request: web.Request) -> web.Response:
        """``GET /metrics``: all numbers, for Prometheus."""
        parts = self._parts
        parts.metrics.sending.set(parts.downloads.running)
        await parts.heartbeats.show()
        if parts.through is not None:
            await parts.through.show()
        parts.metrics.receiving.set(parts.uploads.running)
        return web.Response(body=parts.metrics.text(), headers={"Content-Type": CONTENT_TYPE})


def build_app(parts: Parts, authenticator: Authenticator, plain_rule: Middleware) -> web.Application:
    """Put the interface together.

    Args:
        parts: What the agent is made of.
        authenticator: Checks tokens, and renews them on the coordinator.
        plain_rule: The middleware that refuses plain HTTP where it is not allowed.

    """
    middlewares = [_counting(parts.metrics), errors_as_json, plain_rule, authenticator.middleware]
    if parts.through is not None:
        middlewares.append(parts.through.no_bulk_while_draining)
    app = web.Application(middlewares=middlewares, client_max_size=parts.limits.json_bytes)
    app.on_response_prepare.extend([_say_no_versions, authenticator.renew])
    interface = Interface(parts)
    app.add_routes(
        [
            web.get("/health", interface.health),
            web.get("/metrics", interface.metrics),
            web.get("/v1/status", interface.status),
            web.get("/v1/manifest", parts.manifest.get),
            web.get("/v1/receipts", interface.receipts),
            web.post("/v1/call/{op}", interface.call),
            web.post("/v1/pull", parts.pulls.post),
            web.post("/v1/events", parts.events.post),
            web.post("/v1/heartbeat", parts.heartbeats.post),
            web.get("/v1/artifacts/{sha}", parts.downloads.get),
            web.delete("/v1/artifacts/{sha}", interface.delete),
            web.get("/v1/artifacts/{sha}/blocks", parts.downloads.blocks),
            web.get("/v1/incoming/{node}/{sha}", parts.uploads.get),
            web.put("/v1/incoming/{node}/{sha}", parts.uploads.put),
            web.delete("/v1/incoming/{node}/{sha}", interface.let_go),
        ]
    )
    if parts.through is not None:
        app.router.add_post("/v1/write-through", parts.through.post_write_through)
        app.router.add_post("/v1/drain", parts.through.post_drain)
    return app


async def _say_no_versions(_request: web.Request, response: web.StreamResponse) -> None:
    """``/health`` is open to all; the versions of our libraries are nobody's business."""
    response.headers["Server"] = "ringrift-agent"


def _counting(metrics: Metrics) -> Middleware:
    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        # The route's pattern, not the path: a label must not grow with what clients ask for.
        resource = request.match_info.route.resource
        route = "none" if resource is None else resource.canonical
        metrics.requests.labels(request.method if resource else "any", route, response.status).inc()
        return response

    return middleware
