"""The base64 rung: bytes as text through a shell, for nodes where rsync, scp and sftp are all refused.

One system ssh per transfer runs a small program on the node (``base64_node``). Bytes travel in frames, each with the
SHA-256 of its bytes; a frame counts once that was compared at its receiving end, and one that came wrong is moved
again, at most three times in all. The next frame is under way while the last one is being checked. A killed process
loses at most the frames that were on the way.
"""

from __future__ import annotations

import binascii
import contextlib
import hashlib
from collections import deque
from collections.abc import Iterator
from typing import Final

from ringrift_sync_dagster.errors import SourceChangedError, TransferError
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.transports import process
from ringrift_sync_dagster.transports.base64_node import BLOCK_BYTES, TEXT_BLOCK_BYTES, fetch_command, push_command
from ringrift_sync_dagster.transports.base64_talk import FRAME_BYTES, Frame, Talk
from ringrift_sync_dagster.transports.carriers import Effort, RemoteFile
from ringrift_sync_dagster.transports.frames import new_mark
from ringrift_sync_dagster.transports.partial import PartFile
from ringrift_sync_dagster.transports.source_file import SourceFile
from ringrift_sync_dagster.transports.ssh import SshEndpoint, SshSettings
from ringrift_sync_dagster.transports.ssh_link import SshLink
from ringrift_sync_dagster.transports.ssh_node import SshNode
from ringrift_sync_dagster.transports.ssh_transport import SshTransport

NAME: Final = "base64"
NEEDS: Final = ("base64", "dd", "sha256sum")
"""What the node must have, beside a shell."""

_CLOSE_SECONDS: Final = 2.0
_AHEAD: Final = 2  # frames that are asked for, or sent, and not yet answered
_WRITE_BYTES: Final = 512 << 10


def base64_transport(node: Node, settings: SshSettings) -> SshTransport:
    """Give the base64 rung to a node.

    Args:
        node: The node.
        settings: This machine's side of SSH, with the limits of this rung.

    """
    endpoint = SshEndpoint(node, settings, NAME)
    return SshTransport(SshNode(SshLink(endpoint)), Base64Carrier(endpoint), NEEDS)


class Base64Carrier:
    """Moves bytes to and from one node as base64 text; safe in several threads.

    Args:
        endpoint: The way there; its settings hold the limits of this rung.

    """

    def __init__(self, endpoint: SshEndpoint) -> None:
        self._endpoint = endpoint
        self._connected = False

    @property
    def name(self) -> str:
        """The rung's name."""
        return NAME

    def fetch(self, remote: RemoteFile, part: PartFile, effort: Effort) -> int:
        """Append what the part lacks, frame by frame; give the bytes moved, those of damaged frames included.

        Raises:
            ArtifactGoneError: The file is not there.
            SourceChangedError: It is not as long as promised.
            TransientError: The connection broke, or one frame came damaged three times.
            RungUnusableError: The node lacks a program, or runs no shell for us.
            TransferError: By what to do next; frames that came before are in the part.

        """
        if part.received >= remote.size_bytes:
            return 0
        mark = new_mark()
        with self._talk(fetch_command(mark, remote.path), mark, effort, remote.path, fetching=True) as talk:
            return _Fetch(talk, remote, part).run()

    def push(self, body: SourceFile, remote_part: str, start: int, effort: Effort) -> int:
        """Append the body from ``start`` on, frame by frame; give the bytes moved, those of damaged frames included.

        Raises:
            RemoteCallError: The node's disk is full (``no_space``), or the file cannot be written there.
            SourceChangedError: The body is not what it was any more.
            TransientError: The connection broke, or one frame arrived damaged three times.
            RungUnusableError: The node lacks a program, or runs no shell for us.
            TransferError: By what to do next; frames that arrived before are in the part.

        """
        mark = new_mark()
        with self._talk(push_command(mark, remote_part, start), mark, effort, remote_part, fetching=False) as talk:
            return _Push(talk, body, start).run()

    def close(self) -> None:
        """Let the shared connection end as soon as no transfer uses it. Idempotent."""
        if not self._connected:
            return
        deadline = Deadline(_CLOSE_SECONDS)
        with contextlib.suppress(TransferError):
            process.run(self._endpoint.close_shared(deadline), deadline=deadline)

    @contextlib.contextmanager
    def _talk(self, command: str, mark: str, effort: Effort, path: str, *, fetching: bool) -> Iterator[Talk]:
        """Start the program on the node and hear that it is ready; it ends with the body."""
        arguments = [*self._endpoint.arguments(effort.deadline), "--", command]
        self._connected = True
        with process.started(arguments, stdin=process.PIPE, stdout=process.PIPE) as child:
            talk = Talk(self._endpoint, child, mark, effort, path, fetching=fetching)
            talk.greet()
            yield talk


class _Fetch:
    """Frames from the node, in order; what is wrong is asked again, and so is everything behind it.

    Args:
        talk: The conversation.
        remote: The file there.
        part: Where the bytes go.

    """

    def __init__(self, talk: Talk, remote: RemoteFile, part: PartFile) -> None:
        self._talk = talk
        self._size = remote.size_bytes
        self._part = part
        self._waiting: deque[Frame] = deque()

    def run(self) -> int:
        """Fetch what is missing; give the bytes moved."""
        moved = 0
        while self._part.received < self._size:
            self._ask_ahead()
            frame = self._waiting.popleft()
            data = self._receive(frame)
            moved += frame.end - frame.start
            if data is None:
                self._talk.damaged(frame)
                self._pass_over()
            else:
                self._keep(data)
        return moved

    def _ask_ahead(self) -> None:
        while len(self._waiting) < _AHEAD:
            start = self._waiting[-1].end if self._waiting else self._part.received
            if start == self._size:
                return
            frame = Frame(start, min(start + FRAME_BYTES, self._size))
            blocks = -(-(frame.end - start) // BLOCK_BYTES)
            self._talk.send(f"{start} {blocks} {frame.end}\n".encode("ascii"))
            self._waiting.append(frame)

    def _receive(self, frame: Frame) -> bytes | None:
        """Give the bytes of a frame; None when they are not what the node read.

        Raises:
            SourceChangedError: They are right, and more or fewer than there should be.

        """
        text, words = self._talk.receive("frame")
        try:
            data = binascii.a2b_base64(text)
        except binascii.Error:
            return None
        if words[1:] != [str(frame.start), hashlib.sha256(data).hexdigest()]:
            return None
        if len(data) != frame.end - frame.start:
            kind = "shorter" if len(data) < frame.end - frame.start else "longer"
            message = f"{self._talk.file} is {kind} than the {self._size} bytes that were promised: it changed"
            raise SourceChangedError(*self._talk.place, message)
        return data

    def _keep(self, data: bytes) -> None:
        # In pieces: the thread that hashes them holds some, and memory stays small.
        for at in range(0, len(data), _WRITE_BYTES):
            self._part.write(data[at : at + _WRITE_BYTES])
        self._talk.arrived(self._part.received)

    def _pass_over(self) -> None:
        """Leave what was asked ahead: it cannot be appended."""
        for _ in self._waiting:
            self._talk.receive("frame")
        self._waiting.clear()


class _Push:
    """Frames to the node, in order; after one that arrived damaged the node skips the others until it comes again.

    Args:
        talk: The conversation.
        body: What to send.
        start: What the node has.

    """

    def __init__(self, talk: Talk, body: SourceFile, start: int) -> None:
        self._talk = talk
        self._body = body
        self._kept = start
        self._waiting: deque[Frame] = deque()

    def run(self) -> int:
        """Send what the node lacks; give the bytes moved."""
        moved = 0
        frames = self._frames()
        while True:
            while len(self._waiting) < _AHEAD and (data := next(frames, None)) is not None:
                self._send(data)
                moved += len(data)
            if not self._waiting:
                return moved
            words = self._answer("kept", "bad")
            frame = self._waiting.popleft()
            if words == ["kept", str(frame.start)]:
                self._kept = frame.end
                self._talk.arrived(frame.end)
            else:
                self._talk.damaged(frame)
                self._pass_over()
                frames = self._frames()

    def _frames(self) -> Iterator[bytes]:
        """Give what the node has not kept, in frames; the body's pieces are smaller."""
        gathered = bytearray()
        for piece in self._body.begin(self._kept):
            gathered += piece
            while len(gathered) >= FRAME_BYTES:
                yield bytes(gathered[:FRAME_BYTES])
                del gathered[:FRAME_BYTES]
        if gathered:
            yield bytes(gathered)

    def _send(self, data: bytes) -> None:
        start = self._waiting[-1].end if self._waiting else self._kept
        frame = Frame(start, start + len(data))
        text = binascii.b2a_base64(data, newline=False)
        blocks = -(-len(text) // TEXT_BLOCK_BYTES)
        length = blocks * TEXT_BLOCK_BYTES
        digest = hashlib.sha256(data).hexdigest()
        request = f"{start} {blocks} {length} {frame.end} {digest}\n".encode("ascii")
        self._talk.send(b"".join((request, text.ljust(length, b"\n"), b"end\n")))
        self._waiting.append(frame)

    def _answer(self, *expected: str) -> list[str]:
        unconfirmed = self._waiting[-1].end - self._kept
        return self._talk.receive(*expected, on_the_way=unconfirmed * 4 // 3)[1]

    def _pass_over(self) -> None:
        while self._waiting:
            self._answer("skipped")
            self._waiting.popleft()
