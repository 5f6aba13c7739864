"""The contract of a transport: a way to reach one node. Every transport passes the same suite (tests/transports).

    probe     says whether the node can be reached this way; never raises for a node that cannot
    call      runs one operation of the kit on the node
    manifest  tells what changed on the node since a token
    fetch     brings one artifact from the node to a path here
    push      brings one artifact from here to the node, and returns the node's receipt
    forget    tells the node that an artifact is durable here and need not be kept for us

**Bytes.** A fetch never shows a file that is not whole. Bytes collect in ``<dest>.part``; the last one in, the SHA-256
is compared, the file synced, renamed to ``dest``, the directory synced. A failure of any kind, a killed process
included, leaves the ``.part``, and the next fetch of the same ``dest`` goes on from its end. A ``.part`` whose bytes
turn out to be another artifact's is dropped, and the fetch starts over once. A fetch of what already lies at ``dest``
moves nothing. One ``dest`` is fetched by one process at a time. A push goes on from what the node has, and its receipt
means: the bytes are verified and on the node's disk.

**Time.** Every method takes a deadline and returns within it, plus at most one stall. No byte for the transport's stall
time is a StallError. A transport tries once; who tries again, and over what, is decided in one place (``escalating``).
A ``pacer`` is asked before bytes move, and waiting for it is no stall. Whoever holds a ``cancel`` event may set it from
another thread; the transfer then ends with TransferCancelledError.

**Errors** are the classes of ``errors.py`` by what to do next, translated once, inside the transport:

    the node is not served this way  RungUnusableError      it took too long      DeadlineExceededError
    nothing answers at its address   UnreachableError       the host key is wrong HostKeyError
    the connection broke             TransientError         no byte came          StallError
    who are you                      AuthenticationError    other bytes came      ChecksumError
    the artifact is gone             ArtifactGoneError      its source changed    SourceChangedError
    the kit refused; its disk full   RemoteCallError        our disk refused      LocalDiskError
    we stopped it                    TransferCancelledError
    another process does it already  TransferUnderWayError  we lack a program here LocalToolError

**Progress** callbacks get the number of bytes that are there now, the resumed ones included; they must not block.
Methods may be called from several threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ringrift_sync_dagster.core.escalation import Attempt
from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.errors import TransferError
from ringrift_sync_dagster.settings.clock import Deadline

Progress = Callable[[int], None]


class Pacer(Protocol):
    """What keeps a transfer within its share of the bandwidth; safe in several threads."""

    @property
    def rate(self) -> float:
        """Bytes per second that the transfer may move now; it changes while the transfer runs."""

    def take(self, count: int, *, deadline: Deadline, cancel: threading.Event | None = None) -> None:
        """Return when ``count`` bytes may move, or when the deadline or the cancel event ends the waiting."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What a probe found.

    Args:
        reachable: The node answered this way.
        version: Version of what answered; empty when nothing did.
        rtt_seconds: Time of the round trip, connecting included; 0 when nothing answered.
        detail: For people: what answered, or why nothing did.
        cause: The error that a call would have raised; None when it answered.
        transport: The rung that answered.

    """

    reachable: bool
    version: str = ""
    rtt_seconds: float = 0.0
    detail: str = ""
    cause: TransferError | None = None
    transport: str = ""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A fetch that succeeded: the artifact lies at its place, verified and synced.

    Args:
        bytes_moved: Bytes that came over the wire, those of dropped attempts included.
        resumed_from: Offset from which the last attempt went on; 0 when it started at the beginning.
        seconds: How long it took.
        transport: The rung that brought the last byte, such as ``p2p_http``.
        attempts: What was tried before and for it, where more than one rung may serve.

    """

    bytes_moved: int
    resumed_from: int
    seconds: float
    transport: str = ""
    attempts: tuple[Attempt, ...] = ()


@dataclass(frozen=True, slots=True)
class RemoteReceipt:
    """The node's word that it holds an artifact, verified and synced.

    Args:
        sha256: The artifact.
        node: The node that holds it.
        size_bytes: Its length there.
        verified_at: When, in seconds since 1970 by the node's clock; for display.
        durable: True: the node says that it stays; False also where it says nothing about it.

    """

    sha256: str
    node: str
    size_bytes: int
    verified_at: float
    durable: bool = False


@dataclass(frozen=True, slots=True)
class Pushed:
    """A push that succeeded.

    Args:
        bytes_moved: Bytes that went over the wire.
        resumed_from: Offset from which the last attempt went on.
        seconds: How long it took.
        receipt: The node's receipt.
        transport: The rung that brought the last byte.
        attempts: As in ``Fetched``.

    """

    bytes_moved: int
    resumed_from: int
    seconds: float
    receipt: RemoteReceipt
    transport: str = ""
    attempts: tuple[Attempt, ...] = ()


class Transport(Protocol):
    """A way to reach one node; the rules are at the top of this file."""

    @property
    def name(self) -> str:
        """The rung's name, such as ``p2p_http``."""

    def probe(self, deadline: Deadline) -> Probe:
        """Say whether the node answers this way."""

    def call(self, op: str, args: dict[str, Any], *, deadline: Deadline) -> dict[str, Any]:
        """Run a kit operation; give its result."""

    def manifest(self, since: str | None, *, deadline: Deadline) -> dict[str, Any]:
        """Give ``{"token", "full", "entries", "removed"}``: what changed since the token."""

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
        """Bring an artifact to ``dest``, whose directory exists."""

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
        """Bring the file ``source`` to the node, as an artifact of ``origin_node``."""

    def forget(self, artifact: Artifact, *, deadline: Deadline) -> None:
        """Let the node delete its copy. Idempotent."""

    def close(self) -> None:
        """Close the connections. Idempotent."""
