"""What happens on a node over a login, whichever carrier moves the bytes: facts, calls, artifacts in and out.

With Python on the node the kit does it (``ssh_kit``), else a shell with the usual programs does what concerns immutable
files (``ssh_shell``). Both give the same answers and leave the same files, which are the agent's as well.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Final, Protocol

from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.errors import (
    ArtifactGoneError,
    ChecksumError,
    RemoteCallError,
    SourceChangedError,
    TransferError,
    TransientError,
)
from ringrift_sync_dagster.node.errors import KitError
from ringrift_sync_dagster.node.ops import REMOTE
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.transports import ssh_facts
from ringrift_sync_dagster.transports.base import RemoteReceipt
from ringrift_sync_dagster.transports.carriers import RemoteFile
from ringrift_sync_dagster.transports.legible import is_path, legible
from ringrift_sync_dagster.transports.ssh_facts import Facts
from ringrift_sync_dagster.transports.ssh_kit import Kit, kit_name
from ringrift_sync_dagster.transports.ssh_link import SshLink, held
from ringrift_sync_dagster.transports.ssh_shell import Shell

_WITHOUT_PYTHON: Final = ("hash",)
# What a refusal means where the operation is ours; for a caller's operation it is always that one item's.
_ARTIFACT_CODES: Final[dict[str, type[TransferError]]] = {"missing": ArtifactGoneError, "changed": SourceChangedError}
_ARRIVAL_CODES: Final[dict[str, type[TransferError]]] = {
    "checksum": ChecksumError,
    "missing": TransientError,
    "short": TransientError,
}


class _Runs(Protocol):
    def run(self, op: str, args: dict[str, Any], deadline: Deadline) -> dict[str, Any]:
        """Run an operation of the kit; raises KitError where it refuses."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """How much of a pushed artifact is on the node.

    Args:
        part: Where the rest is appended; None when all is there.
        receipt: The node's receipt when all is there.

    """

    part: RemoteFile | None = None
    receipt: RemoteReceipt | None = None


class SshNode:
    """One node over a login; safe in several threads.

    Args:
        link: The login.

    """

    def __init__(self, link: SshLink) -> None:
        self.name = link.endpoint.node.name
        self.transport = link.endpoint.transport
        self.link = link
        self._known: tuple[int, Facts, _Runs] | None = None
        self._lock = threading.Lock()

    def close(self) -> None:
        """Log out. Idempotent."""
        self.link.close()

    def greet(self, deadline: Deadline) -> None:
        """Return when the node has answered, whatever is known of it already.

        Raises:
            TransferError: By what to do next.

        """
        self.link.run(":", deadline=deadline)

    def facts(self, deadline: Deadline) -> Facts:
        """Give what the login found; asked once per connection.

        Raises:
            TransferError: By what to do next.

        """
        return self._learnt(deadline)[0]

    def call(self, op: str, args: dict[str, Any], *, deadline: Deadline) -> dict[str, Any]:
        """Run one of the operations that are run for others; give its result.

        Raises:
            RemoteCallError: The kit refused; ``code`` says why. ``no_python``: only the kit can do it.
            RungUnusableError: It needs a program that the node has not.

        """
        if op not in REMOTE:
            message = f"there is no operation {op[:40]!r}; there are {', '.join(REMOTE)}"
            raise RemoteCallError(self.name, self.transport, message, "bad_arguments")
        return self._run(op, args, deadline, {})

    def manifest(self, since: str | None, *, deadline: Deadline) -> dict[str, Any]:
        """Give what changed on the node since a token; see ``base``."""
        answer = self._run("manifest", {"since": since}, deadline, {})
        shape = (("token", str), ("full", bool), ("entries", list), ("removed", list))
        if not all(isinstance(answer.get(key), kind) for key, kind in shape):
            raise self._misshapen("manifest")
        return answer

    def locate(self, artifact: Artifact, *, deadline: Deadline) -> RemoteFile:
        """Say where an artifact lies that is as it was when it was hashed.

        Raises:
            ArtifactGoneError: It is not there any more.
            SourceChangedError: The file behind it is another one now.

        """
        answer = self._run("locate", {"artifact": artifact.sha256}, deadline, _ARTIFACT_CODES)
        return self._file("locate", answer)

    def received(self, artifact: Artifact, origin: str, *, deadline: Deadline) -> Arrival:
        """Say how much of a pushed artifact is there, and make the place for the rest.

        Raises:
            RemoteCallError: ``no_space`` when the rest would not fit.

        """
        answer = self._run("received", self._pushed(artifact, origin), deadline, _ARRIVAL_CODES)
        if answer.get("complete") is True:
            return Arrival(receipt=self._receipt(answer, artifact))
        part = self._file("received", answer)
        if part.size_bytes > artifact.size_bytes:
            raise self._misshapen("received")
        return Arrival(part=part)

    def accept(self, artifact: Artifact, origin: str, *, deadline: Deadline) -> RemoteReceipt:
        """Let the node verify what was pushed and make it durable; give its receipt.

        Raises:
            ChecksumError: Other bytes arrived; they were removed.

        """
        answer = self._run("accept", self._pushed(artifact, origin), deadline, _ARRIVAL_CODES)
        return self._receipt(answer, artifact)

    def forget(self, artifact: Artifact, *, deadline: Deadline) -> None:
        """Let the node delete its copy of a pack, or its note of a file. Idempotent."""
        self._run("forget", {"artifact": artifact.sha256}, deadline, {})

    def _learnt(self, deadline: Deadline) -> tuple[Facts, _Runs]:
        with held(self._lock, self.link.endpoint, deadline):
            known = self._known
            if known is None or known[0] != self.link.connections:
                facts = ssh_facts.ask(self.link, kit_name(), deadline)
                runs: _Runs = Kit(self.link, facts) if facts.python else Shell(self.link, facts)
                self._known = known = (self.link.connections, facts, runs)
        return known[1:]

    def _run(
        self, op: str, args: dict[str, Any], deadline: Deadline, codes: dict[str, type[TransferError]]
    ) -> dict[str, Any]:
        _, runs = self._learnt(deadline)
        try:
            return runs.run(op, args, deadline)
        except KitError as error:
            kind, said, path = codes.get(error.code), legible(error.message), legible(error.path or "")
            if kind is None:
                raise RemoteCallError(self.name, self.transport, said, error.code, path) from error
            raise kind(self.name, self.transport, f"{path or op}: {said}") from error

    def _pushed(self, artifact: Artifact, origin: str) -> dict[str, Any]:
        return {"node": origin, "artifact": artifact.sha256, "bytes": artifact.size_bytes}

    def _file(self, op: str, answer: dict[str, Any]) -> RemoteFile:
        path, size = answer.get("path"), answer.get("bytes")
        if not is_path(path) or not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise self._misshapen(op)
        return RemoteFile(str(path), size)

    def _receipt(self, answer: dict[str, Any], artifact: Artifact) -> RemoteReceipt:
        receipt: Any = answer.get("receipt")
        try:
            found = RemoteReceipt(
                str(receipt["sha256"]), self.name, int(receipt["size_bytes"]), float(receipt["verified_at"])
            )
        except (KeyError, TypeError, ValueError, OverflowError):
            found = None
        if found is None or (found.sha256, found.size_bytes) != (artifact.sha256, artifact.size_bytes):
            message = f"artifact {artifact.sha256[:12]}: the answer holds no receipt for it; keep the copy"
            raise TransientError(self.name, self.transport, message)
        return found

    def _misshapen(self, op: str) -> TransientError:
        return TransientError(self.name, self.transport, f"{op}: the answer has not the shape that this version knows")
