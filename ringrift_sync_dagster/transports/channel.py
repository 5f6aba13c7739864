"""Requests to one agent, and the one place where what goes wrong with HTTP becomes an error of ours.

A request is made once. Only when nothing answers at one address the next way is tried (``http_routes``).

Both limits of a body hold for any pattern of bytes: a silence ends at the socket's timeout, and a guard thread ends a
trickle at the deadline, or at once when the transfer is cancelled, by shutting the socket. The head of an answer comes
within the socket's timeout as a whole, and an answer in JSON at a least rate: what holds no data need not take long.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

import requests
import urllib3

from ringrift_sync_dagster.errors import (
    DeadlineExceededError,
    RungUnusableError,
    StallError,
    TransferCancelledError,
    TransferError,
    TransientError,
    UnreachableError,
)
from ringrift_sync_dagster.settings.clock import Deadline, monotonic
from ringrift_sync_dagster.settings.identity import RENEWAL_HEADER
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.transports.http_errors import from_library, from_status
from ringrift_sync_dagster.transports.http_routes import Route, Routes
from ringrift_sync_dagster.transports.http_session import new_session
from ringrift_sync_dagster.transports.networks import TrustedNetworks
from ringrift_sync_dagster.transports.sending import FileBody
from ringrift_sync_dagster.transports.tunnel import Tunnel

log = logging.getLogger(__name__)

CONNECT_SECONDS: Final = 5.0
_PIECE_BYTES: Final = 1 << 16
BATCH_BYTES: Final = 1 << 20  # given on together: under TLS a piece is 16 KiB, too little for a write of its own
_BATCH_SECONDS: Final = 0.25  # but on a slow link nothing waits longer than this
_JSON_MAX_BYTES: Final = 64 << 20
_ERROR_MAX_BYTES: Final = 64 << 10
_SLOWEST_ANSWER: Final = 2_000.0  # bytes per second, after the time that a stall may take: slower is a trickle
_LEAST_SECONDS: Final = 0.001  # the libraries refuse a timeout of 0
_GUARD_LOOKS_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Ask:
    """One request.

    Args:
        method: HTTP method.
        path: Path of the request.
        query: Query of the request.
        headers: Further headers.
        body: JSON, or an artifact's bytes.
        authorized: Send the token.
        patient: The node may be silent until the deadline, because it works.
        more_seconds: How much longer than a stall it may be silent before it answers.

    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | FileBody | None = None
    authorized: bool = True
    patient: bool = False
    more_seconds: float = 0.0

    @property
    def what(self) -> str:
        """The request, for messages."""
        return f"{self.method} {self.path}"


class Channel:
    """HTTP to one agent; safe in several threads.

    Args:
        node: The node.
        transport: The rung's name, for messages.
        token: Gives our token.
        trusted: Where plain HTTP is allowed.
        stall_seconds: Longest silence.
        renewed: Gets a token that came with an answer.
        tunnel: The way through SSH when no address answers; closed with the channel.

    """

    def __init__(
        self,
        node: Node,
        transport: str,
        token: Callable[[], str],
        trusted: TrustedNetworks,
        stall_seconds: float,
        renewed: Callable[[str], None] | None = None,
        tunnel: Tunnel | None = None,
    ) -> None:
        self.node = node.name
        self.transport = transport
        self.stall_seconds = stall_seconds
        self._token = token
        self._renewed = renewed
        self._tunnel = tunnel
        self._known_generation = 0
        self._routes = Routes(node, transport, trusted, tunnel)
        self._session = new_session(node.tls_fingerprint)

    def close(self) -> None:
        """Close the connections, and the tunnel. Idempotent."""
        self._session.close()
        if self._tunnel is not None:
            self._tunnel.close()

    def json(self, ask: Ask, deadline: Deadline) -> dict[str, Any]:
        """Ask and give the JSON object of the answer; an empty answer is an empty object.

        Raises:
            TransferError: By what to do next.

        """
        with self.open(ask, deadline) as reply:
            reply.raise_for_status()
            return reply.json()

    @contextlib.contextmanager
    def open(self, ask: Ask, deadline: Deadline, cancel: threading.Event | None = None) -> Iterator[Reply]:
        """Ask, and give the answer for as long as the body runs; it reads the answer's body.

        Raises:
            TransferError: By what to do next.

        """
        deadline.check(self.node, self.transport, ask.what)
        guard = _Guard(deadline, cancel)
        try:
            response, route = self._answered(ask, deadline, guard, cancel)
            with response, guard.watching(response.raw):
                self._hand_on_token(ask, response)
                yield Reply(self, response, guard, deadline, f"{ask.what} at {route.words}", route.words)
        finally:
            guard.end()

    def _answered(
        self, ask: Ask, deadline: Deadline, guard: _Guard, cancel: threading.Event | None
    ) -> tuple[requests.Response, Route]:
        """Ask over the first way that connects; only when nothing answers there, over the next."""
        failures: list[TransferError] = []
        for route in self._routes.candidates(deadline, failures, authorized=ask.authorized):
            try:
                self._check_far_end(route, deadline, cancel)
                response = self._send(ask, route, deadline, guard)
            except UnreachableError as error:
                self._routes.drop(route)
                failures.append(error)
                continue
            self._routes.keep(route)
            return response, route
        raise self._routes.error(failures)

    def _check_far_end(self, route: Route, deadline: Deadline, cancel: threading.Event | None) -> None:
        """See once that a tunnel leads to the agent of this node: containers may share the loopback of their host."""
        if route.tunnel is None or route.generation == self._known_generation:
            return
        ask, guard = Ask("GET", "/health", authorized=False), _Guard(deadline, cancel)
        with self._send(ask, route, deadline, guard) as response, guard.watching(response.raw):
            reply = Reply(self, response, guard, deadline, f"{ask.what} at {route.words}", route.words)
            reply.raise_for_status()
            found = reply.json().get("node_id")
        if found != self.node:
            message = f"{route.words} answers as {str(found)[:100]!r}: check the inventory"
            raise RungUnusableError(self.node, self.transport, message)
        self._known_generation = route.generation

    def _send(self, ask: Ask, route: Route, deadline: Deadline, guard: _Guard) -> requests.Response:
        refusals = 0 if route.tunnel is None else route.tunnel.refusals()
        try:
            with self.errors(guard, deadline, f"{ask.what} at {route.words}"):
                return self._request(ask, route, deadline)
        except TransientError as error:
            refused = None if route.tunnel is None else route.tunnel.refusal(refusals)
            if refused is None:
                raise
            raise refused from error

    def _request(self, ask: Ask, route: Route, deadline: Deadline) -> requests.Response:
        silence = deadline.remaining() if ask.patient else self.stall_seconds + ask.more_seconds
        # While a body is sent the first number is the socket's timeout, so it must allow for a slow disk over there.
        connect = self.stall_seconds if isinstance(ask.body, FileBody) else CONNECT_SECONDS
        return self._session.request(
            ask.method,
            route.base + ask.path,
            params=ask.query,
            headers={**ask.headers, **self._authorization(ask)},
            data=ask.body,
            stream=True,
            timeout=(max(deadline.at_most(connect), _LEAST_SECONDS), max(deadline.at_most(silence), _LEAST_SECONDS)),
            allow_redirects=False,
            proxies=dict(route.proxies),
        )

    def _authorization(self, ask: Ask) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token()}"} if ask.authorized else {}

    def _hand_on_token(self, ask: Ask, response: requests.Response) -> None:
        token = response.headers.get(RENEWAL_HEADER, "")
        if self._renewed is None or not ask.authorized or not token:
            return
        try:
            self._renewed(token)
        except Exception:  # the old token is still good for days, and the next answer brings another new one
            log.exception("a renewed token was not kept node=%s", self.node)

    @contextlib.contextmanager
    def errors(self, guard: _Guard, deadline: Deadline, what: str) -> Iterator[None]:
        """Translate the libraries' errors; what the guard or the deadline ended is called that."""
        try:
            yield
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            guard.check(self.node, self.transport, what)
            translated = from_library(error, self.node, self.transport, what, self.stall_seconds)
            if isinstance(translated, StallError) and deadline.expired:
                message = f"{what} was not done within {deadline.seconds:.1f} s; what has arrived is kept"
                raise DeadlineExceededError(self.node, self.transport, message) from error
            raise translated from error


class Reply:
    """The answer to one request, and the ``way`` that it came; used inside the ``with`` that gave it."""

    def __init__(
        self, channel: Channel, response: requests.Response, guard: _Guard, deadline: Deadline, what: str, way: str
    ) -> None:
        self._channel = channel
        self._response = response
        self._guard = guard
        self._deadline = deadline
        self._what = what
        self.way = way
        self._failure: TransferError | None = None

    @property
    def status(self) -> int:
        """HTTP status."""
        return self._response.status_code

    def header(self, name: str) -> str:
        """Give a header of the answer; empty when it is not there."""
        return self._response.headers.get(name, "")

    def read(self, at_most: int) -> bytes:
        """Give the next bytes, undecoded; empty at the end. What came before a failure is given before the failure.

        Raises:
            TransferError: The connection broke, went silent, or was ended by deadline or cancel.

        """
        if self._failure is not None:
            raise self._failure
        limit, since = min(at_most, BATCH_BYTES), monotonic()
        chunks, size = list[bytes](), 0
        while size < limit and monotonic() - since < _BATCH_SECONDS:
            try:
                chunk = self._piece(min(_PIECE_BYTES, limit - size))
            except TransferError as error:
                self._failure = error
                break
            if not chunk:
                break
            chunks.append(chunk)
            size += len(chunk)
        if not chunks and self._failure is not None:
            raise self._failure
        return b"".join(chunks)

    def json(self) -> dict[str, Any]:
        """Give the whole body as a JSON object, decoded and bounded.

        Raises:
            TransientError: It is not one, or it is larger than 64 MiB.

        """
        body = self._body(_JSON_MAX_BYTES)
        try:
            value = json.loads(body) if body else {}
        except (ValueError, RecursionError) as error:
            raise self._bad(f"the answer is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise self._bad("the answer is not a JSON object")
        return value

    def raise_for_status(self) -> None:
        """Do nothing for 2xx.

        Raises:
            TransferError: By the status and the code in the body.

        """
        if not requests.codes.ok <= self.status < requests.codes.multiple_choices:
            try:
                value = json.loads(self._body(_ERROR_MAX_BYTES))
            except (ValueError, RecursionError, TransferError):
                value = {}
            found = value.get("error") if isinstance(value, dict) else None
            error = found if isinstance(found, dict) else {}
            raise from_status(self.status, error, self._channel.node, self._channel.transport, self._what)

    def _body(self, limit: int) -> bytes:
        chunks, size, since = list[bytes](), 0, monotonic()
        while size <= limit:
            if monotonic() - since > self._channel.stall_seconds + size / _SLOWEST_ANSWER:
                message = f"{self._what}: the answer trickles in, {size} bytes in {monotonic() - since:.0f} s"
                raise StallError(self._channel.node, self._channel.transport, message)
            chunk = self._piece(BATCH_BYTES, decode=True)
            if not chunk:
                return b"".join(chunks)
            chunks.append(chunk)
            size += len(chunk)
        raise self._bad(f"the answer is longer than {limit} bytes")

    def _piece(self, at_most: int, *, decode: bool = False) -> bytes:
        """Give what one look at the socket brings."""
        channel = self._channel
        with channel.errors(self._guard, self._deadline, self._what):
            data: bytes = self._response.raw.read1(at_most, decode_content=decode)
        self._guard.check(channel.node, channel.transport, self._what)
        return data

    def _bad(self, message: str) -> TransientError:
        return TransientError(self._channel.node, self._channel.transport, f"{self._what}: {message}")


class _Guard:
    """Ends a reading that would outlive its deadline or its cancel event, from a thread of its own."""

    def __init__(self, deadline: Deadline, cancel: threading.Event | None) -> None:
        self._deadline = deadline
        self._cancel = cancel
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def watching(self, raw: urllib3.BaseHTTPResponse) -> Iterator[Self]:
        """Watch a response while the body runs."""
        self._thread = threading.Thread(target=self._watch, args=(raw,), name="guard", daemon=True)
        self._thread.start()
        try:
            yield self
        finally:
            self.end()

    def check(self, node: str, transport: str, what: str) -> None:
        """Raise TransferCancelledError or DeadlineExceededError when that is the reason to stop."""
        if self._cancel is not None and self._cancel.is_set():
            message = f"{what} was stopped because we were asked to; what has arrived is kept"
            raise TransferCancelledError(node, transport, message)
        self._deadline.check(node, transport, what)

    def end(self) -> None:
        """Stop watching. Idempotent."""
        self._done.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _watch(self, raw: urllib3.BaseHTTPResponse) -> None:
        while not self._done.wait(_GUARD_LOOKS_SECONDS):
            if self._deadline.expired or (self._cancel is not None and self._cancel.is_set()):
                # The response may have ended a moment ago; then there is nothing to shut.
                with contextlib.suppress(OSError, ValueError, RuntimeError):
                    raw.shutdown()
                return
