"""What a strategy does at a mark: one pass for most, and for EPHEMERAL a look at every node that is not busy.

A look at an ephemeral node must not wait for another node: each has a thread of its own, and one whose look goes on at
the next mark (a large file, a dead host) is left out there, so that the rhythm holds for all others. Games of a node
that writes through and says that it does come by themselves: they are looked at once a minute, as what settles a doubt.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Final, Self

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.errors import SyncError
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.nodes import UP, node_rows
from ringrift_sync_dagster.state.risks import every
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.sync.collect import Request, move, settle
from ringrift_sync_dagster.sync.report import CollectReport
from ringrift_sync_dagster.sync.runtime import Runtime
from ringrift_sync_dagster.sync.strategies import AutoSyncConfig, ephemeral_types, requests
from ringrift_sync_dagster.sync.view import cluster_view

LOOKERS: Final = 32
"""Ephemeral nodes that are looked at at the same time."""
SICK_LOOKERS: Final = 16
"""Of those that did not answer the last time: they must not take the threads of the others."""
SETTLE_SECONDS: Final = 60.0
"""How often the loop finishes what killed processes left."""
SPEAKS_SECONDS: Final = 15.0
"""A node that sent no heartbeat for so long (three of them) is silent, and is asked for its games."""
_SHARE: Final = 0.8

_LOG: Final = logging.getLogger(__name__)

Reports = Mapping[DataType, CollectReport]


def pass_once(runtime: Runtime, config: AutoSyncConfig, trigger: str) -> list[Reports]:
    """Do one pass of a strategy; give its reports, one mapping for each request.

    Raises:
        StateError: The state database cannot be used.

    """
    return [move(runtime, request) for request in requests(config, cluster_view(runtime, config), trigger)]


def writing_through(state: StateStore, now: float) -> frozenset[str]:
    """Name the nodes that said just now that their games come by themselves, and have none that waits for long.

    Raises:
        StateError: The state database cannot be read.

    """
    return frozenset(
        risk.node
        for risk in every(state)
        if now - risk.at < SPEAKS_SECONDS and (risk.age(now) or 0.0) < SPEAKS_SECONDS and risk.lost_at is None
    )


class EphemeralLooks:
    """Looks at ephemeral nodes, each in its own time; close it, or use it as a context manager.

    Args:
        runtime: What to work with.
        trigger: What starts it, as it is written into changes.
        interval: Seconds between two marks. A mark waits most of it for its looks: what is done by then counts as its
            changes, and no node keeps the next mark from coming.

    """

    def __init__(self, runtime: Runtime, trigger: str, interval: float) -> None:
        self._runtime = runtime
        self._trigger = trigger
        self._limit_seconds = _SHARE * interval
        self._pool = ThreadPoolExecutor(LOOKERS, thread_name_prefix="look")
        self._sick_pool = ThreadPoolExecutor(SICK_LOOKERS, thread_name_prefix="sick look")
        self._busy: dict[str, Future[Reports]] = {}
        self._settled_at = float("-inf")
        self._looked_at: dict[str, float] = {}
        self._told: dict[str, str] = {}
        self.changed = 0
        """Partitions that changed since the beginning."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for the looks that go on, and end the threads."""
        self._pool.shutdown(wait=True)
        self._sick_pool.shutdown(wait=True)
        self._collect()

    @property
    def nodes(self) -> Mapping[str, list[DataType]]:
        """The nodes that are looked at, with what is moved from them."""
        found = {node.name: ephemeral_types(node) for node in self._runtime.nodes()}
        return {name: [one for one in DataType if one in types] for name, types in found.items() if types}

    def look(self) -> int:
        """Begin a look at every node that is not busy, and wait a little; give how many partitions changed.

        Raises:
            StateError: The state database cannot be used.

        """
        if clock.monotonic() - self._settled_at > SETTLE_SECONDS:
            settle(self._runtime, self._trigger)
            self._settled_at = clock.monotonic()
        before = self.changed
        well = {row.name for row in node_rows(self._runtime.state) if row.status == UP}
        speaking = writing_through(self._runtime.state, clock.wall())
        for name, types in self.nodes.items():
            due = [] if name in self._busy else self._due(name, types, speaking)
            if due:
                request = Request(due, None, [name], self._trigger, down=False)
                pool = self._pool if name in well and not self._told.get(name) else self._sick_pool
                self._busy[name] = pool.submit(move, self._runtime, request, settled=True)
        wait(self._busy.values(), timeout=self._limit_seconds)
        self._collect()
        return self.changed - before

    def _due(self, name: str, types: list[DataType], speaking: Collection[str]) -> list[DataType]:
        """Give what a node is asked for now."""
        now = clock.monotonic()
        if name in speaking and now - self._looked_at.get(name, float("-inf")) <= SETTLE_SECONDS:
            return [one for one in types if one is not DataType.GAMES]
        self._looked_at[name] = now
        return types

    def _collect(self) -> None:
        for name in [name for name, future in self._busy.items() if future.done()]:
            future = self._busy.pop(name)
            error = future.exception()
            if error is not None:
                if not isinstance(error, SyncError):
                    _LOG.error("node=%s fault=%r", name, error, exc_info=error)
                self._tell(name, str(error))
                continue
            reports = future.result()
            self.changed += sum(outcome.changed for report in reports.values() for outcome in report.outcomes)
            failures = [failure for report in reports.values() for failure in report.failures]
            self._tell(name, failures[0].message if failures else "")

    def _tell(self, name: str, error: str) -> None:
        """Say once that a node fails, and once that it is well again: a dead host would fill the log."""
        before = self._told.get(name, "")
        if bool(error) != bool(before):
            _LOG.log(logging.WARNING if error else logging.INFO, "node=%s look=%s", name, error or "well again")
        self._told[name] = error
