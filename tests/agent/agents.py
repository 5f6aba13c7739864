"""Real agents for tests: each in a process of its own, on an address of its own in a free part of 127.0.0.0/8."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import requests
from urllib3.exceptions import InsecureRequestWarning

from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.settings.identity import CoordinatorKey, issue_token
from ringrift_sync_dagster.settings.nodes import Node

READY_SECONDS = 30.0

# The same function that the command line calls, with limits that a test can wait for.
PROGRAM = """
import json, logging, sys
from pathlib import Path
from ringrift_sync_dagster.agent.limits import Limits
from ringrift_sync_dagster.agent.serve import run_agent
given = json.loads(sys.argv[1])
logging.basicConfig(level=logging.INFO)
run_agent(
    given["node"], [Path(root) for root in given["roots"]], given["host"], given["port"],
    public_key_pem=given["key"].encode() if given["key"] else None,
    tls=tuple(Path(file) for file in given["tls"]) if given["tls"] else None,
    state_url=given["state_url"] or None, trusted_networks=given["trusted"], limits=Limits(**given["limits"]),
    scratch=Path(given["scratch"]) if given["scratch"] else None,
    on_ready=lambda url: print(url, flush=True), **{name: eval(value) for name, value in given["more"].items()},
)
"""


def addresses() -> Iterator[str]:
    """Addresses of one free /24 of the loopback network."""
    while True:
        network = f"127.{random.randint(1, 254)}.{random.randint(0, 254)}"
        with socket.socket() as probe:
            try:
                probe.bind((f"{network}.1", 8765))
            except OSError:
                continue
        yield from (f"{network}.{last}" for last in range(1, 255))


@dataclass
class AgentProcess:
    """One agent; started by ``start``, ended by the ``with``."""

    node: str
    root: Path
    host: str
    key: CoordinatorKey | None
    tls: tuple[Path, Path] | None = None
    fingerprint: str = ""
    limits: Mapping[str, Any] = field(default_factory=dict)
    trusted: tuple[str, ...] = ("10.0.0.0/8",)
    port: int = 0
    more_roots: tuple[Path, ...] = ()
    state_url: str = ""
    own_scratch: Path | None = None
    more: Mapping[str, str] = field(default_factory=dict)  # further arguments of run_agent, as Python expressions
    process: subprocess.Popen[str] | None = None
    url: str = ""

    def start(self) -> Self:
        given = {
            "node": self.node,
            "roots": [str(self.root), *(str(root) for root in self.more_roots)],
            "host": self.host,
            "port": self.port,
            "key": self.key.public_pem.decode() if self.key else "",
            "tls": [str(file) for file in self.tls] if self.tls else None,
            "trusted": self.trusted,
            "state_url": self.state_url,
            "limits": {"free_bytes": 0, **self.limits},
            "scratch": str(self.own_scratch or ""),
            "more": dict(self.more),
        }
        self.root.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as log:
            command = [sys.executable, "-W", "error", "-c", PROGRAM, json.dumps(given)]
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url, self.log.read_text()
        self.port = int(self.url.rpartition(":")[2])
        return self

    def __enter__(self) -> Self:
        return self if self.process else self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def log(self) -> Path:
        return self.root.with_name(f"{self.root.name}.log")

    @property
    def scratch(self) -> Path:
        return self.own_scratch or self.root / "data" / ".ringrift-sync"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def stop(self, number: int = signal.SIGTERM, seconds: float = 20) -> int:
        """Send a signal and wait; give the exit status."""
        if self.process is None:
            return 0
        process, self.process = self.process, None
        if process.poll() is None:
            process.send_signal(number)
        status = process.wait(seconds)
        assert process.stdout is not None
        process.stdout.close()
        return status

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def token(self, *scopes: str, sub: str = "") -> str:
        if self.key is None:
            return "none"
        return issue_token(self.key, sub or self.node, scopes or ("coordinator",), time.time())

    def inventory_node(self) -> Node:
        return Node(
            name=self.node,
            ssh_host=self.host,
            ringrift_path=str(self.root),
            agent_port=self.port,
            tls_fingerprint=self.fingerprint,
        )

    def request(  # what requests.request takes
        self,
        method: str,
        path: str,
        *,
        token: str | None = None,
        **more: Any,  # noqa: ANN401
    ) -> requests.Response:
        headers = {"Authorization": f"Bearer {token or self.token()}", **more.pop("headers", {})}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InsecureRequestWarning)  # the certificate is the test's own
            return requests.request(method, self.url + path, headers=headers, timeout=20, verify=False, **more)  # noqa: S501

    def place(self, data: bytes, name: str = "") -> Artifact:
        """Put bytes where packs lie; ``name`` gives it another name than its SHA-256."""
        sha = name or hashlib.sha256(data).hexdigest()
        folder = self.scratch / "artifacts"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / sha).write_bytes(data)
        return Artifact(sha, len(data), "games")

    def register(self, path: str, sha: str) -> None:
        """Do what the kit's ``hash`` does, for a file whose digest is known."""
        status = (self.root / path).stat()
        state = {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "inode": status.st_ino}
        note = {"kind": "file", "path": path, **state}
        folder = self.scratch / "artifacts"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{sha}.json").write_text(json.dumps(note))


def children(pid: int) -> list[int]:
    """Process ids of the living children of a process."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not come true in time"
        time.sleep(0.02)
