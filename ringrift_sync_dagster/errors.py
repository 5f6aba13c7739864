"""The one error tree: an error's class says what to do next, its message says who, which file and what now is true.

SyncError
  ConfigError              stop    the inventory or the settings are wrong; carries every problem found
  TransferError            retry   something went wrong between us and one node
    TransientError         retry   the same call may well succeed in a moment
      StallError           retry   no byte arrived for the transport's stall time
    DeadlineExceededError  retry   the time budget is spent; what arrived is kept for the next attempt
    RungUnusableError      rung    this transport cannot serve the node (no rsync, no Python); try the next one
      UnreachableError     rung    nothing answered at that address and port; others that need the same port fail too
      LocalToolError       rung    a program, a file or a token that this transport needs is missing on our own side
    ChecksumError          rung    the copy's SHA-256 is not the artifact's; the copy was removed
    NodeDownError          node    the node does not answer on any path; leave it alone for a while
    AuthenticationError    stop    the node refused who we are; a person must look
      TokenError           stop    a token is malformed, expired, or signed by somebody else
      HostKeyError         stop    the SSH host key is unknown or has changed; nothing was sent
    RemoteCallError        stop    the kit on the node refused this one item (its code says why); others go on
    ArtifactGoneError      ours    the artifact is no longer on the node: order it again
    SourceChangedError     ours    the file changed while it was read: order it again
    LocalDiskError         ours    our own disk is full or not writable
    TransferCancelledError ours    we stopped it ourselves
    TransferUnderWayError  ours    another process of ours transfers this very artifact now; wait for it
    AdmissionRefusedError  ours    a disk or the memory would pass its limit; nothing was moved
    BackpressureError      ours    held while the owner is overloaded; it moves once that is over
  InvalidFileError         stop    a file is no whole npz or model; nothing that is published changed
  PackRefusedError         stop    this artifact is set aside, and nothing of it was merged; other artifacts go on
  LeaseHeldError           ours    another process does this work now
  LeaseLostError           ours    our lease ran out while we worked; the work was not committed
  EventError               stop    an event is not what its type says; nothing was published
  StateError               stop    the state database cannot be used
  CanonicalStoreError      stop    a canonical database cannot be read or written as it is
  CollectFailedError       stop    some partitions failed; everything else was recorded before

``next_step`` OURS never counts against a node. Foreign exceptions are translated once, where they enter. Every error
pickles, because worker processes raise them too. Source: architecture.md, 1 rule 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Literal


class NextStep(Enum):
    """What the caller should do after an error."""

    RETRY = "retry"  # the same call, the same transport
    NEXT_RUNG = "next_rung"  # the next transport of the ladder
    NODE_DOWN = "node_down"  # leave this node alone for a while
    STOP = "stop"  # do not try again by itself: tell a person
    OURS = "ours"  # no fault of the node; its breaker stays closed


def storable(text: str, most_chars: int = 4000) -> str:
    """Give text that every database and terminal takes: bounded, valid Unicode without NUL.

    What a node said, or how one of its files is called, may be in an error's words.
    """
    return text[:most_chars].encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "?")


class SyncError(Exception):
    """The base of every error that this package raises on purpose."""

    next_step: ClassVar[NextStep] = NextStep.STOP


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the inventory or the settings.

    Args:
        file: Path of the file, ``environment``, or ``argument``.
        line: Line in that file, counted from 1; None when there is none.
        host: Name of the host it concerns; empty when it concerns no host.
        key: The key, section or variable; empty when it concerns the whole file.
        message: What is wrong, and what to do.
        severity: An ``error`` stops the load; a ``warning`` is shown.

    """

    file: str
    line: int | None
    host: str
    key: str
    message: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        subject = ", ".join(
            part for part in (self.host and f"host {self.host}", self.key and f"key {self.key}") if part
        )
        return f"{place}: {subject}: {self.message}" if subject else f"{place}: {self.message}"


class ConfigError(SyncError):
    """The inventory or the settings are wrong; ``problems`` holds everything found, not only the first.

    Args:
        problems: All problems of the load; at least one is an error.

    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        errors = [problem for problem in self.problems if problem.severity == "error"]
        if len(errors) == 1:
            return str(errors[0])
        return "\n".join([f"{len(errors)} problems in the configuration:", *(f"  {problem}" for problem in errors)])


class TransferError(SyncError):
    """Something went wrong between us and one node.

    Args:
        node: Name of the node as in the inventory; empty when unknown.
        transport: Name of the transport, such as ``p2p_http``; empty when none was involved.
        message: Which file or artifact, what now is true, what to do.

    """

    next_step: ClassVar[NextStep] = NextStep.RETRY

    def __init__(self, node: str, transport: str, message: str) -> None:
        super().__init__(node, transport, message)
        self.node = node
        self.transport = transport
        self.message = message
        self.attempts: Sequence[object] = ()
        """What was tried before this was given up, where more than one transport may serve (``core.escalation``)."""

    def __str__(self) -> str:
        return ": ".join(part for part in (self._place(), self.message) if part)

    def _place(self) -> str:
        if self.node and self.transport:
            return f"{self.node} over {self.transport}"
        return self.node or self.transport


class TransientError(TransferError):
    """The connection broke or the node was busy; the same call may succeed in a moment."""


class StallError(TransientError):
    """No byte arrived for the transport's stall time; what has arrived is kept, and the next attempt resumes there."""


class DeadlineExceededError(TransferError):
    """The time budget is spent; what has arrived is kept, and the next attempt resumes there."""


class RungUnusableError(TransferError):
    """This transport cannot serve the node at all; another one may."""

    next_step: ClassVar[NextStep] = NextStep.NEXT_RUNG


class UnreachableError(RungUnusableError):
    """Nothing answers at the address and port: refused, or no answer within the connect timeout."""


class LocalToolError(RungUnusableError):
    """Something that this transport needs is missing on our own side; the node is not to blame, another may work."""


class ChecksumError(TransferError):
    """The copy's SHA-256 is not the artifact's; the copy was removed."""

    next_step: ClassVar[NextStep] = NextStep.NEXT_RUNG


class NodeDownError(TransferError):
    """The node does not answer on any path."""

    next_step: ClassVar[NextStep] = NextStep.NODE_DOWN


class AuthenticationError(TransferError):
    """The node refused who we are, or we refused who it is; trying again changes nothing."""

    next_step: ClassVar[NextStep] = NextStep.STOP


class TokenError(AuthenticationError):
    """A token is malformed, expired, signed by another key, or lacks what is asked of it."""


class HostKeyError(AuthenticationError):
    """The SSH host key of the node is unknown or is another one than before; the message has the command to run."""


class RemoteCallError(TransferError):
    """The kit on the node refused this one item; other items of the node go on.

    Args:
        node: Name of the node.
        transport: Name of the transport that carried the call.
        message: The kit's own words.
        code: The kit's code, such as ``locked``, ``corrupt`` or ``outside`` (``node/errors.py``).
        path: The file on the node, relative to its root; empty when the call names none.

    """

    next_step: ClassVar[NextStep] = NextStep.STOP

    def __init__(self, node: str, transport: str, message: str, code: str = "", path: str = "") -> None:
        super().__init__(node, transport, message)
        self.args = (node, transport, message, code, path)
        self.code = code
        self.path = path

    def __str__(self) -> str:
        details = ": ".join(part for part in (self.path, self.message) if part)
        return f"{self._place()}: {details} ({self.code})" if self.code else f"{self._place()}: {details}"


class ArtifactGoneError(TransferError):
    """The artifact is no longer on the node; order it again."""

    next_step: ClassVar[NextStep] = NextStep.OURS


class SourceChangedError(TransferError):
    """The file on the node changed while it was read; the copy was dropped, and the next cycle takes the new state."""

    next_step: ClassVar[NextStep] = NextStep.OURS


class LocalDiskError(TransferError):
    """Our own disk is full or cannot be written; the node is healthy."""

    next_step: ClassVar[NextStep] = NextStep.OURS


class TransferCancelledError(TransferError):
    """We stopped the transfer ourselves; what has arrived is kept."""

    next_step: ClassVar[NextStep] = NextStep.OURS


class TransferUnderWayError(TransferError):
    """Another process of ours transfers this very artifact to or from the same place now; the node is healthy."""

    next_step: ClassVar[NextStep] = NextStep.OURS


class AdmissionRefusedError(TransferError):
    """A disk or the memory would pass its limit with this transfer; nothing was moved. The node is healthy."""

    next_step: ClassVar[NextStep] = NextStep.OURS


class BackpressureError(AdmissionRefusedError):
    """The owner is overloaded, and this can wait: nothing was moved, and it moves once that is over."""


class PackRefusedError(SyncError):
    """A pack broke the rules of its format; it lies in quarantine, and nothing of it was merged.

    Args:
        artifact: SHA-256 of the pack, in hexadecimal.
        node: The node that it came from.
        reason: Which rule it broke.

    """

    def __init__(self, artifact: str, node: str, reason: str) -> None:
        super().__init__(artifact, node, reason)
        self.artifact = artifact
        self.node = node
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.node}: pack {self.artifact[:12]} is refused and nothing of it was merged: {self.reason}"


class InvalidFileError(SyncError):
    """A file is not a whole npz or model, or not one of its config; nothing that is published changed.

    Args:
        path: The file.
        reason: What is wrong with it.

    """

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(str(path), reason)
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class LeaseHeldError(SyncError):
    """Another process does this work now; try again when it has finished.

    Args:
        name: Name of the lease.
        holder: Who holds it: host, process and since when, in words.

    """

    next_step: ClassVar[NextStep] = NextStep.OURS

    def __init__(self, name: str, holder: str) -> None:
        super().__init__(name, holder)
        self.name = name
        self.holder = holder

    def __str__(self) -> str:
        return f"lease {self.name} is held by {self.holder}; it is free again when that ends, or when the lease expires"


class LeaseLostError(SyncError):
    """Our lease ran out or was taken over while we worked; the work was not committed and must be done again."""

    next_step: ClassVar[NextStep] = NextStep.OURS


class EventError(SyncError):
    """An event is not what its type says; nothing was published.

    Args:
        type: The event's type, as it was given.
        field: Which field of the payload is wrong; empty when it is the type, or the whole.
        message: What is wrong with it, and what would be right.

    """

    def __init__(self, type: str, field: str, message: str) -> None:  # noqa: A002 - its name in the table
        super().__init__(type, field, message)
        self.type = type
        self.field = field
        self.message = message

    def __str__(self) -> str:
        place = f"field {self.field}: " if self.field else ""
        return f"event {self.type}: {place}{self.message}"


class StateError(SyncError):
    """The state database cannot be opened, migrated or written; nothing can be decided without it."""


class CanonicalStoreError(SyncError):
    """A canonical database is damaged or of a form that we must not touch; nothing was merged into it.

    Args:
        path: The database.
        cause: What SQLite or the kit says.

    """

    def __init__(self, path: object, cause: str) -> None:
        super().__init__(str(path), cause)
        self.path = str(path)
        self.cause = cause

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.cause}; nothing was merged. Move it aside (with its -wal and -shm) or restore it: "
            "the next cycle asks the nodes for everything that it lacks"
        )


class ArchiveError(InvalidFileError):
    """An archive directory cannot be used, or an archive is not what it was; what was archived before is untouched."""


class CollectFailedError(SyncError):
    """Some partitions failed; all partitions were tried, and what changed was recorded before this was raised.

    Args:
        failures: One entry for each failed partition; its text names the partition and the cause.

    """

    def __init__(self, failures: Sequence[object]) -> None:
        self.failures: tuple[object, ...] = tuple(failures)
        super().__init__(self.failures)

    def __str__(self) -> str:
        count = len(self.failures)
        head = f"{count} partition{'' if count == 1 else 's'} failed; what the others brought is recorded:"
        # A silent node says the same of each of its partitions, of which it has 60.
        told: dict[str, dict[str, None]] = {}
        for failure in self.failures:
            partition, _, cause = str(failure).partition(": ")
            told.setdefault(cause, {})[partition] = None
        lines = [f"  {', '.join(names)}{cause and ': '}{cause}" for cause, names in told.items()]
        return "\n".join([head, *lines])
