"""The listening socket: aiohttp's server behind a bound on connections and on the time of a TLS handshake.

aiohttp itself takes every connection. One more than allowed is closed at once, before anything is read from it. Slow
headers are bounded by aiohttp: a connection that has sent no whole request within ``keepalive_timeout`` is closed.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Final

from aiohttp import web

from ringrift_sync_dagster.agent.metrics import Metrics

_HANDSHAKE_SECONDS: Final = 10.0
_BACKLOG: Final = 256


class _Closed(asyncio.Protocol):
    """The protocol of a connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class _Site(web.BaseSite):
    """What aiohttp's runner stops when the agent ends."""

    def __init__(self, runner: web.AppRunner, server: asyncio.Server, name: str) -> None:
        super().__init__(runner)
        self._server = server
        self._name = name

    @property
    def name(self) -> str:
        """Where it listens."""
        return self._name

    async def start(self) -> None:
        """Let the runner know; the socket listens already."""
        await super().start()


class LimitedServer:
    """Takes connections for an application that was set up.

    Args:
        runner: The application.
        metrics: Counts the connections that are refused.
        connections: How many may be open.

    """

    def __init__(self, runner: web.AppRunner, metrics: Metrics, connections: int) -> None:
        self._runner = runner
        self._metrics = metrics
        self._connections = connections

    async def listen(self, host: str, port: int, context: ssl.SSLContext | None) -> socket.socket:
        """Begin to answer; give the listening socket. It is closed by the runner's ``cleanup``.

        Raises:
            OSError: The address is taken or not ours.

        """
        server = await asyncio.get_running_loop().create_server(
            self._protocol,
            host,
            port,
            ssl=context,
            ssl_handshake_timeout=_HANDSHAKE_SECONDS if context is not None else None,
            backlog=_BACKLOG,
        )
        sock: socket.socket = server.sockets[0]
        await _Site(self._runner, server, str(sock.getsockname())).start()
        return sock

    def _protocol(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        if server is None or len(server.connections) >= self._connections:
            self._metrics.refused_connections.inc()
            return _Closed()
        protocol: asyncio.BaseProtocol = server()
        return protocol
