"""Nodes behind a real sshd, as one test needs them: artifacts there, a transport, and what runs on their behalf."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import psutil

from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.transports.rsync import rsync_transport
from ringrift_sync_dagster.transports.ssh_transport import SshTransport
from tests.sshd import PROGRAMS, Sshd

WITHOUT_PYTHON = (*PROGRAMS, "rsync")
SCRATCH = "data/.ringrift-sync"


class SlowPacer:
    """Lets so many bytes go at a time, with a pause before each; after ``pauses`` of them without one."""

    def __init__(self, piece_bytes: int, pause_seconds: float, pauses: int = 1 << 30) -> None:
        self.rate = float(piece_bytes * 50)  # a piece is what goes in a fiftieth of a second
        self._pause_seconds = pause_seconds
        self._pauses = pauses

    def take(self, _count: int, *, deadline: Deadline, cancel: threading.Event | None = None) -> None:
        if self._pauses > 0:
            self._pauses -= 1
            (cancel or threading.Event()).wait(deadline.at_most(self._pause_seconds))


class SshHost:
    """A node with an sshd of its own, and a coordinator's folder; ended by the ``with``."""

    def __init__(self, folder: Path, address: str, *, programs: Sequence[str] | None = None, banner: str = "") -> None:
        self.folder = folder
        self.root = folder / "root"
        self.root.mkdir(parents=True)
        self.sshd = Sshd(folder / "sshd", address, programs=programs, banner=banner)
        self.settings = self.sshd.settings
        self._opened: list[SshTransport] = []

    def __enter__(self) -> Self:
        self.sshd.start()
        return self

    def __exit__(self, *_: object) -> None:
        for transport in self._opened:
            transport.close()
        self.sshd.stop()

    def node(self, **more: Any) -> Node:  # noqa: ANN401 - fields of Node
        return self.sshd.node("node-s", self.root, **more)

    def transport(self, node: Node | None = None, **settings: Any) -> SshTransport:  # noqa: ANN401 - of SshSettings
        opened = rsync_transport(node or self.node(), replace(self.settings, **settings))
        self._opened.append(opened)
        return opened

    @property
    def scratch(self) -> Path:
        return self.root / SCRATCH

    def place(self, data: bytes) -> Artifact:
        sha = hashlib.sha256(data).hexdigest()
        folder = self.scratch / "artifacts"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / sha).write_bytes(data)
        return Artifact(sha, len(data), "games")

    def write(self, path: str, data: bytes) -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        return target

    def received(self, sha256: str) -> Path:
        return self.scratch / "incoming/node-h" / sha256


def registered(transport: SshTransport, path: str) -> Artifact:
    """Let the node hash a file, so that it can be fetched."""
    found = transport.call("hash", {"path": path}, deadline=Deadline(20))
    return Artifact(found["artifact"], found["bytes"], "models")


def running(word: str) -> list[str]:
    """Commands of the processes that have a word in their arguments."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        arguments = process.info["cmdline"] or []
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(word in argument for argument in arguments):
            found.append(" ".join(arguments))
    return found
