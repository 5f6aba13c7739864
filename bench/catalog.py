"""The catalogue of a large cluster: 300 nodes x 12 configs x 5 data types, 20 versions of each npz and model.

What is asked is what ``ringrift-sync where`` and ``diff`` ask, in a process that has the state database open. The
whole answer is built: ``where`` of a config gives a location for each file of it on 300 nodes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Final

import sqlalchemy as sa
import yaml

from bench.harness import Contest, Part, check, note, seconds_of
from bench.lines import OURS, Line, Reach, Result
from ringrift_sync_dagster.node.patterns import CONFIGS, DATA_TYPES
from ringrift_sync_dagster.settings.settings import load_settings
from ringrift_sync_dagster.state import schema
from ringrift_sync_dagster.state.manifest import Manifest
from ringrift_sync_dagster.sync.difference import difference
from ringrift_sync_dagster.sync.owner_state import OwnerState
from ringrift_sync_dagster.sync.runtime import Runtime

NODES: Final = 300
VERSIONS: Final = 20
_CONFIG: Final = "hex8_2p"
_FILES: Final = ("npz", "models")
_CHUNK: Final = 5_000

_WHAT: Final = f"catalogue of {NODES} nodes"
LINES: Final = (
    Line(f"{_WHAT}: where CONFIG", "s", "where", reach=Reach("below", "0.1")),
    Line(f"{_WHAT}: where CONFIG --type models", "s", "where_type", reach=Reach("below", "0.1")),
    Line(f"{_WHAT}: where CONFIG --node NODE", "s", "where_node", reach=Reach("below", "0.1")),
    Line(f"{_WHAT}: diff NODE", "s", "diff", reach=Reach("below", "0.1")),
)


def measure(folder: Path, runs: int) -> Result:
    """Measure in a folder of its own."""
    hosts = folder / "hosts.yaml"
    hosts.write_text(yaml.safe_dump({"hosts": _hosts()}))
    settings = load_settings(home=folder, hosts=hosts, root=folder / "root", state_url=f"sqlite:///{folder}/state.db")
    with Runtime.open(settings) as runtime:
        note("catalogue: writing what 300 nodes told")
        with runtime.state.begin() as connection:
            for table, rows in _tables():
                for start in range(0, len(rows), _CHUNK):
                    connection.execute(sa.insert(table), rows[start : start + _CHUNK])
        manifest, node = Manifest(runtime.state), runtime.inventory.get("node-7")
        asked: Mapping[str, Callable[[], int]] = {
            "where": lambda: len(manifest.locations(config=_CONFIG)),
            "where_type": lambda: len(manifest.locations(config=_CONFIG, data_type="models")),
            "where_node": lambda: len(manifest.locations(config=_CONFIG, node="node-7")),
            "diff": lambda: len(difference(OwnerState(runtime), node).missing),
        }
        found = {name: ask() for name, ask in asked.items()}
        note(f"catalogue: {found}")
        check(found["where"] == NODES * (3 + 2 * VERSIONS) and found["diff"] > 0, f"other answers: {found}")
        contest = Contest("catalogue", runs)
        contest.enter(OURS, lambda: partial(_run, asked))
        return contest.run()


def _run(asked: Mapping[str, Callable[[], int]], _: int) -> Mapping[str, float]:
    return {name: seconds_of(ask) for name, ask in asked.items()}


def _hosts() -> dict[str, dict[str, str]]:
    return {
        f"node-{number}": {"ssh_host": f"10.1.{number // 250}.{1 + number % 250}", "role": "gpu_training"}
        for number in range(NODES)
    }


def _tables() -> Iterator[tuple[sa.Table, list[dict[str, object]]]]:
    """The rows of every table, as passes over the nodes would have left them."""
    now, nodes = time.time(), [f"node-{number}" for number in range(NODES)]
    yield schema.nodes, [{"name": node, "extra": {}, "manifest_at": now, "last_seen_at": now} for node in nodes]
    versions: list[dict[str, object]] = [
        {"data_type": kind, "config": config, "sha256": sha256(f"{kind}{config}{number}".encode()).hexdigest(),
         "name": f"{config}.{number}.{kind}", "path": f"{kind}/{config}.{number}", "size_bytes": 1000 + number,
         "origin_node": "node-1", "state": "kept", "detail": {}, "at": now}
        for kind in _FILES for config in CONFIGS for number in range(VERSIONS)
    ]  # fmt: skip
    yield schema.versions, versions
    yield schema.artifacts, [
        {"sha256": one["sha256"], "kind": one["data_type"], "size_bytes": one["size_bytes"], "config": one["config"],
         "created_at": now}
        for one in versions
    ]  # fmt: skip
    yield schema.published, [
        {"data_type": one["data_type"], "config": one["config"], "sha256": one["sha256"], "serial": 1, "at": now}
        for one in versions[VERSIONS - 1 :: VERSIONS]
    ]  # fmt: skip
    yield schema.placements, [
        {"node": node, "data_type": kind, "config": config, "content": "x", "detail": {}, "at": now}
        for node in nodes for kind in DATA_TYPES for config in CONFIGS
    ]  # fmt: skip
    yield schema.receipts, [
        {"sha256": one["sha256"], "node": node, "path": one["path"], "size_bytes": one["size_bytes"],
         "verified_at": now}
        for node in nodes for one in versions
    ]  # fmt: skip
    databases = [kind for kind in DATA_TYPES if kind not in _FILES]
    told = [(kind, config, f"data/{kind}_{config}.db", 1_000_000) for kind in databases for config in CONFIGS]
    told += [(str(one["data_type"]), str(one["config"]), str(one["path"]), 0) for one in versions]
    sizes = {str(one["path"]): one["size_bytes"] for one in versions}
    yield schema.node_files, [
        {"node": node, "path": path, "config": config, "data_type": kind, "kind": kind, "collectable": True,
         "size_bytes": sizes.get(path, size), "mtime_ns": 1, "token": "t", "games": 100 if kind == "games" else None,
         "seen_at": now}
        for node in nodes for kind, config, path, size in told
    ]  # fmt: skip


PART: Final = Part("catalogue", LINES, measure)
