"""A slow link: a TCP relay that forwards to a real agent and lets only so many bytes per second come back.

It shows on one machine what a long way between two machines does. A connection to an agent that is gone is closed at
once, as a dead host's network stack would do.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from types import TracebackType
from typing import Final, Self

_SLICE_SECONDS: Final = 0.02
_BUFFER_BYTES: Final = 64 * 1024
_SEGMENT_BYTES: Final = 1400  # as on an Ethernet; loopback's are 64 kB


class SlowRelay:
    """Listens on one address and forwards to another, in threads of its own.

    Args:
        listen: Address and port to listen on.
        target: Address and port of the agent.
        bytes_per_second: Rate from the agent to the caller, for each connection.

    """

    def __init__(self, listen: tuple[str, int], target: tuple[str, int], bytes_per_second: float) -> None:
        self._target = target
        self._slice = max(1, int(bytes_per_second * _SLICE_SECONDS))
        self._closed = threading.Event()
        self._open: set[socket.socket] = set()
        self._server = socket.create_server(listen)
        self._thread = threading.Thread(target=self._accept, name="relay", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._server.close()
        for one in list(self._open):
            _close(one)
        self._thread.join(timeout=5)

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                caller, _ = self._server.accept()
            except OSError:
                return
            try:
                agent = _connect(self._target)
            except OSError:
                _close(caller)
                continue
            self._open |= {caller, agent}
            threading.Thread(target=self._forward, args=(caller, agent, 1 << 16, 0.0), daemon=True).start()
            threading.Thread(
                target=self._forward, args=(agent, caller, self._slice, _SLICE_SECONDS), daemon=True
            ).start()

    def _forward(self, source: socket.socket, target: socket.socket, chunk: int, pause: float) -> None:
        """Copy until either side ends, ``chunk`` bytes at most in each ``pause`` seconds."""
        with contextlib.suppress(OSError):
            while not self._closed.is_set() and (data := source.recv(chunk)):
                target.sendall(data)
                time.sleep(pause * len(data) / chunk)
        for one in (source, target):
            self._open.discard(one)
            _close(one)


def _connect(target: tuple[str, int]) -> socket.socket:
    """Connect with small buffers: otherwise the kernel would hold megabytes that outlive a killed agent."""
    agent = socket.socket()
    agent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    agent.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT_BYTES)  # the agent's send buffer follows it
    try:
        agent.settimeout(5)
        agent.connect(target)
    except OSError:
        agent.close()
        raise
    agent.settimeout(None)
    return agent


def _close(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
