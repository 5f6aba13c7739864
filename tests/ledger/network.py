"""Relays in front of those who take packs, which know whose connection is which: each node can be cut off by itself.

Which node a connection comes from, the kernel tells: the socket at its other end belongs to one of the agents.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.chaos_proxy import LOOK_SECONDS, ChaosProxy, Faults
from tests.threaded_server import abort


class Relay(ChaosProxy):
    """Passes connections on to one receiver.

    Args:
        target: Its address.
        host: Where the relay listens, at the receiver's own port.
        agents: Gives the name of each agent by its pid, as of now.

    """

    def __init__(self, target: tuple[str, int], host: str, agents: Callable[[], Mapping[int, str]]) -> None:
        super().__init__(target, host, target[1])
        self._agents = agents
        self._faults: dict[str, Faults] = {}

    def cut(self, node: str) -> None:  # type: ignore[override] # of one node, and half open: nobody is told
        """Let nothing of a node pass any more, in either direction; its connections stand still."""
        self._of(node).dead = True

    def mend(self, node: str) -> None:
        """Let what stood still go on."""
        self._of(node).dead = False

    def is_cut(self, node: str) -> bool:
        """Whether nothing of the node passes."""
        return self._of(node).dead

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one connection on, under the faults of the node that it comes from."""
        node = await asyncio.to_thread(client, writer.get_extra_info("peername"), self._agents())
        faults = self._of(node)
        while faults.dead:  # noqa: ASYNC110 - another thread switches the faults
            await asyncio.sleep(LOOK_SECONDS)
        try:
            target_reader, target_writer = await asyncio.open_connection(*self.target)
        except OSError:
            abort(writer)  # as the receiver's own kernel refuses
            return
        with self.holding(target_writer):
            pumps = [
                asyncio.create_task(self._pump(reader, target_writer, lambda: faults)),
                asyncio.create_task(self._pump(target_reader, writer, lambda: faults)),
            ]
            try:
                await asyncio.gather(*pumps)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)

    def _of(self, node: str) -> Faults:
        return self._faults.setdefault(node, Faults())


def client(address: tuple[str, int], agents: Mapping[int, str]) -> str:
    """Say which agent has the socket with this address; nothing where none has it."""
    host = struct.unpack("=I", socket.inet_aton(address[0]))[0]
    local = f"{host:08X}:{address[1]:04X}"
    lines = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines())
    sockets = {f"socket:[{fields[9]}]" for fields in lines if fields[1] == local}
    for pid, node in agents.items():
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(link.readlink()) in sockets:
                        return node
    return ""
