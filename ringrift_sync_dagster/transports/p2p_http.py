"""Transport over a node's agent: HTTP with ranges, resumable both ways; the first rung of the ladder.

Connecting takes 5 s at most, a silence 15 s (architecture.md, 7 "Deadlines"). Every request is made once: who tries
again is decided by the ladder. A closed port says nothing about the machine, so it is UnreachableError and the next
address, or the next transport, is tried. The environment's proxies and ``.netrc`` are ignored, redirects are not
followed: a token goes to the node of the inventory and nowhere else, and in the clear only inside trusted networks or
inside the tunnel.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import requests

from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.errors import ChecksumError, RungUnusableError, TransferError, TransientError
from ringrift_sync_dagster.settings.clock import Deadline, monotonic
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.transports.base import Fetched, Pacer, Probe, Progress, Pushed, RemoteReceipt
from ringrift_sync_dagster.transports.channel import BATCH_BYTES, Ask, Channel, Reply
from ringrift_sync_dagster.transports.held import Held
from ringrift_sync_dagster.transports.networks import DEFAULT_TRUSTED, IPNetwork, TrustedNetworks
from ringrift_sync_dagster.transports.pacing import piece_bytes
from ringrift_sync_dagster.transports.partial import PartFile, already_there, open_part
from ringrift_sync_dagster.transports.sending import FileBody
from ringrift_sync_dagster.transports.tunnel import Tunnel

NAME: Final = "p2p_http"
_SLOWEST_VERIFY: Final = 50_000_000  # bytes per second that a node's disk reads at least, while it verifies a push

_JSON: Final = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Pulled:
    """What came of an order to pull.

    Args:
        pushed: As if we had pushed it ourselves; None where no source served.
        source: The node that served; empty where the artifact was there already.
        failures: What each source did that failed: ``node``, ``error``, ``kind`` and ``message``.

    """

    pushed: Pushed | None
    source: str
    failures: tuple[Mapping[str, str], ...]


class P2PHttpTransport:
    """The way to one node through its agent. Close it, or use it as a context manager; safe in several threads.

    Args:
        node: The node; its own addresses, ``agent_port``, ``tls_fingerprint`` and ``socks5_port`` are used.
        token: Gives our token; asked for each request, because tokens are renewed.
        trusted_networks: Where plain HTTP is allowed; elsewhere the node needs a ``tls_fingerprint``.
        stall_seconds: A silence of this length is a StallError.
        renewed: Gets each token that a reply brings (``X-RingRift-Token``), maybe in several threads. Whoever answers
            can send one, so it must check before it keeps: ``settings.identity.store_renewed_token`` does. When it
            raises, that is logged and the transfer goes on. Without it renewals are ignored.
        tunnel: The way through SSH for a node at whose own addresses nothing answers, or that has none; closed with
            the transport.

    """

    name = NAME

    def __init__(
        self,
        node: Node,
        token: Callable[[], str],
        *,
        trusted_networks: Iterable[str | IPNetwork] = DEFAULT_TRUSTED,
        stall_seconds: float = 15.0,
        renewed: Callable[[str], None] | None = None,
        tunnel: Tunnel | None = None,
    ) -> None:
        self._node = node.name
        self._channel = Channel(node, NAME, token, TrustedNetworks(trusted_networks), stall_seconds, renewed, tunnel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and the tunnel. Idempotent."""
        self._channel.close()

    def probe(self, deadline: Deadline) -> Probe:
        """Ask ``/health`` once; ``detail`` says which way that went."""
        started = monotonic()
        try:
            with self._channel.open(Ask("GET", "/health", authorized=False), deadline) as reply:
                reply.raise_for_status()
                answer, way = reply.json(), reply.way
        except TransferError as error:
            return Probe(reachable=False, detail=str(error), cause=error)
        if answer.get("node_id") != self._node:
            other = str(answer.get("node_id"))[:100]
            message = f"{way} answers as {other!r}, not as {self._node}: check the inventory"
            return Probe(reachable=False, detail=message, cause=RungUnusableError(self._node, NAME, message))
        seconds, version = monotonic() - started, str(answer.get("version", ""))
        return Probe(reachable=True, version=version, rtt_seconds=seconds, detail=f"agent at {way}", transport=NAME)

    def call(self, op: str, args: dict[str, Any], *, deadline: Deadline) -> dict[str, Any]:
        """Run a kit operation; give its result.

        Raises:
            RemoteCallError: The kit refused; ``code`` says why.
            SyncError: As in ``base``.

        """
        ask = Ask("POST", f"/v1/call/{op}", headers=_JSON, body=json.dumps(args).encode(), patient=True)
        answer = self._channel.json(ask, deadline)
        result = answer.get("result")
        if not isinstance(result, dict):
            raise TransientError(self._node, NAME, f"{op}: the answer has no result")
        return result

    def manifest(self, since: str | None, *, deadline: Deadline) -> dict[str, Any]:
        """Give what changed on the node since a token."""
        ask = Ask("GET", "/v1/manifest", query={} if since is None else {"since": since}, patient=True)
        answer = self._channel.json(ask, deadline)
        shape = (("token", str), ("full", bool), ("entries", list), ("removed", list))
        if not all(isinstance(answer.get(key), kind) for key, kind in shape):
            raise TransientError(self._node, NAME, "the manifest has not the shape that this version knows")
        return answer

    def fetch(
        self,
        artifact: Artifact,
        dest: Path,
        *,
        deadline: Deadline,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
        pacer: Pacer | None = None,
    ) -> Fetched:
        """Bring an artifact to ``dest``; see ``base``."""
        started = monotonic()
        if already_there(dest, artifact):
            return Fetched(0, artifact.size_bytes, monotonic() - started, NAME)
        fetching = _Fetch(self._channel, artifact, deadline, progress, cancel, pacer)
        with open_part(dest, artifact, self._node, NAME) as part:
            resumed_from = fetching.run(part)
        return Fetched(fetching.moved, resumed_from, monotonic() - started, NAME)

    def push(
        self,
        artifact: Artifact,
        source: Path,
        origin_node: str,
        *,
        deadline: Deadline,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
        pacer: Pacer | None = None,
    ) -> Pushed:
        """Bring the file ``source`` to the node; see ``base``."""
        started = monotonic()
        with FileBody(source, artifact, self._node, NAME, deadline, progress, cancel, pacer) as body:
            path = f"/v1/incoming/{origin_node}/{artifact.sha256}"
            resumed_from, receipt = self._send(path, artifact, body, deadline)
            return Pushed(body.moved, resumed_from, monotonic() - started, receipt, NAME)

    def pull(self, artifact: Artifact, order: dict[str, Any], *, deadline: Deadline) -> Pulled:
        """Let the node fetch an artifact from another one; give its receipt, or why no source served.

        Args:
            artifact: What it is to fetch.
            order: The order, as ``agent.pulls`` reads it.
            deadline: When the answer must be here.

        Raises:
            SyncError: As in ``base``; the node itself could not be asked, or refused.

        """
        started = monotonic()
        ask = Ask("POST", "/v1/pull", headers=_JSON, body=json.dumps(order).encode(), patient=True)
        answer = self._channel.json(ask, deadline)
        failures = answer.get("failures")
        named = [one for one in failures if isinstance(one, dict)] if isinstance(failures, list) else []
        told = tuple({str(key): str(value) for key, value in one.items()} for one in named)
        if answer.get("receipt") is None:
            return Pulled(None, "", told)
        moved = answer.get("bytes_moved")
        moved = moved if isinstance(moved, int) and 0 <= moved <= artifact.size_bytes else 0
        receipt = self._receipt(answer, artifact)
        pushed = Pushed(moved, artifact.size_bytes - moved, monotonic() - started, receipt, NAME)
        return Pulled(pushed, str(answer.get("source", "")), told)

    def held(self, after_id: int, *, deadline: Deadline) -> list[Held]:
        """Give a page of what the node holds of others, by the id of the node's receipts; an empty one is the last.

        Raises:
            SyncError: As in ``base``.

        """
        answer = self._channel.json(Ask("GET", "/v1/receipts", query={"since": str(after_id)}), deadline)
        try:
            return [Held.read(one) for one in answer["receipts"]]
        except (KeyError, TypeError, ValueError) as error:
            message = f"its receipts have not the shape that this version knows: {error}"
            raise TransientError(self._node, NAME, message) from error

    def let_go(self, held: Held, *, deadline: Deadline) -> None:
        """Let the node delete what it holds of another node. Idempotent.

        Raises:
            SyncError: As in ``base``.

        """
        self._channel.json(Ask("DELETE", f"/v1/incoming/{held.origin}/{held.sha256}"), deadline)

    def tell(self, path: str, told: dict[str, Any], *, deadline: Deadline) -> dict[str, Any]:
        """Post a JSON object to a path of the node's agent, such as ``/v1/heartbeat``; give the answer.

        Raises:
            SyncError: As in ``base``.

        """
        ask = Ask("POST", path, headers=_JSON, body=json.dumps(told).encode(), patient=True)
        return self._channel.json(ask, deadline)

    def forget(self, artifact: Artifact, *, deadline: Deadline) -> None:
        """Let the node delete its copy. Idempotent."""
        self._channel.json(Ask("DELETE", f"/v1/artifacts/{artifact.sha256}"), deadline)

    def _send(self, path: str, artifact: Artifact, body: FileBody, deadline: Deadline) -> tuple[int, RemoteReceipt]:
        """Ask how much is there, send the rest; give the offset and the receipt."""
        found = self._channel.json(Ask("GET", path, query={"size": str(artifact.size_bytes)}), deadline)
        if found.get("complete") is True:
            return artifact.size_bytes, self._receipt(found, artifact)
        start = found.get("received")
        if not isinstance(start, int) or not 0 <= start <= artifact.size_bytes:
            start = 0
        headers = {"Content-Range": _content_range(start, artifact.size_bytes)}
        verifying = artifact.size_bytes / _SLOWEST_VERIFY
        put = Ask("PUT", path, headers=headers, body=body.begin(start), more_seconds=verifying)
        return start, self._receipt(self._channel.json(put, deadline), artifact)

    def _receipt(self, answer: dict[str, Any], artifact: Artifact) -> RemoteReceipt:
        receipt: Any = answer.get("receipt")
        try:
            found = RemoteReceipt(
                str(receipt["sha256"]), str(receipt["node"]), int(receipt["size_bytes"]), float(receipt["verified_at"]),
                receipt.get("durable") is True,
            )  # fmt: skip
        except (KeyError, TypeError, ValueError):
            found = None
        if found is None or (found.sha256, found.size_bytes) != (artifact.sha256, artifact.size_bytes):
            message = f"artifact {artifact.sha256[:12]}: the answer holds no receipt for it; keep the copy"
            raise TransientError(self._node, NAME, message)
        return found


class _Fetch:
    """One fetch: what was counted, and the one restart that a stale part is worth."""

    def __init__(
        self,
        channel: Channel,
        artifact: Artifact,
        deadline: Deadline,
        progress: Progress | None,
        cancel: threading.Event | None,
        pacer: Pacer | None,
    ) -> None:
        self._channel = channel
        self._artifact = artifact
        self._deadline = deadline
        self._progress = progress
        self._cancel = cancel
        self._pacer = pacer
        self._allowed = 0
        self.moved = 0

    def run(self, part: PartFile) -> int:
        """Fetch what is missing and install the file; give the offset from which it went on.

        Raises:
            ChecksumError: The node serves other bytes under this name.

        """
        try:
            offset = self._receive(part, part.resume())
            if part.install():
                return offset
            if offset > 0:  # the part was of other content, or rotten: start over, once
                self._receive(part, 0)
                if part.install():
                    return 0
            raise self._wrong("other bytes came under this name")
        except ChecksumError:
            part.drop()
            raise

    def _receive(self, part: PartFile, start: int) -> int:
        """Receive until all bytes are there; give the offset from which that went on."""
        if start and start == self._artifact.size_bytes:
            return start
        tag = f'"{self._artifact.sha256}"'
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers |= {"Range": f"bytes={start}-", "If-Range": tag}
        ask = Ask("GET", f"/v1/artifacts/{self._artifact.sha256}", headers=headers)
        with self._channel.open(ask, self._deadline, self._cancel) as reply:
            if reply.status == requests.codes.requested_range_not_satisfiable and start:
                return self._receive(part, part.restart())
            offset = self._offset(reply, start)
            if offset != start:
                part.restart()
            self._copy(reply, part)
        return offset

    def _offset(self, reply: Reply, start: int) -> int:
        """Say where the bytes of the answer belong, after checking that it is the artifact that we asked for."""
        reply.raise_for_status()
        size = self._artifact.size_bytes
        if reply.status == requests.codes.partial_content:
            if reply.header("Content-Range") == f"bytes {start}-{size - 1}/{size}":
                return start
            offered = reply.header("Content-Range")
            raise self._wrong(f"asked for the bytes from {start} to {size}, got {offered!r}")
        length = reply.header("Content-Length")
        if reply.header("Content-Encoding") or length != str(size):
            raise self._wrong(f"it should have {size} bytes, {length or 'an unknown number of'} bytes are offered")
        return 0

    def _copy(self, reply: Reply, part: PartFile) -> None:
        size = self._artifact.size_bytes
        while part.received < size and (chunk := reply.read(self._paced(size - part.received))):
            part.write(chunk)
            self.moved += len(chunk)
            self._allowed -= len(chunk)
            if self._progress is not None:
                self._progress(part.received)
        if part.received == size:
            self._check_end(reply)
        if part.received < size:
            message = f"artifact {self._artifact.sha256[:12]}: the connection ended at {part.received} of {size} bytes"
            raise TransientError(self._channel.node, NAME, message)

    def _paced(self, left: int) -> int:
        """Wait until more bytes may come; give how many. What a read did not use is left for the next one."""
        if self._pacer is None:
            return left
        if self._allowed <= 0:
            self._allowed = min(left, piece_bytes(self._pacer.rate, BATCH_BYTES))
            self._pacer.take(self._allowed, deadline=self._deadline, cancel=self._cancel)
        return min(left, self._allowed)

    def _check_end(self, reply: Reply) -> None:
        """Read the end of the body: only then can the connection be used again."""
        if reply.read(1):
            raise self._wrong("the body is longer than the artifact")

    def _wrong(self, what: str) -> TransferError:
        message = f"artifact {self._artifact.sha256[:12]}: {what}; nothing of it was kept"
        return ChecksumError(self._channel.node, NAME, message)


def _content_range(start: int, size: int) -> str:
    return f"bytes */{size}" if start == size else f"bytes {start}-{size - 1}/{size}"
