"""A carrier at work without the transport around it: a real sshd, a file on each side."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.transports.base64_ssh import Base64Carrier
from ringrift_sync_dagster.transports.carriers import Effort, RemoteFile
from ringrift_sync_dagster.transports.partial import open_part
from ringrift_sync_dagster.transports.source_file import SourceFile
from ringrift_sync_dagster.transports.ssh import SshEndpoint
from tests.sshd import Sshd

SECONDS = 30.0

APART = """
import os, signal, sys
from pathlib import Path
from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.transports.base64_ssh import Base64Carrier
from ringrift_sync_dagster.transports.carriers import Effort, RemoteFile
from ringrift_sync_dagster.transports.partial import open_part
from ringrift_sync_dagster.transports.source_file import SourceFile
from ringrift_sync_dagster.transports.ssh import SshEndpoint, SshSettings
verb, host, port, key, user, known_hosts, control_dir, here, remote, sha256, size, kill_at = sys.argv[1:]
def progress(offset):
    if 0 < int(kill_at) <= offset:
        os.kill(os.getpid(), signal.SIGKILL)
node = Node(name="node-b", ssh_host=host, ssh_port=int(port), ssh_key=key, ssh_user=user, ringrift_path=here)
carrier = Base64Carrier(SshEndpoint(node, SshSettings(Path(known_hosts), Path(control_dir)), "base64"))
artifact, deadline = Artifact(sha256, int(size), "games"), Deadline(60)
if verb == "fetch":
    with open_part(Path(here, "got"), artifact, "node-b", "base64") as part:
        part.resume()
        carrier.fetch(RemoteFile(remote, artifact.size_bytes), part, Effort(deadline, progress))
        assert part.install()
else:
    with SourceFile(Path(here, "source"), artifact, "node-b", "base64", deadline, None) as body:
        carrier.push(body, remote, 0, Effort(deadline, progress))
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


def named(data: bytes) -> Artifact:
    return Artifact(hashlib.sha256(data).hexdigest(), len(data), "games")


def text_bytes(size: int) -> int:
    """How long the base64 text of so many bytes is."""
    return -(-size // 3) * 4


class Carried:
    """Moves files between ``here`` and a node; ``**limits`` are those of an ``Effort``."""

    def __init__(self, server: Sshd, here: Path, **settings: Any) -> None:  # noqa: ANN401 - fields of SshSettings
        self.here = here
        self.endpoint = SshEndpoint(server.node("node-b", here), replace(server.settings, **settings), "base64")
        self.carrier = Base64Carrier(self.endpoint)

    @property
    def part(self) -> Path:
        return self.here / "got.part"

    def fetch(self, remote: Path, data: bytes, **limits: Any) -> int:  # noqa: ANN401
        """Fetch what should be ``data`` to ``got``; give the bytes moved. A part that is there is gone on with."""
        effort = Effort(limits.pop("deadline", Deadline(SECONDS)), **limits)
        with open_part(self.here / "got", named(data), "node-b", "base64") as part:
            part.resume()
            moved = self.carrier.fetch(RemoteFile(str(remote), len(data)), part, effort)
            assert part.install(), "other bytes arrived"
        return moved

    def push(self, data: bytes, remote_part: Path, start: int = 0, **limits: Any) -> int:  # noqa: ANN401
        """Push ``data`` from ``start`` on; give the bytes moved."""
        effort = Effort(limits.pop("deadline", Deadline(SECONDS)), **limits)
        source = self.here / "source"
        source.write_bytes(data)
        with SourceFile(source, named(data), "node-b", "base64", effort.deadline, effort.cancel) as body:
            return self.carrier.push(body, str(remote_part), start, effort)

    def apart(self, verb: str, remote: Path, data: bytes, *, kill_at: int = 0) -> subprocess.CompletedProcess[str]:
        """Fetch or push in a process of its own, which prints its largest resident memory in KiB.

        With ``kill_at`` it kills itself when it is told of so many bytes.
        """
        if verb == "push":
            (self.here / "source").write_bytes(data)
        node, settings = self.endpoint.node, self.endpoint.settings
        reached = [node.ssh_host, str(node.ssh_port), node.ssh_key, node.ssh_user]
        places = [str(settings.known_hosts), str(settings.control_dir), str(self.here), str(remote)]
        artifact = named(data)
        given = [verb, *reached, *places, artifact.sha256, str(artifact.size_bytes), str(kill_at)]
        return subprocess.run(
            [sys.executable, "-c", APART, *given], capture_output=True, text=True, check=False, timeout=SECONDS * 2
        )


def until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Wait for a condition; say whether it came true."""
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            return False
        time.sleep(0.02)
    return True


def replace_program(server: Sshd, name: str, script: str) -> Path:
    """Let the node have a shell script for a program of its own."""
    path = server.folder / "bin" / name
    path.unlink(missing_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def of_user(words: Sequence[str]) -> list[int]:
    """Pids of the processes whose command line has all these words."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if all(word in line for word in words):
                found.append(int(entry.name))
    return found
