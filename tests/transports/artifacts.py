"""Artifacts for the contract of the transports: bytes, their names, and transfers that are killed on the way."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import subprocess
import sys
import time
from functools import lru_cache
from pathlib import Path

from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.errors import TransferUnderWayError, TransientError
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.transports.base import Progress, Pushed, Transport
from tests.transports.conftest import Way

MIB = 1 << 20


SIZES = [0, 1, MIB - 1, MIB, MIB + 1, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 12 * MIB + 3]


LARGE = 64 * MIB


ON_THE_WAY = 16 * MIB  # what two sockets and a batch may hold when a process is killed


@lru_cache
def _noise() -> bytes:
    return random.Random(1).randbytes(LARGE)


def made(size: int, seed: object = 0) -> bytes:
    """Bytes that do not compress; another seed gives others from the first byte on."""
    head = hashlib.sha256(f"{size} {seed}".encode()).digest()
    noise = _noise() * -(-size // LARGE) if size > LARGE else _noise()
    return (head + noise[len(head) :])[:size]


def named(data: bytes) -> Artifact:
    return Artifact(hashlib.sha256(data).hexdigest(), len(data), "games")


def part_of(dest: Path) -> Path:
    return dest.with_name(dest.name + ".part")


TRANSFER = """
import json, os, signal, sys
from pathlib import Path
from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.settings.clock import Deadline
verb, path, sha, size, kill_at, arguments = json.loads(sys.argv[1])
def progress(received):
    if received >= kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
artifact, transport = Artifact(sha, size, "games"), connect(*arguments)
if verb == "fetch":
    transport.fetch(artifact, Path(path), deadline=Deadline(60), progress=progress)
else:
    transport.push(artifact, Path(path), "node-h", deadline=Deadline(60), progress=progress)
"""


def run_transfer(
    way: Way, verb: str, artifact: Artifact, path: Path, *, kill_at: int = 1 << 60, before: str = ""
) -> subprocess.CompletedProcess[str]:
    given = json.dumps([verb, str(path), artifact.sha256, artifact.size_bytes, kill_at, way.arguments])
    program = before + way.program + TRANSFER
    return subprocess.run(
        [sys.executable, "-c", program, given], capture_output=True, text=True, check=False, timeout=60
    )


def killing(way: Way, at: int) -> Progress:
    done: list[int] = []

    def progress(received: int) -> None:
        if received >= at and not done:
            done.append(received)
            way.kill()

    return progress


def pushed_when_free(transport: Transport, artifact: Artifact, source: Path, deadline: Deadline) -> Pushed:
    """The node may not have noticed yet that the killed one is gone."""
    while True:
        with contextlib.suppress(TransientError, TransferUnderWayError):
            return transport.push(artifact, source, "node-h", deadline=deadline)
        time.sleep(0.1)
