"""A coordinator with a real SSH node to deploy to, whose login has a home, a root and this machine's pip settings."""

from __future__ import annotations

import ast
import configparser
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from ringrift_sync_dagster.settings.inventory import load_inventory
from ringrift_sync_dagster.settings.settings import Settings, load_settings
from ringrift_sync_dagster.sync.deploy import Deployed, DeployOptions, deploy, remove
from ringrift_sync_dagster.sync.deployment.parts import read_parts
from tests.agent.agents import alive
from tests.sshd import Sshd

CHECKOUT = Path(__file__).resolve().parents[2]
CLI = [sys.executable, "-m", "ringrift_sync_dagster.cli"]
HOSTS = """
trusted_networks: [127.0.0.0/8]
hosts:
  hub-1: {{ssh_host: 127.0.0.1, ringrift_path: {home}, role: coordinator}}
  closed-1: {{ssh_host: {address}, ssh_port: 9, ssh_key: {key}, ringrift_path: {home}}}
  node-a:
    ssh_host: {address}
    ssh_port: {port}
    ssh_key: {key}
    ringrift_path: {root}
    agent_port: {agent_port}
    provider: hetzner
    {more}
"""
AGENT_PORT = 18765
LOOK_SECONDS = 0.05
BROKEN_AGENT = """
import sys
if "--help" not in sys.argv:
    sys.exit("this agent is broken")
"""


@dataclass
class Target:
    """One node, ``node-a``, and the coordinator that deploys to it."""

    sshd: Sshd
    folder: Path
    wheel: Path
    agent_port: int = AGENT_PORT
    more: str = ""

    @property
    def root(self) -> Path:
        return self.folder / "ai service"

    @property
    def scratch(self) -> Path:
        return self.root / "data" / ".ringrift-sync"

    @property
    def directory(self) -> Path:
        return self.scratch / "agent"

    @property
    def home(self) -> Path:
        """The coordinator's."""
        return self.folder / "coordinator"

    @property
    def settings(self) -> Settings:
        hosts = self.folder / "hosts.yaml"
        values = {
            "home": self.home, "address": self.sshd.address, "port": self.sshd.port, "key": self.sshd.key,
            "root": json.dumps(str(self.root)), "agent_port": self.agent_port, "more": self.more,
        }  # fmt: skip
        text = HOSTS.format(**values)
        if not hosts.exists() or hosts.read_text() != text:
            hosts.write_text(text)
        return load_settings(home=self.home, hosts=hosts, known_hosts=self.sshd.known_hosts)

    def deploy(self, *names: str, **options: Any) -> Deployed:  # noqa: ANN401 - fields of DeployOptions
        """Deploy to the node, and to others before it; give what is told of the node."""
        settings, given = self.settings, {"wheel": self.wheel, **options}
        inventory = load_inventory(settings.hosts)
        return deploy(settings, inventory, [*names, "node-a"], DeployOptions(**given))[-1]

    def remove(self) -> Deployed:
        settings = self.settings
        return remove(settings, load_inventory(settings.hosts), ["node-a"])[0]

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        settings = self.settings
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RINGRIFT_")}
        environment = clean | {
            "PYTHONPATH": str(CHECKOUT),
            "RINGRIFT_SYNC_HOME": str(self.home),
            "RINGRIFT_SYNC_HOSTS": str(settings.hosts),
            "RINGRIFT_SYNC_KNOWN_HOSTS": str(self.sshd.known_hosts),
        }
        return subprocess.run(
            [*CLI, "deploy", *arguments], env=environment, cwd=self.folder, check=False, capture_output=True, text=True,
            timeout=110,
        )  # fmt: skip

    def pid(self, what: str = "agent") -> int:
        """The process of the agent or the supervisor; 0 when there is none."""
        if what == "supervisor":
            return next(iter(self.processes("supervise")), 0)
        with contextlib.suppress(OSError, ValueError):
            pid = int(json.loads((self.directory / "agent.pid").read_bytes())["pid"])
            return pid if alive(pid) else 0
        return 0

    def processes(self, word: str = "") -> list[int]:
        """All that run with the agent's directory, and with this word, in their command lines."""
        place = os.fsencode(self.directory)
        return [
            pid for pid, line in command_lines().items()
            if place in line and (not word or word.encode() in line.split(b"\0")) and alive(pid)
        ]  # fmt: skip

    def answers(self, port: int = 0) -> bool:
        with contextlib.suppress(requests.RequestException):
            url = f"http://{self.sshd.address}:{port or self.agent_port}/health"
            return bool(requests.get(url, timeout=2).json()["node_id"] == "node-a")
        return False

    def written(self) -> dict[str, tuple[int, int]]:
        """Inode and time of every file that a deploy could write; the log grows by itself."""
        paths = [path for path in self.directory.rglob("*") if "venv" not in path.parts and path.name != "agent.log"]
        return {str(path): (path.lstat().st_ino, path.lstat().st_mtime_ns) for path in paths if not path.is_dir()}

    def place_release(self, venv: Path, wheel: Path, changes: dict[str, str]) -> str:
        """Put a release there as if it had been built from a wheel: hard links to a venv, but for what is changed."""
        parts = read_parts(wheel)
        name = parts.release(_version(venv))
        release = self.directory / "releases" / name
        shutil.copytree(venv, release / "venv", symlinks=True, copy_function=os.link)
        package = next((release / "venv").glob("lib/python*/site-packages/ringrift_sync_dagster"))
        for file, text in changes.items():
            (package / file).unlink()
            (package / file).write_text(text)
        (release / "complete").touch()
        return name

    def kill(self) -> None:
        """End what a test left running, the supervisor first."""
        for word in ("supervise", ""):
            for pid in self.processes(word):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def command_lines() -> dict[int, bytes]:
    """What is in the process list now, each word followed by a zero byte."""
    seen = {}
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            seen[int(entry.parent.name)] = entry.read_bytes()
    return seen


@contextlib.contextmanager
def watched_command_lines() -> Iterator[set[bytes]]:
    """Collect every command line that is in the process list for longer than a moment while the body runs."""
    seen: set[bytes] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_SECONDS):
            seen.update(command_lines().values())

    thread = threading.Thread(target=look, name="looks at command lines")
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def _version(venv: Path) -> str:
    lines = (venv / "pyvenv.cfg").read_text().splitlines()
    version = next(line.partition("=")[2].strip() for line in lines if line.startswith("version"))
    return ".".join(version.split(".")[:2])


def write_wheel(folder: Path) -> Path:
    """Build the project's wheel, as a deploy without --wheel does."""
    name, data = read_parts().files[0]
    (folder / name).write_bytes(data)
    return folder / name


def changed_wheel(wheel: Path, folder: Path, changes: dict[str, str]) -> Path:
    """Copy a wheel with some files of the package replaced; pip does not compare the digests in its list."""
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(folder / wheel.name, "w") as dest:
        for entry in source.infolist():
            text = changes.get(entry.filename.removeprefix("ringrift_sync_dagster/"))
            dest.writestr(entry, source.read(entry) if text is None else text.encode())
    return folder / wheel.name


def give_pip_settings(home: Path) -> None:
    """Write down for the node's login how pip works on this machine, its cache included."""
    told = subprocess.run([sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True)
    cache = subprocess.run([sys.executable, "-m", "pip", "cache", "dir"], check=False, capture_output=True, text=True)
    values = {}
    for line in told.stdout.splitlines():
        name, _, value = line.partition("=")
        values[name.rpartition(".")[2]] = str(ast.literal_eval(value))
    if cache.returncode == 0:
        values["cache-dir"] = cache.stdout.strip()
    settings = configparser.RawConfigParser()
    settings["global"] = values
    (home / ".config" / "pip").mkdir(parents=True)
    with (home / ".config" / "pip" / "pip.conf").open("w") as file:
        settings.write(file)


@contextlib.contextmanager
def target(
    folder: Path, address: str, wheel: Path, sshd: Sshd | None = None, *, python: bool = True
) -> Iterator[Target]:
    """Run a node. With ``python`` a login finds the one of the tests at least."""
    with sshd or Sshd(folder / "sshd", address) as running:
        made = Target(running, folder, wheel)
        made.root.mkdir()
        if python:
            name = f"python3.{sys.version_info.minor}"
            (running.home / ".local" / "bin").mkdir(parents=True)
            (running.home / ".local" / "bin" / name).symlink_to(Path(sys.base_prefix) / "bin" / name)
        try:
            yield made
        finally:
            made.kill()
