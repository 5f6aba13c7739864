"""The rsync rung: appends to a file that only this transfer writes, here or on the node.

``--append`` takes up where the file ends, and what has arrived outlives a SIGKILL, which a partial directory does not
(field_notes.md, 5). Nothing is compressed: packs, arrays and models do not shrink.
"""

from __future__ import annotations

import contextlib
import errno
import re
from pathlib import Path
from typing import Final

from ringrift_sync_dagster.errors import (
    ArtifactGoneError,
    RemoteCallError,
    SourceChangedError,
    TransferError,
)
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.transports import process
from ringrift_sync_dagster.transports.carriers import Effort, RemoteFile
from ringrift_sync_dagster.transports.legible import legible
from ringrift_sync_dagster.transports.partial import PartFile
from ringrift_sync_dagster.transports.rsync_errors import CUT, FULL, complaints, connection_error, local_disk_error
from ringrift_sync_dagster.transports.rsync_run import DOWN, PROGRAM, UP, Ended, far_path, run_rsync
from ringrift_sync_dagster.transports.source_file import SourceFile
from ringrift_sync_dagster.transports.ssh import SshEndpoint, SshSettings
from ringrift_sync_dagster.transports.ssh_link import SshLink
from ringrift_sync_dagster.transports.ssh_node import SshNode
from ringrift_sync_dagster.transports.ssh_transport import SshTransport

NAME: Final = "rsync"
NEEDS: Final = ("rsync",)
"""What the node must have."""

_OPTIONS: Final = ("--append", "--info=name1")  # the name lets rsync say that it wrote a file anew
_VERSION: Final = re.compile(r"rsync\s+version\s+v?(\d+)\.(\d+)\.(\d+)")
_TRUSTING_SINCE: Final = (3, 2, 5)
_told: Final[list[str]] = []
_REDONE: Final = "failed verification"
_CLOSE_SECONDS: Final = 2.0


def rsync_transport(node: Node, settings: SshSettings) -> SshTransport:
    """Give the rsync rung to a node.

    Args:
        node: The node.
        settings: This machine's side of SSH.

    """
    endpoint = SshEndpoint(node, settings, NAME)
    return SshTransport(SshNode(SshLink(endpoint)), RsyncCarrier(endpoint), NEEDS)


class RsyncCarrier:
    """Moves bytes to and from one node by rsync; safe in several threads.

    Args:
        endpoint: The way there.

    """

    name = NAME

    def __init__(self, endpoint: SshEndpoint) -> None:
        self._endpoint = endpoint
        self._place = (endpoint.node.name, endpoint.transport)

    def fetch(self, remote: RemoteFile, part: PartFile, effort: Effort) -> int:
        """Append what follows ``part.received``; see ``Carrier``."""
        start = told = part.received
        shown = legible(remote.path)

        def look(_granted: int) -> None:
            nonlocal told
            if part.grown() > remote.size_bytes:  # before it fills our disk
                raise self._changed(shown, f"it has more than {remote.size_bytes} bytes now")
            if effort.progress is not None and part.received > told:
                told = part.received
                effort.progress(told)

        trusting = _trusting(remote.path, effort.deadline)
        arguments = [*_OPTIONS, *trusting, far_path(remote.path), str(part.path.absolute())]
        ended = run_rsync(self._endpoint, arguments, DOWN, effort, look)
        look(0)
        if _REDONE in ended.words:
            part.resume()  # rsync wrote over bytes that were hashed already
        if part.received < remote.size_bytes:
            raise self._fetch_error(ended, remote, part)
        return part.received - start

    def push(self, body: SourceFile, remote_part: str, start: int, effort: Effort) -> int:
        """Append the body from ``start`` on to a file on the node; see ``Carrier``."""
        told, expected = start, body.size_bytes - start

        def look(granted: int) -> None:
            nonlocal told
            body.check()
            there = start + min(expected, granted)
            if effort.progress is not None and there > told:
                told = there
                effort.progress(told)

        arguments = [*_OPTIONS, str(body.path.absolute()), far_path(remote_part)]
        ended = run_rsync(self._endpoint, arguments, UP, effort, look, expected=expected)
        look(0 if ended.status else expected)
        if ended.status != 0 and (error := self._push_error(ended, body.path, remote_part)) is not None:
            raise error
        return expected

    def close(self) -> None:
        """Let the shared connection end as soon as no transfer uses it. Idempotent."""
        if self._endpoint.reached:
            deadline = Deadline(_CLOSE_SECONDS)
            with contextlib.suppress(TransferError):
                process.run(self._endpoint.close_shared(deadline), deadline=deadline)

    def _fetch_error(self, ended: Ended, remote: RemoteFile, part: PartFile) -> TransferError:
        found, shown = list(complaints(ended.words, DOWN)), legible(remote.path)
        if (ours := next((one for one in found if one.near), None)) is not None:
            return local_disk_error(ours.number, part.path, "write")
        error = connection_error(self._endpoint, ended, f"fetching {shown}")
        if error is not None:
            return error
        for one in found:
            if one.number == errno.ENOENT:
                return ArtifactGoneError(*self._place, f"{shown} is not on the node any more; order it again")
            if one.number != CUT:
                return RemoteCallError(*self._place, f"the node cannot read it: {one.what}", "unreadable", shown)
        return self._changed(shown, f"it has fewer than {remote.size_bytes} bytes now")

    def _push_error(self, ended: Ended, source: Path, remote_part: str) -> TransferError | None:
        """Give the error; None where the part is gone, for then the node says whether another push was faster."""
        found = list(complaints(ended.words, UP))
        if (ours := next((one for one in found if one.near), None)) is not None:
            return local_disk_error(ours.number, source, "read")
        error = connection_error(self._endpoint, ended, f"pushing {source.name}")
        if error is not None:
            return error
        for one in found:
            if one.number != errno.ENOENT:
                code = "no_space" if one.number in FULL else "unreadable"
                return RemoteCallError(
                    *self._place, f"the node cannot write it: {one.what}", code, legible(remote_part)
                )
        return None

    def _changed(self, path: str, what: str) -> SourceChangedError:
        return SourceChangedError(*self._place, f"{path}: {what}; order it again")


def knows_trust_sender(told: str) -> bool:
    """Say whether an rsync knows ``--trust-sender``, by the first line of its ``--version``."""
    found = _VERSION.search(told)
    return found is not None and tuple(int(number) for number in found.groups()) >= _TRUSTING_SINCE


def _trusting(path: str, deadline: Deadline) -> list[str]:
    """Give the option for a name that rsync 3.5 takes for one that was not asked for; one file comes in any case."""
    doubted = any("\\" in name and re.search(r"[*?\[]", name) for name in path.split("/"))
    return ["--trust-sender"] if doubted and knows_trust_sender(_local_version(deadline)) else []


def _local_version(deadline: Deadline) -> str:
    """Give what our own rsync says of its version; asked once per process."""
    if not _told:
        _told.append(process.run([PROGRAM, "--version"], deadline=deadline).stdout.decode("utf-8", "replace"))
    return _told[0]
