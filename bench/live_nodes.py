"""Many nodes that live and have nothing new: one small HTTP server that answers on many loopback addresses."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from aiohttp import web

from bench.harness import CannotMeasureError
from bench.peers import free_port

_READY_SECONDS: Final = 15.0


@contextmanager
def live_nodes(names: Mapping[str, str]) -> Iterator[int]:
    """Serve ``/health`` and an empty manifest; give the port, which is the same at all addresses.

    Args:
        names: Name of the node at each address.

    Raises:
        CannotMeasureError: The addresses cannot be had.

    """
    server = _Server(names, free_port(next(iter(names))))
    thread = threading.Thread(target=lambda: asyncio.run(server.run()), name="live-nodes", daemon=True)
    thread.start()
    if not server.ready.wait(_READY_SECONDS) or server.failure:
        raise CannotMeasureError(f"the live nodes do not answer: {server.failure or 'no word'}")
    try:
        yield server.port
    finally:
        server.end()
        thread.join(_READY_SECONDS)


class _Server:
    def __init__(self, names: Mapping[str, str], port: int) -> None:
        self.port, self.failure, self.ready = port, "", threading.Event()
        self._names = names
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event | None = None

    async def run(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application()
        app.add_routes([web.get("/health", self._health), web.get("/v1/manifest", _manifest)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            for address in self._names:
                await web.TCPSite(runner, address, self.port).start()
            self.ready.set()
            await self._ended.wait()
        except OSError as error:
            self.failure = str(error)
            self.ready.set()
        finally:
            await runner.cleanup()

    def end(self) -> None:
        if self._loop is not None and self._ended is not None:
            self._loop.call_soon_threadsafe(self._ended.set)

    async def _health(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        address = request.transport.get_extra_info("sockname")[0]
        return web.json_response({"status": "up", "version": "bench", "node_id": self._names[address]})


async def _manifest(request: web.Request) -> web.Response:
    return web.json_response({"token": "1", "full": "since" not in request.query, "entries": [], "removed": []})
