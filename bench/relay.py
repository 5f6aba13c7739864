"""A TCP relay that counts: how many bytes went through, both ways, headers of TCP and IP not included.

All contenders go through one, so that their bytes are counted alike, the handshake of SSH too.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Final, Self

_CHUNK_BYTES: Final = 1 << 18


class CountingRelay:
    """Listens on a free port of ``listen`` (or a given one) and forwards to the target.

    Args:
        listen: Address and port to listen on; port 0 takes a free one.
        target: Address and port to forward to.

    """

    def __init__(self, listen: tuple[str, int], target: tuple[str, int]) -> None:
        self._target = target
        self._server = socket.create_server(listen)
        self.port: int = self._server.getsockname()[1]
        self._lock = threading.Lock()
        self._bytes = 0
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, name="counting-relay", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._server.close()
        for one in list(self._open):
            _close(one)
        self._thread.join(timeout=5)

    def take(self) -> int:
        """Give the bytes counted since the last call, and begin at 0 again."""
        with self._lock:
            count, self._bytes = self._bytes, 0
        return count

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._server.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target, timeout=5)
            except OSError:
                _close(caller)
                continue
            server.settimeout(None)
            self._open |= {caller, server}
            for pair in ((caller, server), (server, caller)):
                pair[0].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._forward, args=pair, daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        """Copy one direction to its end; the other direction may go on."""
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK_BYTES):
                with self._lock:
                    self._bytes += len(data)
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def _close(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
