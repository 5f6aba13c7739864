"""The ladder over a link of its own: two network namespaces, a bandwidth that the kernel holds, and a cable to pull.

Root only, and apart from `make test`: it makes namespaces, which end with the test.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ringrift_sync_dagster.core.escalation import LADDER, Rung
from ringrift_sync_dagster.errors import NodeDownError, TransferError
from ringrift_sync_dagster.settings.clock import Deadline, monotonic
from ringrift_sync_dagster.settings.identity import create_coordinator_key
from ringrift_sync_dagster.settings.inventory import load_inventory
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.settings.settings import load_settings
from ringrift_sync_dagster.state import breakers
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.sync.ladder import Ladder
from ringrift_sync_dagster.transports.base import Transport
from tests.agent.agents import AgentProcess
from tests.sshd import Sshd
from tests.transports.artifacts import MIB, made, part_of

pytestmark = pytest.mark.cluster

FAR = f"rr-far-{os.getpid()}"
HERE, THERE = f"rrh{os.getpid() % 100000}", f"rrt{os.getpid() % 100000}"
NETWORK, ADDRESS = "10.213.77.0/24", "10.213.77.2"
LINK_BYTES_PER_SECOND = 6_250_000  # 50 Mbit/s


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def far(*words: str) -> list[str]:
    return ["ip", "netns", "exec", FAR, *words]


def plug() -> None:
    subprocess.run(far("ip", "link", "set", THERE, "up"), check=True)


@dataclass
class Site:
    """A node at the other end of the link, and the way to it."""

    node: Node
    ladder: Ladder
    agent: AgentProcess
    state: StateStore

    def to(self, **more: object) -> Transport:
        return self.ladder.to(replace(self.node, **more))  # type: ignore[arg-type]

    def pull(self) -> None:
        """Pull the cable: packets vanish, and nobody is told."""
        subprocess.run(far("ip", "link", "set", THERE, "down"), check=True)

    def plug(self) -> None:
        plug()


@pytest.fixture(scope="module")
def link() -> Iterator[None]:
    assert os.geteuid() == 0, "network namespaces need root: run make cluster as root"
    ip("netns", "add", FAR)
    try:
        ip("link", "add", HERE, "type", "veth", "peer", "name", THERE, "netns", FAR)
        ip("addr", "add", "10.213.77.1/24", "dev", HERE)
        ip("link", "set", HERE, "up")
        # Whatever becomes of the link, nothing that is meant for the node leaves this machine.
        ip("route", "add", "blackhole", NETWORK, "metric", "5000")
        subprocess.run(far("ip", "addr", "add", f"{ADDRESS}/24", "dev", THERE), check=True)
        for device in ("lo", THERE):
            subprocess.run(far("ip", "link", "set", device, "up"), check=True)
        shape = ("rate", "50mbit", "burst", "64kb", "latency", "50ms")
        subprocess.run(far("tc", "qdisc", "add", "dev", THERE, "root", "tbf", *shape), check=True)
        yield
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            ip("netns", "del", FAR)
        with contextlib.suppress(subprocess.CalledProcessError):
            ip("link", "del", HERE)
        with contextlib.suppress(subprocess.CalledProcessError):
            ip("route", "del", "blackhole", NETWORK, "metric", "5000")


@pytest.fixture
def site(link: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    key = create_coordinator_key(tmp_path / "keys")
    # What AgentProcess and Sshd start runs in the other namespace: `ip netns exec` replaces itself with the program.
    monkeypatch.setattr("tests.agent.agents.sys", _Inside(tmp_path / "python"))
    monkeypatch.setattr("tests.sshd._free_port", lambda _address: 22022)
    monkeypatch.setattr("tests.sshd.program", _far_program)
    monkeypatch.setattr("tests.sshd.Sshd._wait", lambda self: _wait_for(self.port))
    agent = AgentProcess("node-n", tmp_path / "root", ADDRESS, key, trusted=("10.0.0.0/8",), port=8765).start()
    sshd = Sshd(tmp_path / "sshd", ADDRESS)
    (tmp_path / "token").write_text(agent.token())
    (tmp_path / "hosts.yaml").write_text("hosts: {hub-1: {ssh_host: 127.77.0.1, ringrift_path: /r, role: coordinator}}")
    settings = load_settings(
        home=tmp_path, hosts=tmp_path / "hosts.yaml", token_file=tmp_path / "token", known_hosts=sshd.known_hosts
    )
    node = sshd.node("node-n", tmp_path / "root", agent_port=8765)
    with sshd, agent, StateStore.open(f"sqlite:///{tmp_path}/state.db") as state:
        yield Site(node, Ladder(settings, load_inventory(settings.hosts), state, "hub-1"), agent, state)
        plug()


class _Inside:
    """``sys`` as AgentProcess uses it: its interpreter is a script that starts Python in the other namespace."""

    def __init__(self, script: Path) -> None:
        script.write_text(f'#!/bin/sh\nexec ip netns exec {FAR} {sys.executable} "$@"\n')
        script.chmod(0o755)
        self.executable = str(script)


def _far_program(name: str) -> str:
    from shutil import which  # noqa: PLC0415

    found = which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert found is not None
    if name != "sshd":
        return found
    script = Path("/tmp") / f"{FAR}-sshd"
    script.write_text(f'#!/bin/sh\nexec ip netns exec {FAR} {found} "$@"\n')
    script.chmod(0o755)
    return str(script)


def _wait_for(port: int) -> None:
    import socket  # noqa: PLC0415

    limit = monotonic() + 15
    while True:
        with contextlib.suppress(OSError), socket.create_connection((ADDRESS, port), timeout=1):
            return
        assert monotonic() < limit
        time.sleep(0.05)


@pytest.mark.parametrize("rung", list(Rung))
def test_each_rung_brings_an_artifact_at_the_speed_of_the_link(site: Site, tmp_path: Path, rung: Rung) -> None:
    data = made(12 * MIB, rung)
    artifact = site.agent.place(data)
    more = {} if rung is Rung.P2P else {"agent_port": 1}
    ladder = site.to(**more)
    if rung is Rung.BASE64:
        for _ in range(3):
            breakers.failed(site.state, "node-n", "rsync", site.ladder.breakers, "left out for this test")
    started = monotonic()
    fetched = ladder.fetch(artifact, tmp_path / "got", deadline=Deadline(120))
    seconds = monotonic() - started
    ladder.close()
    assert fetched.transport == rung.value
    assert (tmp_path / "got").read_bytes() == data
    assert seconds > 0.8 * len(data) / LINK_BYTES_PER_SECOND  # the link was really in between


def test_a_pulled_cable_ends_a_transfer_as_silence_and_a_plugged_one_lets_it_go_on(site: Site, tmp_path: Path) -> None:
    data = made(24 * MIB)
    artifact, ladder, pulled = site.agent.place(data), site.to(), list[int]()

    def pull(there: int) -> None:
        if there > 4 * MIB and not pulled:
            pulled.append(there)
            site.pull()

    started = monotonic()
    with pytest.raises(TransferError):
        ladder.fetch(artifact, tmp_path / "got", deadline=Deadline(40), progress=pull)
    assert monotonic() - started < 40 + LADDER[Rung.P2P].stall_seconds
    kept = part_of(tmp_path / "got").stat().st_size
    assert kept >= pulled[0]
    site.plug()
    breakers.reset(site.state, "node-n")
    fetched = ladder.fetch(artifact, tmp_path / "got", deadline=Deadline(60))
    ladder.close()
    assert fetched.resumed_from == kept
    assert (tmp_path / "got").read_bytes() == data


def test_a_node_behind_a_pulled_cable_is_down_within_the_connect_times(site: Site) -> None:
    site.pull()
    ladder, started = site.to(), monotonic()
    with pytest.raises(NodeDownError):
        ladder.call("scan", {}, deadline=Deadline(60))
    ladder.close()
    connecting = LADDER[Rung.P2P].connect_seconds * 2 + LADDER[Rung.RSYNC].connect_seconds
    assert monotonic() - started < connecting + 5


def test_a_node_that_stops_is_left_within_its_stall_time(site: Site, tmp_path: Path) -> None:
    data = made(16 * MIB)
    artifact, ladder = site.agent.place(data), site.to()
    stopped = threading.Event()

    def stop(there: int) -> None:
        if there > 4 * MIB and not stopped.is_set():
            stopped.set()
            os.kill(site.agent.pid, signal.SIGSTOP)

    try:
        fetched = ladder.fetch(artifact, tmp_path / "got", deadline=Deadline(110), progress=stop)
    finally:
        os.kill(site.agent.pid, signal.SIGCONT)
        ladder.close()
    assert fetched.transport == "rsync"  # sshd is not stopped
    assert (tmp_path / "got").read_bytes() == data
