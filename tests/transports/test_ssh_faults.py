"""What goes wrong with SSH ends in the class of error that says what to do next, with a real sshd; nothing is mixed up.

Each fault is met by both ways to an sshd: paramiko, which calls, and the system's ssh, which carries bytes.
"""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ringrift_sync_dagster.errors import (
    AuthenticationError,
    HostKeyError,
    LocalToolError,
    RemoteCallError,
    RungUnusableError,
    TransferError,
    UnreachableError,
)
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.transports.carriers import Effort
from ringrift_sync_dagster.transports.rsync_errors import connection_error
from ringrift_sync_dagster.transports.rsync_run import DOWN, far_path, run_rsync
from ringrift_sync_dagster.transports.ssh import SshEndpoint, SshSettings
from ringrift_sync_dagster.transports.ssh_link import SshLink
from tests.marks import first_of
from tests.sshd import PROGRAMS, make_key, program
from tests.transports.artifacts import made, named
from tests.transports.ssh_nodes import WITHOUT_PYTHON, SshHost

Reach = Callable[[Node, SshSettings], None]


def by_paramiko(node: Node, settings: SshSettings) -> None:
    with SshLink(SshEndpoint(node, settings, "rsync")) as link:
        assert link.run("echo there", deadline=Deadline(10)).text == "there"


def by_ssh(node: Node, settings: SshSettings) -> None:
    """List a file, which needs the whole way that bytes go."""
    endpoint = SshEndpoint(node, settings, "rsync")
    ended = run_rsync(endpoint, [far_path(node.ringrift_path), "/nowhere"], DOWN, Effort(Deadline(10)), lambda _: None)
    error = connection_error(endpoint, ended, "listing")
    if error is not None:
        raise error


@pytest.fixture(params=[by_paramiko, by_ssh])
def reach(request: pytest.FixtureRequest) -> Reach:
    chosen: Reach = request.param
    return chosen


@pytest.fixture
def host(tmp_path: Path, free_addresses: Iterator[str]) -> Iterator[SshHost]:
    with SshHost(tmp_path / "host", next(free_addresses)) as started:
        yield started


def test_an_unknown_host_key_is_refused_with_the_command_that_adds_it(host: SshHost, reach: Reach) -> None:
    host.sshd.known_hosts.unlink()

    with pytest.raises(HostKeyError, match="not known") as refused:
        reach(host.node(), host.settings)
    assert not host.sshd.known_hosts.exists()

    command = str(refused.value).rpartition("then run: ")[2]
    subprocess.run(["sh", "-c", command], check=True, capture_output=True)
    reach(host.node(), host.settings)


def test_a_changed_host_key_is_refused_with_the_command_that_replaces_it(host: SshHost, reach: Reach) -> None:
    host.sshd.stop()
    host.sshd.new_host_key()
    host.settings = host.sshd.settings
    host.sshd.start()

    with pytest.raises(HostKeyError, match="has changed"):
        reach(host.node(host_key_checking="accept-new"), host.settings)
    with pytest.raises(HostKeyError, match="has changed") as refused:
        reach(host.node(), host.settings)

    command = str(refused.value).rpartition("then run: ")[2]
    subprocess.run(["sh", "-c", command], check=True, capture_output=True)
    reach(host.node(), host.settings)


def test_the_command_that_adds_a_key_makes_the_folder_that_it_needs(host: SshHost, reach: Reach) -> None:
    host.settings = replace(host.settings, known_hosts=host.folder / "no such/folder yet/known")
    with pytest.raises(HostKeyError, match="not known") as refused:
        reach(host.node(), host.settings)

    command = str(refused.value).rpartition("then run: ")[2]
    subprocess.run(["sh", "-c", command], check=True, capture_output=True)

    assert (host.folder / "no such/folder yet").stat().st_mode & 0o777 == 0o700
    reach(host.node(), host.settings)


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_new_key_harms_no_line_of_the_file_whatever_it_ends_with(host: SshHost, reach: Reach, end: str) -> None:
    line = f"127.9.9.9 {host.sshd.known_hosts.read_text().split(' ', 1)[1].strip()}"
    host.sshd.known_hosts.write_text(f"{line}{end}")
    reach(host.node(host_key_checking="accept-new"), host.settings)
    first, second = host.sshd.known_hosts.read_text().splitlines()
    assert (first, second.split()[0]) == (line, host.sshd.place)
    reach(host.node(), host.settings)


def test_lines_of_the_file_that_are_no_keys_stand_in_nobodys_way(
    host: SshHost, reach: Reach, caplog: pytest.LogCaptureFixture
) -> None:
    good = host.sshd.known_hosts.read_bytes()
    bad = (
        b"a.host ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1vWqk5m\n# caf\xe9\n\nb.host\n\xff \xfe \xfd\nc.host ssh-rsa !\n"
    )
    host.sshd.known_hosts.write_bytes(bad + good.strip() + b" caf\xe9\n" + bad)
    for _ in range(2):
        reach(host.node(), host.settings)
    told = [record.getMessage().rpartition("line=")[2] for record in caplog.records]
    assert told == (["1", "4", "5", "6", "8", "11", "12", "13"] if reach is by_paramiko else [])


def test_where_the_inventory_allows_it_a_new_host_key_is_taken_once(host: SshHost, reach: Reach) -> None:
    host.sshd.known_hosts.unlink()

    reach(host.node(host_key_checking="accept-new"), host.settings)
    assert host.sshd.place in host.sshd.known_hosts.read_text()
    reach(host.node(), host.settings)


def test_a_key_that_the_node_does_not_know_is_a_matter_for_a_person(host: SshHost, reach: Reach) -> None:
    stranger = make_key(host.folder / "stranger")

    with pytest.raises(AuthenticationError, match="ssh_key of node-s"):
        reach(host.node(ssh_key=str(stranger)), host.settings)
    with pytest.raises(AuthenticationError, match="missing-key"):
        reach(host.node(ssh_key=str(host.folder / "missing-key")), host.settings)


def test_any_name_of_a_key_and_of_a_file_of_known_keys_is_only_a_name(host: SshHost, reach: Reach) -> None:
    folder = host.folder / 'it\'s 100%C \\ "odd" ~'
    folder.mkdir()
    key = folder / "key"
    key.write_bytes(host.sshd.key.read_bytes())
    key.chmod(0o600)
    (folder / "known").write_text(host.sshd.known_hosts.read_text())
    reach(host.node(ssh_key=str(key)), replace(host.settings, known_hosts=folder / "known"))


@pytest.mark.parametrize("kind", first_of("others may enter it", "a file", "no place"))
def test_without_a_folder_of_our_own_no_connection_is_shared_and_that_is_logged_once(
    host: SshHost, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    folder = host.settings.control_dir / "x"
    if kind == "others may enter it":
        folder.mkdir(mode=0o755)
    else:
        folder.write_text("in the way")
    if kind == "no place":
        folder /= "below"
    for _ in range(2):
        by_ssh(host.node(), replace(host.settings, control_dir=folder))
    assert [str(folder) in record.getMessage() for record in caplog.records] == [True]
    if folder.is_dir():
        assert list(folder.iterdir()) == []


def test_where_the_socket_of_a_shared_connection_has_no_room_none_is_shared(host: SshHost) -> None:
    folder = host.folder / ("long" * 20)
    by_ssh(host.node(), replace(host.settings, control_dir=folder))
    assert not folder.exists()


def test_a_closed_port_and_a_name_that_is_none_are_not_reached(host: SshHost, reach: Reach) -> None:
    host.sshd.stop()

    with pytest.raises(UnreachableError, match="is sshd running"):
        reach(host.node(), host.settings)
    with pytest.raises(UnreachableError, match=r"no\.\.host"):
        reach(host.node(ssh_host="no..host"), host.settings)
    with pytest.raises(UnreachableError, match="set ssh_host"):
        reach(host.node(ssh_host=""), host.settings)


def test_a_port_that_accepts_and_is_silent_is_given_up_in_time(host: SshHost, reach: Reach) -> None:
    with socket.create_server((host.sshd.address, 0)) as silent:
        settings = SshSettings(host.sshd.known_hosts, host.settings.control_dir, connect_seconds=1.0)
        started = time.monotonic()
        with pytest.raises(UnreachableError):
            reach(host.node(ssh_port=silent.getsockname()[1]), settings)
        assert time.monotonic() - started < 5


def test_an_address_that_does_not_answer_is_passed_over(host: SshHost, reach: Reach) -> None:
    with socket.socket() as taken:
        taken.bind(("127.255.255.1", 0))  # bound and not listening: refused at once
        reach(host.node(tailscale_ip="127.255.255.1"), host.settings)


def test_a_login_that_runs_no_command_is_no_way_to_the_node(
    tmp_path: Path, free_addresses: Iterator[str], reach: Reach
) -> None:
    programs = [name for name in PROGRAMS if name != "sh"]
    with (
        SshHost(tmp_path / "host", next(free_addresses), programs=programs) as host,
        pytest.raises(RungUnusableError, match="login"),
    ):
        reach(host.node(), host.settings)


def test_what_a_login_prints_first_is_no_part_of_anything(tmp_path: Path, free_addresses: Iterator[str]) -> None:
    with SshHost(tmp_path / "host", next(free_addresses), banner="Welcome!\n*** maintenance at 5 ***") as host:
        data = made(300_000)
        transport = host.transport()
        transport.fetch(host.place(data), tmp_path / "got", deadline=Deadline(20))
        pushed = transport.push(named(data), tmp_path / "got", "node-h", deadline=Deadline(20))
        assert host.received(pushed.receipt.sha256).read_bytes() == data


def test_an_rsync_that_answers_something_else_is_no_way_to_the_node(
    tmp_path: Path, free_addresses: Iterator[str]
) -> None:
    with SshHost(tmp_path / "host", next(free_addresses), programs=PROGRAMS) as host:
        fake = host.sshd.folder / "bin/rsync"
        fake.write_text('#!/bin/sh\necho "rsync is disabled on this machine, see the wiki"\n')
        fake.chmod(0o755)
        with pytest.raises(RungUnusableError, match="understand"):
            host.transport().fetch(host.place(b"data"), tmp_path / "got", deadline=Deadline(20))


@pytest.mark.parametrize("lacking", first_of("rsync", "ssh"))
def test_a_program_that_is_missing_here_is_our_own_fault(
    host: SshHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    artifact, transport = host.place(b"data"), host.transport()
    (tmp_path / "bin").mkdir()
    for name in {"rsync", "ssh"} - {lacking}:
        (tmp_path / "bin" / name).symlink_to(program(name))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(LocalToolError, match=f"{lacking} cannot be started here"):
        transport.fetch(artifact, tmp_path / "got", deadline=Deadline(20))


def test_a_node_without_rsync_is_not_served_this_way_and_still_called(
    tmp_path: Path, free_addresses: Iterator[str]
) -> None:
    with SshHost(tmp_path / "host", next(free_addresses), programs=PROGRAMS) as host:
        host.write("models/a.pth", b"weights")
        artifact, transport = host.place(b"data"), host.transport()
        with pytest.raises(RungUnusableError, match="rsync is missing on the node"):
            transport.fetch(artifact, tmp_path / "got", deadline=Deadline(20))
        (tmp_path / "source").write_bytes(b"data")
        with pytest.raises(RungUnusableError, match="rsync is missing on the node"):
            transport.push(artifact, tmp_path / "source", "node-h", deadline=Deadline(20))
        probe = transport.probe(Deadline(20))
        assert (probe.reachable, "rsync" in probe.detail, type(probe.cause)) == (False, True, RungUnusableError)
        assert transport.call("hash", {"path": "models/a.pth"}, deadline=Deadline(20))["bytes"] == 7


def test_a_node_without_python_gives_and_takes_files_and_names_what_it_lacks(
    tmp_path: Path, free_addresses: Iterator[str]
) -> None:
    with SshHost(tmp_path / "host", next(free_addresses), programs=WITHOUT_PYTHON) as host:
        data, transport = made(100_000), host.transport()
        transport.fetch(host.place(data), tmp_path / "got", deadline=Deadline(20))
        pushed = transport.push(named(data), tmp_path / "got", "node-h", deadline=Deadline(20))
        assert host.received(pushed.receipt.sha256).read_bytes() == data
        for op, given in (("scan", {}), ("pack", {"path": "data/games/x.db", "config": "hex8_2p"})):
            with pytest.raises(RemoteCallError, match="python3") as refused:
                transport.call(op, given, deadline=Deadline(20))
            assert refused.value.code == "no_python"
        with pytest.raises(RemoteCallError, match="python3") as untold:
            transport.manifest(None, deadline=Deadline(20))
        assert untold.value.code == "no_python"
        assert "no Python" in transport.probe(Deadline(20)).detail


def test_a_root_that_does_not_exist_is_said_and_not_made(host: SshHost) -> None:
    transport = host.transport(host.node(ringrift_path=str(host.folder / "elsewhere")))
    with pytest.raises(RemoteCallError, match="ringrift_path") as refused:
        transport.call("scan", {}, deadline=Deadline(20))
    assert refused.value.code == "missing"
    assert not (host.folder / "elsewhere").exists()


def test_a_kit_that_was_damaged_or_removed_is_placed_anew(host: SshHost) -> None:
    host.transport().call("scan", {}, deadline=Deadline(20))
    (kit,) = (host.scratch / "kit").iterdir()
    kit.write_bytes(b"damaged")
    transport = host.transport()
    transport.call("scan", {}, deadline=Deadline(20))
    kit.unlink()

    with pytest.raises(TransferError, match="the kit ended with status 2"):
        transport.call("scan", {}, deadline=Deadline(20))
    transport.call("scan", {}, deadline=Deadline(20))

    assert [path.name for path in (host.scratch / "kit").iterdir()] == [kit.name]


@pytest.mark.parametrize("name", first_of('-a b\'s "q" $(x)\nü\udcff', "[a]*?{b,c}~"))
def test_any_name_of_a_root_is_only_a_name(host: SshHost, tmp_path: Path, name: str) -> None:
    host.root = host.folder / name / "ai-service"
    host.root.mkdir(parents=True)
    data, transport = made(5000), host.transport()
    transport.fetch(host.place(data), tmp_path / "got", deadline=Deadline(20))
    pushed = transport.push(named(data), tmp_path / "got", "node-h", deadline=Deadline(20))
    assert (tmp_path / "got").read_bytes() == host.received(pushed.receipt.sha256).read_bytes() == data


def test_a_tilde_is_expanded_on_the_node(host: SshHost) -> None:
    (host.sshd.home / "two words/models").mkdir(parents=True)
    (host.sshd.home / "two words/models/a.pth").write_bytes(b"weights")
    (host.sshd.home / "more").mkdir()
    (host.sshd.home / "more/b.pth").write_bytes(b"more")
    node = host.node(ringrift_path="~/two words", storage_paths=("more",))

    entries = host.transport(node).manifest(None, deadline=Deadline(20))["entries"]

    assert [entry["path"] for entry in entries] == ["@1/b.pth", "models/a.pth"]


def test_the_command_in_a_message_can_be_pasted_whatever_the_file_is_called(tmp_path: Path) -> None:
    file = tmp_path / "known 'hosts'"
    endpoint = SshEndpoint(Node("n", "127.0.0.1", "/r", ssh_port=2022), SshSettings(file), "rsync")
    command = re.sub(r".*then run: ", "", str(endpoint.host_key_error("changed")))
    words = shlex.split(command.replace(";", " ").replace(">>", " "))
    assert words == [
        "ssh-keygen", "-f", str(file), "-R", "[127.0.0.1]:2022", "ssh-keyscan", "-p", "2022", "127.0.0.1", str(file)
    ]  # fmt: skip
