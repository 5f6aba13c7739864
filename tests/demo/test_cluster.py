"""The embedded cluster starts, loses and cleans up real agents, and leaves nothing behind."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ringrift_sync_dagster.demo.addresses import claim_range
from ringrift_sync_dagster.demo.cluster import PORT, EmbeddedCluster, FolderInUseError
from ringrift_sync_dagster.demo.processes import CHECKOUT, ChildFailedError, Processes
from ringrift_sync_dagster.settings.settings import load_settings

NODES = ("vast-900001", "runpod-a1")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_agents_of_two_clusters_run_side_by_side_at_the_real_port_and_are_gone_afterwards(tmp_path: Path) -> None:
    with EmbeddedCluster(tmp_path / "a", nodes=NODES) as one, EmbeddedCluster(tmp_path / "b", nodes=NODES[:1]) as two:
        addresses = {one.address(NODES[0]), one.address(NODES[1]), two.address(NODES[0])}
        pids = {one.pid(NODES[0]), one.pid(NODES[1]), two.pid(NODES[0])}
        known = {node.name: (node.address, node.agent_port) for node in one.inventory.active_nodes()}
        assert len(addresses) == len(pids) == 3
        assert all(address.startswith("127.77.") for address in addresses)
        assert known[NODES[0]] == (one.address(NODES[0]), PORT)

        old = one.pid(NODES[0])
        one.kill_agent(NODES[0])
        assert not is_alive(old)
        assert is_alive(one.pid(NODES[1]))
        assert one.start_agent(NODES[0]) != old
        pids.add(one.pid(NODES[0]))

    assert not any(is_alive(pid) for pid in pids)


def test_programs_work_on_the_cluster_by_its_environment_alone(tmp_path: Path) -> None:
    cluster = EmbeddedCluster(tmp_path, nodes=(), settings={"RINGRIFT_SYNC_SHORT_AFTER_SECONDS": "2"})
    program = (
        "from ringrift_sync_dagster.settings.settings import load_settings as load; s = load();"
        "print(s.root, s.hosts, s.token_file, s.short_after_seconds)"
    )
    with cluster:
        ended = cluster.run([sys.executable, "-c", program], extra={"RINGRIFT_SYNC_INTERVAL": "9"})

    assert ended.stdout.split() == [str(cluster.root), str(cluster.hosts), str(cluster.token_file("hub-1")), "2.0"]
    assert cluster.token_file("hub-1").stat().st_mode & 0o077 == 0
    assert load_settings(hosts=cluster.hosts).root == cluster.root


def test_an_error_inside_still_ends_every_process(tmp_path: Path) -> None:
    pids = []

    def fail() -> None:
        with EmbeddedCluster(tmp_path, nodes=NODES[:1]) as cluster:
            pids.append(cluster.pid(NODES[0]))
            pids.append(cluster.processes.start("sleeper", ["sleep", "600"]))
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fail()
    assert not any(is_alive(pid) for pid in pids)


def test_what_a_killed_demo_left_behind_is_ended_by_the_next_one(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from ringrift_sync_dagster.demo.processes import Processes;"
        "print(Processes(Path(sys.argv[1])).start('sleeper', ['sleep', '600']), flush=True);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], check=False, capture_output=True, text=True, cwd=CHECKOUT
    )
    orphan = int(ended.stdout)
    assert is_alive(orphan)

    Processes(tmp_path)
    limit = time.monotonic() + 5
    while is_alive(orphan) and Path(f"/proc/{orphan}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_an_agent_that_cannot_run_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    cluster = EmbeddedCluster(tmp_path, nodes=NODES[:1])
    with (
        socket.create_server((cluster.address(NODES[0]), PORT)),
        pytest.raises(ChildFailedError, match=r"agent of vast-900001 (ended at once|is silent):\n.*"),
        cluster,
    ):
        pass


def test_a_fresh_cluster_empties_its_own_folder_only(tmp_path: Path) -> None:
    base = tmp_path / "demo"
    base.mkdir()
    (base / "old").write_text("x")
    (tmp_path / "neighbour").write_text("x")
    EmbeddedCluster(base, nodes=(), fresh=True).close()

    assert not (base / "old").exists()
    assert (tmp_path / "neighbour").exists()


def test_a_second_cluster_in_the_same_folder_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    with EmbeddedCluster(tmp_path, nodes=()) as cluster:
        sleeper = cluster.processes.start("sleeper", ["sleep", "600"])
        with pytest.raises(FolderInUseError, match="a cluster runs in"):
            EmbeddedCluster(tmp_path, fresh=True)
        assert is_alive(sleeper)
        assert cluster.hosts.exists()


def test_what_a_process_leaves_behind_in_its_session_ends_with_it(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    processes.start("parent", ["sh", "-c", "sleep 600 & echo $! >&2; wait"])
    limit = time.monotonic() + 5
    while not (said := processes.tail("parent")):
        assert time.monotonic() < limit
        time.sleep(0.02)
    processes.stop_all()
    time.sleep(0.1)

    state = Path(f"/proc/{said}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_claimed_range_is_not_given_twice() -> None:
    first, second = claim_range(PORT, [1, 2]), claim_range(PORT, [1, 2])
    try:
        assert first.prefix != second.prefix
    finally:
        first.release()
        second.release()
