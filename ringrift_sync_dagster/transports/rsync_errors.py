"""What it means that rsync failed: its status, ssh's status and what both wrote to stderr become an error of ours.

rsync names the side of a failure (``[sender]``, ``[receiver]``) and ends the line with the number of the operating
system's error; the statuses are those of rsync(1). The node's own rsync tells its status through ssh.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringrift_sync_dagster.errors import LocalDiskError, RungUnusableError, TransferError, TransientError
from ringrift_sync_dagster.storage.files import disk_errors
from ringrift_sync_dagster.transports.rsync_run import DOWN, UP, Ended
from ringrift_sync_dagster.transports.ssh import SshEndpoint

FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CUT: Final = errno.ENODATA
"""What rsync says of a file that got shorter while it was read."""

_COMPLAINT: Final = re.compile(r"\[(?P<role>\w+)\] (?P<what>.*) \((?P<number>\d+)\)\s*$", re.MULTILINE)
_NEAR_ROLES: Final = {DOWN: ("receiver", "generator", "client"), UP: ("sender", "client")}
# rsync names them in the same way, but they say nothing of a file.
_CONNECTION: Final = (errno.EPIPE, errno.ECONNRESET, errno.ECONNABORTED, errno.ENOTCONN, errno.ETIMEDOUT)
_USAGE: Final = (1, 2, 4)  # an option, a protocol, or an action that the other one does not know
_NOT_FOUND: Final = (126, 127)
_VANISHED: Final = 24


@dataclass(frozen=True, slots=True)
class Complaint:
    """What rsync says of one file.

    Args:
        number: The operating system's error.
        near: It happened on this machine.
        what: rsync's words.

    """

    number: int
    near: bool
    what: str


def complaints(words: str, direction: str) -> Iterator[Complaint]:
    """Give what rsync says of files, in its order.

    Args:
        words: Its stderr.
        direction: ``DOWN`` or ``UP``, which tells whose words they are.

    """
    for found in _COMPLAINT.finditer(words):
        number, role = int(found["number"]), found["role"].lower()
        if number not in _CONNECTION:
            yield Complaint(number, role in _NEAR_ROLES[direction], found["what"])


def local_disk_error(number: int, path: Path, action: str) -> LocalDiskError:
    """Give the error for our own disk, in the words of ``storage.files``."""
    try:
        with disk_errors(path, action):
            raise OSError(number, os.strerror(number))
    except LocalDiskError as error:
        return error


def connection_error(endpoint: SshEndpoint, ended: Ended, what: str) -> TransferError | None:
    """Give the error for an end that has nothing to do with a file; None when rsync did its work, or blames a file.

    Args:
        endpoint: Where it went.
        ended: How it ended.
        what: What was going on, for messages.

    """
    place = (endpoint.node.name, endpoint.transport)
    shown = " ".join(ended.words.split())[-300:]
    far = ended.far_status
    if far is not None and (error := endpoint.error(far, ended.words, what)) is not None:
        return error
    if far is not None and not ended.shell_ran:
        message = f"the node's login does not run our command (status {far}): {shown or 'no output'}"
        return RungUnusableError(*place, message)
    if far in _NOT_FOUND:
        return RungUnusableError(*place, f"rsync is not installed on the node, or cannot be started: {shown}")
    if ended.status in _USAGE or far in _USAGE:
        return RungUnusableError(*place, f"the two rsyncs do not understand each other: {shown}")
    if ended.status in (0, _VANISHED) or any(complaints(ended.words, DOWN)):
        return None
    message = f"{what}: rsync ended with status {ended.status}: {shown or 'no output'}; what has arrived is kept"
    return TransientError(*place, message)
