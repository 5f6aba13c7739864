"""The ways to a node that the contract suite runs over: a new transport joins by adding its name to ``WAYS``."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Protocol, Self

import pytest

from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.settings.identity import CoordinatorKey, create_coordinator_key
from ringrift_sync_dagster.transports.base import Transport
from ringrift_sync_dagster.transports.base64_ssh import base64_transport
from ringrift_sync_dagster.transports.p2p_http import P2PHttpTransport
from ringrift_sync_dagster.transports.rsync import rsync_transport
from ringrift_sync_dagster.transports.ssh_transport import SshTransport
from tests.agent.agents import AgentProcess, addresses
from tests.sshd import PROGRAMS, Sshd


class Way(Protocol):
    """A real node and a transport to it."""

    node: str
    program: str
    """Source of a function ``connect(*arguments)`` that gives the transport, for processes that a test kills."""

    @property
    def arguments(self) -> list[str]:
        """What ``connect`` is called with."""

    def open(self) -> Transport:
        """Give a transport to the node; closed with the way."""

    def place(self, data: bytes, name: str = "") -> Artifact:
        """Let the node serve an artifact; with ``name`` under another name than its SHA-256."""

    def received(self, origin_node: str, sha256: str) -> Path:
        """Where a pushed artifact lies on the node."""

    def write(self, path: str, data: bytes) -> None:
        """Write a file of the node's data."""

    def kill(self) -> None:
        """Kill what serves on the node, without notice."""

    def restart(self) -> None:
        """Start it again at the same address."""


class HttpWay:
    """A node with an agent."""

    program = """
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.transports.p2p_http import P2PHttpTransport
def connect(name, host, port, token):
    return P2PHttpTransport(Node(name=name, ssh_host=host, ringrift_path="", agent_port=int(port)), lambda: token)
"""

    def __init__(self, root: Path, host: str, key: CoordinatorKey) -> None:
        self.node = "node-h"
        self.agent = AgentProcess(self.node, root, host, key).start()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self.agent.stop()

    @property
    def arguments(self) -> list[str]:
        return [self.node, self.agent.host, str(self.agent.port), self.agent.token()]

    def open(self) -> Transport:
        return self._stack.enter_context(P2PHttpTransport(self.agent.inventory_node(), self.agent.token))

    def place(self, data: bytes, name: str = "") -> Artifact:
        return self.agent.place(data, name)

    def received(self, origin_node: str, sha256: str) -> Path:
        return self.agent.scratch / "incoming" / origin_node / sha256

    def write(self, path: str, data: bytes) -> None:
        target = self.agent.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def kill(self) -> None:
        self.agent.kill()

    def restart(self) -> None:
        self.agent.start()


class RsyncWay:
    """A node with an sshd, rsync and Python."""

    program = """
from pathlib import Path
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.transports.rsync import rsync_transport
from ringrift_sync_dagster.transports.ssh_transport import SshTransport
from ringrift_sync_dagster.transports.ssh import SshSettings
def connect(name, host, port, user, key, root, known_hosts, control_dir):
    node = Node(name=name, ssh_host=host, ssh_port=int(port), ssh_user=user, ssh_key=key, ringrift_path=root)
    return rsync_transport(node, SshSettings(Path(known_hosts), Path(control_dir)))
"""

    def __init__(self, root: Path, host: str, _key: CoordinatorKey) -> None:
        self.node = "node-s"
        self.root = root
        root.mkdir(parents=True)
        self.sshd = self.serve(root.with_name("sshd"), host).start()
        self._stack = ExitStack()
        self._transport: Transport | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self.sshd.stop()

    def serve(self, folder: Path, host: str) -> Sshd:
        """Give the sshd of the node."""
        return Sshd(folder, host)

    @property
    def arguments(self) -> list[str]:
        node, settings = self.sshd.node(self.node, self.root), self.sshd.settings
        return [
            self.node, node.ssh_host, str(node.ssh_port), node.ssh_user, node.ssh_key, node.ringrift_path,
            str(settings.known_hosts), str(settings.control_dir),
        ]  # fmt: skip

    def connect(self) -> SshTransport:
        """Make the transport; all tests share it, because each login is a process on this machine."""
        return rsync_transport(self.sshd.node(self.node, self.root), self.sshd.settings)

    def open(self) -> Transport:
        if self._transport is None:
            self._transport = self._stack.enter_context(self.connect())
        return self._transport

    def place(self, data: bytes, name: str = "") -> Artifact:
        sha = name or hashlib.sha256(data).hexdigest()
        folder = self.root / "data/.ringrift-sync/artifacts"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / sha).write_bytes(data)
        return Artifact(sha, len(data), "games")

    def received(self, origin_node: str, sha256: str) -> Path:
        return self.root / "data/.ringrift-sync/incoming" / origin_node / sha256

    def write(self, path: str, data: bytes) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def kill(self) -> None:
        self.sshd.kill()

    def restart(self) -> None:
        self.sshd.start()


class Base64Way(RsyncWay):
    """A node with an sshd and Python, where nothing copies files: no rsync, no scp, no sftp."""

    program = RsyncWay.program.replace("rsync", "base64").replace("transports.base64 ", "transports.base64_ssh ")

    def serve(self, folder: Path, host: str) -> Sshd:
        (folder / "bin").mkdir(parents=True)
        (folder / "bin/python3").symlink_to(Path(sys.executable).resolve())
        return Sshd(folder, host, programs=PROGRAMS)

    def connect(self) -> SshTransport:
        return base64_transport(self.sshd.node(self.node, self.root), self.sshd.settings)


WAYS: Final[dict[str, Callable[..., Any]]] = {"p2p_http": HttpWay, "rsync": RsyncWay, "base64": Base64Way}


@pytest.fixture(scope="session")
def coordinator_key(tmp_path_factory: pytest.TempPathFactory) -> CoordinatorKey:
    return create_coordinator_key(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="session")
def free_addresses() -> Iterator[str]:
    return addresses()


@pytest.fixture(scope="session", params=list(WAYS))
def way(
    request: pytest.FixtureRequest,
    coordinator_key: CoordinatorKey,
    free_addresses: Iterator[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Way]:
    """One node per transport for the whole suite; a test that kills it starts it again."""
    root = tmp_path_factory.mktemp(request.param) / "root"
    with WAYS[request.param](root, next(free_addresses), coordinator_key) as opened:
        yield opened


@pytest.fixture
def transport(way: Way) -> Transport:
    return way.open()


@pytest.fixture
def deadline() -> Deadline:
    return Deadline(60)
