"""Processes of this node: named so that a pid that was used again is never taken for them, looked at, and ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess  # noqa: TID251 - this runs on the node, where transports.process is not
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .files import write_whole

_PROC = Path("/proc")
_STATE_FIELD, _STARTED_FIELD = 0, 19  # fields 3 and 22 of /proc/<pid>/stat, counted after the name in parentheses
_LISTENS = "0A"  # the state of a listening socket in /proc/net/tcp
_LOOK_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Named:
    """One process of one boot.

    Args:
        pid: The process id.
        started: When it started, in clock ticks after boot.
        boot: The boot of the machine.

    """

    pid: int
    started: int
    boot: str

    @property
    def alive(self) -> bool:
        """Whether this very process runs; a zombie does not."""
        found = _stat(self.pid)
        return found is not None and found[0] not in "ZXx" and found[1] == self.started and self.boot == boot()


@dataclass(frozen=True, slots=True)
class Ran:
    """How a program ended.

    Args:
        status: Its exit status; 127 when it could not be started, 124 when it took too long.
        output: What it printed.
        complaints: What it wrote to stderr.

    """

    status: int
    output: str
    complaints: str

    @property
    def last_words(self) -> str:
        """The end of what it complained of, on one line."""
        lines = (self.complaints or self.output).strip().splitlines()
        return " ".join(" ".join(lines[-6:]).split())[-600:] or f"status {self.status}"


def run(
    arguments: Sequence[str], seconds: float, *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Ran:
    """Run a program to its end, and everything that it started with it when the time is over."""
    try:
        process = subprocess.Popen(  # noqa: S603 - argument lists only
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            errors="replace", cwd=cwd, env=None if env is None else {**os.environ, **env},  # noqa: TID251 - as above
            start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        return Ran(127, "", f"{arguments[0]} cannot be started: {error.strerror}")
    with process:
        try:
            output, complaints = process.communicate(timeout=max(seconds, 0.1))
        except subprocess.TimeoutExpired:
            _kill_group(process.pid)
            return Ran(124, "", f"{Path(arguments[0]).name} did not end within {seconds:.0f} s")
    return Ran(process.returncode, output, complaints)


def start(arguments: Sequence[str]) -> None:
    """Start a program that goes on when we end; it holds nothing of ours open."""
    subprocess.Popen(  # noqa: S603 - argument lists only
        arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/",
        start_new_session=True,
    )  # fmt: skip


def boot() -> str:
    """Name this boot of the machine."""
    return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def named(pid: int) -> Named | None:
    """Name a process that runs; None when there is none."""
    found = _stat(pid)
    return None if found is None else Named(pid, found[1], boot())


def write_named(path: Path, pid: int) -> None:
    """Write down which process it is; nothing when it has ended meanwhile."""
    process = named(pid)
    if process is not None:
        write_whole(path, json.dumps(asdict(process)).encode(), 0o600)


def read_named(path: Path) -> Named | None:
    """Give the process of a file if it is alive; None when it is not, and when there is no such file."""
    try:
        process = Named(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
    return process if process.alive else None


def words(pid: int) -> list[str]:
    """Give the command line of a process; empty when there is none."""
    try:
        told = (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return []
    return [os.fsdecode(word) for word in told.split(b"\0")[:-1]]


def holders(path: Path) -> list[Named]:
    """Give this user's processes that have a file open, the eldest first; also when its name has gone meanwhile."""
    name = str(path.parent.resolve() / path.name)
    return _eldest_first(pid for pid in _pids() if not _open_files(pid).isdisjoint({name, f"{name} (deleted)"}))


def started_from(directory: Path, module: str) -> list[Named]:
    """Give the processes that run a module of Python with an interpreter below a directory, the eldest first."""
    start = f"{directory.resolve()}/"
    seen = ((pid, words(pid)) for pid in _pids())
    return _eldest_first(pid for pid, told in seen if module in told and told[0].startswith(start))


def end(process: Named, seconds: float) -> None:
    """End a process that leads a group: SIGTERM, and SIGKILL for the whole group when it does not obey in time."""
    if process.alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
    limit = time.monotonic() + seconds  # noqa: TID251 - as above
    while process.alive and time.monotonic() < limit:  # noqa: TID251 - as above
        time.sleep(_LOOK_SECONDS)
    _kill_group(process.pid)
    while process.alive and time.monotonic() < limit + 5:  # noqa: TID251 - as above
        time.sleep(_LOOK_SECONDS)


def listens(pid: int, port: int) -> bool:
    """Say whether the process itself has a listening socket on the port: somebody else's answer is no proof."""
    sockets: set[str] = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            lines = (_PROC / str(pid) / "net" / table).read_text(encoding="ascii").splitlines()[1:]
            rows = [line.split() for line in lines]
            sockets |= {f"socket:[{row[9]}]" for row in rows if row[3] == _LISTENS and _port(row[1]) == port}
    return bool(sockets) and not sockets.isdisjoint(_open_files(pid))


def _pids() -> list[int]:
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]


def _eldest_first(pids: Iterable[int]) -> list[Named]:
    found = [process for pid in pids if (process := named(pid)) is not None and process.alive]
    return sorted(found, key=lambda process: process.started)


def _open_files(pid: int) -> set[str]:
    names: set[str] = set()
    with contextlib.suppress(OSError):
        for entry in (_PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                names.add(str(entry.readlink()))
    return names


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _stat(pid: int) -> tuple[str, int] | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name may itself hold blanks and parentheses
    return fields[_STATE_FIELD], int(fields[_STARTED_FIELD])
