"""A small HTTP server that misbehaves on purpose, on a real socket; each answer is raw bytes that a test wrote."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Self

Answer = Callable[[socket.socket, bytes], None]


class BadServer:
    """Gives the answers in turn, one per connection; the last one again and again. ``requests`` has what was asked."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self.requests: list[bytes] = []

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
            self._start(partial(self._serve, connection, answer))

    def _serve(self, connection: socket.socket, answer: Answer) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(10)
            request = b""
            while b"\r\n\r\n" not in request and (chunk := connection.recv(65536)):
                request += chunk
            self.requests.append(request)
            answer(connection, request)
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass


def raw(text: str, body: bytes = b"") -> Answer:
    """Send a head (lines) and a body, then close."""
    head = text.strip().replace("\n", "\r\n").encode() + b"\r\n\r\n"
    return lambda connection, _request: connection.sendall(head + body)


def silent_after(text: str, body: bytes, seconds: float) -> Answer:
    """Send a head and a part of the body, then nothing for a while."""

    def answer(connection: socket.socket, request: bytes) -> None:
        raw(text, body)(connection, request)
        time.sleep(seconds)

    return answer


def trickle(text: str, body: bytes, pause: float) -> Answer:
    """Send a head, and the body byte by byte."""

    def answer(connection: socket.socket, request: bytes) -> None:
        raw(text)(connection, request)
        _one_by_one(connection, body, pause)

    return answer


def trickling_head(text: str, body: bytes, pause: float) -> Answer:
    """Send everything byte by byte, the head too."""
    head = text.strip().replace("\n", "\r\n").encode() + b"\r\n\r\n"
    return lambda connection, _request: _one_by_one(connection, head + body, pause)


def _one_by_one(connection: socket.socket, data: bytes, pause: float) -> None:
    with contextlib.suppress(OSError):
        for byte in data:
            connection.sendall(bytes([byte]))
            time.sleep(pause)


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """A port at which nothing listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
