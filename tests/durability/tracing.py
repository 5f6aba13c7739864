"""Watch a process with strace: in which order it syncs, renames, removes and answers."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.agent.agents import wait_until

CALLS = "fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,sendto,sendmsg"
_SYNC = re.compile(r"f(?:data)?sync\(\d+<(?P<path>[^>]*)>")
_RENAME = re.compile(r'rename\w*\(.*?"(?P<old>[^"]+)".*?"(?P<new>[^"]+)"')
_UNLINK = re.compile(r'unlink\w*\(.*?"(?P<path>[^"]+)"')
_SEND = re.compile(r'send\w+\(.*?"(?P<text>[^"]+)')


@dataclass(frozen=True)
class Event:
    """One system call that has ended well: ``sync``, ``rename`` (to ``what``), ``unlink`` or ``send``."""

    kind: str
    what: str


def events(trace: Path) -> list[Event]:
    """Read a trace; a call that another thread interrupted counts where it was resumed."""
    found, open_calls = [], {}
    for line in trace.read_text(errors="replace").splitlines():
        pid, _, call = line.partition(" ")
        call = call.strip()
        if call.endswith("<unfinished ...>"):
            open_calls[pid] = call
            continue
        if " resumed>" in call:
            call = open_calls.pop(pid, "") + call
        if "= -1" not in call and (event := _event(call)) is not None:
            found.append(event)
    return found


def _event(call: str) -> Event | None:
    if match := _SYNC.search(call):
        return Event("sync", match["path"])
    if match := _RENAME.search(call):
        return Event("rename", match["new"])
    if match := _UNLINK.search(call):
        return Event("unlink", match["path"])
    if match := _SEND.search(call):
        return Event("send", match["text"])
    return None


def position(found: Sequence[Event], kind: str, what: str, *, after: int = -1) -> int:
    """Index of the first event of a kind behind ``after`` whose path or text has ``what`` in it."""
    for index, event in enumerate(found):
        if index > after and event.kind == kind and what in event.what:
            return index
    raise AssertionError(f"no {kind} of {what!r} after event {after} of {found}")


@contextmanager
def traced(pid: int, trace: Path) -> Iterator[None]:
    """Attach strace to a process and all its threads for the body."""
    command = ["strace", "-f", "-y", "-qq", "-s", "64", "-e", f"trace={CALLS}", "-o", str(trace), "-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as strace:
        wait_until(lambda: f"TracerPid:\t{strace.pid}" in Path(f"/proc/{pid}/status").read_text())
        try:
            yield
        finally:
            strace.send_signal(signal.SIGINT)
            strace.wait(10)


def run_traced(command: Sequence[str], trace: Path, environment: dict[str, str]) -> None:
    """Run a program under strace to its end."""
    strace = ["strace", "-f", "-y", "-qq", "-s", "64", "-e", f"trace={CALLS}", "-o", str(trace)]
    done = subprocess.run([*strace, *command], env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
