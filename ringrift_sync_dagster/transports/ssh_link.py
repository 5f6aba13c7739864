"""A login on one node, by paramiko: runs commands one after another or side by side, within a deadline, bounded.

A command's answer is found between two marks that are made anew each time, so that what a login shell prints (a banner,
a message of the day) is no part of it. The connection is made when it is first needed, and once more when it broke.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import secrets
import select
import shlex
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

import paramiko

from ringrift_sync_dagster.errors import (
    AuthenticationError,
    DeadlineExceededError,
    RungUnusableError,
    StallError,
    TransferCancelledError,
    TransferError,
    TransientError,
    UnreachableError,
)
from ringrift_sync_dagster.settings.clock import Deadline, monotonic
from ringrift_sync_dagster.transports.host_keys import HostKeyPolicy, read_known_hosts, written
from ringrift_sync_dagster.transports.legible import legible
from ringrift_sync_dagster.transports.ssh import SshEndpoint

ANSWER_MAX_BYTES: Final = 64 << 20
_COMPLAINT_MAX_BYTES: Final = 64 << 10
_READ_BYTES: Final = 1 << 16
_LOOK_SECONDS: Final = 0.02
_STATUS_SECONDS: Final = 0.002
_ALIVE_SECONDS: Final = 10
_SESSIONS: Final = 8  # sshd's own limit is 10 per connection
_ENDED: Final = re.compile(rb"(\d{1,3})\s*")
_SILENT: Final = "Timeout opening channel"
# What paramiko says when the handshake did not come to its end in time.
_NO_GREETING: Final = ("protocol banner", "No existing session")

logging.getLogger("paramiko").setLevel(logging.CRITICAL)  # each error comes as an exception; its threads log it again


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command on the node did.

    Args:
        status: Its exit status.
        stdout: What it printed, without anything that the login printed before.
        stderr: What it complained of.

    """

    status: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        """The output as text, without blanks around it."""
        return self.stdout.decode("utf-8", "replace").strip()


@contextlib.contextmanager
def held(lock: threading.Lock | threading.Semaphore, endpoint: SshEndpoint, deadline: Deadline) -> Iterator[None]:
    """Hold a lock that others may hold while they wait for the node.

    Raises:
        DeadlineExceededError: It did not become free in time.

    """
    if not lock.acquire(timeout=deadline.remaining()):
        message = f"other commands over SSH left no turn within {deadline.seconds:.1f} s"
        raise DeadlineExceededError(endpoint.node.name, endpoint.transport, message)
    try:
        yield
    finally:
        lock.release()


class SshLink:
    """A login on one node. Close it, or use it as a context manager; safe in several threads.

    Args:
        endpoint: The way there.

    Attributes:
        connections: How many were made so far: what was learnt of the node holds for one of them.

    """

    def __init__(self, endpoint: SshEndpoint) -> None:
        self.endpoint = endpoint
        self.connections = 0
        self._client: paramiko.SSHClient | None = None
        self._lock = threading.Lock()  # for the field; never held while anything is waited for
        self._connecting = threading.Lock()
        self._turns = threading.BoundedSemaphore(_SESSIONS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def version(self) -> str:
        """What the server calls itself; empty while there is no connection."""
        client = self._client
        transport = client.get_transport() if client is not None else None
        return legible(transport.remote_version, 80).removeprefix("SSH-2.0-") if transport is not None else ""

    def close(self) -> None:
        """Close the connection. Idempotent; the next command opens a new one."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def run(
        self,
        script: str,
        *,
        deadline: Deadline,
        stdin: bytes = b"",
        cancel: threading.Event | None = None,
        patient: bool = False,
    ) -> Answer:
        """Run a POSIX shell script on the node.

        Args:
            script: The script; whatever comes from elsewhere in it must be quoted with ``shlex.quote``.
            deadline: When to give up; the node's process loses its terminal then, and ends.
            stdin: What the script reads.
            cancel: Ends the waiting.
            patient: The script may be silent until the deadline, because it works.

        Raises:
            TransferError: By what to do next; a script that ran gives an ``Answer`` whatever its status.

        """
        deadline.check(self.endpoint.node.name, self.endpoint.transport, "a command over SSH")
        mark = secrets.token_hex(12)
        framed = f"echo {mark}; ({script}\n); s=$?; echo; echo {mark} $s; exit $s"
        with self._turn(deadline), self._channel(deadline) as channel:
            command = f"exec sh -c {shlex.quote(framed)}"
            channel.exec_command(command.encode("utf-8", "surrogateescape"))  # a path there may be any bytes
            stdout, stderr = self._converse(channel, stdin, deadline, cancel, patient=patient)
            status = channel.recv_exit_status() if channel.exit_status_ready() else -1
        return self._answer(stdout, stderr, mark, status)

    @contextlib.contextmanager
    def _turn(self, deadline: Deadline) -> Iterator[None]:
        """Wait for one of the few sessions that an sshd allows on a connection."""
        with held(self._turns, self.endpoint, deadline):
            yield

    @contextlib.contextmanager
    def _channel(self, deadline: Deadline) -> Iterator[paramiko.Channel]:
        """Open a channel, on a new connection when the old one broke meanwhile."""
        with self._errors("a command over SSH", deadline):
            channel = self._open(deadline)
            try:
                yield channel
            finally:
                channel.close()

    def _open(self, deadline: Deadline) -> paramiko.Channel:
        limit = Deadline(deadline.at_most(self.endpoint.settings.connect_seconds))
        while True:
            client, is_new = self._login(deadline)
            try:
                return _session(client, max(limit.remaining(), 0.01))
            except (EOFError, OSError, paramiko.SSHException) as error:
                refused = _is_active(client) and _SILENT not in str(error)
                if not refused:
                    self._drop(client)
                if limit.expired or (is_new and not refused):
                    raise
                if refused:  # a session that we ended may not have ended there yet
                    threading.Event().wait(_LOOK_SECONDS)

    def _login(self, deadline: Deadline) -> tuple[paramiko.SSHClient, bool]:
        """Give the connection, and whether it was made just now."""
        with held(self._connecting, self.endpoint, deadline):
            with self._lock:
                client = self._client
            if client is not None:
                return client, False
            client = self._connect(deadline)
            with self._lock:
                self._client = client
            return client, True

    def _drop(self, client: paramiko.SSHClient) -> None:
        """Give up a connection that broke, and not the one that another thread has made meanwhile."""
        with self._lock:
            if self._client is client:
                self._client = None
        client.close()

    def _connect(self, deadline: Deadline) -> paramiko.SSHClient:
        endpoint, seconds = self.endpoint, self.endpoint.settings.connect_seconds
        client = paramiko.SSHClient()
        read_known_hosts(endpoint.settings.known_hosts, client.get_host_keys())
        client.set_missing_host_key_policy(HostKeyPolicy(endpoint))
        connected, address, port = endpoint.dial(deadline)
        limit = max(deadline.at_most(seconds), 0.01)
        try:
            client.connect(
                address, port, username=endpoint.user, sock=connected, timeout=limit, banner_timeout=limit,
                auth_timeout=limit, channel_timeout=limit, allow_agent=False,
                key_filename=str(endpoint.key_file) if endpoint.key_file else None,
                look_for_keys=endpoint.key_file is None, compress=False,
            )  # fmt: skip
        except BaseException:
            client.close()
            connected.close()
            raise
        transport = client.get_transport()
        assert transport is not None  # noqa: S101 - for the type checker
        transport.set_keepalive(_ALIVE_SECONDS)
        self.connections += 1
        return client

    def _converse(
        self,
        channel: paramiko.Channel,
        stdin: bytes,
        deadline: Deadline,
        cancel: threading.Event | None,
        *,
        patient: bool,
    ) -> tuple[bytes, str]:
        """Send what there is to send and read until the command has ended."""
        channel.setblocking(0)
        view, sent_all = memoryview(stdin), False
        out, err = io.BytesIO(), bytearray()
        heard = monotonic()
        while True:
            moved = False
            if not sent_all and (not view or channel.send_ready()):
                view, sent_all = self._send(channel, view)
                moved = True
            while channel.recv_ready():
                out.write(channel.recv(_READ_BYTES))
                moved = True
            while channel.recv_stderr_ready():
                err += channel.recv_stderr(_READ_BYTES)
                del err[:-_COMPLAINT_MAX_BYTES]
                moved = True
            if out.tell() > ANSWER_MAX_BYTES:
                raise self._transient(f"the answer is longer than {ANSWER_MAX_BYTES} bytes")
            if not moved and (channel.closed or (channel.eof_received and channel.exit_status_ready())):
                return out.getvalue(), _told(err)
            heard = monotonic() if moved else heard
            self._watch(deadline, cancel, heard, patient=patient)
            if not moved and channel.eof_received:  # what is left to come is the status, which wakes no select
                threading.Event().wait(_STATUS_SECONDS)
            elif not moved:
                select.select([channel], [], [], _LOOK_SECONDS)

    def _send(self, channel: paramiko.Channel, view: memoryview) -> tuple[memoryview, bool]:
        if view:
            view = view[channel.send(bytes(view[:_READ_BYTES])) :]
        if not view:
            channel.shutdown_write()
        return view, not view

    def _watch(self, deadline: Deadline, cancel: threading.Event | None, heard: float, *, patient: bool) -> None:
        node, transport, stall = self.endpoint.node.name, self.endpoint.transport, self.endpoint.settings.stall_seconds
        if cancel is not None and cancel.is_set():
            raise TransferCancelledError(node, transport, "a command was stopped because we were asked to")
        deadline.check(node, transport, "a command over SSH")
        if not patient and monotonic() - heard > stall:
            raise StallError(node, transport, f"a command over SSH was silent for {stall:.0f} s")

    def _answer(self, stdout: bytes, stderr: str, mark: str, status: int) -> Answer:
        """Take out what stands between the marks."""
        begin, end = f"{mark}\n".encode(), f"\n{mark} ".encode()
        _, found, rest = stdout.partition(begin)
        if not found:
            shown = " ".join(f"{_told(stdout)} {stderr}".split())[:300]
            message = f"the node's login did not run our command (status {status}): {shown or 'no output'}"
            if status < 0:
                raise self._transient(message)
            raise RungUnusableError(self.endpoint.node.name, self.endpoint.transport, message)
        body, whole, told = rest.rpartition(end)
        if not whole:
            raise self._transient("the connection ended in the middle of an answer")
        ended = _ENDED.fullmatch(told)
        if ended is None:
            raise self._transient("the end of an answer is none that a shell writes")
        return Answer(int(ended[1]), body, stderr)

    def _transient(self, message: str) -> TransientError:
        return TransientError(self.endpoint.node.name, self.endpoint.transport, message)

    @contextlib.contextmanager
    def _errors(self, what: str, deadline: Deadline) -> Iterator[None]:
        """Translate paramiko's errors; a connection that broke is found when the next command needs one."""
        try:
            yield
        except TransferError:
            raise
        except Exception as error:
            raise (self._refused(error) or self._broken(error, what, deadline)) from error

    def _refused(self, error: Exception) -> TransferError | None:
        """Give the error for a login that was refused by either side; None when it was not that."""
        endpoint = self.endpoint
        if isinstance(error, paramiko.BadHostKeyException):
            return endpoint.host_key_error("changed", error.key.fingerprint, written(error.key))
        if isinstance(error, paramiko.AuthenticationException | paramiko.PasswordRequiredException):
            return endpoint.authentication_error(legible(str(error)))
        if isinstance(error, FileNotFoundError | PermissionError) and endpoint.key_file is not None:
            node = endpoint.node.name
            message = f"the key {endpoint.key_file} cannot be read: {error.strerror}; check ssh_key of {node}"
            return AuthenticationError(node, endpoint.transport, message)
        return None

    def _broken(self, error: Exception, what: str, deadline: Deadline) -> TransferError:
        endpoint = self.endpoint
        node, transport = endpoint.node.name, endpoint.transport
        shown = legible(str(error)) or type(error).__name__
        if deadline.expired:
            return DeadlineExceededError(node, transport, f"{what} did not end within {deadline.seconds:.1f} s")
        if isinstance(error, paramiko.SSHException) and any(known in str(error) for known in _NO_GREETING):
            endpoint.forget_address()
            message = f"{what}: nothing speaks SSH there within {endpoint.settings.connect_seconds:.0f} s: {shown}"
            return UnreachableError(node, transport, message)
        if isinstance(error, TimeoutError):
            seconds = endpoint.settings.connect_seconds
            return StallError(node, transport, f"{what}: sshd did not answer within {seconds:.0f} s")
        endpoint.forget_address()
        return TransientError(node, transport, f"{what}: the connection broke: {shown}")


def _told(words: bytes | bytearray) -> str:
    """What a node complained of, as text for messages."""
    return legible(words.decode("utf-8", "replace"), len(words)).strip()


def _is_active(client: paramiko.SSHClient) -> bool:
    transport = client.get_transport()
    return transport is not None and transport.is_active()


def _session(client: paramiko.SSHClient, seconds: float) -> paramiko.Channel:
    """Open a channel.

    Raises:
        EOFError: The connection broke before.
        SSHException: It breaks now, or the server allows no more sessions; paramiko does not always tell which.

    """
    transport = client.get_transport()
    if transport is None or not transport.is_active():
        raise EOFError("the connection broke")
    return transport.open_session(timeout=seconds)
