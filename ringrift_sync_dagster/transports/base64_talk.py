"""What the program of the base64 rung says on a node, and which of our errors that is.

A conversation begins with its ``ready``; the guide's row for this rung allows 30 s until then, and 60 s without a byte
later. Both come with the endpoint's settings. ssh itself notices a connection that died.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from ringrift_sync_dagster.errors import (
    ArtifactGoneError,
    RemoteCallError,
    RungUnusableError,
    TransferError,
    TransientError,
)
from ringrift_sync_dagster.transports import process
from ringrift_sync_dagster.transports.base64_node import BLOCK_BYTES
from ringrift_sync_dagster.transports.carriers import Effort
from ringrift_sync_dagster.transports.frames import Dialogue
from ringrift_sync_dagster.transports.legible import legible
from ringrift_sync_dagster.transports.ssh import SshEndpoint

FRAME_BYTES: Final = 24 * BLOCK_BYTES
"""1.5 MiB, which are 2 MiB of text: a multiple of 3 and of the block."""

TRIES: Final = 3
"""How often one frame is moved before the transfer is given up."""

_TEXT_MAX_BYTES: Final = FRAME_BYTES * 4 // 3 + (FRAME_BYTES >> 5)  # an old base64 breaks its lines
_END_SECONDS: Final = 2.0
# What pipes, ssh and the sockets hold of a push, and how slow a link may be that drains them.
_ON_THE_WAY_BYTES: Final = 4 << 20
_SLOWEST_BYTES_PER_SECOND: Final = 25_000
_SIGNALLED: Final = 128
_FULL_WORDS: Final = ("No space left", "uota exceeded")


@dataclass(frozen=True, slots=True)
class Frame:
    """A range of the file: from ``start`` up to ``end``."""

    start: int
    end: int


class Talk:
    """One conversation with the program on the node, and what its answers mean.

    Args:
        endpoint: The way there.
        child: The ssh that leads to it.
        mark: What its answers end with.
        effort: The limits of the transfer.
        path: The file on the node, for messages.
        fetching: True: the pacer is asked for what comes, else for what goes.

    """

    def __init__(
        self, endpoint: SshEndpoint, child: process.Child, mark: str, effort: Effort, path: str, *, fetching: bool
    ) -> None:
        self.effort = effort
        self.place = (endpoint.node.name, endpoint.transport)
        self.file = legible(PurePosixPath(path).name)
        self._endpoint = endpoint
        self._child = child
        self._path = legible(path)
        self._faults = 0
        self._dialogue = Dialogue(child, mark, _TEXT_MAX_BYTES, effort, self.place, self._ended, pace_reading=fetching)

    def greet(self) -> None:
        """Wait until the program is ready.

        Raises:
            TransferError: It cannot do what is asked.

        """
        # A second more than ssh takes itself: its own words say what is wrong.
        _, words = self._dialogue.receive(self._endpoint.settings.connect_seconds + 1)
        self._understand(words, "ready")

    def send(self, data: bytes) -> None:
        """Send a request."""
        self._dialogue.send(data, self._endpoint.settings.stall_seconds)

    def receive(self, *expected: str, on_the_way: int = 0) -> tuple[memoryview, list[str]]:
        """Give the next answer.

        Args:
            expected: What its first word may be.
            on_the_way: Bytes that we handed over and the node has not confirmed; a slow link may still drain them.

        """
        drained = min(on_the_way, _ON_THE_WAY_BYTES) / _SLOWEST_BYTES_PER_SECOND
        text, words = self._dialogue.receive(self._endpoint.settings.stall_seconds + drained)
        self._understand(words, *expected)
        return text, words

    def arrived(self, offset: int) -> None:
        """Note that all is there up to this offset."""
        self._faults = 0
        if self.effort.progress is not None:
            self.effort.progress(offset)

    def damaged(self, frame: Frame) -> None:
        """Note that a frame came otherwise than it was sent.

        Raises:
            TransientError: It did so too often; the frames before it are right, and stay.

        """
        self._faults += 1
        if self._faults >= TRIES:
            message = (
                f"{self.file}: bytes {frame.start} to {frame.end} were damaged on the way {TRIES} times; "
                "what came before them is kept"
            )
            raise TransientError(*self.place, message)

    def _understand(self, words: list[str], *expected: str) -> None:
        """Raise what an answer means, unless it is expected."""
        match words:
            case [word, *_] if word in expected:
                return
            case ["missing", program]:
                needs = "the base64 rung needs sh, base64, dd and sha256sum there"
                raise RungUnusableError(*self.place, f"{legible(program, 80)} is missing on the node; {needs}")
            case ["gone"]:
                raise ArtifactGoneError(*self.place, f"{self._path} is not on the node any more; order it again")
            case ["full", *_]:
                raise self._refusal("the disk is full; free space there: what has arrived is kept", "no_space")
            case ["refused"]:
                raise self._refused()
            case ["shorter"]:
                raise TransientError(
                    *self.place, f"{self.file} on the node is shorter than it was; ask its length again"
                )
        raise TransientError(*self.place, f"{self.file}: the node answered out of turn: {legible(' '.join(words), 80)}")

    def _refused(self) -> TransferError:
        """Give the error for a file that could not be opened; the shell's words came over stderr."""
        self._child.wait(_END_SECONDS)
        words = " ".join(self._child.complaints().split())[-300:]
        full = any(known in words for known in _FULL_WORDS)
        return self._refusal(
            f"the node cannot open it: {words or 'it is no file that we may read'}",
            "no_space" if full else "unreadable",
        )

    def _refusal(self, message: str, code: str) -> RemoteCallError:
        return RemoteCallError(*self.place, message, code, self._path)

    def _ended(self, answered: bool) -> TransferError:  # noqa: FBT001 - a callback of Dialogue
        """Give the error for an ssh that ended, or closed its pipes, before we were done."""
        what = f"moving {self.file}"
        status = self._child.wait(_END_SECONDS)
        complaints = self._child.complaints()
        if status is not None and (error := self._endpoint.error(status, complaints, what)) is not None:
            return error
        shown = " ".join(complaints.split())[-300:] or "no output"
        if answered or status is None or not 0 <= status < _SIGNALLED:
            return TransientError(*self.place, f"{what}: the program on the node ended (status {status}): {shown}")
        return RungUnusableError(*self.place, f"the node's login does not run our program (status {status}): {shown}")
