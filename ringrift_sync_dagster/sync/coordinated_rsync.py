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
from functools import partial
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
    StateError,
    SyncError,
    TransferCancelledError,
    TransientError,
)
from ringrift_sync_dagster.node.landing import mode_for
from ringrift_sync_dagster.settings.clock import Deadline, monotonic
from ringrift_sync_dagster.state.admission import TransferRequest
from ringrift_sync_dagster.storage.files import disk_errors
from ringrift_sync_dagster.sync.bandwidth import RunningTransfer
from ringrift_sync_dagster.sync.copy_ends import End, Here, Landing, There, placing, told
from ringrift_sync_dagster.sync.copy_tries import RUNG, breaker_asked, told_in_full, with_tries
from ringrift_sync_dagster.sync.file_copy import (
    Options,
    alone,
    endpoint_to,
    in_thread,
    record_failure,
    refuse_canonical,
    require_room,
    runtime_or_shared,
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
        refused. Cancelling the task ends the copy; what has arrived is kept for the next call. A copy to where another
        one goes waits for that one.

        Args:
            source: The file.
            dest: Its place; with a slash at its end, or where a folder has that name: into it, under its own name.
            host: The node's name in the inventory, which gives key, port, known host key and limits.
            verify_checksum: False: a node that receives compares the length only.
            priority: How important it is, unless the host has a priority of its own.
            timeout_seconds: Time for everything, waiting for a turn included; by the file's size when None.

        Returns:
            How it ended; what goes wrong on the way is told there, not raised.

        Raises:
            ConfigError: An argument makes no sense, such as an address that is not the host's.
            StateError: The state database cannot be used.

        """
        options = Options.of(priority, timeout_seconds, verify=verify_checksum)

        def work(cancel: threading.Event) -> SyncResult:
            runtime = runtime_or_shared(self._runtime)
            route = find_route(runtime.inventory, parse_place(source, "source"), parse_place(dest, "dest"), host)
            refuse_canonical(runtime, route, [route.source.name])
            return _Copy(runtime, route, options, cancel).result()

        return await in_thread(work)


@dataclass(frozen=True, slots=True)
class _Frozen:
    """What travels: where it is read, what it is, and the permissions that it gets."""

    path: str
    artifact: Artifact
    mode: int


class _Copy:
    """One copy: its steps share what is known so far."""

    def __init__(self, runtime: Runtime, route: Route, options: Options, cancel: threading.Event) -> None:
        self._runtime, self._route, self._options, self._cancel = runtime, route, options, cancel
        self._endpoint = endpoint_to(runtime, route.node)
        self._here = Here(runtime, route.node.name, cancel)
        self._there = There(self._endpoint, cancel, partial(breaker_asked, runtime, route.node.name))
        self._attempts: list[Attempt] = []
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
        dest = route.dest.path if route.pushes else local_path(route.dest.path)
        what, ends = f"copy:{route.node.name if route.pushes else self._here.name}", (dest, route.source.name)
        stack.enter_context(alone(self._runtime, what, ends, self._options.step(), self._cancel))
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
            answer = source.order("snapshot", {"path": path, **token}, self._options.step())
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
        return _Frozen(told(answer, "path", str, node), self._artifact, mode_for(None, told(answer, "mode", int, node)))

    def _push(self, transport: SshTransport, frozen: _Frozen) -> int:
        place, name = self._route.dest.path, self._route.source.name
        landing = Landing(place, name, frozen.mode, self._options.verify, self._admit)
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
        placed = self._here.order("place", placing(dest, self._route.source.name, artifact), self._options.step())
        self._final = str(placed["final"])
        part = Path(str(placed["part"]))
        try:
            with self._transfer(artifact, "fetch", part.parent) as (running, deadline):
                if placed["complete"]:
                    running.done(Fetched(0, artifact.size_bytes, 0.0, RUNG.value))
                    return 0
                return self._bring(transport, frozen, part.with_suffix(""), running, deadline)
        except AdmissionRefusedError:
            self._here.clean("withdraw", {"part": str(part)})
            raise

    def _bring(
        self, transport: SshTransport, frozen: _Frozen, arrived: Path, running: RunningTransfer, deadline: Deadline
    ) -> int:
        artifact = frozen.artifact
        fetched = self._tried(
            deadline,
            lambda: transport.fetch(
                artifact, arrived, deadline=deadline, progress=running.progress, cancel=self._cancel,
                pacer=running.pacer,
            ),
        )  # fmt: skip
        with disk_errors(arrived, "change the mode of"):
            arrived.chmod(frozen.mode)
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
        bandwidth, seconds = self._runtime.bandwidth, self._options.turn_seconds()
        turn = bandwidth.transfer(wanted, disk=disk, cancel=self._cancel, turn_seconds=seconds)
        with turn as self._running, told_in_full(self._attempts):
            yield self._running, self._options.moving(artifact.size_bytes, self._running.pacer.rate)

    def _tried(self, deadline: Deadline, work: Callable[[], Moved]) -> Moved:
        attempts = self._attempts
        moved = with_tries(self._runtime, self._route.node.name, work, attempts, deadline, self._cancel)
        attempts[-1] = replace(attempts[-1], bytes_moved=moved.bytes_moved)
        return replace(moved, attempts=tuple(attempts))

    def _admit(self, disk: Disk) -> None:
        assert self._running is not None  # noqa: S101 - for the type checker
        require_room(self._runtime, self._route.node.name, disk, self._running.id)
