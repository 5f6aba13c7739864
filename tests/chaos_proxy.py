"""A TCP proxy with the faults of real networks, each switched on and off while connections run.

``proxy.up`` is the direction from the client to the target, ``proxy.down`` the other one; offsets count per connection.

    latency_seconds   every byte comes so much later; the rate stays
    bytes_per_second  no more than this
    trickle_seconds   one byte at a time, with this pause
    cut_after         the connection ends properly (FIN) after that many bytes
    reset_after       it is reset (RST)
    flip_at           one bit of the byte at this offset is the other one
    dead              nothing of this direction moves any more, and nobody is told: half open
    black_hole        (of the proxy) connections are taken, and nothing is ever done with them

``full_backlog`` is an address at which not even the handshake ends: SYNs are dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.threaded_server import ThreadedServer, abort, loopback_address

READ_BYTES = 1 << 16
QUEUED_CHUNKS = 16
SEND_BUFFER_BYTES = 1 << 16  # what is counted as passed on must not wait in a buffer of ours
LOOK_SECONDS = 0.01
PIECES_PER_SECOND = 100
BACKLOG_TRIES = 16


@dataclass
class Faults:
    """What happens to the bytes of one direction; ``moved`` counts those that were passed on, of all connections."""

    latency_seconds: float = 0.0
    bytes_per_second: float = 0.0
    trickle_seconds: float = 0.0
    cut_after: int | None = None
    reset_after: int | None = None
    flip_at: int | None = None
    dead: bool = False
    moved: int = 0

    def piece(self) -> int:
        """How many bytes to pass on at once."""
        if self.trickle_seconds:
            return 1
        return max(1, round(self.bytes_per_second / PIECES_PER_SECOND)) if self.bytes_per_second else READ_BYTES

    def pause(self, count: int) -> float:
        """How long the bytes take on the line."""
        if self.trickle_seconds:
            return self.trickle_seconds
        return count / self.bytes_per_second if self.bytes_per_second else 0.0

    def end(self) -> int | None:
        """After how many bytes the connection ends."""
        return min((limit for limit in (self.cut_after, self.reset_after) if limit is not None), default=None)


@dataclass
class _Line:
    """How far one direction of one connection is."""

    position: int
    free_at: float


class _EndError(Exception):
    """A direction has passed on all that it may."""

    def __init__(self, *, reset: bool) -> None:
        super().__init__(reset)
        self.reset = reset


class ChaosProxy(ThreadedServer):
    """Passes connections on to ``target``; started and ended by the ``with``."""

    def __init__(self, target: tuple[str, int], host: str = "", port: int = 0) -> None:
        super().__init__(host, port)
        self.target = target
        self.up, self.down = Faults(), Faults()
        self.black_hole = False

    def heal(self) -> None:
        """Switch every fault off; what was counted stays."""
        self.up, self.down = Faults(moved=self.up.moved), Faults(moved=self.down.moved)
        self.black_hole = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _while(lambda: self.black_hole)
        target_reader, target_writer = await asyncio.open_connection(*self.target)
        for one in (writer, target_writer):
            one.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        with self.holding(target_writer):
            pumps = [
                asyncio.create_task(self._pump(reader, target_writer, lambda: self.up)),
                asyncio.create_task(self._pump(target_reader, writer, lambda: self.down)),
            ]
            try:
                await asyncio.gather(*pumps)
            except _EndError as end:
                if end.reset:
                    abort(writer)
                    abort(target_writer)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, faults: Callable[[], Faults]
    ) -> None:
        """Pass on one direction until its end; reading runs ahead by the latency, so that the rate stays."""
        queue = asyncio.Queue[tuple[float, bytes]](QUEUED_CHUNKS)
        reading = asyncio.create_task(self._read(source, queue, faults))
        try:
            line = _Line(0, 0.0)
            while True:
                due, chunk = await queue.get()
                await asyncio.sleep(max(0.0, due - self._loop.time()))
                if not chunk:
                    break
                await self._pass_on(chunk, line, sink, faults)
            with contextlib.suppress(OSError):
                sink.write_eof()
        finally:
            reading.cancel()

    async def _read(
        self,
        source: asyncio.StreamReader,
        queue: asyncio.Queue[tuple[float, bytes]],
        faults: Callable[[], Faults],
    ) -> None:
        chunk = b"?"
        while chunk:
            await _while(lambda: faults().dead)
            try:
                chunk = await source.read(READ_BYTES)
            except OSError:
                chunk = b""
            await queue.put((self._loop.time() + faults().latency_seconds, chunk))

    async def _pass_on(
        self, chunk: bytes, line: _Line, sink: asyncio.StreamWriter, faults: Callable[[], Faults]
    ) -> None:
        """Pass on a chunk in pieces."""
        while chunk:
            await _while(lambda: faults().dead)
            now = faults()
            piece, chunk = chunk[: now.piece()], chunk[now.piece() :]
            limit = now.end()
            if limit is not None:
                piece = piece[: max(0, limit - line.position)]
            line.free_at = max(line.free_at, self._loop.time() - 2 * LOOK_SECONDS) + now.pause(len(piece))
            await asyncio.sleep(max(0.0, line.free_at - self._loop.time()))
            sink.write(_flipped(piece, line.position, now.flip_at))
            await sink.drain()
            line.position += len(piece)
            now.moved += len(piece)
            if limit is not None and line.position >= limit:
                raise _EndError(reset=limit == now.reset_after)


async def _while(condition: Callable[[], bool]) -> None:
    while condition():  # noqa: ASYNC110 - another thread switches the faults
        await asyncio.sleep(LOOK_SECONDS)


def _flipped(piece: bytes, position: int, flip_at: int | None) -> bytes:
    if flip_at is None or not position <= flip_at < position + len(piece):
        return piece
    changed = bytearray(piece)
    changed[flip_at - position] ^= 1
    return bytes(changed)


@contextlib.contextmanager
def full_backlog() -> Iterator[tuple[str, int]]:
    """An address whose queue of connections is full, so that the next ones are neither taken nor refused."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((loopback_address(), 0))
        listener.listen(0)
        place = listener.getsockname()
        for _ in range(BACKLOG_TRIES):
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0.2)
            try:
                waiting.connect(place)
            except TimeoutError:
                yield place
                return
    raise AssertionError("the queue of connections did not become full")
