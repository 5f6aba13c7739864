"""The supervisor: starts the agent again when it ends, a little later each time, and keeps its log within bounds.

It is there for nodes without systemd. One at a time runs on a directory. SIGTERM ends the agent first, then itself; so
does the end of the directory. An agent that has lived for a minute counts as sound: the pause after its end is the
shortest again.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess  # noqa: TID251 - this runs on the node, where transports.process is not
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .files import RefusedError, only_one
from .place import Place, python_of
from .processes import write_named

SUPERVISE = "supervise"
"""The word of the command line that makes this program a supervisor."""
AGENT_MODULE = "ringrift_sync_dagster.agent"
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
SOUND_SECONDS = 60.0
END_SECONDS = 20.0  # an agent gives requests under way some seconds
LOG_MAX_BYTES = 5 << 20
_LOOK_SECONDS = 5.0
_READ_BYTES = 1 << 16


class BoundedLog:
    """A file that is renamed to ``.1`` when it is full, so that both together have twice its size at most.

    A disk that is full costs lines, never the agent.

    Args:
        path: The file.
        max_bytes: When it is full.

    """

    def __init__(self, path: Path, max_bytes: int = LOG_MAX_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes

    def write(self, data: bytes) -> None:
        """Append."""
        with contextlib.suppress(OSError):
            if self._size() + len(data) > self._max_bytes:
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, data)
            finally:
                os.close(descriptor)

    def _size(self) -> int:
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0


class Supervisor:
    """Keeps one agent running until it is told to stop.

    Args:
        place: Where the agent lies.

    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._log = BoundedLog(place.log)
        self._wake = threading.Event()
        self._told_to_stop = threading.Event()

    def run(self) -> None:
        """Start the agent again and again."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, self._on_signal)
        pause = 0.0
        while not self._told_to_stop.is_set():
            started = time.monotonic()  # noqa: TID251 - this runs on the node, where settings.clock is not
            how = self._run_agent()
            if time.monotonic() - started >= SOUND_SECONDS:  # noqa: TID251 - as above
                pause = 0.0
            pause = next_pause(pause)
            self._say(f"the agent {how}; " + ("so do I" if self._told_to_stop.is_set() else f"again in {pause:g} s"))
            self._wait(pause)

    def _run_agent(self) -> str:
        """Run the agent to its end; say how it ended."""
        try:
            process = subprocess.Popen(  # noqa: S603 - argument lists only
                agent_command(self._place), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                cwd=self._place.directory, start_new_session=True,
            )  # fmt: skip
        except (OSError, ValueError, KeyError) as error:
            return f"could not be started: {error}"
        with contextlib.suppress(OSError):  # a full disk again: the next deploy finds the agent all the same
            write_named(self._place.agent_pid, process.pid)
        assert process.stdout is not None  # noqa: S101 - for the type checker
        pump = threading.Thread(target=self._pump, args=(process.stdout.fileno(),), daemon=True)
        pump.start()
        while process.poll() is None and not self._told_to_stop.is_set():
            self._wake.wait(_LOOK_SECONDS)
            self._wake.clear()
            self._end_with_directory()
        if process.poll() is None:
            _terminate(process)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its worker processes, when it was killed itself
        process.wait()
        pump.join(2.0)
        process.stdout.close()
        return f"ended with status {process.returncode}"

    def _pump(self, descriptor: int) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(descriptor, _READ_BYTES):
                self._log.write(data)

    def _say(self, text: str) -> None:
        self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} supervisor: {text}\n".encode())

    def _wait(self, seconds: float) -> None:
        limit = time.monotonic() + seconds  # noqa: TID251 - as above
        while not self._told_to_stop.is_set() and (left := limit - time.monotonic()) > 0:  # noqa: TID251 - as above
            self._wake.wait(min(left, _LOOK_SECONDS))
            self._wake.clear()
            self._end_with_directory()

    def _end_with_directory(self) -> None:
        """Stop when somebody removed everything: what serves then is on no disk any more."""
        if not self._place.directory.exists():
            self._told_to_stop.set()

    def _on_signal(self, number: int, _frame: Any) -> None:  # noqa: ANN401 - signal's own
        if number != signal.SIGCHLD:
            self._told_to_stop.set()
        self._wake.set()


def next_pause(before: float) -> float:
    """Give the seconds to wait before the next start: 1, 2, 4 ... 60; ``before`` is 0 for the first."""
    return min(before * 2 or FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)


def agent_command(place: Place) -> Sequence[str]:
    """Give the command of the agent: by the release's own name, which stays true when ``current`` moves on.

    Raises:
        OSError: There is nothing to start.
        ValueError, KeyError: ``agent.json`` is not what a deploy writes.

    """
    arguments = json.loads(place.config.read_bytes())["arguments"]
    release = place.current.resolve(strict=True)
    return [str(python_of(release)), "-I", "-m", AGENT_MODULE, *map(str, arguments)]


def supervise(directory: Path) -> int:
    """Be the supervisor of a directory until SIGTERM; 3 when there is one already."""
    place = Place(directory)
    try:
        with only_one(place.supervisor_lock, 0.0):
            Supervisor(place).run()
    except RefusedError:
        return 3
    return 0


def _terminate(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
