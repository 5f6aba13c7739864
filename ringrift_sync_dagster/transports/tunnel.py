"""The tunnel to an agent that only SSH can reach: ``ssh -L`` from a free port of our loopback to the agent's port.

It is started when it is first needed and ends with whoever holds it, by ``kill -9`` too: ssh runs a command on the node
that ends when its standard input does, and the other end of that pipe is ours. A shared connection would outlive us, so
none is used. The port is ours as long as ssh lives, because ssh holds it; a dead one is started anew before it is used.
"""

from __future__ import annotations

import os
import secrets
import selectors
import socket
import threading
from contextlib import ExitStack
from typing import Final

from ringrift_sync_dagster.errors import (
    DeadlineExceededError,
    RungUnusableError,
    StallError,
    TransferError,
    TransientError,
    UnreachableError,
)
from ringrift_sync_dagster.settings.clock import Deadline, monotonic
from ringrift_sync_dagster.transports.process import PIPE, Child, started
from ringrift_sync_dagster.transports.ssh import SshEndpoint

LOOPBACK: Final = "127.0.0.1"
_PORT_TRIES: Final = 3
_READ_BYTES: Final = 4096
_BANNER_MAX_BYTES: Final = 1 << 20
_LOOK_SECONDS: Final = 0.05
_COMPLAINT_SECONDS: Final = 0.3
# What ssh says of the port here, and of each connection that the node did not make for us.
_PORT_TAKEN: Final = ("could not request local forwarding", "address already in use", "cannot listen to port")
_REFUSED: Final = "open failed: connect failed"
_FORBIDDEN: Final = "open failed: administratively prohibited"


class Tunnel:
    """A way through SSH to the agent of one node; safe in several threads.

    Args:
        endpoint: The way to its sshd; the tunnel leads to ``agent_port`` of the node's own loopback.

    """

    def __init__(self, endpoint: SshEndpoint) -> None:
        self.endpoint = endpoint
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._child: Child | None = None
        self._port = 0
        self._where = ""
        self._generation = 0

    @property
    def where(self) -> str:
        """The sshd that it goes through, for people; empty before it was ever open."""
        return self._where

    @property
    def generation(self) -> int:
        """How often it was started; another number means another ssh, which may have led elsewhere."""
        return self._generation

    def open(self, deadline: Deadline) -> int:
        """Give the port on 127.0.0.1 that leads to the agent; starts ssh when it does not run.

        Raises:
            UnreachableError: No sshd answers.
            AuthenticationError: It refuses our key, or its own key is not the known one.
            RungUnusableError: There is no ssh here, or the node runs no command.
            TransferError: Otherwise, by what to do next.

        """
        endpoint = self.endpoint
        if not self._lock.acquire(timeout=deadline.remaining()):
            message = f"the tunnel was not open within {deadline.seconds:.1f} s"
            raise DeadlineExceededError(endpoint.node.name, endpoint.transport, message)
        try:
            if self._child is None or self._child.status is not None:
                self._stack.close()
                self._start(deadline)
            return self._port
        finally:
            self._lock.release()

    def close(self) -> None:
        """End ssh. Idempotent; the next use starts it again."""
        with self._lock:
            self._child = None
            self._stack.close()

    def refusals(self) -> int:
        """Count the connections that ssh said it could not make on the node's side."""
        child = self._child
        return 0 if child is None else child.complaints().count("open failed:")

    def refusal(self, known: int) -> RungUnusableError | None:
        """Give the error for a connection that ended without an answer, when the node's side did not make it.

        Args:
            known: ``refusals`` before the connection.

        """
        child, limit = self._child, monotonic() + _COMPLAINT_SECONDS
        while child is not None and monotonic() < limit:
            said = child.complaints()
            if said.count("open failed:") > known:
                return self._refusal(said[said.rindex("open failed:") :])
            threading.Event().wait(_LOOK_SECONDS)
        return None

    def _refusal(self, said: str) -> RungUnusableError:
        node, shown = self.endpoint.node, " ".join(said.split())[:200]
        place = f"port {node.agent_port} of its loopback"
        if said.startswith(_REFUSED):
            message = f"nothing answers at {place} ({shown}); is the agent running there?"
            return UnreachableError(node.name, self.endpoint.transport, message)
        cause = "sshd forbids it, see AllowTcpForwarding" if said.startswith(_FORBIDDEN) else "sshd did not make it"
        message = f"no tunnel to {place}: {cause} ({shown})"
        return RungUnusableError(node.name, self.endpoint.transport, message)

    def _start(self, deadline: Deadline) -> None:
        for tries_left in reversed(range(_PORT_TRIES)):
            port, mark = _free_port(), secrets.token_hex(12)
            with ExitStack() as stack:
                child = stack.enter_context(started(self._arguments(port, mark, deadline), stdin=PIPE, stdout=PIPE))
                if self._is_ready(child, mark, deadline):
                    self._child, self._port, self._stack = child, port, stack.pop_all()
                    self._where = "{}:{}".format(*self.endpoint.address(deadline))
                    self._generation += 1
                    return
                failure = self._failure(child)
            if tries_left == 0 or failure is not None:
                raise failure or self._error(TransientError, "no free port was found on this machine's loopback")

    def _arguments(self, port: int, mark: str, deadline: Deadline) -> list[str]:
        forward = f"{LOOPBACK}:{port}:{LOOPBACK}:{self.endpoint.node.agent_port}"
        # In front, because the first value of an option counts. INFO: what the node refuses is told there.
        ours = ["-S", "none", "-o", "LogLevel=INFO", "-o", "ExitOnForwardFailure=yes", "-L", forward]
        program, *options = self.endpoint.arguments(deadline)
        return [program, *ours, *options, "--", f"echo {mark}; exec cat >/dev/null"]

    def _is_ready(self, child: Child, mark: str, deadline: Deadline) -> bool:
        """Wait for the mark; False when ssh ended before it."""
        limit = Deadline(deadline.at_most(2 * self.endpoint.settings.connect_seconds))  # to connect, and to log in
        printed = b""
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            while len(printed) < _BANNER_MAX_BYTES:
                if deadline.expired:
                    message = f"the tunnel was not open within {deadline.seconds:.1f} s"
                    raise self._error(DeadlineExceededError, message)
                if limit.expired:
                    raise self._error(StallError, f"the login did not end within {limit.seconds:.0f} s")
                if selector.select(limit.at_most(_LOOK_SECONDS)):
                    chunk = os.read(child.stdout.fileno(), _READ_BYTES)
                    if not chunk:
                        return False
                    printed += chunk
                    if mark.encode() in printed:
                        return True
        raise self._error(RungUnusableError, "the login prints without end")

    def _failure(self, child: Child) -> TransferError | None:
        """Say why ssh ended; None when only its port was taken meanwhile."""
        status = child.wait(self.endpoint.settings.connect_seconds)
        said = child.complaints()
        if any(words in said.lower() for words in _PORT_TAKEN):
            return None
        known = self.endpoint.error(255 if status is None else status, said, "the tunnel")
        shown = " ".join(said.split())[-300:] or "it said nothing"
        return known or self._error(RungUnusableError, f"the node does not run the tunnel's command: {shown}")

    def _error(self, kind: type[TransferError], message: str) -> TransferError:
        return kind(self.endpoint.node.name, self.endpoint.transport, message)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
