"""Transport over SSH: a login does what concerns the node, a carrier moves the bytes; the same for every carrier.

It tries once. A part that turns out to be of other content is dropped, and the transfer begins anew once, either way.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.errors import ChecksumError, RungUnusableError, SourceChangedError, TransferError
from ringrift_sync_dagster.settings.clock import Deadline, monotonic
from ringrift_sync_dagster.transports import ssh_facts
from ringrift_sync_dagster.transports.base import Fetched, Pacer, Probe, Progress, Pushed, RemoteReceipt
from ringrift_sync_dagster.transports.carriers import Carrier, Effort, RemoteFile
from ringrift_sync_dagster.transports.partial import PartFile, already_there, open_part
from ringrift_sync_dagster.transports.source_file import SourceFile
from ringrift_sync_dagster.transports.ssh_facts import Facts
from ringrift_sync_dagster.transports.ssh_node import SshNode


class SshTransport:
    """The way to one node through its sshd. Close it, or use it as a context manager; safe in several threads.

    Args:
        node: A login on the node.
        carrier: Moves the bytes.
        needs: Programs that the carrier needs on the node; ``ssh_facts.PROGRAMS`` has their names.

    """

    def __init__(self, node: SshNode, carrier: Carrier, needs: Sequence[str]) -> None:
        self.name = carrier.name
        self._node = node
        self._carrier = carrier
        self._needs = tuple(needs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self._node.close()
        self._carrier.close()

    def probe(self, deadline: Deadline) -> Probe:
        """Log in and look for the programs that are needed."""
        started = monotonic()
        try:
            self._node.greet(deadline)
            facts = self._served(deadline)
        except TransferError as error:
            return Probe(reachable=False, detail=error.message, cause=error)
        seconds = monotonic() - started
        return Probe(
            reachable=True, version=self._node.link.version, rtt_seconds=seconds, detail=_described(facts),
            transport=self.name,
        )  # fmt: skip

    def call(self, op: str, args: dict[str, Any], *, deadline: Deadline) -> dict[str, Any]:
        """Run a kit operation; give its result.

        Raises:
            RemoteCallError: The kit refused; ``code`` says why.
            TransferError: As in ``base``.

        """
        return self._node.call(op, args, deadline=deadline)

    def manifest(self, since: str | None, *, deadline: Deadline) -> dict[str, Any]:
        """Give what changed on the node since a token."""
        return self._node.manifest(since, deadline=deadline)

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
        deadline.check(self._node.name, self.name, f"fetching {artifact.sha256[:12]}")
        if already_there(dest, artifact):
            return Fetched(0, artifact.size_bytes, monotonic() - started, self.name)
        fetching = _Fetch(self._node, self._carrier, artifact, Effort(deadline, progress, cancel, pacer))
        with open_part(dest, artifact, self._node.name, self.name) as part:
            self._served(deadline)
            resumed_from = fetching.run(part)
        return Fetched(fetching.moved, resumed_from, monotonic() - started, self.name)

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
        effort = Effort(deadline, progress, cancel, pacer)
        with SourceFile(source, artifact, self._node.name, self.name, deadline, cancel) as body:
            self._served(deadline)
            pushing = _Push(self._node, self._carrier, artifact, origin_node, effort)
            resumed_from, receipt = pushing.run(body)
        return Pushed(pushing.moved, resumed_from, monotonic() - started, receipt, self.name)

    def forget(self, artifact: Artifact, *, deadline: Deadline) -> None:
        """Let the node delete its copy. Idempotent."""
        self._node.forget(artifact, deadline=deadline)

    def _served(self, deadline: Deadline) -> Facts:
        """Give what the login found.

        Raises:
            RungUnusableError: The node lacks a program.
            TransferError: By what to do next.

        """
        facts = self._node.facts(deadline)
        lacking = ssh_facts.missing(facts, self._needs)
        if lacking:
            message = f"{', '.join(lacking)} is missing on the node, or not in the PATH of a login; install it there"
            raise RungUnusableError(self._node.name, self.name, message)
        return facts


class _Fetch:
    """One fetch: its steps share what was counted."""

    def __init__(self, node: SshNode, carrier: Carrier, artifact: Artifact, effort: Effort) -> None:
        self._node = node
        self._carrier = carrier
        self._artifact = artifact
        self._effort = effort
        self.moved = 0

    def run(self, part: PartFile) -> int:
        """Fetch what is missing and install the file; give the offset from which it went on.

        Raises:
            ChecksumError: The node has other bytes under this name; nothing of them was kept.
            SourceChangedError: The node's file changed meanwhile; nothing of it was kept.

        """
        try:
            start = part.resume()
            remote = self._locate()
            self._carry(remote, part)
            if part.install():
                return start
            if start > 0:  # the part was of other content, or rotten: start over, once
                self._carry(self._locate(), part)
                if part.install():
                    return 0
            self._locate()  # it says so when the file is another one by now
            raise self._wrong("other bytes came under this name")
        except (ChecksumError, SourceChangedError):
            part.drop()
            raise

    def _locate(self) -> RemoteFile:
        remote = self._node.locate(self._artifact, deadline=self._effort.deadline)
        if remote.size_bytes != self._artifact.size_bytes:
            raise self._wrong(f"it should have {self._artifact.size_bytes} bytes, {remote.size_bytes} are there")
        return remote

    def _carry(self, remote: RemoteFile, part: PartFile) -> None:
        if part.received < remote.size_bytes:
            self.moved += self._carrier.fetch(remote, part, self._effort)

    def _wrong(self, what: str) -> ChecksumError:
        message = f"artifact {self._artifact.sha256[:12]}: {what}; nothing of it was kept"
        return ChecksumError(self._node.name, self._carrier.name, message)


class _Push:
    """One push: its steps share what was counted."""

    def __init__(self, node: SshNode, carrier: Carrier, artifact: Artifact, origin: str, effort: Effort) -> None:
        self._node = node
        self._carrier = carrier
        self._artifact = artifact
        self._origin = origin
        self._effort = effort
        self._went_on_from = 0
        self.moved = 0

    def run(self, body: SourceFile) -> tuple[int, RemoteReceipt]:
        """Push what is missing; give the offset from which it went on, and the receipt.

        Raises:
            ChecksumError: What arrived is another artifact; the node has removed it.

        """
        try:
            return self._once(body)
        except ChecksumError:
            if self._went_on_from == 0:
                raise
        return self._once(body)  # the node's part was of other content, or rotten: start over, once

    def _once(self, body: SourceFile) -> tuple[int, RemoteReceipt]:
        deadline = self._effort.deadline
        self._went_on_from = 0
        arrival = self._node.received(self._artifact, self._origin, deadline=deadline)
        if arrival.receipt is not None:
            return self._artifact.size_bytes, arrival.receipt
        assert arrival.part is not None  # noqa: S101 - for the type checker
        start = self._went_on_from = arrival.part.size_bytes
        if start < self._artifact.size_bytes:
            self.moved += self._carrier.push(body, arrival.part.path, start, self._effort)
        return start, self._node.accept(self._artifact, self._origin, deadline=deadline)


def _described(facts: Facts) -> str:
    rsync = f"rsync {facts.rsync_version}" if facts.rsync_version else "no rsync"
    python = f"Python {facts.python_version}" if facts.python else "no Python 3.8 or later, so files only"
    return f"a login finds {python} and {rsync}"
