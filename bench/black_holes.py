"""Addresses from which nothing comes back: dead hosts drop SYNs, silent ones take every connection.

A queue of connections that is full drops the next SYN, as a firewall or a host that is off does; a queue in which there
is room shakes hands, and then nobody reads or answers.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from bench.harness import CannotMeasureError

_FILL_TRIES: Final = 16
_FILL_SECONDS: Final = 0.2
_QUEUE: Final = 128


@contextmanager
def dropping(address: str) -> Iterator[int]:
    """Give a port of the address at which not even the handshake ends.

    Raises:
        CannotMeasureError: This system takes connections all the same.

    """
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((address, 0))
        listener.listen(0)
        for _ in range(_FILL_TRIES):
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(_FILL_SECONDS)
            try:
                waiting.connect(listener.getsockname())
            except TimeoutError:
                yield int(listener.getsockname()[1])
                return
    raise CannotMeasureError("a queue of connections does not become full here, so that no host can be dead")


@contextmanager
def silent(address: str) -> Iterator[int]:
    """Give a port of the address at which connections are made, and nothing is ever said."""
    with socket.socket() as listener:
        listener.bind((address, 0))
        listener.listen(_QUEUE)
        yield int(listener.getsockname()[1])
