"""An examination of real services: what is well, what is wrong, the fix for it, and that it ends in time."""

from __future__ import annotations

import asyncio
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ringrift_sync_dagster import __version__
from ringrift_sync_dagster.core.room import DiskLimits
from ringrift_sync_dagster.errors import ConfigError, Problem
from ringrift_sync_dagster.settings.identity import create_coordinator_key, issue_token, store_token
from ringrift_sync_dagster.settings.settings import Settings, load_settings
from ringrift_sync_dagster.sync.doctor.examination import examine
from ringrift_sync_dagster.sync.doctor.findings import Finding, Findings, Level, disk_finding
from tests.agent.agents import AgentProcess, addresses
from tests.sshd import Sshd
from tests.threaded_server import ThreadedServer

HOSTS = """
hosts:
  hub-1: {{ssh_host: 127.77.0.1, ringrift_path: {base}/hub, role: coordinator, agent_port: {hub_port}}}
  node-r:
    ssh_host: {sshd.address}
    ssh_port: {sshd.port}
    ssh_key: {sshd.key}
    ringrift_path: {base}/root
    agent_port: {agent.port}
  black-hole: {{ssh_host: {hole[0]}, ssh_port: {hole[1]}, ringrift_path: /srv/x, agent_port: {hole[1]}}}
  retired-1: {{ssh_host: 127.77.0.9, ringrift_path: /srv/x, status: offline}}
"""


@dataclass
class Clinic:
    """A coordinator, a healthy node with agent and sshd, and a node that takes connections and never answers."""

    base: Path
    settings: Settings
    agent: AgentProcess
    sshd: Sshd

    def examine(self, *names: str, seconds: float = 8.0) -> list[Finding]:
        return examine(lambda: self.settings, names, seconds=seconds)


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    base = tmp_path_factory.mktemp("clinic")
    key, free = create_coordinator_key(base / "keys"), addresses()
    address = next(free)
    store_token(base / "token", issue_token(key, "hub-1", ["coordinator"], time.time()))
    for folder in ("root/data", "hub"):
        (base / folder).mkdir(parents=True)
    with (
        socket.create_server((next(free), 0)) as hole,
        Sshd(base / "sshd", address) as sshd,
        AgentProcess("node-r", base / "root", address, key) as agent,
    ):
        place = hole.getsockname()
        (base / "hosts.yaml").write_text(HOSTS.format(base=base, sshd=sshd, agent=agent, hole=place, hub_port=1))
        settings = load_settings(
            home=base, hosts=base / "hosts.yaml", root=base / "hub", token_file=base / "token",
            known_hosts=sshd.known_hosts,
        )  # fmt: skip
        yield Clinic(base, settings, agent, sshd)


def of(found: list[Finding], where: str, level: Level | None = None) -> dict[str, Finding]:
    return {one.check: one for one in found if one.where == where and level in {None, one.level}}


def test_a_healthy_node_is_well_in_all_that_is_looked_at(clinic: Clinic) -> None:
    found = of(clinic.examine("node-r"), "node-r")
    wrong = {check: one for check, one in found.items() if one.level is not Level.OK}
    assert set(wrong) <= {"sqlite", "disk"}, wrong  # those of this machine
    expected = {"way p2p_http", "way rsync", "way base64", "host key", "clock", "python", "sqlite", "rsync", "folders"}
    assert expected <= set(found)
    assert __version__ in found["way p2p_http"].detail


def test_the_coordinator_is_examined_without_naming_it(clinic: Clinic) -> None:
    found = of(clinic.examine("node-r"), "hub-1")
    assert not of(list(found.values()), "hub-1", Level.ERROR)
    expected = {"settings", "hosts", "key", "token", "known_hosts", "agent port", "UI port", "programs", "sqlite"}
    assert expected | {"root", "state"} <= set(found)
    assert found["agent port"].fix == "ringrift-sync agent --node hub-1 --host 127.77.0.1"


def test_a_black_holed_node_is_an_error_in_time_and_holds_up_nobody(clinic: Clinic) -> None:
    started = time.monotonic()
    found = clinic.examine("black-hole", "node-r", seconds=2.0)
    assert time.monotonic() - started < 6.0
    assert of(found, "black-hole", Level.ERROR)
    assert all(one.fix for one in found if one.level is not Level.OK)
    assert "python" in of(found, "node-r")


def test_a_node_without_an_agent_tells_the_same_over_ssh(clinic: Clinic, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts.yaml"
    hosts.write_text(clinic.settings.hosts.read_text().replace(f"agent_port: {clinic.agent.port}", "agent_port: 1"))
    found = of(examine(lambda: clinic.settings.model_copy(update={"hosts": hosts}), ["node-r"]), "node-r")
    assert found["way p2p_http"].level is Level.WARNING
    assert found["way p2p_http"].fix == "ringrift-sync deploy node-r"
    assert {"clock", "python", "folders"} <= set(found)


def test_an_unknown_host_key_and_a_wrong_login_are_named_with_their_fix(clinic: Clinic, tmp_path: Path) -> None:
    (tmp_path / "known_hosts").write_text("")
    settings = clinic.settings.model_copy(update={"known_hosts": tmp_path / "known_hosts"})
    found = of(examine(lambda: settings, ["node-r"]), "node-r")
    assert found["host key"].level is Level.ERROR
    assert "run the command in the message" in found["host key"].fix


def test_each_fault_of_the_coordinator_is_named_with_the_command_that_mends_it(clinic: Clinic, tmp_path: Path) -> None:
    shutil.copytree(clinic.base / "keys", tmp_path / "keys")
    (tmp_path / "keys" / "coordinator.key").chmod(0o600)
    token = tmp_path / "token"
    shutil.copy(clinic.base / "token", token)
    token.chmod(0o644)
    (tmp_path / "state.db").write_text("this is no database at all, and long enough to be looked at" * 20)
    (tmp_path / "root").write_text("a file")
    changes = {
        "home": tmp_path, "token_file": token, "root": tmp_path / "root", "state_url": f"sqlite:///{tmp_path}/state.db",
    }  # fmt: skip
    found = of(examine(lambda: clinic.settings.model_copy(update=changes), ["nobody"]), "hub-1", Level.ERROR)
    assert found["token"].fix == f"chmod 600 {token}"
    assert {"state", "root"} <= set(found)
    assert all(one.fix for one in found.values())


def test_a_key_that_is_gone_or_open_and_a_token_of_another_key(clinic: Clinic, tmp_path: Path) -> None:
    settings = clinic.settings.model_copy(update={"home": tmp_path})
    found = of(examine(lambda: settings, ["nobody"]), "hub-1", Level.ERROR)
    assert found["key"].fix == "ringrift-sync token hub-1"
    create_coordinator_key(tmp_path / "keys")
    found = of(examine(lambda: settings, ["nobody"]), "hub-1", Level.ERROR)
    assert found["token"].fix == "ringrift-sync token hub-1"
    (tmp_path / "keys" / "coordinator.key").chmod(0o644)
    found = of(examine(lambda: settings, ["nobody"]), "hub-1", Level.ERROR)
    assert found["key"].fix == f"chmod 600 {tmp_path}/keys/coordinator.key"


class Stranger(ThreadedServer):
    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nhello")


def test_a_stranger_at_the_agents_port_is_an_error(clinic: Clinic, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts.yaml"
    with Stranger("127.0.0.1") as server:
        text = clinic.settings.hosts.read_text().replace("agent_port: 1}", f"agent_port: {server.port}}}")
        hosts.write_text(text)
        found = of(examine(lambda: clinic.settings.model_copy(update={"hosts": hosts}), ["nobody"]), "hub-1")
    assert found["agent port"].level is Level.ERROR
    assert "ss -ltnp" in found["agent port"].fix


def test_a_name_that_is_not_there_and_settings_that_cannot_be_read_are_findings(clinic: Clinic) -> None:
    found = of(clinic.examine("nobody"), "nobody")
    assert "node-r" in found["hosts"].fix

    def broken() -> Settings:
        raise ConfigError([Problem("hosts.yaml", 3, "node-r", "ssh_port", "it must be a number")])

    (one,) = examine(broken, [])
    assert (one.level, one.fix) == (Level.ERROR, "change ssh_port")
    assert one.detail == "hosts.yaml:3: host node-r, key ssh_port: it must be a number"


@pytest.mark.parametrize(
    "free,limit,level",
    [(50, None, Level.OK), (5, None, Level.WARNING), (1, None, Level.ERROR), (50, 40.0, Level.ERROR)],
)
def test_the_room_of_a_disk(free: int, limit: float | None, level: Level) -> None:
    found = Findings("x", [])
    disk_finding(found, "/r", free, 100, DiskLimits(limit, None))
    (one,) = found.found
    assert one.level is level
