"""The Python API of moving data: the guide's ``get_sync_facade``, for programs that do not go through Dagster.

Both calls do one pass of the path that every other way of starting it uses, in a thread, so that an event loop goes
on meanwhile. Failures of partitions are in the result and raise nothing: what the others brought stays. Source: the
guide, "Quick reference".
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.settings.settings import Settings, load_settings
from ringrift_sync_dagster.sync.collect import Request, move
from ringrift_sync_dagster.sync.report import CollectReport, Failure
from ringrift_sync_dagster.sync.runtime import Runtime


@dataclass(frozen=True, slots=True)
class SyncResult:
    """What a pass did.

    Args:
        reports: A report for each data type that was asked for.

    """

    reports: Mapping[DataType, CollectReport]

    @property
    def ok(self) -> bool:
        """True when no partition failed."""
        return not self.failures

    @property
    def failures(self) -> tuple[Failure, ...]:
        """What went wrong, partition by partition."""
        return tuple(failure for report in self.reports.values() for failure in report.failures)

    @property
    def bytes_moved(self) -> int:
        """Bytes that travelled."""
        return sum(outcome.bytes_moved for report in self.reports.values() for outcome in report.outcomes)

    @property
    def games_new(self) -> int:
        """Games that the owner did not have before."""
        return sum(outcome.games_new for report in self.reports.values() for outcome in report.outcomes)


class SyncFacade:
    """Move data of a config, or everything from a node.

    Args:
        settings: The settings in force; those of the environment when None, read anew for each call.

    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings

    async def sync_config(
        self, config_key: str, data_types: Collection[str] | None = None, *, nodes: Collection[str] | None = None
    ) -> SyncResult:
        """Move the data of a config both ways, between its owner and all nodes.

        Args:
            config_key: A config such as ``hex8_2p``.
            data_types: Which of the five; None: all.
            nodes: Which nodes; None: all.

        Raises:
            ConfigError: The config, a node, or the settings are wrong.
            ValueError: There is no such data type.
            StateError: The state database cannot be used.

        """
        types = None if data_types is None else [DataType(name) for name in data_types]
        return await self._move(Request(types, [config_key], None if nodes is None else list(nodes), "api"))

    async def trigger_priority_sync(
        self, reason: str, source_node: str | None = None, config_key: str | None = None
    ) -> SyncResult:
        """Bring everything from a node now, such as games that are on no other host.

        Args:
            reason: Why, in a word; it is written into each change as ``priority:<reason>``.
            source_node: Which node; None: all.
            config_key: Only this config; None: all.

        Raises:
            ConfigError: The node, the config, or the settings are wrong.
            StateError: The state database cannot be used.

        """
        return await self._move(priority_request(reason, source_node, config_key))

    async def _move(self, request: Request) -> SyncResult:
        return await asyncio.to_thread(self._pass, request)

    def _pass(self, request: Request) -> SyncResult:
        with Runtime.open(self._settings or load_settings()) as runtime:
            return SyncResult(move(runtime, request))


def priority_request(reason: str, source_node: str | None, config_key: str | None) -> Request:
    """What a priority sync moves: the "up" column of the flow table, of one node or all."""
    configs = None if config_key is None else [config_key]
    nodes = None if source_node is None else [source_node]
    return Request(None, configs, nodes, f"priority:{reason}", down=False)


@functools.lru_cache(maxsize=1)
def get_sync_facade() -> SyncFacade:
    """Give the facade of this process."""
    return SyncFacade()
