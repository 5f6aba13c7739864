"""The programs that we are compared with: rsync and sqlite3_rsync over a real SSH server, curl from a real nginx.

Servers run with their own configuration, keys and port on a loopback address, as children that are ended by their pid.
A program that is not installed is a ``CannotMeasureError`` that says which package to install.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import apsw

from bench.harness import CannotMeasureError
from ringrift_sync_dagster.settings.identity import TlsCertificate
from ringrift_sync_dagster.settings.nodes import Node

SSH_ADDRESS: Final = "127.78.0.1"
NGINX_ADDRESS: Final = "127.78.0.2"
AGENT_ADDRESS: Final = "127.78.0.3"
LONGEST_SECONDS: Final = 600.0
_READY_SECONDS: Final = 15.0
_END_SECONDS: Final = 10.0
_PACKAGES: Final = {
    "rsync": "rsync", "sshd": "openssh-server", "ssh": "openssh-client", "ssh-keygen": "openssh-client",
    "curl": "curl", "nginx": "nginx-light", "base64": "coreutils", "sha256sum": "coreutils", "sync": "coreutils",
}  # fmt: skip
_SEPARATION: Final = Path("/run/sshd")  # where Debian's sshd insists on an empty directory
_SSHD: Final = """ListenAddress {address}
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/client_key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
PrintMotd no
LogLevel ERROR
"""
_SSH: Final = """#!/bin/sh
exec {ssh} -F none -i {folder}/client_key -p {port} -o BatchMode=yes -o IdentitiesOnly=yes -o LogLevel=ERROR \\
  -o UserKnownHostsFile={folder}/known_hosts -o HostKeyAlias=bench -o StrictHostKeyChecking=yes "$@"
"""
_NGINX: Final = """daemon off;
{user}worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log error;
events {{ worker_connections 64; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  server {{ listen {address}:{port}; root {served}; }}
  server {{
    listen {address}:{tls_port} ssl;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    ssl_protocols TLSv1.2 TLSv1.3;
    root {served};
  }}
}}
"""


def program(name: str) -> str:
    """Give where a program is.

    Raises:
        CannotMeasureError: It is not installed.

    """
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        raise CannotMeasureError(f"{name} is missing: apt-get install {_PACKAGES.get(name, name)}")
    return found


def sqlite3_rsync() -> str:
    """Give the sqlite3_rsync that comes with the apsw wheel.

    Raises:
        CannotMeasureError: This wheel has none.

    """
    found = Path(apsw.__file__).parent / "sqlite_extra_binaries" / "sqlite3_rsync"
    if not os.access(found, os.X_OK):
        raise CannotMeasureError("sqlite3_rsync is missing: pip install --force-reinstall apsw (its binary wheel)")
    return str(found)


def run(arguments: Sequence[str]) -> str:
    """Run a peer to its end and give what it prints.

    Raises:
        CannotMeasureError: It failed.

    """
    done = subprocess.run(list(arguments), check=False, capture_output=True, text=True, timeout=LONGEST_SECONDS)
    if done.returncode != 0:
        words = f"{Path(arguments[0]).name} ended with {done.returncode}: {done.stderr or done.stdout}"
        raise CannotMeasureError(words)
    return done.stdout


def fsync(path: Path) -> None:
    """What a peer does not do by itself: return when the file is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class SshServer:
    """A running sshd.

    Args:
        address: Where it listens.
        port: Where it listens.
        folder: Its keys.

    """

    address: str
    port: int
    folder: Path

    def client(self, port: int) -> str:
        """Give an ssh command that reaches the server through ``port`` of its address; a script without arguments."""
        script = self.folder / f"ssh-{port}"
        text = _SSH.format(ssh=program("ssh"), folder=shlex.quote(str(self.folder)), port=port)
        script.write_text(text, encoding="utf-8")
        script.chmod(0o700)
        return str(script)

    def remote(self, path: Path) -> str:
        """Give a path on the server as rsync and sqlite3_rsync write it."""
        return f"{getpass.getuser()}@{self.address}:{path}"

    def node(self, name: str, root: Path) -> Node:
        """Give the server as the inventory describes it; its host key is taken on first use."""
        return Node(
            name, self.address, str(root), ssh_user=getpass.getuser(), ssh_port=self.port,
            ssh_key=str(self.folder / "client_key"), host_key_checking="accept-new",
        )  # fmt: skip


@contextmanager
def ssh_server(folder: Path) -> Iterator[SshServer]:
    """Run sshd with keys of its own for this user.

    Raises:
        CannotMeasureError: It is not installed, or does not start.

    """
    sshd, keygen, port = program("sshd"), program("ssh-keygen"), free_port(SSH_ADDRESS)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("host_key", "client_key"):
        run([keygen, "-q", "-t", "ed25519", "-N", "", "-C", "bench", "-f", str(folder / name)])
    public = (folder / "host_key.pub").read_text(encoding="utf-8")
    (folder / "known_hosts").write_text(f"bench {public}", encoding="utf-8")
    config = folder / "sshd_config"
    config.write_text(_SSHD.format(address=SSH_ADDRESS, port=port, folder=folder), encoding="utf-8")
    with _separation(), _server([sshd, "-D", "-e", "-f", str(config)], folder / "sshd.log", SSH_ADDRESS, port):
        yield SshServer(SSH_ADDRESS, port, folder)


@dataclass(frozen=True, slots=True)
class WebServer:
    """A running nginx; the URLs of what it serves.

    Args:
        plain: Without TLS.
        secure: With TLS.

    """

    plain: str
    secure: str


@contextmanager
def web_server(folder: Path, served: Path, certificate: TlsCertificate) -> Iterator[WebServer]:
    """Run nginx on the files of a folder, with and without TLS.

    Raises:
        CannotMeasureError: It is not installed, or does not start.

    """
    nginx, port, tls_port = program("nginx"), free_port(NGINX_ADDRESS), free_port(NGINX_ADDRESS)
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "nginx.conf"
    user = "user root;\n" if os.geteuid() == 0 else ""  # else the worker may not enter our folder
    text = _NGINX.format(
        folder=folder, served=served, address=NGINX_ADDRESS, port=port, tls_port=tls_port, user=user,
        certificate=certificate.certificate, key=certificate.key,
    )  # fmt: skip
    config.write_text(text, encoding="utf-8")
    command = [nginx, "-c", str(config), "-p", str(folder), "-e", str(folder / "nginx.log")]
    with _server(command, folder / "output.log", NGINX_ADDRESS, port):
        yield WebServer(f"http://{NGINX_ADDRESS}:{port}", f"https://{NGINX_ADDRESS}:{tls_port}")


def free_port(address: str) -> int:
    """Give a port that is free now."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


@contextmanager
def _server(command: Sequence[str], log: Path, address: str, port: int) -> Iterator[None]:
    with log.open("ab") as output:
        child = subprocess.Popen(list(command), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait_for(child, log, address, port)
        yield
    finally:
        child.terminate()
        try:
            child.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _wait_for(child: subprocess.Popen[bytes], log: Path, address: str, port: int) -> None:
    limit = time.monotonic() + _READY_SECONDS
    while time.monotonic() < limit:
        if child.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1):
            return
        time.sleep(0.05)
    words = log.read_text(encoding="utf-8", errors="replace")[-300:]
    raise CannotMeasureError(f"{Path(str(child.args[0])).name} does not answer: {words}")  # type: ignore[index]


@contextmanager
def _separation() -> Iterator[None]:
    """Make sshd's empty directory where it is missing, as the system's own service would, and remove it again."""
    made = not _SEPARATION.exists() and os.geteuid() == 0
    if made:
        _SEPARATION.mkdir(mode=0o755)
    try:
        yield
    finally:
        if made:
            with contextlib.suppress(OSError):
                _SEPARATION.rmdir()
