"""The embedded cluster: one agent process per node, each with its own loopback address and root, on the real port.

A node may have an OpenSSH server instead of the agent (``ssh_nodes``): then its agent port is closed.

    with EmbeddedCluster(Path(".ringrift/demo")) as cluster:
        cluster.run(["python", "-m", "ringrift_sync_dagster.cli", "nodes"])

Everything lies under one folder; ``environment`` makes any program of this project work on it. Leaving the ``with``
block ends every process, also after an error.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TextIO

from ringrift_sync_dagster.demo import ssh_nodes
from ringrift_sync_dagster.demo.addresses import AddressRange, claim_range
from ringrift_sync_dagster.demo.hosts_copy import template_octets, write_hosts
from ringrift_sync_dagster.demo.processes import CHECKOUT, PYTHON, ChildFailedError, Processes, command
from ringrift_sync_dagster.demo.ssh_nodes import SshServer
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.identity import PUBLIC_NAME, Scope, create_coordinator_key, issue_token
from ringrift_sync_dagster.settings.inventory import Inventory, load_inventory
from ringrift_sync_dagster.settings.nodes import Node

TEMPLATE: Final = CHECKOUT / "hosts"
PORT: Final = 8765
_READY_SECONDS: Final = 30.0
_LOCK: Final = "lock"
_RELAY_OFFSET: Final = 100  # a relay in front of 127.77.0.4 listens on 127.77.0.104


class FolderInUseError(Exception):
    """Another cluster runs in this folder."""


class EmbeddedCluster:
    """Agents, keys, tokens, inventory and environment of a cluster on this machine. Used by one thread.

    Args:
        base: Folder for everything; ``fresh`` empties it first.
        template: The inventory to copy: a directory, or one file.
        nodes: Nodes that run; by default all that games are collected from.
        ssh: Those of them that have an OpenSSH server instead of an agent, and the programs that a login finds there.
        settings: Further ``RINGRIFT_`` variables for ``environment``.
        write_through: True: every agent is started by the command ``ringrift-sync agent``, the coordinator's too. So
            finished games of ephemeral nodes are pushed, persistent nodes keep and forward them, and the coordinator's
            agent merges at once. False: agents are asked, and do nothing by themselves.
        fresh: True: what an earlier cluster left in ``base`` is deleted.

    Raises:
        FolderInUseError: Another cluster runs in ``base``.
        MissingProgramError: There is no OpenSSH here, or not a program that a login is to find.
        NoAddressError: No range of addresses is free.

    """

    def __init__(
        self,
        base: Path,
        *,
        template: Path = TEMPLATE,
        nodes: Sequence[str] | None = None,
        ssh: Mapping[str, Sequence[str]] | None = None,
        settings: Mapping[str, str] | None = None,
        write_through: bool = False,
        fresh: bool = False,
    ) -> None:
        self.base = base.absolute()
        self._write_through = write_through
        self._lock = _take_lock(self.base / _LOCK)
        self.processes = Processes(self.base / "logs")  # ends leftovers before their files go
        if fresh:
            self._wipe()
        self._template = template
        self._octets = template_octets(template)
        self.coordinator = _coordinator_of(load_inventory(template))
        self._range: AddressRange = claim_range(PORT, list(self._octets.values()))
        self._settings = dict(settings or {})
        try:
            addresses = {name: self.address(name) for name in self._octets}
            self.ssh = ssh_nodes.prepare(self.base / "ssh", ssh or {}, addresses)
            self.inventory = self._write_identity()
        except BaseException:
            self.close()
            raise
        collected = [node.name for node in self.inventory.active_nodes() if node.collectable]
        self.nodes: tuple[str, ...] = tuple(nodes) if nodes is not None else tuple(collected)
        self.agents = tuple(name for name in self.nodes if name not in self.ssh)
        """Nodes with an agent, without the coordinator."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def root(self) -> Path:
        """The coordinator's ``ai-service`` directory."""
        return self.node_root(self.coordinator)

    @property
    def hosts(self) -> Path:
        """The effective inventory."""
        return self.base / "hosts"

    @property
    def state_url(self) -> str:
        """The state database."""
        return self._settings.get("RINGRIFT_SYNC_STATE_URL", f"sqlite:///{self.base}/state.db")

    @property
    def environment(self) -> dict[str, str]:
        """Variables under which every program of this project works on this cluster."""
        return {
            "RINGRIFT_SYNC_HOME": str(self.base),
            "RINGRIFT_SYNC_HOSTS": str(self.hosts),
            "RINGRIFT_SYNC_ROOT": str(self.root),
            "RINGRIFT_SYNC_STATE_URL": self.state_url,
            "RINGRIFT_SYNC_TOKEN_FILE": str(self.token_file(self.coordinator)),
            **({"RINGRIFT_SYNC_KNOWN_HOSTS": str(self.base / "ssh" / "known_hosts")} if self.ssh else {}),
            **self._settings,
        }

    def node_root(self, node: str) -> Path:
        """The ``ai-service`` directory of a node."""
        return self.base / node / "ai-service"  # as in the shipped inventory

    def address(self, node: str) -> str:
        """The node's address."""
        return self._range.address(self._octets[node])

    def relay_address(self, node: str) -> str:
        """An address for a relay in front of the node."""
        return self._range.address(self._octets[node] + _RELAY_OFFSET)

    def token_file(self, node: str) -> Path:
        """The token of a node."""
        return self.base / "tokens" / f"{node}.jwt"

    def start(self) -> None:
        """Start all agents and SSH servers, and wait until each answers.

        Raises:
            ChildFailedError: One does not.

        """
        servers = [self.ssh[node] for node in self.nodes if node in self.ssh]
        for server in servers:
            self.processes.start(_ssh_name(server.node), server.arguments)
        agents = (self.coordinator, *self.agents) if self._write_through else self.agents
        for node in agents:
            self._launch(node)
        for server in servers:
            self._wait_for_login(server)
        for node in agents:
            self._wait_until_ready(node)

    def start_agent(self, node: str) -> int:
        """Start one agent, wait until it answers, and give its pid."""
        self._launch(node)
        self._wait_until_ready(node)
        return self.pid(node)

    def kill_agent(self, node: str) -> None:
        """``kill -9``: the agent learns nothing and cleans nothing up."""
        self.processes.kill(agent_name(node))

    def stop_agent(self, node: str) -> None:
        """Ask the agent to end, and wait for it."""
        self.processes.stop([agent_name(node)])

    def restart_agent(self, node: str) -> int:
        """Stop and start one agent; give its new pid."""
        self.stop_agent(node)
        return self.start_agent(node)

    def pid(self, node: str) -> int:
        """The pid of a node's agent."""
        return self.processes.pid(agent_name(node))

    def close(self) -> None:
        """End every process and give the addresses back. Idempotent."""
        try:
            self.processes.stop_all()
        finally:
            self._range.release()
            self._lock.close()

    def run(
        self, arguments: Sequence[str], *, seconds: float = 120.0, extra: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end in the checkout, with ``environment``; its output is captured.

        Raises:
            subprocess.TimeoutExpired: It did not end in time; it was killed.

        """
        environment = {**self.environment, **(extra or {})}
        return subprocess.run(
            command(arguments, environment), check=False, capture_output=True, text=True, timeout=seconds, cwd=CHECKOUT
        )

    def write_hosts_through_relay(self, target: Path, node: str) -> None:
        """Write a copy of the inventory in which ``node`` has the address of its relay."""
        addresses = {name: self.address(name) for name in self._octets}
        self._write_hosts(target, {**addresses, node: self.relay_address(node)})

    def write_status(self, node: str, status: str) -> None:
        """Write into the inventory what its provider says of a node, such as ``terminated``."""
        addresses = {name: self.address(name) for name in self._octets}
        self._write_hosts(self.hosts, addresses, {node: {"status": status}})

    def _wipe(self) -> None:
        for child in self.base.iterdir():
            if child.name == _LOCK:
                continue
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            else:
                child.unlink()
        (self.base / "logs").mkdir()

    def _write_identity(self) -> Inventory:
        """Write inventory, keys, tokens and folders; what is there from an earlier start is used again."""
        names = list(self._octets)
        self._write_hosts(self.hosts, {name: self.address(name) for name in names})
        inventory = load_inventory(self.hosts)
        key = create_coordinator_key(self.base / "keys")
        (self.base / "tokens").mkdir(mode=0o700, exist_ok=True)
        for name in names:
            file = self.token_file(name)
            file.touch(mode=0o600)  # before it holds anything
            file.write_text(issue_token(key, name, self._scopes(inventory.nodes[name]), clock.wall()))
            (self.node_root(name) / "data" / "games").mkdir(parents=True, exist_ok=True)
        return inventory

    def _scopes(self, node: Node) -> list[Scope]:
        if node.is_coordinator:
            return [Scope.COORDINATOR]
        return [Scope.NODE, Scope.RELAY] if self._write_through and not node.is_ephemeral else [Scope.NODE]

    def _write_hosts(
        self, target: Path, addresses: Mapping[str, str], more: Mapping[str, Mapping[str, object]] | None = None
    ) -> None:
        further = {node: server.inventory_keys for node, server in self.ssh.items()} | dict(more or {})
        write_hosts(self._template, target, addresses, self.node_root, further)

    def _launch(self, node: str) -> None:
        options = ["--node", node, "--host", self.address(node), "--port", str(PORT)]
        options += ["--public-key", str(self.base / "keys" / PUBLIC_NAME)]
        if self._write_through:
            program, environment = [PYTHON, "-m", "ringrift_sync_dagster.cli", "agent"], dict(self.environment)
            environment["RINGRIFT_SYNC_TOKEN_FILE"] = str(self.token_file(node))
        else:
            program, environment = [PYTHON, "-m", "ringrift_sync_dagster.agent"], {}
            options += ["--root", str(self.node_root(node))]
        self.processes.start(agent_name(node), program + options, environment)

    def _wait_until_ready(self, node: str) -> None:
        limit = clock.monotonic() + _READY_SECONDS
        while not self._is_up(node):
            if not self.processes.is_running(agent_name(node)):
                raise ChildFailedError(f"the agent of {node} ended at once:\n{self.processes.tail(agent_name(node))}")
            if clock.monotonic() > limit:
                raise ChildFailedError(f"the agent of {node} is silent:\n{self.processes.tail(agent_name(node))}")
            time.sleep(0.05)

    def _wait_for_login(self, server: SshServer) -> None:
        name, limit = _ssh_name(server.node), clock.monotonic() + _READY_SECONDS
        while refusal := ssh_nodes.refusal(server):
            if not self.processes.is_running(name) or clock.monotonic() > limit or "refused" not in refusal:
                told = f"{refusal}\n{self.processes.tail(name)}"
                raise ChildFailedError(f"nobody can log in at {server.node}:\n{told}")
            time.sleep(0.05)

    def _is_up(self, node: str) -> bool:
        connection = http.client.HTTPConnection(self.address(node), PORT, timeout=1)
        try:
            connection.request("GET", "/health")
            return bool(json.loads(connection.getresponse().read()).get("node_id") == node)
        except (OSError, ValueError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def agent_name(node: str) -> str:
    """Name of a node's agent among the processes."""
    return f"agent-{node}"


def _ssh_name(node: str) -> str:
    """Name of a node's SSH server among the processes."""
    return f"sshd-{node}"


def _take_lock(path: Path) -> TextIO:
    """Hold the folder for this process: a second cluster in it would end the first one's agents as leftovers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise FolderInUseError(f"a cluster runs in {path.parent}: end it (Ctrl-C), or name another folder") from error
    return file


def _coordinator_of(inventory: Inventory) -> str:
    if inventory.coordinator is None:
        raise ValueError("the inventory has no coordinator; give one host the role coordinator")
    return inventory.coordinator.name
