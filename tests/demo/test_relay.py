"""The slow link forwards every byte, not faster than it says, and closes when the other side is gone."""

import socket
import threading
import time

from ringrift_sync_dagster.demo.relay import SlowRelay

ADDRESS = "127.0.0.1"


def serve(data: bytes) -> tuple[socket.socket, threading.Thread]:
    """A server that answers one line with ``data``."""
    server = socket.create_server((ADDRESS, 0))

    def answer() -> None:
        with server, server.accept()[0] as caller:
            caller.recv(100)
            caller.sendall(data)

    thread = threading.Thread(target=answer)
    thread.start()
    return server, thread


def free_port() -> int:
    with socket.create_server((ADDRESS, 0)) as probe:
        return int(probe.getsockname()[1])


def test_all_bytes_come_through_at_about_the_given_rate() -> None:
    data = bytes(range(256)) * 1000
    server, thread = serve(data)
    port = free_port()
    began = time.monotonic()
    with SlowRelay((ADDRESS, port), server.getsockname(), 512_000), socket.create_connection((ADDRESS, port)) as caller:
        caller.sendall(b"please\n")
        received = b"".join(iter(lambda: caller.recv(1 << 16), b""))
    thread.join()

    assert received == data
    assert time.monotonic() - began > 0.4


def test_a_connection_to_an_agent_that_is_gone_is_closed_at_once() -> None:
    port = free_port()
    with (
        SlowRelay((ADDRESS, port), (ADDRESS, free_port()), 1000),
        socket.create_connection((ADDRESS, port), 5) as caller,
    ):
        assert caller.recv(10) == b""
