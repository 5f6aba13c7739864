"""How SSH reaches one node: addresses in order, one identity, checked host keys; the same for ssh and paramiko.

Key, port and user come from the inventory and from nowhere else: neither ``~/.ssh/config`` nor an agent adds a key
(domain.md, 10, incident 48). A host key that is not known is refused with the command that adds it, unless the
inventory says ``ssh_host_key_checking: accept-new``; one that changed is refused always. The guide's row: connecting
takes 10 s at most.
"""

from __future__ import annotations

import contextlib
import errno
import getpass
import logging
import os
import re
import shlex
import socket
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import socks

from ringrift_sync_dagster.errors import (
    AuthenticationError,
    HostKeyError,
    LocalToolError,
    StallError,
    TransferError,
    TransientError,
    UnreachableError,
)
from ringrift_sync_dagster.settings.clock import Deadline, monotonic
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.transports.known_hosts import end_last_line
from ringrift_sync_dagster.transports.socks_connect import listens

CONNECT_SECONDS: Final = 10.0
_LOOPBACK: Final = "127.0.0.1"
_SILENT_SECONDS: Final = 5.0
_SILENT_MOST: Final = 1000
_PERSIST_SECONDS: Final = 30
_ALIVE_SECONDS: Final = 10
# Seconds of silence, seconds between questions, and how many of these may stay unanswered; macOS calls the first so.
_KEEPALIVE: Final = (("TCP_KEEPIDLE", 10), ("TCP_KEEPALIVE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4))
_OUR_LIMITS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
_SOCKET_PATH_BYTES: Final = 104  # what both Linux and macOS allow for a socket's path
_SOCKET_NAME_BYTES: Final = 58  # a slash, a hash in hexadecimal, and what ssh appends while it makes the socket
_SSH_FAILED: Final = 255  # ssh's own status; anything else is the remote command's
_HOST_KEY_WORDS: Final = (
    "host key verification failed",
    "host identification has changed",
    "no matching host key type",
)
_AUTHENTICATION_WORDS: Final = (
    "permission denied",
    "too many authentication failures",
    "no supported authentication methods",
    "load key",
    "bad permissions",
)
_UNREACHABLE_WORDS: Final = (
    "connection refused",
    "connection timed out",
    "no route to host",
    "network is unreachable",
    "could not resolve hostname",
    "operation timed out",
    "banner exchange",
)


log = logging.getLogger(__name__)

_UNSHARED: Final[set[Path]] = set()  # folders that were logged as unfit


def default_control_dir() -> Path:
    """Where sockets of shared connections lie: a short path, because a socket's name may have 108 bytes at most."""
    return Path(tempfile.gettempdir()) / f"ringrift-ssh-{os.geteuid()}"


@dataclass(frozen=True, slots=True)
class SshSettings:
    """What SSH needs from this machine.

    Args:
        known_hosts: The file of known host keys; made when a key is taken with ``accept-new``.
        control_dir: Folder of this user for the sockets of shared connections.
        connect_seconds: Longest time for connecting, the handshake included.
        stall_seconds: Longest silence while something runs.

    """

    known_hosts: Path
    control_dir: Path = field(default_factory=default_control_dir)
    connect_seconds: float = CONNECT_SECONDS
    stall_seconds: float = 30.0


class SshEndpoint:
    """The way to one node's sshd; safe in several threads.

    Args:
        node: The node.
        settings: This machine's side.
        transport: The rung's name, for messages.

    """

    def __init__(self, node: Node, settings: SshSettings, transport: str) -> None:
        self.node = node
        self.settings = settings
        self.transport = transport
        self._chosen: tuple[str, int] | None = None

    @property
    def key_file(self) -> Path | None:
        """The key of the inventory; None: the user's default keys."""
        return Path(self.node.ssh_key).expanduser() if self.node.ssh_key else None

    @property
    def user(self) -> str:
        """Whom we log in as."""
        return self.node.ssh_user or getpass.getuser()

    def dial(self, deadline: Deadline) -> tuple[socket.socket, str, int]:
        """Connect to the first address that answers; give the socket, the address and the port.

        Raises:
            UnreachableError: None answers.
            LocalToolError: This machine has no socket left for us.
            DeadlineExceededError: No time is left.

        """
        deadline.check(self.node.name, self.transport, "connecting")
        failures: list[str] = []
        for address, port in self._candidates():
            if _SILENT.still(address, port, self.settings.connect_seconds):
                failures.append(f"{address}:{port}: it did not answer a moment ago")
                continue
            try:
                connected = self._dial_one(address, port, max(deadline.at_most(self.settings.connect_seconds), 0.001))
            except (OSError, UnicodeError) as error:  # the latter: the text cannot be a name
                if getattr(error, "errno", None) in _OUR_LIMITS:
                    message = f"this machine gives us no socket: {error}; look at the limits of this user"
                    raise LocalToolError(self.node.name, self.transport, message) from error
                if isinstance(error, TimeoutError) and not deadline.expired:
                    _SILENT.note(address, port, self.settings.connect_seconds)
                failures.append(f"{address}:{port}: {getattr(error, 'strerror', None) or error}")
                continue
            _tune(connected)
            self._chosen = (address, port)
            return connected, address, port
        if not failures:
            message = "the inventory gives no address for SSH; set ssh_host"
            raise UnreachableError(self.node.name, self.transport, message)
        message = f"no connection to {'; '.join(failures)}; is sshd running there, and the port right?"
        raise UnreachableError(self.node.name, self.transport, message)

    def address(self, deadline: Deadline) -> tuple[str, int]:
        """Give the address and port that answered last; looks for one when there is none yet."""
        if (chosen := self._chosen) is not None:
            return chosen
        connected, address, port = self.dial(deadline)
        connected.close()
        return address, port

    def forget_address(self) -> None:
        """Look for an address anew next time."""
        self._chosen = None

    def arguments(self, deadline: Deadline, *options: str) -> list[str]:
        """Give the system's ssh with everything but the remote command: ``[*arguments, "--", command]``.

        Raises:
            UnreachableError: No address answers.
            LocalDiskError: A key may be added to the file of known ones, and it cannot be written.

        """
        address, port = self.address(deadline)
        if self.node.host_key_checking == "accept-new":
            end_last_line(self.settings.known_hosts)
        return ["ssh", *self._options(port), *options, address]

    @property
    def reached(self) -> bool:
        """True: an address has answered, so that there may be a shared connection to end."""
        return self._chosen is not None

    def close_shared(self, deadline: Deadline) -> list[str]:
        """Give the arguments that end the shared connection as soon as nobody uses it, for ``process.run``."""
        return self.arguments(deadline, "-O", "stop")

    def error(self, status: int, complaints: str, what: str) -> TransferError | None:
        """Give our error for how ssh itself ended; None when it is the remote command's own status.

        Args:
            status: Exit status of ssh, or of a program that hands ssh's on.
            complaints: What ssh wrote to stderr.
            what: What was going on, for the message.

        """
        words = complaints.lower()
        shown = " ".join(complaints.split())[-400:]
        if any(known in words for known in _HOST_KEY_WORDS):
            return self.host_key_error(shown)
        if status != _SSH_FAILED:
            return None
        if any(known in words for known in _AUTHENTICATION_WORDS):
            return self.authentication_error(shown)
        if any(known in words for known in _UNREACHABLE_WORDS):
            self.forget_address()
            return UnreachableError(self.node.name, self.transport, f"{what}: {shown}")
        if "timeout, server" in words:
            return StallError(self.node.name, self.transport, f"{what}: {shown}; what has arrived is kept")
        return TransientError(self.node.name, self.transport, f"{what}: the connection broke: {shown}")

    def authentication_error(self, cause: str) -> AuthenticationError:
        """Give the error for a login that was refused, with what to look at."""
        key = self.key_file or "the default keys of this user"
        message = f"sshd refused {self.user} with {key}: {cause}; check ssh_user and ssh_key of {self.node.name}"
        return AuthenticationError(self.node.name, self.transport, message)

    def host_key_error(self, cause: str, fingerprint: str = "", key: str = "") -> HostKeyError:
        """Give the error for a host key that is not the known one, with the exact command for a person.

        Args:
            cause: ``unknown``, ``changed``, or ssh's own words.
            fingerprint: SHA-256 fingerprint that was offered; empty when it is not known.
            key: Type and key that were offered, as a file of known ones has them; empty when they are not known.

        """
        address, port = self._chosen or (self.node.ssh_addresses or (("HOST", 22),))[0]
        file, place = shlex.quote(str(self.settings.known_hosts)), address if port == 22 else f"[{address}]:{port}"  # noqa: PLR2004
        scan = f"ssh-keyscan -p {port} {shlex.quote(address)}"
        if key and self._through_socks:  # ssh-keyscan knows no proxy
            scan = f"echo {shlex.quote(f'{place} {key}')}"
        add = f"{self._making_folder()}{scan} >> {file}"
        changed = "changed" in cause.lower()
        command = f"ssh-keygen -f {file} -R {shlex.quote(place)}; {add}" if changed else add
        offered = f" (it offers {fingerprint})" if fingerprint else ""
        words = "the host key has changed" if changed else "the host key is not known"
        message = f"{words} at {place}{offered}: {cause}; compare it with the node's own, then run: {command}"
        return HostKeyError(self.node.name, self.transport, message)

    def _making_folder(self) -> str:
        """The command that makes the folder of known hosts, where it is missing."""
        folder = self.settings.known_hosts.parent
        return "" if folder.is_dir() else f"mkdir -p -m 700 {shlex.quote(str(folder))} && "

    @property
    def _through_socks(self) -> bool:
        return listens(self.node.socks5_port)

    def _candidates(self) -> Iterator[tuple[str, int]]:
        if self._chosen is not None:
            yield self._chosen
        yield from (pair for pair in self.node.ssh_addresses if pair != self._chosen)

    def _dial_one(self, address: str, port: int, seconds: float) -> socket.socket:
        if self._through_socks:
            try:
                return socks.create_connection(
                    (address, port),
                    timeout=seconds,  # type: ignore[arg-type]  # the stubs know whole seconds only
                    proxy_type=socks.SOCKS5,
                    proxy_addr=_LOOPBACK,
                    proxy_port=self.node.socks5_port,
                    proxy_rdns=True,
                )
            except socks.ProxyError as error:
                raise OSError(f"the SOCKS proxy on port {self.node.socks5_port}: {error}") from error
        return socket.create_connection((address, port), timeout=seconds)

    def _options(self, port: int) -> list[str]:
        settings = self.settings
        values = {
            "BatchMode": "yes",
            "IdentitiesOnly": "yes",
            "ConnectTimeout": str(max(1, round(settings.connect_seconds))),
            "ServerAliveInterval": str(_ALIVE_SECONDS),
            "ServerAliveCountMax": "3",
            "StrictHostKeyChecking": "accept-new" if self.node.host_key_checking == "accept-new" else "yes",
            "UserKnownHostsFile": _literal(settings.known_hosts),
            "GlobalKnownHostsFile": "/dev/null",
            "UpdateHostKeys": "no",
            "HashKnownHosts": "no",
            **_sharing(settings.control_dir),
            "Compression": "no",
            "ForwardAgent": "no",
            "ForwardX11": "no",
            "LogLevel": "ERROR",
        }
        if self._through_socks:
            program = [sys.executable, "-m", "ringrift_sync_dagster.transports.socks_connect"]
            values["ProxyCommand"] = f"{shlex.join(program)} {self.node.socks5_port} %h %p"
        if self.key_file is not None:
            values["IdentityFile"] = _literal(self.key_file)
        # -F none: no other file adds a key, a jump host or a command.
        written = [part for name, value in values.items() for part in ("-o", f"{name}={_quoted(value)}")]
        return ["-F", "none", "-T", *written, "-p", str(port), "-l", self.user]


class _Silent:
    """Addresses of this process's last dials that did not answer: the rungs of one climb need not each wait for them.

    Only who would wait no longer than somebody did a few seconds ago is spared the wait.
    """

    def __init__(self) -> None:
        self._until: dict[tuple[str, int], tuple[float, float]] = {}
        self._lock = threading.Lock()

    def note(self, address: str, port: int, waited_seconds: float) -> None:
        """Remember that nothing came in so many seconds."""
        with self._lock:
            if len(self._until) >= _SILENT_MOST:
                self._until.clear()
            self._until[address, port] = (monotonic() + _SILENT_SECONDS, waited_seconds)

    def still(self, address: str, port: int, patience_seconds: float) -> bool:
        """Say whether waiting so long would probably be in vain."""
        with self._lock:
            until, waited = self._until.get((address, port), (0.0, 0.0))
            return monotonic() < until and patience_seconds <= waited


_SILENT: Final = _Silent()


def _quoted(value: str) -> str:
    """A value of an ssh option: a blank ends it unless it stands in quotes. ProxyCommand takes the whole line."""
    if value.endswith("%h %p") or not re.search(r"[\s\"'\\]", value):
        return value
    escaped = re.sub(r"([\"\\])", r"\\\1", value)
    return f'"{escaped}"'


def _literal(path: Path) -> str:
    """A path in an ssh option, where a percent sign stands for something else."""
    return str(path).replace("%", "%%")


def _sharing(folder: Path) -> dict[str, str]:
    """The options with which the programs of this user share one connection; none where there is no place for it."""
    too_long = len(os.fsencode(folder)) + _SOCKET_NAME_BYTES > _SOCKET_PATH_BYTES
    if too_long or not _is_private_dir(folder):
        return {"ControlMaster": "no", "ControlPath": "none"}
    path = f"{_literal(folder)}/%C"
    return {"ControlMaster": "auto", "ControlPath": path, "ControlPersist": str(_PERSIST_SECONDS)}


def _is_private_dir(path: Path) -> bool:
    """Make the folder for this user alone; False, and logged once, where somebody else could put a socket into it."""
    trouble = ""
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700, parents=True)
        found = path.stat(follow_symlinks=False)
    except OSError as error:
        trouble = f"it cannot be made: {error.strerror}"
    else:
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            trouble = "it must be a folder of this user that nobody else may enter (mode 0700); remove or correct it"
    if trouble and path not in _UNSHARED:
        _UNSHARED.add(path)
        log.warning("ssh connections are not shared folder=%s reason=%s", path, trouble)
    return not trouble


def _tune(connected: socket.socket) -> None:
    """Send short commands at once, and notice a peer that vanished without a word."""
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if (option := getattr(socket, name, None)) is not None:
            connected.setsockopt(socket.IPPROTO_TCP, option, value)
