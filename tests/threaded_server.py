"""A small asyncio TCP server in a thread of its own, for tests; what it does with a connection is its subclass's."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Self

START_SECONDS = 10.0


def loopback_address() -> str:
    """Any address of the loopback network but those at its edges: two servers hardly ever meet."""
    return f"127.{random.randint(1, 254)}.{random.randint(0, 254)}.{random.randint(1, 254)}"


class ThreadedServer:
    """Started and ended by the ``with``; counts the connections that it took."""

    def __init__(self, host: str = "", port: int = 0) -> None:
        self.host, self.port = host or loopback_address(), port
        self.connections = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._transports: list[asyncio.WriteTransport] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready, self._failure = threading.Event(), ""
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Do what there is to do for one connection; it is closed afterwards."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(START_SECONDS)
        assert not self._failure, self._failure
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(START_SECONDS)
        assert not self._thread.is_alive()

    def reset(self) -> None:
        """Reset every connection that is open now (RST)."""
        self._loop.call_soon_threadsafe(self._each, abort)

    def cut(self) -> None:
        """Close every connection that is open now (FIN)."""
        self._loop.call_soon_threadsafe(self._each, asyncio.StreamWriter.close)

    def _each(self, end: Callable[[asyncio.StreamWriter], None]) -> None:
        for writer in list(self._writers):
            end(writer)

    @contextlib.contextmanager
    def holding(self, writer: asyncio.StreamWriter) -> Iterator[None]:
        """Let ``reset`` and ``cut`` reach a connection while the body runs."""
        self._writers.add(writer)
        self._transports.append(writer.transport)
        try:
            yield
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _run(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        try:
            server = await asyncio.start_server(self._accepted, self.host, self.port)
        except OSError as error:
            self._failure = str(error)
            self._ready.set()
            return
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        async with server:
            await self._ended.wait()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for transport in self._transports:
                with contextlib.suppress(AttributeError):  # one that has ended already has no loop any more
                    transport.abort()
            await asyncio.sleep(0.01)  # a transport is closed by the loop, in its next rounds

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = self._loop.create_task(self._served(self.serve(reader, writer), writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _served(self, work: Coroutine[Any, Any, None], writer: asyncio.StreamWriter) -> None:
        with self.holding(writer), contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await work


def abort(writer: asyncio.StreamWriter) -> None:
    """Close a connection with RST: what is on the way is lost."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
