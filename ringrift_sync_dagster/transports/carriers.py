"""What an SSH rung must bring of its own: moving the bytes of one file between here and a path on the node.

Everything else (who the node is, which file an artifact is, verifying, installing, receipts) is the same for every
carrier and lives in ``ssh_transport``. A carrier tries once and translates its own failures into the classes of
``errors.py``; bytes that arrived before a failure stay where they are.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.transports.base import Pacer, Progress
from ringrift_sync_dagster.transports.partial import PartFile
from ringrift_sync_dagster.transports.source_file import SourceFile


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on the node.

    Args:
        path: Its absolute path there; any bytes but NUL, with ``surrogateescape``.
        size_bytes: Its length, as the node told.

    """

    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Effort:
    """The limits of one transfer.

    Args:
        deadline: When to give up.
        progress: Told the number of bytes that are there now, the resumed ones included.
        cancel: Ends the transfer from another thread.
        pacer: Asked before bytes move.

    """

    deadline: Deadline
    progress: Progress | None = None
    cancel: threading.Event | None = None
    pacer: Pacer | None = None


class Carrier(Protocol):
    """Moves bytes over SSH to and from one node; safe in several threads."""

    @property
    def name(self) -> str:
        """The rung's name: ``rsync`` or ``base64``."""

    def fetch(self, remote: RemoteFile, part: PartFile, effort: Effort) -> int:
        """Append what follows ``part.received`` until the part has ``remote.size_bytes``; give the bytes moved.

        It returns when the part has the whole length; whether the bytes are right is judged by the caller.
        """

    def push(self, body: SourceFile, remote_part: str, start: int, effort: Effort) -> int:
        """Append the body from ``start`` on to the file ``remote_part``, which has that length; give the bytes moved.

        The directory exists. ``body`` was opened and is watched for changes by the caller; see ``SourceFile``.
        """

    def close(self) -> None:
        """End what is shared between transfers. Idempotent."""
