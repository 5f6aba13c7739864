"""The cluster of the ledger harness: a coordinator, peers that stay, spot nodes in slots, and one turncoat.

The turncoat is ephemeral, and the spot nodes' inventory, which is out of date, calls it a node that stays: they bring
it packs, and its receipts must not count. Every second spot node is behind NAT, so that no pass reaches into it. When a
node is lost, its slot gets a new one with an empty directory under a name of its own, as a provider gives it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from ringrift_sync_dagster.agent.outbox import DATABASE
from ringrift_sync_dagster.demo.cluster import PORT, EmbeddedCluster, agent_name
from ringrift_sync_dagster.demo.hosts_copy import write_hosts
from ringrift_sync_dagster.demo.processes import PYTHON, descendants, kill_tree
from ringrift_sync_dagster.storage.layout import SCRATCH_DIR
from tests.disks import resize, small_disk
from tests.ledger.network import Relay

OWNER: Final = "hub-1"
PEERS: Final = ("peer-0", "peer-1")
TURNCOAT: Final = "turncoat"
NODE_DISK, OWNER_DISK = "256m", "3g"
_FILLING_TRIES: Final = 20
_HOST: Final = {"provider": "local", "status": "ready", "p2p_enabled": True, "role": "cpu_selfplay"}


def can_mount() -> bool:
    """Whether disks can be made full here; it takes root."""
    if os.geteuid() != 0:
        return False
    with contextlib.suppress(OSError):
        return subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode == 0
    return False


def write_template(path: Path, spots: Sequence[str], running: Sequence[str]) -> Path:
    """Write the inventory: those spot nodes that do not run yet are ``offline``."""

    def host(octet: int, **more: object) -> dict[str, object]:
        return {**_HOST, "ssh_host": f"127.77.0.{octet}", "ringrift_path": "x/ai-service", **more}

    hosts: dict[str, dict[str, object]] = {OWNER: host(1, role="coordinator", skip_sync_receive=True)}
    hosts[TURNCOAT] = host(2, is_ephemeral=True)
    hosts |= {name: host(3 + number) for number, name in enumerate(PEERS)}
    for number, name in enumerate(spots):
        status = "ready" if name in running else "offline"
        hosts[name] = host(11 + number, is_ephemeral=True, nat_blocked=number % 2 == 1, status=status)
    content: dict[str, Any] = {"trusted_networks": ["127.0.0.0/8"], "elo_sync": {"coordinator": OWNER}, "hosts": hosts}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


class LedgerCluster(EmbeddedCluster):
    """Started and ended by the ``with``.

    Args:
        base: Folder for everything; ``evidence`` in it holds what lost nodes left.
        slots: How many spot nodes there are at a time.
        losses: How many of them will be lost.
        disks: Whether nodes have disks that can be full.
        seed: Of the games.
        rate: Games a second of each writer.

    """

    def __init__(self, base: Path, *, slots: int, losses: int, disks: bool, seed: int, rate: float) -> None:
        self._names = iter(f"spot-{number}" for number in range(slots + losses))
        spots = [f"spot-{number}" for number in range(slots + losses)]
        base.mkdir(parents=True, exist_ok=True)
        template = write_template(base / "template.yaml", spots, spots[:slots])
        nodes = [*PEERS, TURNCOAT, *spots[:slots]]
        super().__init__(base, template=template, nodes=nodes, write_through=True)
        self.slots = {f"spot-{number}": next(self._names) for number in range(slots)}
        """The node that is in each slot now."""
        self.lost: list[str] = []
        self.seed, self.rate, self.has_disks = seed, rate, disks
        self.ledgers = self.base / "ledgers"
        self._disks: dict[str, contextlib.ExitStack] = {}
        self._relays = contextlib.ExitStack()
        self.relays = {
            name: Relay((self.address(name), PORT), self.relay_address(name), self.agents_by_pid)
            for name in (OWNER, TURNCOAT, *PEERS)
        }
        ways = {name: self.address(name) for name in self.inventory.nodes}
        ways |= {name: self.relay_address(name) for name in self.relays}
        for folder, stays in (("hosts-true", True), ("hosts-old", False)):
            further = {TURNCOAT: {"is_ephemeral": stays}}
            write_hosts(template, self.base / folder, ways, self.node_root, further)
        self._tell({name: {"tailscale_ip": ""} for name in spots if self.inventory.nodes[name].nat_blocked})

    def start(self) -> None:
        """Start the relays, the agents, and the writers."""
        for relay in self.relays.values():
            self._relays.enter_context(relay)
        if self.has_disks:
            for node in (OWNER, *PEERS, *self.slots.values()):
                self._mount(node)
        super().start()
        for node in self.slots.values():
            self.start_writer(node)

    def close(self) -> None:
        """End everything."""
        for name in self.processes.names():  # one that stands still ends no more than it works
            self.resume(name)
        super().close()
        self._relays.close()
        for disk in self._disks.values():
            disk.close()

    def agents_by_pid(self) -> dict[int, str]:
        """Name the agents that run by their pids."""
        names = (OWNER, TURNCOAT, *PEERS, *self.slots.values())
        return {self.pid(name): name for name in names if self.processes.is_running(agent_name(name))}

    def launch(self, node: str) -> None:
        """Start an agent, and do not wait for it."""
        self._launch(node)

    def answers(self, node: str) -> bool:
        """Whether an agent answers."""
        return self._is_up(node)

    def start_writer(self, node: str) -> None:
        """Let a node play."""
        options = ["--node", node, "--root", str(self.node_root(node)), "--ledger", str(self.ledger(node))]
        options += ["--seed", str(self.seed), "--rate", str(self.rate)]
        self.processes.start(f"writer-{node}", [PYTHON, "-m", "tests.ledger.writer", *options])

    def stop_writers(self) -> None:
        """End all games that go on."""
        self.processes.stop([f"writer-{node}" for node in self.slots.values()])

    def ledger(self, node: str) -> Path:
        """The ledger of a node's writer."""
        return self.ledgers / f"{node}.jsonl"

    def outbox(self, node: str) -> Path:
        """The database of a node's outbox; of a lost node, the copy that was taken before its directory went."""
        lost = self.base / "evidence" / node / "outbox" / DATABASE
        return lost if node in self.lost else self.node_root(node) / SCRATCH_DIR / DATABASE

    def judged_root(self, node: str) -> Path:
        """Where the databases of a node are: of a lost one, what is left as evidence."""
        return self.base / "evidence" / node / "ai-service" if node in self.lost else self.node_root(node)

    def suspend(self, name: str) -> None:
        """SIGSTOP for a process and all that it started."""
        self._signal_tree(name, "STOP")

    def resume(self, name: str) -> None:
        """SIGCONT for the same."""
        self._signal_tree(name, "CONT")

    def fill(self, node: str) -> None:
        """Let not one byte more fit on a node's disk; its users may write while it is measured."""
        place = self._mount_point(node)
        for tries in range(_FILLING_TRIES):
            found = os.statvfs(place)
            try:
                resize(place, str(max(4096, (found.f_blocks - found.f_bfree) * found.f_frsize)))
            except subprocess.CalledProcessError:
                if tries == _FILLING_TRIES - 1:
                    raise
            else:
                return

    def empty(self, node: str) -> None:
        """Give a node's disk its room back."""
        resize(self._mount_point(node), OWNER_DISK if node == OWNER else NODE_DISK)

    def lose(self, slot: str) -> str:
        """Kill a node with all that runs on it, take its directory away, and give its name.

        Nothing of the dead agent runs any more when its outbox is copied, so the copy has every receipt that it had.
        """
        node = self.slots[slot]
        for name in (f"writer-{node}", agent_name(node)):
            self.kill_machine(name)
        evidence = self.base / "evidence" / node
        (evidence / "outbox").mkdir(parents=True)
        scratch = self.node_root(node) / SCRATCH_DIR
        for path in scratch.glob(f"{DATABASE}*"):
            shutil.copy(path, evidence / "outbox")
        if node in self._disks:
            self._disks.pop(node).close()
        shutil.move(self.node_root(node), evidence / "ai-service")
        self.lost.append(node)
        return node

    def replace(self, slot: str) -> str:
        """Put a new, empty node into the slot of a lost one, and give its name; it is in the inventory from now on."""
        gone, node = self.slots[slot], next(self._names)
        self.slots[slot] = node
        self._tell({gone: {"status": "terminated"}, node: {"status": "ready"}})
        if self.has_disks:
            self._mount(node)
        self.launch(node)
        self.start_writer(node)
        return node

    def wipe_turncoat(self) -> None:
        """The turncoat vanishes with all that it holds, and is there again, empty."""
        self.kill_machine(agent_name(TURNCOAT))
        shutil.rmtree(self.node_root(TURNCOAT))
        (self.node_root(TURNCOAT) / "data" / "games").mkdir(parents=True)
        self.launch(TURNCOAT)

    def kill_machine(self, name: str) -> None:
        """``kill -9`` for a process and everything that it started."""
        if self.processes.is_running(name):
            started = descendants([self.processes.pid(name)])
            self.processes.kill(name)
            kill_tree(started)

    def _launch(self, node: str) -> None:
        """Start an agent whose inventory leads to others through the relays."""
        before = self._settings
        old = node.startswith("spot-")
        self._settings = {**before, "RINGRIFT_SYNC_HOSTS": str(self.base / ("hosts-old" if old else "hosts-true"))}
        try:
            super()._launch(node)
        finally:
            self._settings = before

    def _signal_tree(self, name: str, word: str) -> None:
        if self.processes.is_running(name):
            pid = self.processes.pid(name)
            pids = [str(one) for one in (pid, *descendants([pid]))]
            subprocess.run(["kill", f"-{word}", *pids], check=False, capture_output=True)

    def _mount_point(self, node: str) -> Path:
        return self.node_root(node) if node == OWNER else self.node_root(node) / SCRATCH_DIR

    def _mount(self, node: str) -> None:
        stack = self._disks[node] = contextlib.ExitStack()
        stack.enter_context(small_disk(self._mount_point(node), OWNER_DISK if node == OWNER else NODE_DISK))

    def _tell(self, changes: Mapping[str, Mapping[str, str]]) -> None:
        """Change hosts of the inventory."""
        for path in self._files():
            content = yaml.safe_load(path.read_text())
            for node, keys in changes.items():
                content["hosts"][node].update(keys)
            part = path.with_name(f".{path.name}.part")
            part.write_text(yaml.safe_dump(content, sort_keys=False))
            part.replace(path)

    def _files(self) -> Iterator[Path]:
        return (path for folder in ("hosts", "hosts-true") for path in (self.base / folder).glob("*.yaml"))
