"""Programs that we start: argument lists only, in a session of their own, ended with everything that they started.

The one place of the package that starts processes. No shell, no inherited terminal; what a program prints is bounded
in memory. Whoever starts one ends it: leaving the ``with`` block kills its whole session, after any error too.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Final

from ringrift_sync_dagster.errors import DeadlineExceededError, LocalToolError, TransferCancelledError
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.transports.legible import legible

OUTPUT_MAX_BYTES: Final = 16 << 20
_STDERR_MAX_BYTES: Final = 64 << 10
_LOOK_SECONDS: Final = 0.05
_END_SECONDS: Final = 2.0
_READ_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended.

    Args:
        status: Exit status; the negative number of a signal that ended it.
        stdout: What it printed, as far as it was kept.
        stderr: What it complained of, as text; the end of it when it was long.

    """

    status: int
    stdout: bytes
    stderr: str


class Child:
    """A running program; made by ``started``.

    Args:
        process: The process.
        program: Its name, for messages.

    """

    def __init__(self, process: subprocess.Popen[bytes], program: str) -> None:
        self._process = process
        self.program = program
        self._complaints = bytearray()
        self._reader: threading.Thread | None = None
        if process.stderr is not None:
            self._reader = threading.Thread(target=self._collect, args=(process.stderr,), name="stderr", daemon=True)
            self._reader.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def stdin(self) -> IO[bytes]:
        """Where it reads; only when it was started with a pipe."""
        assert self._process.stdin is not None  # noqa: S101 - for the type checker
        return self._process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        """Where it prints; only when it was started with a pipe."""
        assert self._process.stdout is not None  # noqa: S101 - for the type checker
        return self._process.stdout

    @property
    def status(self) -> int | None:
        """Exit status; None while it runs."""
        return self._process.poll()

    def wait(self, seconds: float) -> int | None:
        """Wait for its end at most so long; give its exit status, or None."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        return None

    def complaints(self) -> str:
        """What it wrote to stderr; after its end all of it, else what has come so far."""
        if self._reader is not None and self.status is not None:
            self._reader.join(_END_SECONDS)  # a grandchild may still hold the pipe
        words = bytes(self._complaints).decode("utf-8", "replace")
        return legible(words, len(words)).strip()

    def kill(self) -> None:
        """End it and everything in its session at once. Idempotent."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _collect(self, stream: IO[bytes]) -> None:
        with stream:
            while chunk := os.read(stream.fileno(), _READ_BYTES):
                self._complaints += chunk
                del self._complaints[:-_STDERR_MAX_BYTES]


@contextmanager
def started(
    arguments: Sequence[str],
    *,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
    pass_fds: Sequence[int] = (),
) -> Iterator[Child]:
    """Run a program while the body runs; ``stdin`` and ``stdout`` may be ``PIPE`` or a descriptor.

    Raises:
        LocalToolError: The program is not installed here, or this machine starts no more of them.

    """
    try:
        process = subprocess.Popen(
            list(arguments), stdin=stdin, stdout=stdout, stderr=subprocess.PIPE,
            start_new_session=True, close_fds=True, pass_fds=tuple(pass_fds),
        )  # fmt: skip
    except OSError as error:
        missing = isinstance(error, FileNotFoundError | PermissionError)
        advice = "is it installed?" if missing else "look at the limits of this user and the memory of this machine"
        raise LocalToolError("", "", f"{arguments[0]} cannot be started here: {error.strerror}; {advice}") from error
    child = Child(process, str(arguments[0]))
    try:
        yield child
    finally:
        child.kill()


PIPE: Final = subprocess.PIPE
DEVNULL: Final = subprocess.DEVNULL


def run(
    arguments: Sequence[str],
    *,
    deadline: Deadline,
    stdin: bytes = b"",
    cancel: threading.Event | None = None,
) -> Ended:
    """Run a program to its end; it is killed when the deadline passes or ``cancel`` is set.

    Raises:
        LocalToolError: It cannot be started.
        DeadlineExceededError: It did not end in time.
        TransferCancelledError: ``cancel`` was set.

    """
    deadline.check(what=arguments[0])
    with started(arguments, stdin=PIPE, stdout=PIPE) as child:
        feeder = threading.Thread(target=_feed, args=(child.stdin, stdin), name="stdin", daemon=True)
        feeder.start()
        output = _drain(child, deadline, cancel)
        status = child.wait(max(deadline.remaining(), _LOOK_SECONDS))
        if status is None:
            raise DeadlineExceededError("", "", f"{child.program} did not end within {deadline.seconds:.1f} s")
        return Ended(status, output, child.complaints())


def _feed(stream: IO[bytes], data: bytes) -> None:
    with contextlib.suppress(OSError, ValueError):  # it may end before it has read everything
        stream.write(data)
        stream.close()


def _drain(child: Child, deadline: Deadline, cancel: threading.Event | None) -> bytes:
    kept = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while True:
            if cancel is not None and cancel.is_set():
                raise TransferCancelledError("", "", f"{child.program} was stopped because we were asked to")
            deadline.check(what=child.program)
            if selector.select(deadline.at_most(_LOOK_SECONDS)):
                chunk = os.read(child.stdout.fileno(), _READ_BYTES)
                if not chunk:
                    return bytes(kept)
                kept += chunk[: OUTPUT_MAX_BYTES - len(kept)]
