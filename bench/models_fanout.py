"""A model of 170 MB from its owner to 8 nodes, beside 8 runs of rsync over SSH at the same time, on loopback.

Ours is one pass of the program as it is: the owner's file is read for few nodes, the others fetch from those that have
it; every node verifies, syncs and switches its links. Processor time is that of all processes on both sides: the owner,
the agents and their workers; rsync and ssh at both ends. Nothing is there before, and no limit of bandwidth is set.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import psutil
import yaml

from bench import data, peers
from bench.harness import Contest, Part, Run, check, note, seconds_of
from bench.lines import OURS, Line, Reach, Result
from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.demo.cluster import EmbeddedCluster
from ringrift_sync_dagster.settings.settings import load_settings
from ringrift_sync_dagster.state.versions import Version, add_version, publish
from ringrift_sync_dagster.sync.collect import Request, move
from ringrift_sync_dagster.sync.runtime import Runtime

MODEL_BYTES: Final = 162 << 20  # 170 MB
NODES: Final = tuple(f"node-{number}" for number in range(1, 9))
RSYNC: Final = "8 x rsync over SSH"
_CONFIG: Final = "hex8_2p"

_WHAT: Final = "170 MB model to 8 nodes"
LINES: Final = (
    Line(f"{_WHAT}: processor time", "s", "cpu", RSYNC, Reach("at most", "0.5")),
    Line(f"{_WHAT}: time", "s", "seconds", RSYNC),
)


def measure(folder: Path, runs: int) -> Result:
    """Measure in a folder of its own."""
    source = folder / "model.pth"
    note("models: writing the file")
    data.random_file(source, MODEL_BYTES)
    with source.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    contest = Contest("models", runs)
    with ExitStack() as stack:
        cluster = EmbeddedCluster(folder / "cluster", template=_template(folder / "hosts.yaml"), nodes=NODES)
        stack.enter_context(cluster)
        contest.enter(OURS, lambda: _ours(cluster, source, sha256))
        contest.enter(RSYNC, lambda: _rsync(stack.enter_context(peers.ssh_server(folder / "ssh")), folder, source))
        return contest.run()


def _ours(cluster: EmbeddedCluster, source: Path, sha256: str) -> Run:
    def run(number: int) -> Mapping[str, float]:
        home = cluster.base / f"round-{number}"
        home.mkdir()
        (home / "keys").symlink_to(cluster.base / "keys")
        settings = load_settings(
            home=home, hosts=cluster.hosts, root=home / "root", state_url=f"sqlite:///{home}/state.db",
            token_file=cluster.environment["RINGRIFT_SYNC_TOKEN_FILE"], max_concurrent_syncs=len(NODES),
        )  # fmt: skip
        with Runtime.open(settings) as runtime:
            version = runtime.layout.models / "versions" / f"canonical_{_CONFIG}.{sha256[:12]}.pth"
            version.parent.mkdir(parents=True)
            version.hardlink_to(source)
            path = runtime.layout.relative(version)
            add_version(runtime.state, Version("models", _CONFIG, sha256, version.name, path, MODEL_BYTES, NODES[0]))
            publish(runtime.state, "models", _CONFIG, sha256, trigger="bench")
            request = Request([DataType.MODELS], [_CONFIG], trigger="bench", up=False)

            def work() -> None:
                move(runtime, request)[DataType.MODELS].raise_if_failed()

            values = _measured(work)
        for node in NODES:
            root = cluster.node_root(node)
            name = root / "models" / f"ringrift_best_{_CONFIG}.pth"
            check(name.stat().st_size == MODEL_BYTES, f"the model of {node} is not whole")
            shutil.rmtree(root / "models")
            for kept in ("published.json", f"artifacts/{sha256}.json"):
                (root / "data/.ringrift-sync" / kept).unlink()
        shutil.rmtree(home)
        return values

    return run


def _rsync(server: peers.SshServer, folder: Path, source: Path) -> Run:
    ssh, rsync = server.client(server.port), peers.program("rsync")
    targets = [folder / "rsync" / f"{node}.pth" for node in NODES]
    targets[0].parent.mkdir()

    def push(target: Path) -> None:
        peers.run([rsync, "-t", "--whole-file", "-e", ssh, str(source), server.remote(target)])

    def work() -> None:
        with ThreadPoolExecutor(len(targets)) as pool:
            list(pool.map(push, targets))

    def run(_: int) -> Mapping[str, float]:
        values = _measured(work)
        for target in targets:
            check(target.stat().st_size == MODEL_BYTES, f"{target.name} is not whole")
            target.unlink()
        return values

    return run


def _measured(work: Callable[[], None]) -> Mapping[str, float]:
    """Give the seconds that the work takes, and the processor time of this process and all below it."""
    before = _cpu_seconds()
    seconds = seconds_of(work)
    return {"seconds": seconds, "cpu": _cpu_seconds() - before}


def _cpu_seconds() -> float:
    """Processor time so far of this process and all below it, those that have ended included."""
    this = psutil.Process()
    total = 0.0
    for process in (this, *this.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def _template(path: Path) -> Path:
    """An inventory of 8 nodes that play, with no limit that a disk or loopback could reach."""
    common = {"provider": "local", "status": "ready", "ringrift_path": "x", "bandwidth_mbps": 10_000}
    hosts = {"owner": {**common, "ssh_host": "127.77.0.1", "role": "coordinator", "skip_sync_receive": True}}
    for number, name in enumerate(NODES):
        hosts[name] = {**common, "ssh_host": f"127.77.0.{11 + number}", "role": "gpu_selfplay"}
    routing = {"replication_target": 2}
    content = {"trusted_networks": ["127.0.0.0/8"], "sync_routing": routing, "hosts": hosts}
    path.write_text(yaml.safe_dump(content))
    return path


PART: Final = Part("models", LINES, measure)
