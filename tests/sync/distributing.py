"""A small cluster to distribute in: six nodes, an owner with published models, and a pass that only brings."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import requests
import yaml

from ringrift_sync_dagster.core.model import DataType, Partition
from ringrift_sync_dagster.demo.cluster import PORT, EmbeddedCluster
from ringrift_sync_dagster.settings.settings import Settings
from ringrift_sync_dagster.state.nodes import NodeFile
from ringrift_sync_dagster.state.versions import Version, add_version, publish
from ringrift_sync_dagster.sync.distribute import Distribution
from ringrift_sync_dagster.sync.mover import Errors, Order, Work
from ringrift_sync_dagster.sync.owner_state import OwnerState
from ringrift_sync_dagster.sync.passes import Pass
from ringrift_sync_dagster.sync.report import Note, Outcome
from ringrift_sync_dagster.sync.runtime import Runtime

CONFIG = "hex8_2p"
NODES = tuple(f"vast-{number}" for number in range(1, 7))


def write_template(path: Path, names: Sequence[str] = NODES) -> Path:
    """An inventory of a coordinator and nodes that play and train."""
    common = {"provider": "vast", "status": "ready", "ringrift_path": "x"}
    hosts = {"hub-1": {**common, "ssh_host": "127.77.0.1", "role": "coordinator", "skip_sync_receive": True}}
    for number, name in enumerate(names):
        hosts[name] = {
            **common, "ssh_host": f"127.77.0.{11 + number}", "role": "gpu_training_selfplay", "training_enabled": True,
        }  # fmt: skip
    content = {"trusted_networks": ["127.0.0.0/8"], "sync_routing": {"replication_target": 2}, "hosts": hosts}
    path.write_text(yaml.safe_dump(content))
    return path


@dataclass
class OnlyDown:
    """A mover that brings what is published, and nothing else."""

    distribution: Distribution
    data_type: DataType = DataType.MODELS

    def begin(self, order: Order) -> Errors:
        del order
        return []

    def quiet(
        self, known: OwnerState, partition: Partition, files: Sequence[NodeFile], order: Order, *, up: bool
    ) -> bool:
        del known, partition, files, order, up
        return False

    def gathered(self, order: Order) -> Errors:
        del order
        return []

    def sources(self, files: Sequence[NodeFile], order: Order) -> Sequence[NodeFile]:
        del files, order
        return []

    def up(self, work: Work, files: Sequence[NodeFile]) -> Errors:
        del work, files
        return []

    def down(self, work: Work, files: Sequence[NodeFile]) -> Errors:
        self.distribution.bring(work, files)
        return []


@dataclass
class Owner:
    """The owner of a test: its settings, and what it did in the last pass."""

    cluster: EmbeddedCluster
    settings: Settings
    notes: list[Note] = field(default_factory=list)

    def promote(self, data: bytes, data_type: DataType = DataType.MODELS) -> str:
        """Publish a content; give its digest."""
        with Runtime.open(self.settings) as runtime:
            return promote(runtime, data, data_type)

    def distribute(self, *nodes: str, data_type: DataType = DataType.MODELS) -> dict[str, Outcome]:
        """One pass down; give the outcome of each node."""
        with Runtime.open(self.settings) as runtime, ThreadPoolExecutor(8) as ask, ThreadPoolExecutor(8) as pool:
            order = Order([CONFIG], runtime.nodes(nodes or None), "test", up=False)
            mover = OnlyDown(Distribution(runtime, data_type), data_type)
            outcomes, notes = Pass(runtime, {data_type: mover}, order, ask, pool).run()
        self.notes = [note for _, note in notes]
        return {outcome.partition.node: outcome for outcome in outcomes}

    def model(self, node: str, name: str = "ringrift_best") -> Path:
        """The name that a player of the node opens."""
        return self.cluster.node_root(node) / "models" / f"{name}_{CONFIG}.pth"

    def export(self, node: str) -> Path:
        """The name that a trainer of the node opens."""
        return self.cluster.node_root(node) / "data/training" / f"{CONFIG}.npz"

    def bytes_between_nodes(self) -> tuple[int, int]:
        """Bytes of artifacts that all agents sent, and that all received."""
        return sum(map(self._sent, self.cluster.agents)), sum(map(self._received, self.cluster.agents))

    def _sent(self, node: str) -> int:
        return self._metric(node, "ringrift_agent_sent_bytes_total")

    def _received(self, node: str) -> int:
        return self._metric(node, "ringrift_agent_received_bytes_total")

    def _metric(self, node: str, name: str) -> int:
        token = self.settings.token_file.read_text().strip()
        url = f"http://{self.cluster.address(node)}:{PORT}/metrics"
        text = requests.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=10).text
        found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
        assert found, text
        return int(float(found.group(1)))


def promote(runtime: Runtime, data: bytes, data_type: DataType = DataType.MODELS) -> str:
    """Put a version on the owner's disk and publish it."""
    sha = hashlib.sha256(data).hexdigest()
    if data_type is DataType.MODELS:
        path = runtime.layout.models / "versions" / f"canonical_{CONFIG}.{sha[:12]}.pth"
    else:
        path = runtime.layout.training / f"{CONFIG}.{sha[:12]}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_bytes(data)
    relative = runtime.layout.relative(path)
    version = Version(data_type.value, CONFIG, sha, path.name, relative, len(data), "hub-1")
    add_version(runtime.state, version)
    publish(runtime.state, data_type.value, CONFIG, sha, trigger="test")
    return sha
