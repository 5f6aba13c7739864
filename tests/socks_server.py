"""A small real SOCKS5 server for tests (RFC 1928, CONNECT without a password); remembers what it was asked for."""

from __future__ import annotations

import asyncio
import socket
import struct

from tests.threaded_server import ThreadedServer

READ_BYTES = 1 << 16
IPV4, NAME, IPV6 = 1, 3, 4
GRANTED, REFUSED = 0, 5


class SocksServer(ThreadedServer):
    """Listens on 127.0.0.1, because that is where a node's proxy is looked for.

    ``asked``: host and port of each request, in order. ``aliases``: where a host is really connected to.
    """

    def __init__(self, aliases: dict[str, str] | None = None) -> None:
        super().__init__("127.0.0.1")
        self.aliases = aliases or {}
        self.asked: list[tuple[str, int]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, methods = await reader.readexactly(2)
        await reader.readexactly(methods)
        writer.write(b"\x05\x00")
        host, port = await self._request(reader)
        self.asked.append((host, port))
        try:
            target_reader, target_writer = await asyncio.open_connection(self.aliases.get(host, host), port)
        except OSError:
            writer.write(_answer(REFUSED))
            await writer.drain()
            return
        writer.write(_answer(GRANTED))
        with self.holding(target_writer):
            await asyncio.gather(_pump(reader, target_writer), _pump(target_reader, writer))

    async def _request(self, reader: asyncio.StreamReader) -> tuple[str, int]:
        _, _, _, kind = await reader.readexactly(4)
        if kind == NAME:
            host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        else:
            family, length = (socket.AF_INET, 4) if kind == IPV4 else (socket.AF_INET6, 16)
            host = socket.inet_ntop(family, await reader.readexactly(length))
        return host, struct.unpack("!H", await reader.readexactly(2))[0]


def _answer(code: int) -> bytes:
    return bytes([5, code, 0, IPV4]) + bytes(6)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while chunk := await source.read(READ_BYTES):
            sink.write(chunk)
            await sink.drain()
    finally:
        sink.close()
