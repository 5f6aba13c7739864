"""Who holds something: a process of this machine, and whether it is still alive.

A pid alone names nothing, because it is used again. With the start time of the process, the boot of the machine and the
pid namespace (containers number their processes apart) it does. Where ``/proc`` is missing nobody is called dead, and
the expiry of the lease decides. Source: domain.md, 10 (43: stale lock files); architecture.md, 1 rules 6 and 10.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ringrift_sync_dagster.settings import clock

_PROC: Final = Path("/proc")
_STATE_FIELD, _STARTED_FIELD = 0, 19  # fields 3 and 22 of /proc/<pid>/stat, counted after the name in parentheses
_ENDED: Final = frozenset("ZXx")  # a zombie has ended; only its parent has not asked yet


@dataclass(frozen=True, slots=True)
class Process:
    """One process, named so that no other one ever has the same name.

    Args:
        host: Name of the machine, and its pid namespace where there are such.
        pid: The process id in that namespace.
        pid_started: When it started, in clock ticks after boot; None where the system does not tell.
        boot_id: The boot of the machine.

    """

    host: str
    pid: int
    pid_started: int | None
    boot_id: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host.partition('#')[0]}"


def process_of(row: Any) -> Process:  # noqa: ANN401 - a row of any table that names a process
    """Read the process that a row of the state database names."""
    return Process(row.host, row.pid, row.pid_started, row.boot_id)


def this_process() -> Process:
    """Name the process that asks; asked anew each time, because a fork changes the answer."""
    pid = os.getpid()
    stat = _stat(pid)
    return Process(_host(), pid, stat[1] if stat else None, clock.boot_id())


def is_dead(process: Process) -> bool:
    """Say whether the process has certainly ended.

    False is the careful answer: for another machine or pid namespace, and where ``/proc`` is missing.
    """
    if process.boot_id != clock.boot_id() or process.host != _host() or _stat(os.getpid()) is None:
        return False
    stat = _stat(process.pid)
    if stat is None:
        return True
    state, started = stat
    return state in _ENDED or (process.pid_started is not None and started != process.pid_started)


def has_ended(process: Process, *, local: bool) -> bool:
    """Say whether the process has certainly ended, also by a restart of the machine.

    Args:
        process: As it named itself.
        local: True when it must have run on this machine, because the database is a file here; otherwise another boot
            may simply be another machine.

    """
    return is_dead(process) or (local and process.boot_id != clock.boot_id())


def _host() -> str:
    try:
        namespace = (_PROC / "self" / "ns" / "pid").readlink().name
    except OSError:
        return platform.node()
    return f"{platform.node()}#{namespace}"


def _stat(pid: int) -> tuple[str, int] | None:
    """Give the state letter and the start time in clock ticks; None when there is no such process, or no ``/proc``."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name stands in parentheses and may itself hold spaces and parentheses.
    fields = text.rpartition(")")[2].split()
    return fields[_STATE_FIELD], int(fields[_STARTED_FIELD])
