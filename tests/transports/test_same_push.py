"""Two pushes of the same artifact to one node at once both end well, whichever way they go."""

from __future__ import annotations

import concurrent.futures
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.transports.base64_ssh import base64_transport
from ringrift_sync_dagster.transports.pacing import BucketPacer
from ringrift_sync_dagster.transports.rsync import rsync_transport
from ringrift_sync_dagster.transports.ssh import SshSettings
from ringrift_sync_dagster.transports.ssh_transport import SshTransport
from tests.marks import first_of
from tests.transports.artifacts import MIB, made, named
from tests.transports.ssh_nodes import WITHOUT_PYTHON, SshHost

Make = Callable[[Node, SshSettings], SshTransport]

DATA = made(12 * MIB, "same push")
ARTIFACT = named(DATA)


@pytest.fixture(params=first_of("python", "shell"))
def host(request: pytest.FixtureRequest, tmp_path: Path, free_addresses: Iterator[str]) -> Iterator[SshHost]:
    programs = None if request.param == "python" else WITHOUT_PYTHON
    with SshHost(tmp_path / "host", next(free_addresses), programs=programs) as started:
        (tmp_path / "source").write_bytes(DATA)
        yield started


def push(host: SshHost, make: Make, source: Path, rate: float) -> None:
    with make(host.node(), host.settings) as transport:
        transport.push(ARTIFACT, source, "node-h", deadline=Deadline(60), pacer=BucketPacer(rate))


@pytest.mark.parametrize(
    "first, second",
    first_of(
        (rsync_transport, base64_transport), (base64_transport, base64_transport), (base64_transport, rsync_transport)
    ),
)
def test_the_second_of_two_pushes_harms_nothing(host: SshHost, tmp_path: Path, first: Make, second: Make) -> None:
    part = host.received(ARTIFACT.sha256).with_suffix(".part")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        slow = pool.submit(push, host, first, tmp_path / "source", 6 * MIB)
        while not slow.done() and not (part.exists() and part.stat().st_size > MIB):
            time.sleep(0.02)
        push(host, second, tmp_path / "source", 12 * MIB)
        slow.result()
    assert host.received(ARTIFACT.sha256).read_bytes() == DATA
    assert not part.exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.transports.base64_ssh import base64_transport
from ringrift_sync_dagster.transports.ssh import SshSettings
host, port, key, user, root, known_hosts, control_dir, source, sha256, size = sys.argv[1:]
node = Node(name="node-s", ssh_host=host, ssh_port=int(port), ssh_key=key, ssh_user=user, ringrift_path=root)
def die(there):
    if there > int(size) // 2:
        os.kill(os.getpid(), signal.SIGKILL)
base64_transport(node, SshSettings(Path(known_hosts), Path(control_dir))).push(
    Artifact(sha256, int(size), "games"), Path(source), "node-h", deadline=Deadline(60), progress=die
)
"""


def test_a_killed_push_is_gone_on_with_where_it_was(host: SshHost, tmp_path: Path) -> None:
    node, settings = host.node(), host.settings
    places = [node.ssh_host, str(node.ssh_port), node.ssh_key, node.ssh_user, node.ringrift_path]
    files = [str(settings.known_hosts), str(settings.control_dir), str(tmp_path / "source")]
    given = [*places, *files, ARTIFACT.sha256, str(ARTIFACT.size_bytes)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *given], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL

    with base64_transport(node, settings) as transport:
        pushed = transport.push(ARTIFACT, tmp_path / "source", "node-h", deadline=Deadline(60))

    assert pushed.resumed_from > ARTIFACT.size_bytes // 2
    assert pushed.bytes_moved == ARTIFACT.size_bytes - pushed.resumed_from
    assert host.received(ARTIFACT.sha256).read_bytes() == DATA
