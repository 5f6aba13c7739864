"""A small systemd for a node of a test: what ``systemctl --user`` is asked by a deploy, with units that really run.

A machine for tests has no systemd for users. This one starts a unit's ``ExecStart`` and tells its process; it does not
start a unit again that has ended.
"""

from __future__ import annotations

import sys
from pathlib import Path

SYSTEMCTL = """#!{python}
import os, shlex, signal, subprocess, sys, time
from pathlib import Path

units = Path.home() / ".config" / "systemd" / "user"
state = Path.home() / "running"
state.mkdir(exist_ok=True)


def pid_of(name):
    try:
        pid = int((state / name).read_text())
        return 0 if Path(f"/proc/{{pid}}/stat").read_text().rpartition(")")[2].split()[0] == "Z" else pid
    except (OSError, ValueError):
        return 0


def stop(name):
    if pid := pid_of(name):
        os.kill(pid, signal.SIGTERM)
        while pid_of(name):
            time.sleep(0.05)


def start(name):
    line = next(line for line in (units / name).read_text().splitlines() if line.startswith("ExecStart="))
    words = [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(line.removeprefix("ExecStart="))]
    with (state / f"{{name}}.journal").open("ab") as journal:
        started = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=journal, stderr=journal, cwd="/",
                                   start_new_session=True)
    (state / name).write_text(str(started.pid))


assert sys.argv[1] == "--user", sys.argv
operation, name = sys.argv[2], sys.argv[-1]
if operation in ("stop", "restart", "disable"):
    stop(name)
if operation == "restart":
    start(name)
if operation == "show":
    print(pid_of(name) if "--property=MainPID" in sys.argv else 0)
"""
LOGINCTL = "#!/bin/sh\necho yes\n"
JOURNALCTL = '#!/bin/sh\ncat "$HOME"/running/*.journal\n'


def install_small_systemd(folder: Path) -> None:
    """Put the programs, and a Python, into the directory of the programs that a login finds."""
    folder.mkdir(parents=True)
    python = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    (folder / "python3").symlink_to(python)
    (folder / "env").symlink_to("/usr/bin/env")
    for name, text in (
        ("systemctl", SYSTEMCTL.format(python=python)),
        ("loginctl", LOGINCTL),
        ("journalctl", JOURNALCTL),
    ):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
