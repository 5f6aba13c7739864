"""What keeps the agent running: a systemd user unit, or our supervisor; both are told of in the same words."""

from __future__ import annotations

import os
import pwd
import shutil
import sys
from pathlib import Path
from typing import Protocol

from .files import read_text, write_whole
from .place import Place
from .processes import Named, Ran, end, holders, named, read_named, run, start, started_from, words
from .supervise import AGENT_MODULE, END_SECONDS, SUPERVISE

SYSTEMD = "systemd"
SUPERVISOR = "supervisor"
_CALL_SECONDS = 30.0
_STOP_SECONDS = 60.0
_TAIL_BYTES = 4096


class Keeper(Protocol):
    """Keeps one agent running."""

    @property
    def is_set_up(self) -> bool:
        """Whether it keeps the agent running now, or would."""

    def agent(self) -> Named | None:
        """Give the agent's process; None while there is none."""

    def start(self) -> None:
        """Start it; the agent follows."""

    def stop(self) -> None:
        """End the agent, and do not start it again. Idempotent."""

    def forget(self) -> None:
        """Stop, and take away what is ours outside the agent's directory. Idempotent."""

    def start_mark(self) -> str:
        """Something that is another one after each start of the agent."""

    def last_words(self) -> str:
        """The end of what the agent wrote."""


class Supervised:
    """The agent under our supervisor.

    Args:
        place: Where it lies.

    """

    def __init__(self, place: Place) -> None:
        self._place = place

    @property
    def is_set_up(self) -> bool:
        """Whether the supervisor is alive."""
        return bool(self._supervisors())

    def agent(self) -> Named | None:
        """Give the agent's process, also one whose supervisor was killed."""
        return read_named(self._place.agent_pid)

    def start(self) -> None:
        """Start the supervisor."""
        start([sys.executable, "-I", str(self._place.program), SUPERVISE, str(self._place.directory)])

    def stop(self) -> None:
        """End the supervisor and the agent with it, whatever is left of the files that say who they are."""
        for supervisor in self._supervisors():
            end(supervisor, END_SECONDS + 5)
        written = self.agent()
        for agent in [*([] if written is None else [written]), *started_from(self._place.releases, AGENT_MODULE)]:
            end(agent, END_SECONDS)
        self._place.agent_pid.unlink(missing_ok=True)

    def forget(self) -> None:
        """Stop; there is nothing else."""
        self.stop()

    def start_mark(self) -> str:
        """Give what the supervisor wrote down last."""
        return read_text(self._place.agent_pid) or ""

    def last_words(self) -> str:
        """Give the end of the log."""
        return (read_text(self._place.log) or "")[-_TAIL_BYTES:]

    def _supervisors(self) -> list[Named]:
        """Give who has the lock open and is no reader of files, such as a backup; two while one starts, and leaves."""
        return [process for process in holders(self._place.supervisor_lock) if SUPERVISE in words(process.pid)]


class Systemd:
    """The agent as a unit of this user's systemd.

    Args:
        unit: Path of the unit file.
        text: What the unit shall be; None when only the present one matters.

    """

    def __init__(self, unit: Path, text: str | None = None) -> None:
        self._unit = unit
        self._text = text

    @property
    def is_set_up(self) -> bool:
        """Whether there is such a unit."""
        return self._unit.exists()

    def agent(self) -> Named | None:
        """Give the unit's main process."""
        told = systemctl("show", "--property=MainPID", "--value", self._unit.name) if self.is_set_up else None
        pid = told.output.strip() if told is not None else ""
        return named(int(pid)) if pid.isdigit() and pid != "0" else None

    def start(self) -> None:
        """Write the unit, have it started now and at every boot."""
        if self._text is not None:
            self._unit.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._unit, self._text.encode(), 0o644)
        systemctl("daemon-reload")
        systemctl("reset-failed", self._unit.name)
        systemctl("enable", self._unit.name)
        systemctl("restart", self._unit.name)

    def stop(self) -> None:
        """Stop the unit."""
        if self.is_set_up:
            systemctl("stop", self._unit.name)

    def forget(self) -> None:
        """Stop the unit and remove it."""
        if self.is_set_up:
            systemctl("disable", "--now", self._unit.name)
            self._unit.unlink(missing_ok=True)
            systemctl("daemon-reload")

    def start_mark(self) -> str:
        """Give how often systemd has started it again."""
        return systemctl("show", "--property=NRestarts", "--value", self._unit.name).output.strip()

    def last_words(self) -> str:
        """Give the end of the unit's journal."""
        arguments = ["journalctl", "--user", "-u", self._unit.name, "-n", "15", "--no-pager", "-o", "cat"]
        return run(arguments, _CALL_SECONDS, env=_session()).output


def unit_path(name: str) -> Path:
    """Where the unit of a node's agent lies; several nodes may share a machine."""
    return Path.home() / ".config" / "systemd" / "user" / f"ringrift-agent-{name}.service"


def why_no_systemd() -> str:
    """Say why units cannot be used here; empty when they can."""
    if shutil.which("systemctl") is None:
        return "there is no systemctl"
    answer = systemctl("show-environment")
    if answer.status != 0:
        return f"systemctl --user does not answer: {answer.last_words}"
    user = pwd.getpwuid(os.getuid()).pw_name
    lingers = run(["loginctl", "show-user", user, "--property=Linger", "--value"], _CALL_SECONDS, env=_session())
    if lingers.output.strip() != "yes":
        return f"units of {user} end with the last login; run: loginctl enable-linger {user}, then deploy again"
    return ""


def systemctl(*arguments: str) -> Ran:
    """Ask this user's systemd."""
    return run(["systemctl", "--user", *arguments], _STOP_SECONDS, env=_session())


def _session() -> dict[str, str]:
    """The place of the user's systemd, which a login without PAM does not know."""
    return {"XDG_RUNTIME_DIR": f"/run/user/{os.getuid()}"}
