"""Put the agent on nodes over SSH, or take it away: each node by itself, several at a time, and one line about each.

A node is looked at first, then it is decided what it lacks, and only that is done: where nothing is lacking, nothing is
written and nothing is restarted. What changes is stopped, switched, started and asked; when the agent does not answer,
the release of before runs again.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from ringrift_sync_dagster.errors import SyncError, TransferError, TransientError
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.identity import CoordinatorKey, create_coordinator_key, issue_token
from ringrift_sync_dagster.settings.inventory import Inventory
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.settings.revoked import REVOKED_NAME, read_revoked
from ringrift_sync_dagster.settings.settings import Settings
from ringrift_sync_dagster.storage.files import atomic_write_text, make_dirs
from ringrift_sync_dagster.storage.layout import SCRATCH_DIR
from ringrift_sync_dagster.sync.deployment.found import Found, read_found
from ringrift_sync_dagster.sync.deployment.parts import Parts, read_parts
from ringrift_sync_dagster.sync.deployment.plan import Order, Wanted, decide, listening, outcome_word, scopes
from ringrift_sync_dagster.sync.deployment.program import program
from ringrift_sync_dagster.sync.deployment.remote import Remote
from ringrift_sync_dagster.transports.networks import TrustedNetworks, as_called_by_others
from ringrift_sync_dagster.transports.p2p_http import P2PHttpTransport
from ringrift_sync_dagster.transports.ssh import SshEndpoint, SshSettings
from ringrift_sync_dagster.transports.ssh_link import SshLink

TRANSPORT: Final = "ssh"
PINS_DIR: Final = "pins"
INSPECT_SECONDS: Final = 90.0
APPLY_SECONDS: Final = 1500.0
PROBE_SECONDS: Final = 5.0
HEALTH_SECONDS: Final = 45.0
FAILED: Final = "failed"
SSH_ONLY: Final = "over SSH only"
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}|")


@dataclass(frozen=True, slots=True)
class DeployOptions:
    """What a person may say about a deploy.

    Args:
        port: Port of the agents; None: what the inventory says.
        wheel: The project's wheel; None: it is built here.
        wheels: Directory with the wheels of the requirements, for nodes without a package index.
        systemd: False: no systemd unit, also where one could be used.
        health_seconds: How long an agent may take to answer after its start.

    """

    port: int | None = None
    wheel: Path | None = None
    wheels: Path | None = None
    systemd: bool = True
    health_seconds: float = HEALTH_SECONDS


@dataclass(frozen=True, slots=True)
class Deployed:
    """What was done to one node.

    Args:
        node: Name of the node.
        result: ``installed``, ``upgraded``, ``changed``, ``repaired``, ``unchanged``; ``removed``, ``absent``;
            ``failed``.
        release: The release that runs.
        kept_by: ``systemd`` or ``supervisor``.
        agent: How the agent answers from here.
        pin: SHA-256 of its certificate; empty where it has none.
        notes: What a person should know or do.
        failure: Why it failed, and what now is true.
        seconds: How long it took.

    """

    node: str
    result: str
    release: str = ""
    kept_by: str = ""
    agent: str = ""
    pin: str = ""
    notes: tuple[str, ...] = ()
    failure: str = ""
    seconds: float = field(default=0.0, compare=False)


def deploy(settings: Settings, inventory: Inventory, names: Sequence[str], options: DeployOptions) -> list[Deployed]:
    """Bring the agent to nodes; a node that fails is told of in its line, and the others go on.

    Raises:
        ConfigError: A name is not in the inventory, or the wheel cannot be built or used; nothing was done.

    """
    nodes = [inventory.get(name) for name in dict.fromkeys(names)]
    parts = read_parts(options.wheel, options.wheels)
    work = _Deploy(settings, inventory, options, parts, create_coordinator_key(settings.home / "keys"))
    return _each(nodes, work.one, settings)


def remove(settings: Settings, inventory: Inventory, names: Sequence[str]) -> list[Deployed]:
    """Stop the agent of nodes and remove what ``deploy`` put there; data, receipts and what has arrived stay.

    Raises:
        ConfigError: A name is not in the inventory; nothing was done.

    """

    def one(node: Node, remote: Remote) -> Deployed:
        answer = remote.call("remove", _request(node), clock.Deadline.after(INSPECT_SECONDS))
        (settings.home / PINS_DIR / node.name).unlink(missing_ok=True)
        notes = [f"what has arrived, artifacts and receipts stay in {SCRATCH_DIR} below {node.ringrift_path}"]
        if node.tls_fingerprint:
            notes.append("its certificate is gone: take agent_tls_fingerprint out of the inventory")
        return Deployed(node.name, "removed" if answer.get("removed") is True else "absent", notes=tuple(notes))

    return _each([inventory.get(name) for name in dict.fromkeys(names)], one, settings)


@dataclass(frozen=True, slots=True)
class _Deploy:
    """One deploy, for any number of nodes."""

    settings: Settings
    inventory: Inventory
    options: DeployOptions
    parts: Parts
    key: CoordinatorKey

    def one(self, node: Node, remote: Remote) -> Deployed:
        """Bring the agent to one node."""
        if refusal := self._refusal(node):
            return Deployed(node.name, FAILED, failure=refusal)
        found = _inspect(node, remote)
        if not found.root_exists:  # a typing error would otherwise make a second, empty one
            message = f"there is no directory {found.root} on the node; make it, or correct ringrift_path"
            return Deployed(node.name, FAILED, failure=message)
        wanted = self._wanted(node, found)
        now = clock.wall()
        order = decide(wanted, found, lambda: issue_token(self.key, node.name, scopes(node), now), now)
        made_pin = found.pin if order is None else self._carry_out(order, remote)
        pin = made_pin if wanted.listening.tls else ""
        if pin:
            atomic_write_text(make_dirs(self.settings.home / PINS_DIR) / node.name, f"{pin}\n")
        agent, notes = self._seen_from_here(wanted.node, pin)
        return Deployed(
            node.name, outcome_word(found, order), wanted.release, found.kept_by if order is None else order.kept_by,
            agent, pin, (*_notes(node, wanted, found, order, pin), *notes),
        )  # fmt: skip

    def _refusal(self, node: Node) -> str:
        """Say why a node must not get an agent from here; empty when it may."""
        if node.is_coordinator:
            return f"it is the coordinator, whose agent runs from a checkout: ringrift-sync agent --node {node.name}"
        if node.name in read_revoked(self._revoked):
            return f"it is revoked, so its tokens are refused; first: ringrift-sync token {node.name} --reinstate"
        return ""

    @property
    def _revoked(self) -> Path:
        return self.settings.home / "keys" / REVOKED_NAME

    def _wanted(self, node: Node, found: Found) -> Wanted:
        trusted = TrustedNetworks(self.inventory.trusted_networks)
        options, parts, owner = self.options, self.parts, self.inventory.coordinator
        if owner is not None:
            owner = as_called_by_others(owner, self.inventory.nodes.values())
        revoked = self._revoked.read_text(encoding="utf-8", errors="replace") if self._revoked.exists() else ""
        return Wanted(
            replace(node, agent_port=options.port or node.agent_port), parts.release(found.python), parts.wheel,
            parts.offline, hashlib.sha256(program()).hexdigest(), parts.unit_template, options.systemd,
            listening(node, trusted.holds_host), tuple(map(str, self.inventory.trusted_networks)),
            self.key.public_pem.decode("ascii"), revoked, options.health_seconds, owner,
            self.settings.min_durable_copies,
        )  # fmt: skip

    def _carry_out(self, order: Order, remote: Remote) -> str:
        """Have the node do it; give the pin of its certificate."""
        files = self.parts.files if order.install else ()
        answer = remote.call("apply", order.as_json(), clock.Deadline.after(APPLY_SECONDS), files)
        pin = answer.get("pin")
        if not isinstance(pin, str) or not _FINGERPRINT.fullmatch(pin):
            raise TransientError(order.node, TRANSPORT, "the node's answer has no usable pin")
        return pin

    def _seen_from_here(self, node: Node, pin: str) -> tuple[str, tuple[str, ...]]:
        """Ask the agent at its own address; a node that is not reached so is none the worse, and a note says why."""
        if not node.own_addresses:
            return SSH_ONLY, ()
        called = replace(node, tls_fingerprint=pin)
        with P2PHttpTransport(called, lambda: "", trusted_networks=self.inventory.trusted_networks) as transport:
            found = transport.probe(clock.Deadline.after(PROBE_SECONDS))
        if found.reachable:
            return found.detail, ()
        return SSH_ONLY, (f"its agent answers on the node, and not at its own address from here: {found.detail}",)


def _inspect(node: Node, remote: Remote) -> Found:
    try:
        return read_found(remote.call("inspect", _request(node), clock.Deadline.after(INSPECT_SECONDS)))
    except ValueError as error:
        raise TransientError(node.name, TRANSPORT, str(error)) from error


def _request(node: Node) -> dict[str, object]:
    return {
        "node": node.name,
        "root": node.ringrift_path,
        "storage": list(node.storage_paths),
        "scratch": SCRATCH_DIR,
    }


def _notes(node: Node, wanted: Wanted, found: Found, order: Order | None, pin: str) -> list[str]:
    notes = []
    if node.is_ephemeral and (wanted.owner is None or not wanted.owner.own_addresses):
        notes.append("it pushes no games: the inventory gives the coordinator no address that leads there from a node")
    if wanted.listening.tls and pin != node.tls_fingerprint:
        notes.append(f"put this into the inventory, below {node.name}: agent_tls_fingerprint: {pin}")
    if wanted.node.agent_port != node.agent_port:
        notes.append(f"put this into the inventory, below {node.name}: agent_port: {wanted.node.agent_port}")
    if order is not None and wanted.systemd and found.no_systemd:
        notes.append(f"the supervisor keeps it running, not systemd: {found.no_systemd}")
    return notes


def _each(nodes: Sequence[Node], work: Callable[[Node, Remote], Deployed], settings: Settings) -> list[Deployed]:
    """Do the work for all nodes, several at a time; give the results in their order."""
    cancel, ssh = threading.Event(), SshSettings(settings.known_hosts)

    def one(node: Node) -> Deployed:
        started = clock.monotonic()
        try:
            with SshLink(SshEndpoint(node, ssh, TRANSPORT)) as link:
                done = work(node, Remote(link, cancel))
        except (SyncError, OSError) as error:
            words = error.message if isinstance(error, TransferError) else str(error)  # the line names the node itself
            done = Deployed(node.name, FAILED, failure=words)
        return replace(done, seconds=clock.monotonic() - started)

    with ThreadPoolExecutor(settings.max_concurrent_syncs, thread_name_prefix="deploy") as pool:
        futures = [pool.submit(one, node) for node in nodes]
        try:
            return [future.result() for future in futures]
        except BaseException:
            cancel.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
