"""Nodes without an agent: real logins on real servers, which find what they are given and end with the cluster."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ringrift_sync_dagster.demo import ssh_nodes
from ringrift_sync_dagster.demo.cluster import PORT, EmbeddedCluster
from ringrift_sync_dagster.demo.processes import CHECKOUT, ChildFailedError, Processes
from ringrift_sync_dagster.settings.inventory import load_inventory

SSH = {"runpod-a1": ssh_nodes.WITH_RSYNC, "hetzner-v1": ssh_nodes.BASICS}


def is_alive(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until_gone(pid: int) -> None:
    limit = time.monotonic() + 5
    while is_alive(pid):
        assert time.monotonic() < limit
        time.sleep(0.02)


def run(server: ssh_nodes.SshServer, script: str) -> str:
    command = [*server.login[:-1], script]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=30).stdout


def test_a_login_finds_python_and_what_it_was_given_and_the_agents_port_is_closed(tmp_path: Path) -> None:
    with EmbeddedCluster(tmp_path, nodes=tuple(SSH), ssh=SSH) as cluster:
        found = {
            node: run(server, "for p in rsync scp sftp base64 python3; do command -v $p >/dev/null && echo $p; done")
            for node, server in cluster.ssh.items()
        }
        kit = run(cluster.ssh["hetzner-v1"], "python3 -S -I -c 'import sqlite3, zlib; print(1)'")
        sftp = [*cluster.ssh["runpod-a1"].login[:-1], "-s", "sftp"]
        refused = subprocess.run(sftp, check=False, capture_output=True, text=True, timeout=30)
        for node in SSH:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((cluster.address(node), PORT), timeout=5)

        assert cluster.agents == ()
        assert cluster.nodes == tuple(SSH)

    assert found["runpod-a1"].split() == ["rsync", "base64", "python3"]
    assert found["hetzner-v1"].split() == ["base64", "python3"]
    assert kit == "1\n"
    assert "subsystem request failed" in refused.stderr


def test_the_inventory_and_the_environment_say_how_to_log_in(tmp_path: Path) -> None:
    cluster = EmbeddedCluster(tmp_path, nodes=(), ssh=SSH)
    with cluster:
        inventory = load_inventory(cluster.hosts)
        node, server = inventory.get("runpod-a1"), cluster.ssh["runpod-a1"]
        known = Path(cluster.environment["RINGRIFT_SYNC_KNOWN_HOSTS"]).read_text()

    assert node.ssh_addresses == ((cluster.address("runpod-a1"), server.port),)
    assert Path(node.ssh_key).stat().st_mode & 0o077 == 0
    assert inventory.get("vast-900001").ssh_key == ""
    assert inventory.warnings == ()
    assert len(known.splitlines()) == len(SSH)
    assert cluster.address("hetzner-v1") in known


def test_limits_of_disks_are_those_of_no_machine(tmp_path: Path) -> None:
    cluster = EmbeddedCluster(tmp_path, nodes=())
    routing = load_inventory(cluster.hosts).sections["sync_routing"]
    cluster.close()

    assert isinstance(routing, dict)
    assert (routing["max_disk_usage_percent"], routing["min_free_disk_percent"]) == (100, 0)
    assert "RINGRIFT_SYNC_KNOWN_HOSTS" not in cluster.environment


def test_sessions_end_with_the_cluster_and_the_next_one_keeps_the_keys(tmp_path: Path) -> None:
    with EmbeddedCluster(tmp_path, nodes=("hetzner-v1",), ssh={"hetzner-v1": ssh_nodes.BASICS}) as cluster:
        server = cluster.ssh["hetzner-v1"]
        host_key = (server.folder / "host_key.pub").read_text()
        session = subprocess.Popen(
            [*server.login[:-1], "echo $$; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert session.stdout is not None
        on_the_node = int(session.stdout.readline())
        assert is_alive(on_the_node)
    wait_until_gone(on_the_node)
    assert session.wait(10) != 0
    session.communicate()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((server.address, server.port), timeout=5)

    with EmbeddedCluster(tmp_path, nodes=("hetzner-v1",), ssh={"hetzner-v1": ssh_nodes.BASICS}) as cluster:
        assert (cluster.ssh["hetzner-v1"].folder / "host_key.pub").read_text() == host_key


def test_a_server_that_lets_nobody_in_is_named_with_its_log(tmp_path: Path) -> None:
    cluster = EmbeddedCluster(tmp_path, nodes=("runpod-a1",), ssh={"runpod-a1": ssh_nodes.BASICS})
    (cluster.base / "ssh" / "client_key.pub").write_text("")
    with pytest.raises(ChildFailedError, match=r"nobody can log in at runpod-a1:\n.*Permission denied"), cluster:
        pass


def test_without_rsync_the_demo_says_in_one_line_what_to_install(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in {*ssh_nodes.BASICS, "ssh", "ssh-keygen"}:
        (programs / name).symlink_to(ssh_nodes.find(name) or name)
    ended = subprocess.run(
        [sys.executable, "-m", "ringrift_sync_dagster.demo", "--base", str(tmp_path / "demo")],
        check=False, capture_output=True, text=True, cwd=CHECKOUT, env={**os.environ, "PATH": str(programs)},
    )  # fmt: skip

    assert ended.returncode == 1
    assert ended.stdout == "rsync is missing on this machine: as root run `make setup`, or install rsync\n"
    assert ended.stderr == ""


def test_a_process_that_left_the_session_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    processes.start("parent", ["sh", "-c", "setsid sleep 600 & echo $!; wait"])
    limit = time.monotonic() + 5
    while not (said := processes.tail("parent")):
        assert time.monotonic() < limit
        time.sleep(0.02)
    assert is_alive(int(said))
    processes.stop_all()

    wait_until_gone(int(said))
