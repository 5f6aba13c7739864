"""Copy one file to or from a node by rsync, within the bandwidth that all processes share, and compare its SHA-256.

    result = await BandwidthCoordinatedRsync().sync_with_checksum(
        source="/data/games/canonical_hex8.db", dest="ubuntu@training:/data/games/", host="training-node")

What travels never changes under way: a database is snapshotted first, any other file is given up when it changes.
Bytes collect beside the destination under a name keyed by content, so that a killed copy goes on, and get the
destination's name when they are whole, compared and on the disk. Source: sync guide, "Checksum Verification".
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from ringrift_sync_dagster.core.bandwidth import TransferPriority
from ringrift_sync_dagster.core.escalation import Attempt
from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.core.room import Disk
from ringrift_sync_dagster.errors import (
    AdmissionRefusedError,
    ConfigError,
    DeadlineExceededError,
    Problem,
    StateError,
    SyncError,
    TransferCancelledError,
    TransientError,
)
from ringrift_sync_dagster.node.patterns import CONFIGS
from ringrift_sync_dagster.settings.clock import Deadline, monotonic
from ringrift_sync_dagster.state.admission import TransferRequest
from ringrift_sync_dagster.state.leases import hold
from ringrift_sync_dagster.sync.bandwidth import RunningTransfer
from ringrift_sync_dagster.sync.copy_ends import ORDER_SECONDS, End, Here, Landing, There, placing, told
from ringrift_sync_dagster.sync.file_copy import (
    RUNG,
    endpoint_to,
    in_thread,
    record_failure,
    require_room,
    runtime_or_shared,
    transfer_seconds,
    with_tries,
)
from ringrift_sync_dagster.sync.places import Route, find_route, local_path, parse_place
from ringrift_sync_dagster.sync.runtime import Runtime
from ringrift_sync_dagster.transports.base import Fetched, Pushed
from ringrift_sync_dagster.transports.carriers import RemoteFile
from ringrift_sync_dagster.transports.rsync import NEEDS, RsyncCarrier
from ringrift_sync_dagster.transports.ssh_transport import SshTransport

TRIGGER: Final = "sync_with_checksum"
Moved = TypeVar("Moved", Fetched, Pushed)


@dataclass(frozen=True, slots=True)
class SyncResult:
    """How a copy ended.

    Args:
        success: The destination holds the file, whole and on the disk.
        bytes_transferred: Bytes of the file that travelled; 0 when it was there already. After a failure, about.
        duration_seconds: From the call to its end, waiting for a turn included.
        checksum: SHA-256 of what was sent, in hexadecimal; empty when it was not known yet.
        verified: The SHA-256 of what arrived was compared.
        error: What went wrong, for people; empty when nothing did.
        dest: Where the file is, or would be, written as ``dest`` was.

    """

    success: bool
    bytes_transferred: int
    duration_seconds: float
    checksum: str
    verified: bool
    error: str
    dest: str


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """What the caller may choose.

    Args:
        verify: Compare the SHA-256 on a node that receives; here it is always compared.
        priority: How important it is, unless the host has a priority of its own.
        timeout_seconds: Time for the transfer, and for what comes before it; None: by the file's size.

    """

    verify: bool
    priority: TransferPriority
    timeout_seconds: float | None


class BandwidthCoordinatedRsync:
    """Copies files one by one; safe in several threads and tasks.

    Args:
        runtime: What to work with; None: that of this program's settings.

    """

    def __init__(self, runtime: Runtime | None = None) -> None:
        self._runtime = runtime

    async def sync_with_checksum(
        self,
        source: str,
        dest: str,
        host: str,
        *,
        verify_checksum: bool = True,
        priority: TransferPriority = TransferPriority.NORMAL,
        timeout_seconds: float | None = None,
    ) -> SyncResult:
        """Copy a file, and compare what arrived with what was sent.

        One of ``source`` and ``dest`` is ``user@host:path`` (or ``host:path``, IPv6 in brackets), the other a path on
        this machine. A source that is an SQLite database is snapshotted; a destination that is one and in use is
        refused. Cancelling the task ends the copy; what has arrived is kept for the next call.

        Args:
            source: The file.
            dest: Its place; with a slash at its end, or where a folder has that name: into it, under its own name.
            host: The node's name in the inventory, which gives key, port, known host key and limits.
            verify_checksum: False: a node that receives compares the length only.
            priority: How important it is, unless the host has a priority of its own.
            timeout_seconds: Time for the transfer, and for what comes before it; by the file's size when None.

        Returns:
            How it ended; what goes wrong on the way is told there, not raised.

        Raises:
            ConfigError: An argument makes no sense, such as an address that is not the host's.
            StateError: The state database cannot be used.

        """
        options = CopyOptions(verify_checksum, priority, timeout_seconds)

        def work(cancel: threading.Event) -> SyncResult:
            runtime = runtime_or_shared(self._runtime)
            route = find_route(runtime.inventory, parse_place(source, "source"), parse_place(dest, "dest"), host)
            _refuse_canonical(runtime, route)
            return _Copy(runtime, route, options, cancel).result()

        return await in_thread(work)


@dataclass(frozen=True, slots=True)
class _Frozen:
    """What travels: where it is read, and what it is."""

    path: str
    artifact: Artifact


class _Copy:
    """One copy: its steps share what is known so far."""

    def __init__(self, runtime: Runtime, route: Route, options: CopyOptions, cancel: threading.Event) -> None:
        self._runtime, self._route, self._options, self._cancel = runtime, route, options, cancel
        self._endpoint = endpoint_to(runtime, route.node)
        self._here = Here(runtime, route.node.name, cancel)
        self._there = There(self._endpoint, cancel)
        self._before = Deadline.after(options.timeout_seconds or ORDER_SECONDS)
        self._artifact: Artifact | None = None
        self._running: RunningTransfer | None = None
        self._asked = False
        self._final = route.dest.path

    def result(self) -> SyncResult:
        """Copy; say how it ended."""
        started, moved, error = monotonic(), 0, ""
        try:
            with ExitStack() as stack:
                stack.callback(self._there.close)
                moved = self._run(stack)
        except (ConfigError, StateError):
            raise
        except SyncError as failure:
            if not self._asked:
                record_failure(self._runtime, self._route, self._artifact, TRIGGER, failure)
            moved, error = self._running.pacer.moved if self._running else 0, str(failure)
        return SyncResult(
            success=not error, bytes_transferred=moved, duration_seconds=monotonic() - started,
            checksum=self._artifact.sha256 if self._artifact else "",
            verified=not error and (self._options.verify or not self._route.pushes), error=error,
            dest=str(replace(self._route.dest, path=self._final)),
        )  # fmt: skip

    def _run(self, stack: ExitStack) -> int:
        """Give the bytes of the file that travelled."""
        route = self._route
        source: End = self._here if route.pushes else self._there
        if route.pushes:  # a part here is locked, a part there is not
            stack.enter_context(
                hold(self._runtime.state, f"copy:{route.node.name}:{route.dest.path}:{route.source.name}")
            )
        frozen = stack.enter_context(self._frozen(source))
        carrier = RsyncCarrier(self._endpoint)
        stack.callback(carrier.close)
        transport = SshTransport(self._there, carrier, NEEDS)
        return self._push(transport, frozen) if route.pushes else self._fetch(transport, frozen)

    @contextmanager
    def _frozen(self, source: End) -> Iterator[_Frozen]:
        """Have what travels stand still while the body runs: a database as a snapshot, which is removed at the end."""
        place, token = self._route.source, {"token": secrets.token_hex(16)}
        path = place.path if place.address else local_path(place.path)
        try:
            answer = source.order("snapshot", {"path": path, **token}, self._before)
        except (DeadlineExceededError, TransferCancelledError, TransientError):
            source.clean("discard", token)  # it may be made all the same
            raise
        try:
            yield self._what(answer, source.name)
        finally:
            if answer.get("snapshot"):
                source.clean("discard", token)

    def _what(self, answer: Mapping[str, Any], node: str) -> _Frozen:
        sha256, size = told(answer, "sha256", str, node), told(answer, "bytes", int, node)
        try:
            self._artifact = Artifact(sha256, size, "file")
        except ValueError as error:
            raise TransientError(node, RUNG.value, f"the answer makes no sense: {error}") from error
        return _Frozen(told(answer, "path", str, node), self._artifact)

    def _push(self, transport: SshTransport, frozen: _Frozen) -> int:
        landing = Landing(self._route.dest.path, self._route.source.name, self._options.verify, self._admit)
        self._there.landing = landing
        with self._transfer(frozen.artifact, "push", None) as (running, deadline):
            pushed = self._tried(
                deadline,
                lambda: transport.push(
                    frozen.artifact, Path(frozen.path), self._here.name, deadline=deadline,
                    progress=running.progress, cancel=self._cancel, pacer=running.pacer,
                ),
            )  # fmt: skip
            running.done(pushed)
            self._final = landing.final
        return pushed.bytes_moved

    def _fetch(self, transport: SshTransport, frozen: _Frozen) -> int:
        artifact, dest = frozen.artifact, local_path(self._route.dest.path)
        self._there.source = RemoteFile(frozen.path, artifact.size_bytes)
        placed = self._here.order("place", placing(dest, self._route.source.name, artifact), self._before)
        self._final = str(placed["final"])
        part = Path(str(placed["part"]))
        try:
            with self._transfer(artifact, "fetch", part.parent) as (running, deadline):
                if placed["complete"]:
                    running.done(Fetched(0, artifact.size_bytes, 0.0, RUNG.value))
                    return 0
                return self._bring(transport, artifact, part.with_suffix(""), running, deadline)
        except AdmissionRefusedError:
            self._here.clean("withdraw", {"part": str(part)})
            raise

    def _bring(
        self, transport: SshTransport, artifact: Artifact, arrived: Path, running: RunningTransfer, deadline: Deadline
    ) -> int:
        fetched = self._tried(
            deadline,
            lambda: transport.fetch(
                artifact, arrived, deadline=deadline, progress=running.progress, cancel=self._cancel,
                pacer=running.pacer,
            ),
        )  # fmt: skip
        args = {"part": str(arrived), "path": self._final, "bytes": artifact.size_bytes}
        self._here.order("install", args, deadline)
        running.done(fetched)
        return fetched.bytes_moved

    @contextmanager
    def _transfer(
        self, artifact: Artifact, direction: str, disk: Path | None
    ) -> Iterator[tuple[RunningTransfer, Deadline]]:
        """Wait for a turn and hold it; gives the time that the rest may take, too."""
        node = self._route.node.name
        wanted = TransferRequest(
            artifact.sha256, node, direction, artifact.size_bytes, self._options.priority, trigger=TRIGGER,
            reserved_bytes=artifact.size_bytes, disk=node if disk is None else self._here.name, transport=RUNG.value,
        )  # fmt: skip
        self._asked = True
        with self._runtime.bandwidth.transfer(wanted, disk=disk, cancel=self._cancel) as running:
            self._running = running
            seconds = self._options.timeout_seconds or transfer_seconds(artifact.size_bytes, running.pacer.rate)
            yield running, Deadline.after(seconds)

    def _tried(self, deadline: Deadline, work: Callable[[], Moved]) -> Moved:
        attempts: list[Attempt] = []
        moved = with_tries(work, attempts, deadline, self._cancel)
        attempts[-1] = replace(attempts[-1], bytes_moved=moved.bytes_moved)
        return replace(moved, attempts=tuple(attempts))

    def _admit(self, disk: Disk) -> None:
        assert self._running is not None  # noqa: S101 - for the type checker
        require_room(self._runtime, self._route.node.name, disk, self._running.id)


def _refuse_canonical(runtime: Runtime, route: Route) -> None:
    """Keep the canonical store of this machine from being copied over: it holds what no node has.

    Raises:
        ConfigError: The destination is one of its databases.

    """
    if route.pushes:
        return
    dest = Path(local_path(route.dest.path))
    canonical = {runtime.layout.canonical(config).resolve() for config in CONFIGS}
    if canonical & {dest.resolve(), (dest / route.source.name).resolve()}:
        node = route.node.name
        message = f"{route.dest} is the canonical store: games are merged into it: ringrift-sync sync --node {node}"
        raise ConfigError([Problem("argument", None, node, "dest", message)])
