"""A node that answers nonsense over SSH is met by one of our own errors, in words that can be kept."""

from __future__ import annotations

import concurrent.futures
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ringrift_sync_dagster.errors import ArtifactGoneError, DeadlineExceededError, RemoteCallError, TransientError
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.transports.base64_ssh import base64_transport
from ringrift_sync_dagster.transports.legible import is_path, legible
from ringrift_sync_dagster.transports.rsync import rsync_transport
from ringrift_sync_dagster.transports.ssh import SshEndpoint, SshSettings
from ringrift_sync_dagster.transports.ssh_link import SshLink
from ringrift_sync_dagster.transports.ssh_transport import SshTransport
from tests.transports.artifacts import named
from tests.transports.carrying import replace_program
from tests.transports.ssh_nodes import WITHOUT_PYTHON, SshHost

Make = Callable[[Node, SshSettings], SshTransport]

ARTIFACT = named(b"weights")
MARKS = ["", " ", " zzz", " -1", " 1_0", " 0 0", " 99999999999", " \\303\\274"]
# Says that it is a Python that has our kit, and answers whatever it is asked with one line.
PYTHON = """kit=${{5##*/}}
case "$3" in -c) echo "3.11.2 ${{kit%.pyz}}" ;; *) printf '%s\\n' '{answer}' ;; esac"""
PLACES = [
    '"path": "/a\\u0000b", "bytes": 7', '"path": "/a\\ud800b", "bytes": 7', '"path": "a/b", "bytes": 7',
    '"path": "/a", "bytes": true', '"path": "/a", "bytes": -7', '"path": "/a", "bytes": 7.5', '"path": ["/a"]',
]  # fmt: skip
SHELL_WORDS = ["pack\\0x\\0", "pack\\0", "note\\0[[\\0", "", "\\377\\0\\0\\0"]


@pytest.fixture
def host(tmp_path: Path, free_addresses: Iterator[str]) -> Iterator[SshHost]:
    with SshHost(tmp_path / "host", next(free_addresses), programs=WITHOUT_PYTHON) as started:
        yield started


@pytest.mark.parametrize("end", MARKS)
def test_an_end_of_an_answer_that_no_shell_writes_is_a_broken_connection(host: SshHost, end: str) -> None:
    host.transport()
    script = f'set -- $2\nm=${{2%;}}\necho $m; echo x; printf "$m{end}\\n"'
    replace_program(host.sshd, "sh", script)
    with SshLink(SshEndpoint(host.node(), host.settings, "rsync")) as link, pytest.raises(TransientError):
        link.run("echo there", deadline=Deadline(10))


@pytest.mark.parametrize("make", [rsync_transport, base64_transport])
@pytest.mark.parametrize("place", PLACES)
def test_a_place_that_can_be_none_is_no_place(host: SshHost, tmp_path: Path, make: Make, place: str) -> None:
    replace_program(host.sshd, "python3", PYTHON.format(answer=f'{{"ok": true, "result": {{{place}}}}}'))
    (tmp_path / "source").write_bytes(b"weights")
    with make(host.node(), host.settings) as transport:
        with pytest.raises(TransientError, match="shape"):
            transport.fetch(ARTIFACT, tmp_path / "got", deadline=Deadline(10))
        with pytest.raises(TransientError, match="shape"):
            transport.push(ARTIFACT, tmp_path / "source", "node-h", deadline=Deadline(10))


@pytest.mark.parametrize("words", SHELL_WORDS)
def test_a_shell_that_tells_nonsense_is_a_broken_connection(host: SshHost, tmp_path: Path, words: str) -> None:
    script = f"""m=${{2#echo }}; m=${{m%%;*}}
case "$2" in *refuse*) echo $m; printf '{words}'; echo; echo "$m 0" ;; *) exec /bin/sh "$@" ;; esac"""
    replace_program(host.sshd, "sh", script)
    with pytest.raises((TransientError, ArtifactGoneError)):
        host.transport().fetch(ARTIFACT, tmp_path / "got", deadline=Deadline(10))


def test_a_shell_that_tells_nonsense_of_its_disk_is_refused(host: SshHost) -> None:
    replace_program(host.sshd, "df", "printf 'Filesystem\\n\\377 1 2\\n'")
    with pytest.raises(RemoteCallError) as error:
        host.transport().call("disk", {}, deadline=Deadline(10))
    assert error.value.code == "unreadable"
    str(error.value).encode()


@pytest.mark.parametrize("make", [rsync_transport, base64_transport])
def test_an_error_about_a_name_of_any_bytes_can_be_kept(host: SshHost, tmp_path: Path, make: Make) -> None:
    place = '"path": "/nowhere/\\udcff.npz", "bytes": 7'
    replace_program(host.sshd, "python3", PYTHON.format(answer=f'{{"ok": true, "result": {{{place}}}}}'))
    with make(host.node(), host.settings) as transport, pytest.raises(ArtifactGoneError) as gone:
        transport.fetch(ARTIFACT, tmp_path / "got", deadline=Deadline(10))
    assert "/nowhere/?.npz" in gone.value.message
    gone.value.message.encode()


def test_words_are_made_such_that_everything_takes_them() -> None:
    assert legible("a\0b\udcff\ud800ü") == "a?b??ü"
    assert (legible(7), legible(None), legible("x" * 9000, 5)) == (
        "a int instead of text", "a NoneType instead of text", "xxxxx",
    )  # fmt: skip
    assert [is_path(path) for path in ("/a\udcff", "/a\ud800", "/\0", "a", 7)] == [True, False, False, False, False]


def test_a_node_that_cannot_tell_what_it_has_is_served_all_the_same(tmp_path: Path, host: SshHost) -> None:
    """Asking for what takes Python is answered, and says nothing against the way there."""
    transport = host.transport()
    for _ in range(3):
        with pytest.raises(RemoteCallError) as refused:
            transport.manifest(None, deadline=Deadline(10))
        assert refused.value.code == "no_python"
    transport.fetch(host.place(b"data"), tmp_path / "got", deadline=Deadline(10))


def test_who_waits_while_another_connects_waits_no_longer_than_its_own_time(host: SshHost) -> None:
    with socket.create_server((host.sshd.address, 0)) as silent, concurrent.futures.ThreadPoolExecutor(1) as pool:
        settings = replace(host.settings, connect_seconds=4.0)
        transport = rsync_transport(host.node(ssh_port=silent.getsockname()[1]), settings)
        with transport:
            first = pool.submit(transport.call, "scan", {}, deadline=Deadline(20))
            time.sleep(0.3)
            began = time.monotonic()
            with pytest.raises(DeadlineExceededError):
                transport.call("scan", {}, deadline=Deadline(0.5))
            assert time.monotonic() - began < 2
            assert first.exception(20) is not None


def test_a_peer_that_vanished_is_noticed_by_the_kernel(host: SshHost) -> None:
    connected, _, _ = SshEndpoint(host.node(), host.settings, "rsync").dial(Deadline(10))
    with connected:
        assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        assert [connected.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [10, 5, 4]
