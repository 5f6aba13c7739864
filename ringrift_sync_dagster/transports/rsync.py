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
    TransientError,
)
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.transports import process
from ringrift_sync_dagster.transports.carriers import Effort, RemoteFile
from ringrift_sync_dagster.transports.partial import PartFile
from ringrift_sync_dagster.transports.rsync_errors import CUT, FULL, complaints, connection_error, local_disk_error
from ringrift_sync_dagster.transports.rsync_run import DOWN, UP, Ended, far_path, run_rsync
from ringrift_sync_dagster.transports.source_file import SourceFile
from ringrift_sync_dagster.transports.ssh import SshEndpoint, SshSettings
from ringrift_sync_dagster.transports.ssh_link import SshLink
from ringrift_sync_dagster.transports.ssh_node import SshNode
from ringrift_sync_dagster.transports.ssh_transport import SshTransport

NAME: Final = "rsync"
NEEDS: Final = ("rsync",)
"""What the node must have."""

_OPTIONS: Final = ("--append", "--info=name1")  # the name lets rsync say that it wrote a file anew
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

        def look(_granted: int) -> None:
            nonlocal told
            if part.grown() > remote.size_bytes:  # before it fills our disk
                raise self._changed(remote.path, f"it has more than {remote.size_bytes} bytes now")
            if effort.progress is not None and part.received > told:
                told = part.received
                effort.progress(told)

        arguments = [*_OPTIONS, *_trusting(remote.path), far_path(remote.path), str(part.path.absolute())]
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
        if ended.status != 0:
            raise self._push_error(ended, body.path, remote_part)
        return expected

    def close(self) -> None:
        """Let the shared connection end as soon as no transfer uses it. Idempotent."""
        if self._endpoint.reached:
            deadline = Deadline(_CLOSE_SECONDS)
            with contextlib.suppress(TransferError):
                process.run(self._endpoint.close_shared(deadline), deadline=deadline)

    def _fetch_error(self, ended: Ended, remote: RemoteFile, part: PartFile) -> TransferError:
        found = list(complaints(ended.words, DOWN))
        if (ours := next((one for one in found if one.near), None)) is not None:
            return local_disk_error(ours.number, part.path, "write")
        error = connection_error(self._endpoint, ended, f"fetching {remote.path}")
        if error is not None:
            return error
        for one in found:
            if one.number == errno.ENOENT:
                return ArtifactGoneError(*self._place, f"{remote.path} is not on the node any more; order it again")
            if one.number != CUT:
                return RemoteCallError(*self._place, f"the node cannot read it: {one.what}", "unreadable", remote.path)
        return self._changed(remote.path, f"it has fewer than {remote.size_bytes} bytes now")

    def _push_error(self, ended: Ended, source: Path, remote_part: str) -> TransferError:
        found = list(complaints(ended.words, UP))
        if (ours := next((one for one in found if one.near), None)) is not None:
            return local_disk_error(ours.number, source, "read")
        error = connection_error(self._endpoint, ended, f"pushing {source.name}")
        if error is not None:
            return error
        for one in found:
            if one.number != errno.ENOENT:
                code = "no_space" if one.number in FULL else "unreadable"
                return RemoteCallError(*self._place, f"the node cannot write it: {one.what}", code, remote_part)
        return TransientError(
            *self._place, f"pushing {source.name}: the node's part vanished; the next push begins anew"
        )

    def _changed(self, path: str, what: str) -> SourceChangedError:
        return SourceChangedError(*self._place, f"{path}: {what}; order it again")


def _trusting(path: str) -> list[str]:
    """Give the option for a name that rsync 3.5 takes for one that was not asked for; one file comes in any case."""
    return ["--trust-sender"] if any("\\" in name and re.search(r"[*?\[]", name) for name in path.split("/")) else []
