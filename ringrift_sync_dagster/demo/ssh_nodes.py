"""Nodes without an agent: each has an OpenSSH server of its own, whose logins find only the programs given to them.

Keys, homes and configurations lie in one folder, and ``known_hosts`` names the servers' keys, so that a login is
checked as anywhere else. They run as whoever runs the demo, on the port of SSH where that may be opened.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringrift_sync_dagster.demo.processes import PYTHON

BASICS: Final = (
    "sh", "base64", "cat", "dd", "env", "head", "ls", "mkdir", "mv", "printf", "rm", "sha256sum", "stat", "sync",
    "tail", "test", "true", "uname", "wc",
)  # fmt: skip
"""What every Unix has; beside these a login finds Python, because the node plays games."""
WITH_RSYNC: Final = (*BASICS, "rsync")

_PACKAGES: Final = {"sshd": "openssh-server", "ssh": "openssh-client", "ssh-keygen": "openssh-client"}
_ADMIN_PATH: Final = "/usr/sbin:/sbin:/usr/local/sbin"  # where sshd lies, outside an ordinary PATH
_SSH_PORT: Final = 22
_LOGIN_SECONDS: Final = 15
_CONFIG: Final = """ListenAddress {address}
Port {port}
HostKey "{folder}/host_key"
AuthorizedKeysFile "{client_key}.pub"
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxSessions 100
MaxStartups 100
PrintMotd no
SetEnv "HOME={folder}/home" "PATH={folder}/bin"
"""


class MissingProgramError(Exception):
    """A program that the demo starts is not on this machine."""


@dataclass(frozen=True, slots=True)
class SshServer:
    """One node's sshd, to be started; made by ``prepare``.

    Args:
        node: The node.
        address: Where it listens.
        port: On which port.
        folder: Its host key, configuration, home and programs.
        client_key: The key that it lets in.
        known_hosts: The file that names its host key.

    """

    node: str
    address: str
    port: int
    folder: Path
    client_key: Path
    known_hosts: Path

    @property
    def inventory_keys(self) -> dict[str, str | int]:
        """What the inventory says of it."""
        return {"ssh_user": getpass.getuser(), "ssh_port": self.port, "ssh_key": str(self.client_key)}

    @property
    def arguments(self) -> list[str]:
        """The server, in the foreground."""
        return [_program("sshd"), "-D", "-e", "-f", str(self.folder / "sshd_config")]

    @property
    def login(self) -> list[str]:
        """A login that does nothing: it ends with 0 when the server lets us in."""
        options = ("BatchMode=yes", "IdentitiesOnly=yes", f'UserKnownHostsFile="{self.known_hosts}"')
        return [
            _program("ssh"), "-F", "none", *(part for option in options for part in ("-o", option)),
            *("-o", f"ConnectTimeout={_LOGIN_SECONDS}", "-i", str(self.client_key), "-l", getpass.getuser()),
            *("-p", str(self.port), self.address, "true"),
        ]  # fmt: skip


def prepare(folder: Path, programs: Mapping[str, Sequence[str]], addresses: Mapping[str, str]) -> dict[str, SshServer]:
    """Make keys and configurations; keys that are there from an earlier start are used again.

    Args:
        folder: Where everything lies; made if missing.
        programs: For each node, the programs that a login finds beside Python.
        addresses: Address of each node.

    Raises:
        MissingProgramError: One that is needed is not here; the message says what to install.

    """
    if not programs:
        return {}
    _require((*_PACKAGES, *(name for names in programs.values() for name in names)))
    folder.mkdir(parents=True, exist_ok=True)
    client_key, known_hosts = folder / "client_key", folder / "known_hosts"
    _make_key(client_key)
    servers = {
        node: SshServer(node, addresses[node], _port(addresses[node]), folder / node, client_key, known_hosts)
        for node in programs
    }
    for server in servers.values():
        _prepare_one(server, programs[server.node])
    known_hosts.write_text("".join(_known_host(server) for server in servers.values()))
    if os.geteuid() == 0:
        with suppress(OSError):  # where there is no /run, another folder is built in
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # Debian's sshd insists on it, empty
    return servers


def refusal(server: SshServer) -> str:
    """Log in once; give what ssh complains of, or nothing when it worked."""
    try:
        ended = subprocess.run(server.login, check=False, capture_output=True, text=True, timeout=2 * _LOGIN_SECONDS)
    except subprocess.TimeoutExpired:
        return f"the login did not end within {2 * _LOGIN_SECONDS} s"
    return "" if ended.returncode == 0 else ended.stderr.strip() or f"ssh ended with {ended.returncode}"


def _prepare_one(server: SshServer, programs: Sequence[str]) -> None:
    folder = server.folder
    shutil.rmtree(folder / "bin", ignore_errors=True)
    for name in ("home", "bin"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name in programs:
        (folder / "bin" / name).symlink_to(_program(name))
    (folder / "bin" / "python3").symlink_to(Path(PYTHON).resolve())
    _make_key(folder / "host_key")
    values = {"address": server.address, "port": server.port, "client_key": server.client_key, "folder": folder}
    (folder / "sshd_config").write_text(_CONFIG.format(**values))


def _make_key(path: Path) -> None:
    if not path.exists():
        arguments = [_program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", path.parent.name, "-f", str(path)]
        subprocess.run(arguments, check=True, stdin=subprocess.DEVNULL)


def _known_host(server: SshServer) -> str:
    place = server.address if server.port == _SSH_PORT else f"[{server.address}]:{server.port}"
    kind, key = (server.folder / "host_key.pub").read_text().split()[:2]
    return f"{place} {kind} {key}\n"


def _port(address: str) -> int:
    """The port of SSH, or a free one where that is taken or not for ordinary users."""
    for port in (_SSH_PORT, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
            probe.listen(1)
            return int(probe.getsockname()[1])
    return _SSH_PORT  # sshd will say what is wrong


def _require(names: Sequence[str]) -> None:
    missing = [name for name in dict.fromkeys(names) if find(name) is None]
    if missing:
        packages = " ".join(dict.fromkeys(_PACKAGES.get(name, name) for name in missing))
        verb = "is" if len(missing) == 1 else "are"
        raise MissingProgramError(
            f"{', '.join(missing)} {verb} missing on this machine: as root run `make setup`, or install {packages}"
        )


def _program(name: str) -> str:
    found = find(name)
    if found is None:
        raise MissingProgramError(f"{name} is missing on this machine")
    return found


def find(name: str) -> str | None:
    """Give the path of a program, also where an ordinary PATH does not lead; None when it is not here."""
    return shutil.which(name) or shutil.which(name, path=_ADMIN_PATH)
