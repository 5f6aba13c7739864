"""Fetching an artifact from another node's agent, by order of the coordinator, so that its own uplink pays once.

The order names the sources, each with its address and pinned certificate, and brings a token for them that lives
minutes. Nothing is called that does not answer as the agent of the node that was named; the token leaves only after
that, and as everywhere only under TLS with the pin or inside trusted networks. Redirects are not followed. The bytes
are proved by their name, so a source need not be trusted: one that sends others is named, and the next one is asked.
What had arrived stays, whatever ends this process, and the next pull or push goes on from there.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

from aiohttp import web

from ringrift_sync_dagster.agent.answers import Refusal, busy, json_answer, json_object
from ringrift_sync_dagster.agent.auth import require_coordinator
from ringrift_sync_dagster.agent.in_thread import in_thread
from ringrift_sync_dagster.agent.incoming import Incoming, Place
from ringrift_sync_dagster.agent.limits import Limits
from ringrift_sync_dagster.agent.metrics import Metrics
from ringrift_sync_dagster.agent.receipts import ReceiptBook
from ringrift_sync_dagster.agent.uploads import Uploads
from ringrift_sync_dagster.core.model import SHA256, Artifact, checked_node_name, is_node_name
from ringrift_sync_dagster.errors import AuthenticationError, LocalDiskError, NextStep, TransferError, UnreachableError
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.settings.hosts_schema import is_address
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.storage.files import make_dirs
from ringrift_sync_dagster.transports.networks import TrustedNetworks
from ringrift_sync_dagster.transports.p2p_http import P2PHttpTransport
from ringrift_sync_dagster.transports.pacing import BucketPacer

log = logging.getLogger(__name__)

MOST_SECONDS: Final = 900.0
_MOST_SOURCES: Final = 16
_TOKEN_MAX_CHARS: Final = 8192
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class _Pull:
    """One order, checked.

    Args:
        node: Under whose name the bytes land.
        artifact: What to fetch.
        sources: Whom to ask, in this order.
        token: Proves to them that we may.
        seconds: How long it may take.
        bytes_per_second: The share of the bandwidth; None: no limit.

    """

    node: str
    artifact: Artifact
    sources: tuple[Node, ...]
    token: str
    seconds: float
    bytes_per_second: float | None


class Pulls:
    """The handler of ``POST /v1/pull``; one object per agent, used from its event loop.

    Args:
        incoming: Where artifacts land.
        uploads: Shares the rule of one writer per artifact, and the bounds of what may arrive.
        receipts: Where they are acknowledged.
        limits: Bounds of the agent.
        metrics: Counts what arrives.
        trusted: Where plain HTTP is allowed.

    """

    def __init__(
        self,
        incoming: Incoming,
        uploads: Uploads,
        receipts: ReceiptBook,
        limits: Limits,
        metrics: Metrics,
        trusted: TrustedNetworks,
    ) -> None:
        self._incoming, self._uploads, self._receipts = incoming, uploads, receipts
        self._limits, self._metrics, self._trusted = limits, metrics, trusted
        self._running = 0

    async def post(self, request: web.Request) -> web.Response:
        """``POST /v1/pull``: the receipt and the source that served, or no receipt; and what failed on the way."""
        require_coordinator(request)
        try:
            pull = _checked(await json_object(request, self._limits.stall_seconds))
            place = await asyncio.to_thread(self._incoming.place, pull.node, pull.artifact.sha256)
        except (ValueError, TypeError, KeyError) as error:
            raise Refusal(HTTPStatus.BAD_REQUEST, "bad_request", f"this is no order to pull: {error}") from error
        if self._running >= self._limits.pulls:
            raise busy(f"{self._running} artifacts are being pulled already")
        self._running += 1
        try:
            with self._uploads.turn(place):
                return await self._take(pull, place)
        finally:
            self._running -= 1

    async def _take(self, pull: _Pull, place: Place) -> web.Response:
        there = await self._uploads.receipt(place) or await self._uploads.adopt(place)
        if there is not None:
            return json_answer(
                {"receipt": self._receipts.as_json(there), "source": "", "bytes_moved": 0, "failures": []}
            )
        await self._uploads.check_room(pull.artifact.size_bytes, await asyncio.to_thread(place.received))
        cancel = threading.Event()
        fetching = asyncio.ensure_future(in_thread(self._fetch, pull, place, cancel))
        try:
            source, moved, failures = await asyncio.shield(fetching)
        except asyncio.CancelledError:
            cancel.set()
            await asyncio.wait([fetching])
            raise
        if not source:
            log.warning("no source served artifact=%s failures=%s", place.final.name, failures)
            return json_answer({"receipt": None, "source": "", "bytes_moved": 0, "failures": failures})
        await self._uploads.note(place)
        receipt = await self._receipts.add(place.final.name, place.path, pull.artifact.size_bytes)
        self._metrics.bytes_received.inc(moved)
        self._metrics.artifacts_received.inc()
        log.info("pulled artifact=%s source=%s bytes=%d", place.final.name, source, moved)
        answer = {
            "receipt": self._receipts.as_json(receipt),
            "source": source,
            "bytes_moved": moved,
            "failures": failures,
        }
        return json_answer(answer)

    def _fetch(self, pull: _Pull, place: Place, cancel: threading.Event) -> tuple[str, int, list[dict[str, str]]]:
        """Ask the sources one after the other; give who served, how many bytes moved, and what went wrong before."""
        deadline = Deadline.after(pull.seconds)
        failures: list[dict[str, str]] = []
        pacer = None if pull.bytes_per_second is None else BucketPacer(pull.bytes_per_second)
        try:
            make_dirs(place.final.parent)
        except LocalDiskError as error:
            return "", 0, [_failure("", error)]
        for source in pull.sources:
            try:
                with self._way_to(source, pull.token) as way:
                    found = way.probe(deadline)
                    if not found.reachable:
                        raise found.cause or UnreachableError(source.name, way.name, found.detail)
                    moved = way.fetch(pull.artifact, place.final, deadline=deadline, cancel=cancel, pacer=pacer)
            except TransferError as error:
                failures.append(_failure(source.name, error))
                if deadline.expired or cancel.is_set() or isinstance(error, LocalDiskError):
                    break
                continue
            return source.name, moved.bytes_moved, failures
        return "", 0, failures

    def _way_to(self, source: Node, token: str) -> P2PHttpTransport:
        if not source.tls_fingerprint and not self._trusted.holds_host(source.tailscale_ip):
            message = f"{source.tailscale_ip} is outside the trusted networks, and no certificate is pinned for it"
            raise AuthenticationError(source.name, "p2p_http", message)
        return P2PHttpTransport(source, lambda: token, trusted_networks=self._trusted.networks)


def _failure(source: str, error: TransferError) -> dict[str, str]:
    """Tell what one source did; ``ours`` where it was no fault of its own."""
    kind = "ours" if error.next_step is NextStep.OURS else "source"
    return {"node": source, "error": type(error).__name__, "kind": kind, "message": str(error)}


def _checked(order: dict[str, Any]) -> _Pull:
    """Check an order.

    Raises:
        ValueError, TypeError, KeyError: It is none.

    """
    node, sha256, size, token = order["node"], order["artifact"], order["bytes"], order["token"]
    sources, rate = order["sources"], order.get("bytes_per_second")
    if not (isinstance(node, str) and isinstance(sha256, str) and SHA256.fullmatch(sha256)):
        raise ValueError("node and artifact must be a name and a SHA-256")
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise ValueError("bytes must be a whole number")
    if not (isinstance(token, str) and 0 < len(token) <= _TOKEN_MAX_CHARS and token.isascii() and token.isprintable()):
        raise ValueError("token must be a token")
    if not (isinstance(sources, list) and 0 < len(sources) <= _MOST_SOURCES):
        raise ValueError(f"sources must be a list of 1 to {_MOST_SOURCES}")
    if rate is not None and not (isinstance(rate, int | float) and rate > 0):
        raise ValueError("bytes_per_second must be above 0")
    seconds = min(float(order.get("seconds", MOST_SECONDS)), MOST_SECONDS)
    artifact = Artifact(sha256, size, "file")
    return _Pull(checked_node_name(node), artifact, tuple(map(source_node, sources)), token, seconds, rate)


def source_node(told: Mapping[str, Any]) -> Node:
    """Give a node that somebody else names (``node``, ``url``, ``fingerprint``) as a node with one address.

    Raises:
        ValueError, TypeError, KeyError: It is not the bare address of an agent.

    """
    name, url, fingerprint = told["node"], told["url"], told.get("fingerprint") or ""
    parts = urlsplit(url)
    if not (isinstance(name, str) and is_node_name(name)):
        raise ValueError("a source needs the name of its node")
    if parts.scheme not in ("http", "https") or not parts.hostname or not parts.port:
        raise ValueError("the url of a source is http(s)://address:port of an agent")
    if not is_address(parts.hostname):
        raise ValueError("the url of a source names an IP address or a host")
    if parts.username is not None or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("the url of a source holds nothing but scheme, address and port")
    if (parts.scheme == "https") != bool(fingerprint) or (fingerprint and not _FINGERPRINT.fullmatch(fingerprint)):
        raise ValueError("https goes with the fingerprint of the source's certificate, and http with none")
    return Node(name, "", "", tailscale_ip=parts.hostname, agent_port=parts.port, tls_fingerprint=fingerprint)
