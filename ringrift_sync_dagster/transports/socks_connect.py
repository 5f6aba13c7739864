"""What ssh runs as its ``ProxyCommand``: one connection through a SOCKS5 proxy of this machine, on stdin and stdout.

    python -m ringrift_sync_dagster.transports.socks_connect PROXY_PORT HOST PORT

The proxy resolves the name. It ends when either side does; exit status 1, with the reason on stderr, when there is no
connection.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Sequence
from typing import Final

import socks

LOOPBACK: Final = "127.0.0.1"
_CONNECT_SECONDS: Final = 30  # ssh's own ConnectTimeout ends it earlier
_READ_BYTES: Final = 1 << 18
_LISTENS_SECONDS: Final = 0.5
_STDIN: Final = 0
_STDOUT: Final = 1


def listens(port: int) -> bool:
    """Say whether a proxy answers on this machine; without one a node is reached as if it had none."""
    if port == 0:
        return False
    try:
        socket.create_connection((LOOPBACK, port), timeout=_LISTENS_SECONDS).close()
    except OSError:
        return False
    return True


def main(arguments: Sequence[str]) -> int:
    """Connect and pump until either side ends; give the exit status."""
    proxy_port, host, port = arguments
    try:
        connected = socks.create_connection(
            (host, int(port)), timeout=_CONNECT_SECONDS, proxy_type=socks.SOCKS5, proxy_addr=LOOPBACK,
            proxy_port=int(proxy_port), proxy_rdns=True,
        )  # fmt: skip
    except OSError as error:  # ProxyError is one
        words = f"no connection to {host} port {port} through the SOCKS proxy on port {proxy_port}: {error}"
        sys.stderr.write(f"{words}\n")
        return 1
    connected.settimeout(None)
    with connected:
        threading.Thread(target=_send, args=(connected,), name="stdin", daemon=True).start()
        with contextlib.suppress(OSError):
            while chunk := connected.recv(_READ_BYTES):
                _write(chunk)
    return 0


def _send(connected: socket.socket) -> None:
    """Send what comes from stdin; at its end the other direction ends too."""
    with contextlib.suppress(OSError):
        while chunk := os.read(_STDIN, _READ_BYTES):
            connected.sendall(chunk)
    with contextlib.suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


def _write(chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(_STDOUT, view) :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
