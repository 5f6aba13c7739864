"""Real SSH servers for tests: each with its own keys, address, port and programs, ended by pid."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.transports.ssh import SshSettings

READY_SECONDS = 15.0
PROGRAMS = (
    "sh", "base64", "dd", "df", "head", "tail", "sha256sum", "cat", "mv", "mkdir", "rm", "wc", "stat", "sync", "test",
)  # fmt: skip
"""What a node has at least: no Python, no rsync, no scp, no sftp."""

CONFIG = """ListenAddress {address}
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxStartups 200
MaxSessions 100
PrintMotd no
LogLevel VERBOSE
"""


def program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    assert found is not None, f"{name} is missing: make setup installs it as root"
    return found


def make_key(path: Path) -> Path:
    path.unlink(missing_ok=True)
    subprocess.run([program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)], check=True)
    return path


class Sshd:
    """One sshd; started by ``start`` or the ``with``, ended by ``stop``.

    A login has a home of its own, so that no start-up file of this machine adds to its PATH.
    ``programs``: the only programs that a login finds, by name; None: those of this machine.
    ``banner``: what the login shell prints to stdout before every command.
    ``options``: further lines of its configuration, which win over the usual ones.
    """

    def __init__(
        self, folder: Path, address: str, *, port: int = 0, programs: Sequence[str] | None = None, banner: str = "",
        options: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.folder, self.address = folder, address
        folder.mkdir(parents=True, exist_ok=True)
        self.port = port or _free_port(address)
        self.key = make_key(folder / "client_key")
        self.known_hosts = folder / "known_hosts"
        self._control_dir = _control_dir(folder)
        self._programs, self._banner, self._lines = programs, banner, options
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "authorized_keys").write_text((folder / "client_key.pub").read_text())
        self.new_host_key()
        self.trust()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def place(self) -> str:
        """The server as known_hosts names it."""
        return self.address if self.port == 22 else f"[{self.address}]:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "sshd.log").read_text(errors="replace")

    @property
    def settings(self) -> SshSettings:
        """What a client needs; each server has a folder of its own for shared connections."""
        self._control_dir.mkdir(mode=0o700, exist_ok=True)
        return SshSettings(self.known_hosts, self._control_dir)

    def node(self, name: str, root: Path, **more: Any) -> Node:  # noqa: ANN401 - fields of Node
        """The server as the inventory describes it."""
        given = {
            "ssh_host": self.address, "ssh_port": self.port, "ssh_key": str(self.key), "ssh_user": getpass.getuser(),
            "ringrift_path": str(root), **more,
        }  # fmt: skip
        return Node(name=name, **given)

    def new_host_key(self) -> None:
        """Give the server another host key; takes effect with the next start."""
        make_key(self.folder / "host_key")

    def trust(self) -> None:
        """Write the present host key to known_hosts, as a person would after comparing it."""
        public = " ".join((self.folder / "host_key.pub").read_text().split()[:2])
        self.known_hosts.write_text(f"{self.place} {public}\n")

    def start(self) -> Self:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where Debian's sshd insists on an empty directory
        config = self.folder / "sshd_config"
        usual = CONFIG.format(address=self.address, port=self.port, folder=self.folder)
        config.write_text("".join(f"{line}\n" for line in self._lines) + usual + self._limits())
        with (self.folder / "sshd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [program("sshd"), "-D", "-e", "-f", str(config)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._wait()
        return self

    def stop(self) -> None:
        """End the server and every session of it."""
        shutil.rmtree(self._control_dir, ignore_errors=True)  # what still uses a socket there ends with its session
        if self._process is None:
            return
        sessions = _descendants(self._process.pid)
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(10)
        self._process = None
        for pid in sessions:
            _kill(pid)

    @property
    def sessions(self) -> list[int]:
        """Process ids of all that runs for a login now."""
        return [] if self._process is None else _descendants(self._process.pid)

    def kill(self) -> None:
        """``kill -9`` of the server and its sessions: nobody says goodbye."""
        assert self._process is not None
        for pid in [self._process.pid, *_descendants(self._process.pid)]:
            _kill(pid)
        self._process.wait(10)
        self._process = None

    @property
    def home(self) -> Path:
        """What ``~`` is for a login."""
        path = self.folder / "home"
        path.mkdir(exist_ok=True)
        return path

    def _limits(self) -> str:
        path = f" PATH={self._own_programs()}" if self._programs is not None else ""
        lines = f"SetEnv HOME={self.home}{path}\n"
        if self._banner:
            wrapper = self.folder / "login"
            wrapper.write_text(
                f"#!/bin/sh\nprintf '%s\\n' {shlex.quote(self._banner)}\nexec /bin/sh -c \"$SSH_ORIGINAL_COMMAND\"\n"
            )
            wrapper.chmod(0o755)
            lines += f"ForceCommand {wrapper}\n"
        return lines

    def _own_programs(self) -> Path:
        own = self.folder / "bin"
        own.mkdir(exist_ok=True)
        for name in self._programs or ():
            if not (own / name).exists():
                (own / name).symlink_to(program(name))
        return own

    def _wait(self) -> None:
        assert self._process is not None
        limit = time.monotonic() + READY_SECONDS
        while True:
            try:
                socket.create_connection((self.address, self.port), timeout=1).close()
            except OSError:
                assert self._process.poll() is None, self.log
                assert time.monotonic() < limit, self.log
                time.sleep(0.02)
            else:
                return


def _control_dir(folder: Path) -> Path:
    """A path that is short enough for a socket's name."""
    return Path("/tmp") / f"rr-{os.getpid()}-{abs(hash(str(folder))) % 10**8}"


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def _descendants(pid: int) -> list[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    found: list[int] = []
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        children = [child for child, its in parents.items() if its == parent]
        found += children
        waiting += children
    return found


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
