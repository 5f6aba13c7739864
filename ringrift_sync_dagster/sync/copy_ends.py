"""The two ends of a copy that an operator orders: the kit in a process of its own here, and over a login on the node.

A file that may be a database is opened by the kit's process only, here too: closing it in a process that has a
connection to it would drop SQLite's locks. What the kit refuses becomes the same classes of error on either end.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from ringrift_sync_dagster.core.escalation import Rung
from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.core.room import Disk
from ringrift_sync_dagster.errors import (
    AdmissionRefusedError,
    ArtifactGoneError,
    ChecksumError,
    LocalDiskError,
    RemoteCallError,
    SourceChangedError,
    TransferError,
    TransientError,
)
from ringrift_sync_dagster.node.errors import KitError
from ringrift_sync_dagster.node.landing import part_of
from ringrift_sync_dagster.settings.clock import Deadline, wall
from ringrift_sync_dagster.storage.files import atomic_write_bytes, make_dirs
from ringrift_sync_dagster.sync.runtime import Runtime
from ringrift_sync_dagster.transports import process
from ringrift_sync_dagster.transports.base import RemoteReceipt
from ringrift_sync_dagster.transports.carriers import RemoteFile
from ringrift_sync_dagster.transports.ssh import SshEndpoint
from ringrift_sync_dagster.transports.ssh_kit import kit
from ringrift_sync_dagster.transports.ssh_link import Answer, SshLink
from ringrift_sync_dagster.transports.ssh_node import Arrival, SshNode

V = TypeVar("V")
Guard = Callable[[Deadline], AbstractContextManager[None]]

CLEANING_SECONDS: Final = 2.0
_CODES: Final[Mapping[str, type[TransferError]]] = {
    "missing": ArtifactGoneError,
    "changed": SourceChangedError,
    "checksum": ChecksumError,
    "short": TransientError,
}


class End(Protocol):
    """One end of a copy."""

    name: str
    """The node's; this machine's own name here."""

    def order(self, op: str, args: dict[str, Any], deadline: Deadline) -> dict[str, Any]:
        """Run one of the kit's operations (``node/orders.py``); give its result.

        Raises:
            RemoteCallError: The kit refused; ``code`` says why.
            TransferError: By what to do next.

        """

    def clean(self, op: str, args: dict[str, Any]) -> None:
        """Run one that tidies up, also when the copy was cancelled; what it raises is left to the next one."""


class Here:
    """This machine.

    Args:
        runtime: Whose folder for the kit is used.
        host: The node that the copy concerns, for messages.
        cancel: Ends what runs.

    """

    def __init__(self, runtime: Runtime, host: str, cancel: threading.Event) -> None:
        self.name = runtime.intake.owner
        self._layout = runtime.layout
        self._host = host
        self._cancel = cancel

    def order(self, op: str, args: dict[str, Any], deadline: Deadline) -> dict[str, Any]:
        """Run an operation in a process of its own; see ``End``."""
        return self._run(op, args, deadline, self._cancel)

    def clean(self, op: str, args: dict[str, Any]) -> None:
        """See ``End``."""
        with contextlib.suppress(TransferError):
            self._run(op, args, Deadline.after(CLEANING_SECONDS), None)

    def _run(self, op: str, args: dict[str, Any], deadline: Deadline, cancel: threading.Event | None) -> dict[str, Any]:
        words = [sys.executable, "-S", "-I", self._kit(), op, "--root", str(self._layout.root)]
        words += ["--scratch", str(self._layout.scratch)]
        ended = process.run(words, deadline=deadline, stdin=json.dumps(args).encode(), cancel=cancel)
        try:
            told = json.loads(ended.stdout)
            if told["ok"]:
                return dict(told["result"])
            error = KitError(**told["error"])
        except (ValueError, LookupError, TypeError) as cause:
            message = f"{op}: the kit ended with status {ended.status}: {ended.stderr or 'no output'}"
            raise RemoteCallError(self.name, "", message, "internal") from cause
        raise self._refusal(error, op)

    def _refusal(self, error: KitError, op: str) -> TransferError:
        shown, kind = f"{error.path or op}: {error.message}", _CODES.get(error.code)
        if kind is not None:
            return kind(self.name, "", shown)
        if error.code == "no_space":
            return LocalDiskError("", "", shown)
        return advised(RemoteCallError(self.name, "", error.message, error.code, error.path or ""), op, self._host)

    def _kit(self) -> str:
        content, sha256 = kit()
        path = self._layout.scratch / "kit" / f"{sha256}.pyz"
        if not path.is_file() or path.read_bytes() != content:
            atomic_write_bytes(make_dirs(path.parent) / path.name, content)
        return str(path)


@dataclass(slots=True)
class Landing:
    """Where a file arrives on the node.

    Args:
        path: The destination, as it was written.
        name: The source's name, for a destination that is a folder.
        mode: Its permissions where nothing has the name yet.
        verify: Compare the SHA-256 there.
        admit: Raises where the node's disk would pass its limits.
        final: Its whole path, once the node has said it.

    """

    path: str
    name: str
    mode: int
    verify: bool
    admit: Callable[[Disk], None]
    final: str = ""


class There(SshNode):
    """The node; as ``SshNode`` it gives or takes the one file that is copied, instead of artifacts.

    Args:
        endpoint: The way there.
        cancel: Ends what runs.
        guard: Asks the breaker before an order, and tells it how that ended.

    """

    def __init__(self, endpoint: SshEndpoint, cancel: threading.Event, guard: Guard) -> None:
        self._login = _Login(endpoint, cancel)
        self._guard = guard
        super().__init__(self._login)
        self.source: RemoteFile | None = None
        """What it gives."""
        self.landing: Landing | None = None
        """What it takes."""
        self.asked = False
        """True: the breaker was asked for all orders that follow; they end what it may have refused by now."""

    def order(self, op: str, args: dict[str, Any], deadline: Deadline) -> dict[str, Any]:
        """Run an operation over the login; see ``End``."""
        with contextlib.nullcontext() if self.asked else self._guard(deadline):
            return self._ordered(op, args, deadline)

    def _ordered(self, op: str, args: dict[str, Any], deadline: Deadline) -> dict[str, Any]:
        """Do it as a step of something that has asked the breaker already."""
        try:
            return self._run(op, args, deadline, dict(_CODES))
        except RemoteCallError as error:
            raise advised(error, op, self.name) from error

    def clean(self, op: str, args: dict[str, Any]) -> None:
        """See ``End``."""
        self._login.cancel = None
        with contextlib.suppress(TransferError):
            self._ordered(op, args, Deadline.after(CLEANING_SECONDS))

    def locate(self, artifact: Artifact, *, deadline: Deadline) -> RemoteFile:
        """Say where the file is read."""
        if self.source is None:
            return super().locate(artifact, deadline=deadline)
        return self.source

    def received(self, artifact: Artifact, origin: str, *, deadline: Deadline) -> Arrival:
        """Make the place for the file; say how much of it is there."""
        landing = self.landing
        if landing is None:
            return super().received(artifact, origin, deadline=deadline)
        placed = self._ordered("place", placing(landing.path, landing.name, artifact), deadline)
        landing.final = told(placed, "final", str, self.name)
        if told(placed, "complete", bool, self.name):
            return Arrival(receipt=self._receipt_of(artifact))
        part = RemoteFile(told(placed, "part", str, self.name), told(placed, "bytes", int, self.name))
        try:
            landing.admit(disk_of(placed, self.name))
        except AdmissionRefusedError:
            self.clean("withdraw", {"part": part.path})
            raise
        return Arrival(part=part)

    def accept(self, artifact: Artifact, origin: str, *, deadline: Deadline) -> RemoteReceipt:
        """Let the node compare what arrived, and give it its name."""
        landing = self.landing
        if landing is None:
            return super().accept(artifact, origin, deadline=deadline)
        part = part_of(landing.final, artifact.sha256)
        self._login.run(f"chmod {landing.mode:o} {shlex.quote(part)}", deadline=deadline)
        args = {"part": part, "path": landing.final, "bytes": artifact.size_bytes}
        self._ordered("install", {**args, "artifact": artifact.sha256 if landing.verify else None}, deadline)
        return self._receipt_of(artifact)

    def _receipt_of(self, artifact: Artifact) -> RemoteReceipt:
        return RemoteReceipt(artifact.sha256, self.name, artifact.size_bytes, wall())


class _Login(SshLink):
    """A login whose commands end with the copy that they are for."""

    def __init__(self, endpoint: SshEndpoint, cancel: threading.Event) -> None:
        super().__init__(endpoint)
        self.cancel: threading.Event | None = cancel

    def run(
        self,
        script: str,
        *,
        deadline: Deadline,
        stdin: bytes = b"",
        cancel: threading.Event | None = None,
        patient: bool = False,
    ) -> Answer:
        """See ``SshLink``."""
        ends = cancel or self.cancel
        return super().run(script, deadline=deadline, stdin=stdin, cancel=ends, patient=patient)


def told(answer: Mapping[str, Any], key: str, kind: type[V], node: str) -> V:
    """Give a value of the kit's answer.

    Raises:
        TransientError: It is not there, or of another type.

    """
    value = answer.get(key)
    if not isinstance(value, kind):
        raise TransientError(node, Rung.RSYNC.value, f"the answer has not the shape that this version knows: {key}")
    return value


def disk_of(answer: Mapping[str, Any], node: str) -> Disk:
    """Give the disk that an answer tells of."""
    return Disk(told(answer, "used", int, node), told(answer, "free", int, node))


def placing(path: str, name: str, artifact: Artifact) -> dict[str, Any]:
    """Give the arguments of ``place``."""
    return {"path": path, "name": name, "artifact": artifact.sha256, "bytes": artifact.size_bytes}


def advised(error: RemoteCallError, op: str, host: str) -> RemoteCallError:
    """Say what to do instead, where a database that is in use was to be replaced."""
    if error.code != "locked" or op not in {"place", "install"}:
        return error
    advice = f"stop what uses it, or let games be merged: ringrift-sync sync --type games --node {host}"
    return RemoteCallError(error.node, error.transport, f"{error.message}; {advice}", error.code, error.path)
