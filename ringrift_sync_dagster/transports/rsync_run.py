"""One run of the system's rsync over the system's ssh, paced and watched from its start to its end.

A relay stands between rsync and ssh (``ssh_relay``) and asks here before bytes move, so that the rate holds for this
run and may change at any time; that it asks is the sign of life. However the run ends, all its processes are gone when
``run_rsync`` returns. Names are safe: argument lists here, ``-s`` to the node, which every rsync of 3.0 or later knows.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import select
import shutil
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ringrift_sync_dagster.errors import DeadlineExceededError, LocalToolError, StallError, TransferCancelledError
from ringrift_sync_dagster.settings.clock import monotonic
from ringrift_sync_dagster.transports import process, ssh_relay
from ringrift_sync_dagster.transports.carriers import Effort
from ringrift_sync_dagster.transports.pacing import piece_bytes
from ringrift_sync_dagster.transports.ssh import SshEndpoint
from ringrift_sync_dagster.transports.ssh_relay import DOWN, UP

__all__ = ["DOWN", "UP", "Ended", "far_path", "run_rsync"]

PROGRAM: Final = "rsync"
# A node whose connection to us vanished ends its rsync after this; our own limit for a silence is the endpoint's.
_FAR_END_SECONDS: Final = 300
_OPTIONS: Final = ("-s", f"--timeout={_FAR_END_SECONDS}")
_NODE: Final = "node"  # stands where rsync expects a host; ssh has the address
_PIECE_MAX_BYTES: Final = 1 << 20
_LOOK_MILLISECONDS: Final = 50
_END_SECONDS: Final = 2.0
_OUTPUT_MAX_BYTES: Final = 64 << 20
_READ_BYTES: Final = 1 << 16
# What pipes, ssh and the sockets hold when the last byte was handed over, and how slow a link may be that drains it.
_ON_THE_WAY_BYTES: Final = 4 << 20
_SLOWEST_BYTES_PER_SECOND: Final = 25_000

Look = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Ended:
    """How one rsync ended.

    Args:
        status: Its exit status; negative: the signal that killed it.
        far_status: That of ssh, which is the node's rsync's own when the login worked; None when it is not known.
        shell_ran: The node's shell came as far as our command.
        words: What rsync and ssh complained of.
        stdout: What rsync printed, where that was asked for.

    """

    status: int
    far_status: int | None
    shell_ran: bool
    words: str
    stdout: bytes = b""


def far_path(path: str) -> str:
    """Write an absolute path on the node as an argument of ``run_rsync``.

    The node's rsync takes a name that holds a wildcard for a pattern, and any other as it is.
    """
    names = [
        re.sub(r"[*?\[\]\\]", r"\\\g<0>", name) if re.search(r"[*?\[]", name) else name for name in path.split("/")
    ]
    return f"{_NODE}:{'/'.join(names)}"


def run_rsync(
    endpoint: SshEndpoint,
    arguments: Sequence[str],
    direction: str,
    effort: Effort,
    look: Look,
    *,
    expected: int = 0,
    printing: bool = False,
) -> Ended:
    """Run rsync to its end, with at most the bytes per second that the effort's pacer grants.

    Args:
        endpoint: The way to the node.
        arguments: Options and two paths: an absolute local one, and one made by ``far_path``.
        direction: ``DOWN`` from the node, or ``UP`` to it: which bytes are paced.
        effort: The limits; its ``progress`` is not used.
        look: Called several times a second with how many bytes were granted so far; what it raises ends the run.
        expected: About how many bytes will go to the node, for ``UP``.
        printing: Keep what rsync prints.

    Raises:
        LocalToolError: There is no rsync or no ssh on this machine, or it starts no more programs.
        StallError: No byte moved for the endpoint's stall time; waiting for the pacer does not count.
        TransferError: The deadline passed, or the run was cancelled.

    """
    effort.deadline.check(endpoint.node.name, endpoint.transport, PROGRAM)
    ssh = endpoint.arguments(effort.deadline)
    if shutil.which(ssh[0]) is None:  # the relay starts it, and could only say that it failed
        message = f"{ssh[0]} cannot be started here: it is not in the PATH; is it installed?"
        raise LocalToolError(endpoint.node.name, endpoint.transport, message)
    try:
        ours, theirs = socket.socketpair()
    except OSError as error:
        message = f"this machine gives us no socket: {error.strerror}; look at the limits of this user"
        raise LocalToolError(endpoint.node.name, endpoint.transport, message) from error
    with ours, theirs:
        relay = [sys.executable, "-S", "-I", ssh_relay.__file__, str(theirs.fileno()), direction, secrets.token_hex(12)]
        shell = " ".join(_rsh_word(word) for word in (*relay, *ssh, "--"))
        command = [PROGRAM, *_OPTIONS, f"--rsh={shell}", *arguments]
        stdout = process.PIPE if printing else process.DEVNULL
        try:
            with process.started(command, stdout=stdout, pass_fds=[theirs.fileno()]) as child:
                theirs.close()
                return _Watch(ours, child, endpoint, effort, look, expected).until_end(printing=printing)
        finally:
            _all_gone(ours)


class _Watch:
    """Our end of the relay's socket while one rsync runs: grants bytes, and watches time, cancel and silence."""

    def __init__(
        self,
        relay: socket.socket,
        child: process.Child,
        endpoint: SshEndpoint,
        effort: Effort,
        look: Look,
        expected: int,
    ) -> None:
        self._relay = relay
        self._child = child
        self._place = (endpoint.node.name, endpoint.transport)
        self._stall_seconds = endpoint.settings.stall_seconds
        self._effort = effort
        self._look = look
        self._expected = expected
        self._granted = 0
        self._heard = monotonic()
        self._ended_at = 0.0
        self._shell_ran = False
        self._far_status: int | None = None
        self._printed = bytearray()

    def until_end(self, *, printing: bool) -> Ended:
        """Return when rsync has ended."""
        poll = select.poll()
        poll.register(self._relay, select.POLLIN)
        if printing:
            poll.register(self._child.stdout, select.POLLIN)
        running = True
        while running:
            self._check()
            for descriptor, _ in poll.poll(_LOOK_MILLISECONDS):
                if descriptor == self._relay.fileno():
                    running = self._listen()
                elif not self._read():
                    poll.unregister(descriptor)
            self._look(self._granted)
            running = running and not self._overdue()
        while printing and self._read():
            pass
        status = self._child.wait(_END_SECONDS)
        if status is None:
            self._child.kill()
            status = self._child.status or 0
        return Ended(status, self._far_status, self._shell_ran, self._child.complaints(), bytes(self._printed))

    def _overdue(self) -> bool:
        """Say whether rsync has ended, and the relay has had its time to tell how ssh did."""
        if self._child.status is None:
            return False
        self._ended_at = self._ended_at or monotonic()
        return monotonic() - self._ended_at > _END_SECONDS

    def _read(self) -> bool:
        """Take what rsync printed; False at the end of it."""
        chunk = os.read(self._child.stdout.fileno(), _READ_BYTES)
        self._printed += chunk[: _OUTPUT_MAX_BYTES - len(self._printed)]
        return bool(chunk)

    def _listen(self) -> bool:
        """Take one message; False when rsync and the relay are gone."""
        try:
            message = self._relay.recv(ssh_relay.MESSAGE.size, socket.MSG_WAITALL)
        except ConnectionResetError:  # it ended before it read our last grant
            message = b""
        if len(message) < ssh_relay.MESSAGE.size:
            return False
        kind, number = ssh_relay.MESSAGE.unpack(message)
        if kind == ssh_relay.ASK:
            self._grant(number)
        elif kind == ssh_relay.STARTED:
            self._shell_ran = True
        else:
            self._far_status = number
        self._heard = monotonic()
        return True

    def _grant(self, waiting: int) -> None:
        pacer, count = self._effort.pacer, min(waiting, _PIECE_MAX_BYTES)
        if pacer is not None:
            count = min(count, piece_bytes(pacer.rate, _PIECE_MAX_BYTES))
            pacer.take(count, deadline=self._effort.deadline, cancel=self._effort.cancel)
            self._check_limits()
        self._granted += count
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has just ended, which is seen next
            self._relay.sendall(ssh_relay.GRANT.pack(count))

    def _check(self) -> None:
        self._check_limits()
        allowed = self._stall_seconds
        if self._expected and self._granted >= self._expected:
            allowed += min(self._granted, _ON_THE_WAY_BYTES) / _SLOWEST_BYTES_PER_SECOND
        if monotonic() - self._heard > allowed:
            raise StallError(*self._place, f"no byte moved for {allowed:.0f} s; what has arrived is kept")

    def _check_limits(self) -> None:
        if self._effort.cancel is not None and self._effort.cancel.is_set():
            raise TransferCancelledError(*self._place, "rsync was stopped because we were asked to; what came is kept")
        if self._effort.deadline.expired:
            message = f"rsync was not done within {self._effort.deadline.seconds:.1f} s; what has arrived is kept"
            raise DeadlineExceededError(*self._place, message)


def _all_gone(relay: socket.socket) -> None:
    """Wait until every process of a run has ended: each holds the other end, and could still write."""
    relay.settimeout(_END_SECONDS)
    with contextlib.suppress(OSError):
        while relay.recv(_READ_BYTES):
            pass


def _rsh_word(word: str) -> str:
    """Quote for rsync's own reading of ``--rsh``, where a quote inside quotes is written twice."""
    quoted = word.replace("'", "''")
    return f"'{quoted}'"
