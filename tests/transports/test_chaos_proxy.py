"""The chaos proxy does what its faults are called, so that tests which use it prove something."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from tests.chaos_proxy import ChaosProxy, full_backlog

DATA = bytes(range(256)) * 4096  # 1 MiB


class Echo:
    """Sends back what it gets, connection by connection; ``ended`` counts connections whose end it saw."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self.ended = 0

    @property
    def place(self) -> tuple[str, int]:
        host, port = self._listener.getsockname()
        return str(host), int(port)

    def accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(20)
        with connection:
            try:
                while chunk := connection.recv(65536):
                    connection.sendall(chunk)
            except OSError:
                pass
        self.ended += 1


@pytest.fixture(scope="module")
def echo() -> Iterator[Echo]:
    server = Echo()
    thread = threading.Thread(target=server.accept, daemon=True)
    thread.start()
    yield server
    server.close()
    thread.join(5)


@pytest.fixture
def proxy(echo: Echo) -> Iterator[ChaosProxy]:
    with ChaosProxy(echo.place) as opened:
        yield opened


def dial(proxy: ChaosProxy, seconds: float = 10.0) -> socket.socket:
    return socket.create_connection((proxy.host, proxy.port), timeout=seconds)


def echoed(proxy: ChaosProxy, data: bytes) -> bytes:
    """Send, say that it is all, and give what comes back until the end."""
    with dial(proxy) as connection:
        sender = threading.Thread(target=_send_all, args=(connection, data))
        sender.start()
        got = b"".join(iter(lambda: connection.recv(65536), b""))
        sender.join(10)
    return got


def _send_all(connection: socket.socket, data: bytes) -> None:
    try:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        return


def test_without_a_fault_all_bytes_pass_and_are_counted(proxy: ChaosProxy) -> None:
    assert proxy.host.startswith("127.")
    assert echoed(proxy, DATA) == DATA
    assert echoed(proxy, b"x") == b"x"
    assert proxy.connections == 2
    assert proxy.up.moved == proxy.down.moved == len(DATA) + 1


def test_latency_delays_each_direction_and_leaves_the_rate_alone(proxy: ChaosProxy) -> None:
    proxy.up.latency_seconds = proxy.down.latency_seconds = 0.15
    started = time.monotonic()
    assert echoed(proxy, DATA) == DATA
    assert 0.3 <= time.monotonic() - started < 1.0


def test_a_rate_holds_within_a_few_percent(proxy: ChaosProxy) -> None:
    proxy.down.bytes_per_second = 1_000_000
    started = time.monotonic()
    assert echoed(proxy, DATA) == DATA
    assert time.monotonic() - started == pytest.approx(len(DATA) / 1_000_000, rel=0.07)


def test_a_trickle_gives_single_bytes(proxy: ChaosProxy) -> None:
    proxy.down.trickle_seconds = 0.02
    with dial(proxy) as connection:
        connection.sendall(b"abcdef")
        assert connection.recv(100) == b"a"
        assert connection.recv(100) == b"b"


def test_a_cut_ends_the_connection_after_exactly_so_many_bytes(proxy: ChaosProxy) -> None:
    proxy.down.cut_after = 12345
    assert echoed(proxy, DATA[:20000]) == DATA[:12345]


def test_a_reset_is_a_reset(proxy: ChaosProxy) -> None:
    proxy.down.reset_after = 1
    with dial(proxy) as connection:
        connection.sendall(b"abc")
        with pytest.raises(ConnectionResetError):
            list(iter(lambda: connection.recv(100), b""))


def test_one_bit_of_one_byte_is_flipped(proxy: ChaosProxy) -> None:
    proxy.up.flip_at = 70_000
    got = echoed(proxy, DATA)
    assert [index for index, (sent, back) in enumerate(zip(DATA, got, strict=True)) if sent != back] == [70_000]
    assert got[70_000] ^ DATA[70_000] == 1


def test_a_black_hole_takes_connections_and_says_nothing_until_it_is_healed(proxy: ChaosProxy) -> None:
    proxy.black_hole = True
    with dial(proxy, 0.3) as connection:
        connection.sendall(b"hello")
        with pytest.raises(TimeoutError):
            connection.recv(1)
        proxy.heal()
        connection.settimeout(5)
        assert connection.recv(5) == b"hello"


def test_half_open_is_dead_in_one_direction_only(proxy: ChaosProxy) -> None:
    with dial(proxy) as connection:
        connection.sendall(b"one")
        assert connection.recv(3) == b"one"
        before = proxy.up.moved
        proxy.down.dead = True
        connection.sendall(b"two")
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        assert proxy.up.moved == before + 3
        proxy.heal()
        connection.settimeout(5)
        assert connection.recv(3) == b"two"


def test_open_connections_are_reset_or_cut_when_asked(proxy: ChaosProxy) -> None:
    with dial(proxy) as first:
        first.sendall(b"a")
        assert first.recv(1) == b"a"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            first.recv(1)
    with dial(proxy) as second:
        second.sendall(b"a")
        assert second.recv(1) == b"a"
        proxy.cut()
        assert second.recv(1) == b""


def test_at_a_full_backlog_not_even_the_handshake_ends() -> None:
    with full_backlog() as place, socket.socket() as client:
        client.settimeout(0.5)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with pytest.raises(TimeoutError):
            client.connect(place)


def test_when_the_proxy_ends_its_connections_end(echo: Echo) -> None:
    with ChaosProxy(echo.place) as proxy:
        connection = dial(proxy)
        connection.sendall(b"a")
        assert connection.recv(1) == b"a"
    with connection:
        assert connection.recv(1) == b""
