"""A conversation over the pipes of a program: what we ask goes out, marked answers come in, and waiting can be ended.

Every answer ends with one line ``#<mark> <words>``; the text before it belongs to it. The mark is made anew for each
conversation, and neither base64 nor the greeting of a login can contain it. Memory is bounded by the longest answer
that is allowed. Deadline and cancel are seen within 0.1 s; waiting for the pacer is no silence.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import select
from collections.abc import Callable
from typing import Final

from ringrift_sync_dagster.errors import StallError, TransferCancelledError, TransferError, TransientError
from ringrift_sync_dagster.settings.clock import monotonic
from ringrift_sync_dagster.transports.carriers import Effort
from ringrift_sync_dagster.transports.pacing import piece_bytes
from ringrift_sync_dagster.transports.process import Child

_LOOK_SECONDS: Final = 0.1
_PIPE_BYTES: Final = 1 << 20  # as much as an unprivileged user may ask for on Linux
_PIECE_BYTES: Final = 256 << 10
_SET_PIPE_SIZE: Final = getattr(fcntl, "F_SETPIPE_SZ", None)  # Linux only; elsewhere pipes keep their size


def new_mark() -> str:
    """Give the beginning of the lines that end an answer."""
    return f"#{secrets.token_hex(12)}"


class Dialogue:
    """A conversation with a running program, in one thread.

    Args:
        child: The program; started with pipes.
        mark: What its last line of an answer begins with.
        longest: Bytes that an answer may have.
        effort: Deadline, cancel and pacer.
        place: Node and transport, for messages.
        ended: Gives the error for a program that ended or closed its pipes, told whether it answered before.
        pace_reading: Ask the pacer for what is read; else for what is sent.

    """

    def __init__(
        self,
        child: Child,
        mark: str,
        longest: int,
        effort: Effort,
        place: tuple[str, str],
        ended: Callable[[bool], TransferError],
        *,
        pace_reading: bool,
    ) -> None:
        self._in, self._out = child.stdout.fileno(), child.stdin.fileno()
        self._mark = mark.encode("ascii")
        self._effort = effort
        self._place = place
        self._ended = ended
        self._pace_reading = pace_reading
        self._answered = False
        self._inbox = bytearray(longest + _PIECE_BYTES)
        self._begin = self._end = self._looked = 0
        self._heard = monotonic()
        self._credit = 0  # what the pacer granted and was not read yet
        for descriptor in (self._in, self._out):
            os.set_blocking(descriptor, False)
            if _SET_PIPE_SIZE is not None:
                with contextlib.suppress(OSError):  # the user's pipes may hold too much already
                    fcntl.fcntl(descriptor, _SET_PIPE_SIZE, _PIPE_BYTES)

    def send(self, data: bytes, silence: float) -> None:
        """Send everything; answers that come meanwhile are kept.

        Args:
            data: What to send.
            silence: Longest time in seconds without a byte in any direction.

        Raises:
            TransferError: It took too long, was cancelled, or the program ended.

        """
        view = memoryview(data)
        while view:
            piece = view if self._pace_reading else view[: self._take(len(view))]
            view = view[len(piece) :]
            while piece:
                piece = piece[self._turn(piece, silence) :]

    def receive(self, silence: float) -> tuple[memoryview, list[str]]:
        """Wait for the next answer; give the text before its last line, and the words of that line.

        The text is valid until the next call. Arguments and errors are those of ``send``.
        """
        self._compact()
        while (found := self._found()) is None:
            self._turn(memoryview(b""), silence)
        return found

    def _take(self, left: int) -> int:
        """Wait until the pacer lets the next piece go; give its length."""
        pacer = self._effort.pacer
        if pacer is None:
            return min(left, _PIECE_BYTES)
        count = min(left, piece_bytes(pacer.rate, _PIECE_BYTES))
        pacer.take(count, deadline=self._effort.deadline, cancel=self._effort.cancel)
        self._heard = monotonic()
        self._check()
        return count

    def _check(self) -> None:
        if self._effort.cancel is not None and self._effort.cancel.is_set():
            raise TransferCancelledError(*self._place, "the transfer was stopped because we were asked to")
        self._effort.deadline.check(*self._place, "the transfer")

    def _turn(self, waiting: memoryview, silence: float) -> int:
        """Read and write what can be, or wait a moment; give how many bytes of ``waiting`` went out."""
        self._check()
        poller = select.poll()
        poller.register(self._in, select.POLLIN)
        if waiting:
            poller.register(self._out, select.POLLOUT)
        ready = [descriptor for descriptor, _ in poller.poll(self._effort.deadline.at_most(_LOOK_SECONDS) * 1000)]
        if ready:
            self._heard = monotonic()
        elif monotonic() - self._heard > silence:
            raise StallError(*self._place, f"no byte came for {silence:.0f} s; what has arrived is kept")
        if self._in in ready:
            self._read()
        return self._write(waiting) if self._out in ready else 0

    def _read(self) -> None:
        room = len(self._inbox) - self._end
        if not room:
            raise TransientError(*self._place, "the node says more than it was asked for")
        if self._pace_reading and not self._credit:
            self._credit = self._take(_PIECE_BYTES)
        count = min(room, self._credit) if self._pace_reading else room
        with memoryview(self._inbox) as inbox:
            got = os.readv(self._in, [inbox[self._end : self._end + count]])
        if not got:
            raise self._ended(self._answered)
        self._end += got
        self._credit -= got if self._pace_reading else 0

    def _write(self, waiting: memoryview) -> int:
        try:
            return os.write(self._out, waiting)
        except BlockingIOError:  # less room than one atomic write needs
            return 0
        except BrokenPipeError:
            raise self._ended(self._answered) from None

    def _found(self) -> tuple[memoryview, list[str]] | None:
        place = self._inbox.find(self._mark, self._looked, self._end)
        if place < 0:
            self._looked = max(self._begin, self._end - len(self._mark))
            return None
        self._looked = place
        stop = self._inbox.find(b"\n", place, self._end)
        if stop < 0:
            return None
        text = memoryview(self._inbox)[self._begin : place].toreadonly()
        words = self._inbox[place + len(self._mark) : stop].decode("ascii", "replace").split()
        self._begin = self._looked = stop + 1
        self._answered = True
        return text, words

    def _compact(self) -> None:
        """Move what was read ahead to the front; it is less than one piece."""
        if self._begin:
            ahead = self._inbox[self._begin : self._end]
            self._inbox[: len(ahead)] = ahead
            self._begin, self._end, self._looked = 0, len(ahead), 0
