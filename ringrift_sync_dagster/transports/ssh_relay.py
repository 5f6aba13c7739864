"""The remote shell of one rsync: starts ssh, and moves the bytes between both as fast as its parent grants.

rsync starts it as ``python -S -I ssh_relay.py DESCRIPTOR DIRECTION MARK ssh... -- HOST COMMAND...``, so it has the
standard library only. The descriptor is a socket to whoever started rsync, the parent. Before bytes of the paced
direction move, the relay asks there and waits for a grant: one bucket knows all, and the rate may change at any moment;
that it asks is also the sign of life. What the login shell prints before the mark is thrown away. When the socket ends,
the parent is gone, however it died: then ssh, rsync and this program end at once.

    relay to parent:  b"?" and how many bytes wait | b"!" the node's shell runs our command | b"=" and ssh's status
    parent to relay:  how many bytes may move
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shlex
import signal
import socket
import struct
import sys
import termios
from typing import Final

DOWN: Final = "down"
UP: Final = "up"
ASK: Final = b"?"
STARTED: Final = b"!"
ENDED: Final = b"="
MESSAGE: Final = struct.Struct("!cQ")
GRANT: Final = struct.Struct("!Q")

_UNLIMITED: Final = 1 << 62
_MOVE_BYTES: Final = 1 << 20
_READ_BYTES: Final = 1 << 16
_BANNER_MAX_BYTES: Final = 1 << 20
_PIPE_BYTES: Final = 1 << 20
_LOOK_MILLISECONDS: Final = 50
_STOP_SECONDS: Final = 2
_SSH_FAILED: Final = 255
_RSYNC_SIGNALS: Final = (signal.SIGUSR1, signal.SIGUSR2)


class Flow:
    """One direction: bytes go from a source to a target inside the kernel, as far as they are granted.

    Args:
        source: Where they come from; it or the target is a pipe.
        target: Where they go.
        paced: Each move needs a grant.

    """

    def __init__(self, source: int, target: int, *, paced: bool) -> None:
        os.set_blocking(source, False)
        os.set_blocking(target, False)
        self.source = source
        self.target = target
        self.granted = 0 if paced else _UNLIMITED
        self.asking = False
        self.open = True
        self._full = False

    @property
    def waits_for(self) -> tuple[int, int] | None:
        """The descriptor and the event to poll for; None while there is nothing to do."""
        if not self.open or self.asking:
            return None
        return (self.target, select.POLLOUT) if self._full else (self.source, select.POLLIN)

    def waiting_bytes(self) -> int:
        """How many bytes could move now; at least 1, because the end of the stream must be seen too."""
        raw = fcntl.ioctl(self.source, termios.FIONREAD, b"\0\0\0\0")
        return max(1, int.from_bytes(raw, sys.byteorder))

    def move(self) -> None:
        """Move what is granted and there; end at the end of the source, and when the target takes no more."""
        if self._full:
            self._full = False  # there is room again: look at the source first
            return
        try:
            moved = os.splice(self.source, self.target, min(self.granted, _MOVE_BYTES), flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            self._full = True
            return
        except (BrokenPipeError, ConnectionResetError):
            moved = 0
        self.granted -= moved
        if not moved:
            self.close()

    def close(self) -> None:
        """End this direction, so that both sides see it. Idempotent."""
        if self.open:
            self.open = False
            os.close(self.target)
            os.close(self.source)


class Relay:
    """Stands between rsync and ssh for one run.

    Args:
        parent: The socket.
        direction: Which one is paced.
        mark: What the node prints before the command's own output.
        ssh: ssh with its options and the address.

    """

    def __init__(self, parent: socket.socket, direction: str, mark: str, ssh: list[str]) -> None:
        self._parent = parent
        self._direction = direction
        self._mark = mark
        self._ssh = ssh
        self._pid = 0

    def run(self, command: list[str]) -> int:
        """Run the command on the node until it ends; give ssh's status."""
        script = f"echo {self._mark}; exec {shlex.join(command)}"
        inward, to_ssh = _wide_pipe()
        from_ssh, outward = _wide_pipe()
        self._pid = _started([*self._ssh, "--", f"exec sh -c {shlex.quote(script)}"], (inward, outward))
        os.close(inward)
        os.close(outward)
        up = Flow(0, to_ssh, paced=self._direction == UP)
        down = Flow(from_ssh, 1, paced=self._direction == DOWN)
        if self._skip_banner(down):
            self._pump(up, down)
        up.close()
        down.close()
        return self._end()

    def _skip_banner(self, down: Flow) -> bool:
        """Read up to the mark; False when ssh ended without it."""
        seen, mark = bytearray(), f"{self._mark}\n".encode()
        while mark not in seen:
            if self._parent.fileno() in self._ready((down.source, select.POLLIN)):
                self._die()  # before anything was asked the parent says nothing
            with contextlib.suppress(BlockingIOError):
                chunk = os.read(down.source, _READ_BYTES)
                if not chunk or len(seen) > _BANNER_MAX_BYTES:
                    return False
                seen += chunk
        self._tell(STARTED, 0)
        rest = bytes(seen).partition(mark)[2]
        return not rest or os.write(down.target, rest) == len(rest)

    def _pump(self, up: Flow, down: Flow) -> None:
        """Move bytes until ssh has no more."""
        paced = up if self._direction == UP else down
        while down.open:
            flows = {wait: flow for flow in (up, down) if (wait := flow.waits_for) is not None}
            ready = self._ready(*flows)
            if self._parent.fileno() in ready:
                self._take_grant(paced)
            for (descriptor, _), flow in flows.items():
                if descriptor in ready:
                    self._serve(flow)

    def _serve(self, flow: Flow) -> None:
        if flow.granted > 0:
            flow.move()
        else:
            flow.asking = True
            self._tell(ASK, flow.waiting_bytes())

    def _ready(self, *waits: tuple[int, int], milliseconds: int | None = None) -> set[int]:
        """Wait for the parent or one of the events; give the descriptors."""
        poll = select.poll()
        poll.register(self._parent, select.POLLIN)
        for descriptor, event in waits:
            poll.register(descriptor, event)
        return {descriptor for descriptor, _ in poll.poll(milliseconds)}

    def _take_grant(self, flow: Flow) -> None:
        try:
            message = self._parent.recv(GRANT.size, socket.MSG_WAITALL)
        except OSError:
            message = b""
        if len(message) < GRANT.size:
            self._die()
        flow.granted += GRANT.unpack(message)[0]
        flow.asking = False

    def _tell(self, kind: bytes, number: int) -> None:
        try:
            self._parent.sendall(MESSAGE.pack(kind, number))
        except OSError:
            self._die()

    def _end(self) -> int:
        """Wait for ssh, and tell how it ended."""
        pid = status = 0
        while not pid:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if not pid and self._ready(milliseconds=_LOOK_MILLISECONDS):
                self._die()
        code = os.waitstatus_to_exitcode(status)
        code = code if code >= 0 else _SSH_FAILED
        self._tell(ENDED, code)
        return code

    def _die(self) -> None:
        """End everything of this run: nobody is left who wants it."""
        signal.alarm(_STOP_SECONDS)
        with contextlib.suppress(OSError):
            os.kill(self._pid, signal.SIGKILL)
        # The shared connection would stay for its time; it serves those who use it, and then ends.
        with contextlib.suppress(OSError), open(os.devnull, "r+b") as nothing:  # noqa: PTH123 - one import less
            argv = [*self._ssh[:-1], "-O", "stop", self._ssh[-1]]
            os.waitpid(_started(argv, (nothing.fileno(),) * 3), 0)
        os.killpg(0, signal.SIGKILL)  # rsync was started as the leader of a group of its own


def _started(argv: list[str], standard: tuple[int, ...]) -> int:
    """Start a program with these descriptors as its first ones; give its process id."""
    actions = [(os.POSIX_SPAWN_DUP2, descriptor, number) for number, descriptor in enumerate(standard)]
    environment = os.environ  # noqa: TID251 - handed on as it is
    return os.posix_spawnp(argv[0], argv, environment, file_actions=actions, setsigdef=_RSYNC_SIGNALS)


def _wide_pipe() -> tuple[int, int]:
    """Give a pipe that holds much, so that few turns move many bytes."""
    source, target = os.pipe()
    with contextlib.suppress(OSError):
        fcntl.fcntl(target, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return source, target


def main(arguments: list[str]) -> int:
    """Serve one run; give the exit status for rsync."""
    for number in _RSYNC_SIGNALS:  # an rsync that fails ends its children so; ours has still to tell how ssh ended
        signal.signal(number, signal.SIG_IGN)
    descriptor, direction, mark, *rest = arguments
    border = rest.index("--")
    parent = socket.socket(fileno=int(descriptor))
    parent.set_inheritable(False)
    return Relay(parent, direction, mark, rest[:border]).run(rest[border + 2 :])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
