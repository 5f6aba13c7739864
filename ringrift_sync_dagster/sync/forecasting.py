"""What a pass expects of each partition that it works on, beside what it took; written once, at the end of the pass.

A node is predicted when the first of its partitions is moved, from what its last manifest says; nothing is predicted
for a node of which nothing is to be moved.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace

from ringrift_sync_dagster.core.model import DataType, Partition
from ringrift_sync_dagster.errors import SyncError
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.state.forecasts import Forecast, add_all
from ringrift_sync_dagster.sync.difference import difference
from ringrift_sync_dagster.sync.owner_state import OwnerState
from ringrift_sync_dagster.sync.planner import Measured, measured_before, plan
from ringrift_sync_dagster.sync.runtime import Runtime

_Item = tuple[DataType, Partition, bool]


class Forecaster:
    """The forecasts of one pass; safe in several threads.

    Args:
        runtime: What to work with.
        trigger: What started the pass.

    """

    def __init__(self, runtime: Runtime, trigger: str) -> None:
        self._runtime, self._trigger = runtime, trigger
        self._lock = threading.Lock()
        self._measured: Measured | None = None
        self._nodes: dict[str, Mapping[_Item, tuple[int, float]]] = {}
        self._came: list[Forecast] = []

    def expect(self, item: _Item, node: Node, known: OwnerState) -> Forecast:
        """Give what is expected of a partition; nothing where nothing can be told."""
        data_type, partition, up = item
        with self._lock:
            if node.name not in self._nodes:
                self._nodes[node.name] = self._of(node, known)
            size, seconds = self._nodes[node.name].get(item, (0, 0.0))
        way = "up" if up else "down"
        return Forecast(data_type.value, partition.config, node.name, way, size, seconds, trigger=self._trigger)

    def came(self, expected: Forecast, *, size_bytes: int, seconds: float) -> None:
        """Take what it took; where no byte travelled there is nothing to learn."""
        if size_bytes:
            with self._lock:
                self._came.append(replace(expected, actual_bytes=size_bytes, actual_seconds=seconds))

    def write(self) -> None:
        """Write what came of them."""
        add_all(self._runtime.state, self._came)

    def _of(self, node: Node, known: OwnerState) -> Mapping[_Item, tuple[int, float]]:
        try:
            if self._measured is None:
                self._measured = measured_before(self._runtime.state)
            lines = plan([difference(known, node)], self._measured).transfers
        except SyncError:
            return {}
        found: dict[_Item, tuple[int, float]] = {}
        for line in lines:
            if line.missing.config:
                missing = line.missing
                item = (missing.data_type, Partition(missing.config, node.name), missing.way == "up")
                size, seconds = found.get(item, (0, 0.0))
                found[item] = (size + line.size_bytes, seconds + line.seconds)
        return found
