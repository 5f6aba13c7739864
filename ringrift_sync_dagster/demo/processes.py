"""The demo's child processes: started by name, ended by pid, and none left behind.

Pids are kept in a file together with the start time of each process, so that a demo that was itself killed with
``kill -9`` is cleaned up by the next one, and a pid that has been used again is never touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import ringrift_sync_dagster
from ringrift_sync_dagster.settings.settings import VARIABLES

CHECKOUT: Final = Path(ringrift_sync_dagster.__file__).resolve().parent.parent
"""Where ``python -m ringrift_sync_dagster...`` works, installed or not."""

PYTHON: Final = sys.executable
_SLOWING: Final = ("PYTHONDONTWRITEBYTECODE",)  # without bytecode every Dagster process starts two seconds later
_END_SECONDS: Final = 15.0  # an agent drains, a writer ends between two transactions, Dagster ends its servers


class ChildFailedError(Exception):
    """A process of the demo ended, or did not answer; the message has the end of its log."""


def command(arguments: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """The arguments with this environment; the caller's own settings of this project do not reach the child.

    ``env`` replaces itself with the program, so the pid is the program's.
    """
    unset = [word for name in (*sorted(VARIABLES.values()), *_SLOWING) for word in ("-u", name)]
    return ["env", *unset, *(f"{name}={value}" for name, value in environment.items()), *arguments]


class Processes:
    """Child processes by name; one of each name at a time. Used by one thread.

    Args:
        directory: Logs (``<name>.log``) and ``pids.json``; made if missing.

    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._stop_signals: dict[str, int] = {}
        self._kill_leftovers()

    def start(
        self,
        name: str,
        arguments: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        shown: bool = False,
        stop_signal: int = signal.SIGTERM,
    ) -> int:
        """Start a process and give its pid; its output goes to its log, or is ``shown`` as it comes.

        ``stop_signal`` is how ``stop`` asks it to end.

        Raises:
            ValueError: One of that name runs.

        """
        if self.is_running(name):
            raise ValueError(f"{name} runs already, as process {self._running[name].pid}")
        with self.log(name).open("ab") as log:
            child = subprocess.Popen(
                command(arguments, environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=None if shown else log,
                stderr=None if shown else subprocess.STDOUT,
                cwd=CHECKOUT,
                start_new_session=True,  # Ctrl-C ends the demo, and the demo ends its processes, in order
            )
        self._running[name], self._stop_signals[name] = child, stop_signal
        self._remember()
        return child.pid

    def log(self, name: str) -> Path:
        """The log file of a process."""
        return self._directory / f"{name}.log"

    def pid(self, name: str) -> int:
        """The pid of a running process.

        Raises:
            KeyError: None of that name was started.

        """
        return self._running[name].pid

    def names(self) -> tuple[str, ...]:
        """Names of the processes that run."""
        return tuple(name for name in self._running if self.is_running(name))

    def is_running(self, name: str) -> bool:
        """Tell whether the process was started and has not ended."""
        child = self._running.get(name)
        return child is not None and child.poll() is None

    def signal(self, name: str, number: int) -> None:
        """Send a signal; nothing happens when the process has ended."""
        if self.is_running(name):
            self._running[name].send_signal(number)

    def ended(self) -> tuple[str, ...]:
        """Names of the processes that have ended by themselves or were ended."""
        return tuple(name for name in self._running if not self.is_running(name))

    def wait(self, name: str, seconds: float | None) -> int:
        """Wait for a process to end and give its exit code; None waits for ever.

        Raises:
            ChildFailedError: It did not end in time.

        """
        try:
            return self._running[name].wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise ChildFailedError(f"{name} did not end within {seconds:.0f} s\n{self.tail(name)}") from error

    def kill(self, name: str) -> None:
        """``kill -9``, and wait until the process is gone."""
        self.signal(name, signal.SIGKILL)
        self._running[name].wait()

    def stop(self, names: Sequence[str]) -> None:
        """End processes together with what they started: SIGTERM, and SIGKILL after some seconds. Idempotent."""
        started = descendants([self._running[name].pid for name in names if self.is_running(name)])
        for name in names:
            self.signal(name, self._stop_signals[name])
        for name in names:
            if name in self._running:
                try:
                    self._running[name].wait(_END_SECONDS)
                except subprocess.TimeoutExpired:
                    self.kill(name)
                _kill_group(self._running[name].pid)
        kill_tree(started)

    def stop_all(self) -> None:
        """End every process; none is left, whatever happens on the way. Idempotent."""
        try:
            self.stop(self.names())
        finally:
            for child in self._running.values():
                child.kill()
                child.wait()
            self._running.clear()
            self._remember()

    def tail(self, name: str, lines: int = 15) -> str:
        """The end of a process's log."""
        if not self.log(name).exists():
            return ""
        return "\n".join(self.log(name).read_text(errors="replace").splitlines()[-lines:])

    def _remember(self) -> None:
        pids = {child.pid: _started(child.pid) for child in self._running.values()}
        part = self._directory / "pids.part"
        part.write_text(json.dumps(pids))
        part.replace(self._directory / "pids.json")

    def _kill_leftovers(self) -> None:
        """End what an earlier demo left behind when it was killed itself."""
        file = self._directory / "pids.json"
        if not file.exists():
            return
        known = {int(text): started for text, started in json.loads(file.read_text()).items()}
        kill_tree({pid: started for pid, started in known.items() if started is not None})
        file.unlink()


def descendants(pids: Iterable[int]) -> dict[int, int]:
    """Give the processes that these started, and so on, with their start times; none without ``/proc``.

    A session of sshd leaves the session of its server, so that ending the group does not reach it.
    """
    children: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").glob("[0-9]*"):
        if (fields := _fields(int(entry.name))) is not None:
            children[int(fields[1])].append(int(entry.name))
    found, waiting = dict[int, int](), list(pids)
    while waiting:
        for child in children[waiting.pop()]:
            if (started := _started(child)) is not None:
                found[child] = started
                waiting.append(child)
    return found


def kill_tree(known: Mapping[int, int]) -> None:
    """``kill -9`` for processes and all that they started; a pid that was used again is left alone.

    Args:
        known: Start time of each process by its pid, in clock ticks after boot.

    """
    same = {pid: started for pid, started in known.items() if _started(pid) == started}
    for pid, started in (same | descendants(same)).items():
        if _started(pid) == started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _kill_group(leader: int) -> None:
    """End what a process that has ended left behind: the rest of its own session (Dagster's servers, say)."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _started(pid: int) -> int | None:
    """Start time of a process in clock ticks after boot; None when it is gone (or a zombie), or without ``/proc``."""
    fields = _fields(pid)
    return None if fields is None or fields[0] in "ZXx" else int(fields[19])


def _fields(pid: int) -> list[str] | None:
    """What the kernel tells of a process, from its state on: the parent is number 1, the start time number 19."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
