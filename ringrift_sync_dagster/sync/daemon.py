"""``AutoSyncDaemon``: the loop that Dagster's jobs run, for those without Dagster.

It may stand by beside Dagster or beside other daemons: one acts at a time for each owner and strategy, the others wait
and take over within seconds when the acting one is gone. What it moved, the next Dagster run records. AUTO is two
strategies at once, HYBRID for all nodes and EPHEMERAL for those that may vanish. It logs to ``logs/auto_sync.log``
under ``RINGRIFT_SYNC_HOME``. Source: the guide, "For Application Code" and "Troubleshooting".
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Final

from ringrift_sync_dagster.core.model import SyncStrategy
from ringrift_sync_dagster.errors import LeaseHeldError, LeaseLostError, SyncError
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.inventory import load_inventory
from ringrift_sync_dagster.settings.settings import Settings, load_settings
from ringrift_sync_dagster.state.leases import Lease
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.storage.files import disk_errors
from ringrift_sync_dagster.sync.acting import EphemeralLooks, Reports, pass_once
from ringrift_sync_dagster.sync.cadence import MINUTE, Cadence
from ringrift_sync_dagster.sync.loop import Turn, who_acts, work_at_marks
from ringrift_sync_dagster.sync.runtime import OWNER, Runtime
from ringrift_sync_dagster.sync.strategies import AutoSyncConfig

STAND_BY_SECONDS: Final = 2.0
"""How often one that stands by asks for its turn; between two questions it waits in the lease's own queue."""
AFTER_FAILURE_SECONDS: Final = 5.0
_LOG_BYTES: Final = 10_000_000
_LOG_FILES: Final = 3

_LOG: Final = logging.getLogger(__name__)
_PACKAGE_LOG: Final = logging.getLogger("ringrift_sync_dagster")


@dataclass(frozen=True, slots=True)
class RhythmStatus:
    """How one strategy of a daemon does.

    Args:
        strategy: Which one.
        acting: True: it has the turn; False: it stands by, or begins.
        who_acts: Who has the turn, in words; empty when nobody does.
        marks: How many marks it has worked for since it started.
        last_mark_at: When work began last, in seconds since 1970; None when never.
        changes: Partitions that changed through it.
        last_error: What went wrong last; empty when the last time went well.

    """

    strategy: SyncStrategy
    acting: bool = False
    who_acts: str = ""
    marks: int = 0
    last_mark_at: float | None = None
    changes: int = 0
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """How a daemon does.

    Args:
        running: True between ``start`` and ``stop``.
        strategy: The one that was asked for.
        rhythms: One for each strategy that it acts for; two for AUTO.
        log: Its log file.

    """

    running: bool
    strategy: SyncStrategy
    rhythms: tuple[RhythmStatus, ...]
    log: Path

    @property
    def acting(self) -> bool:
        """True when it has the turn for at least one strategy."""
        return any(rhythm.acting for rhythm in self.rhythms)


class AutoSyncDaemon:
    """Moves data in the background, by a strategy; safe to start beside others.

    Args:
        strategy: A name of the guide, or ``priority`` or ``quality``; None: that of ``config``, or of the settings.
        config: All fields; those of the settings when None.
        settings: The settings in force; those of the environment when None, read anew every minute.

    Raises:
        ConfigError: The strategy, the configuration or the settings are wrong.

    """

    def __init__(
        self,
        strategy: str | SyncStrategy | None = None,
        config: AutoSyncConfig | None = None,
        *,
        settings: Settings | None = None,
    ) -> None:
        self._given = settings
        now = settings or load_settings()
        if config is None:
            config = AutoSyncConfig.of(str(strategy or ""), now)
        elif strategy is not None:
            chosen = AutoSyncConfig.of(str(strategy), now)
            config = replace(config, strategy=chosen.strategy, target_choice=chosen.target_choice)
        self.config = config
        self.log: Path = now.home / "logs" / "auto_sync.log"
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._rhythms = {one: RhythmStatus(one) for one in _rhythms(config.strategy)}
        self._handler: logging.Handler | None = None

    async def start(self) -> None:
        """Begin; returns at once. Does nothing while it runs.

        Raises:
            LocalDiskError: There is no writing its log.

        """
        if self._threads:
            return
        self._stop.clear()
        self._handler = await asyncio.to_thread(_log_to, self.log)
        _LOG.info("daemon starts strategy=%s pid=%d", self.config.strategy.value, os.getpid())
        self._threads = [
            threading.Thread(target=self._run, args=(one,), name=f"auto sync {one.value}", daemon=True)
            for one in self._rhythms
        ]
        for thread in self._threads:
            thread.start()

    async def stop(self) -> None:
        """End after the work that goes on, and let others have the turn. Does nothing where it does not run."""
        self._stop.set()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        if self._threads:
            _LOG.info("daemon ends strategy=%s pid=%d", self.config.strategy.value, os.getpid())
        self._threads = []
        if self._handler is not None:
            _PACKAGE_LOG.removeHandler(self._handler)
            self._handler.close()
            self._handler = None

    def status(self) -> DaemonStatus:
        """Say how it does; asks nobody."""
        return DaemonStatus(bool(self._threads), self.config.strategy, tuple(self._rhythms.values()), self.log)

    def _run(self, strategy: SyncStrategy) -> None:
        """Stand by, act, and go on after whatever goes wrong, until the end."""
        while not self._stop.is_set():
            try:
                self._stand_by_and_act(strategy)
            except LeaseHeldError:
                self._stop.wait(STAND_BY_SECONDS)
            except LeaseLostError as error:
                _LOG.warning("strategy=%s turn=lost cause=%s", strategy.value, error)
            except SyncError as error:
                self._failed(strategy, str(error))
            except Exception as error:  # noqa: BLE001 - whatever goes wrong once, the daemon goes on
                _LOG.exception("strategy=%s fault", strategy.value)
                self._failed(strategy, f"a fault of this program: {type(error).__name__}: {error}")
            self._tell(strategy, acting=False)

    def _failed(self, strategy: SyncStrategy, error: str) -> None:
        _LOG.error("strategy=%s error=%s", strategy.value, error)
        self._tell(strategy, acting=False, last_error=error)
        self._stop.wait(AFTER_FAILURE_SECONDS)

    def _stand_by_and_act(self, strategy: SyncStrategy) -> None:
        settings = self._settings()
        with StateStore.open(settings.state_url) as state:
            turn = Turn(state, strategy.value, _owner(settings), f"daemon {os.getpid()}")
            try:
                with turn.taken(wait_seconds=STAND_BY_SECONDS) as lease:
                    _LOG.info("strategy=%s owner=%s turn=taken", strategy.value, turn.owner)
                    self._tell(strategy, acting=True, who_acts=turn.holder)
                    while not self._stop.is_set():
                        self._act(turn, lease, strategy)
            except LeaseHeldError:
                self._tell(strategy, who_acts=who_acts(state, strategy.value, turn.owner))
                raise

    def _act(self, turn: Turn, lease: Lease, strategy: SyncStrategy) -> None:
        """Act for a minute with what the settings and the inventory say now."""
        with self._runtime() as runtime:
            config = replace(self.config, strategy=strategy)
            if strategy is SyncStrategy.EPHEMERAL:
                cadence = Cadence(config.ephemeral_sync_interval_seconds, sleep=self._stop.wait)
                with EphemeralLooks(runtime, "daemon", cadence.interval) as looks:
                    work_at_marks(
                        turn, lease, cadence, MINUTE, lambda: self._worked(strategy, looks.look()), stop=self._stop
                    )
                return
            cadence = Cadence(config.sync_interval_seconds, sleep=self._stop.wait)

            def work() -> int:
                return self._worked(strategy, _changes(pass_once(runtime, config, "daemon")))

            if work_at_marks(turn, lease, cadence, MINUTE, work, stop=self._stop) == 0:
                self._stop.wait(min(1.0, cadence.interval))  # this mark was worked for already

    def _worked(self, strategy: SyncStrategy, changes: int) -> int:
        known = self._rhythms[strategy]
        self._rhythms[strategy] = replace(
            known, marks=known.marks + 1, last_mark_at=clock.wall(), changes=known.changes + changes, last_error=""
        )
        _LOG.info("strategy=%s mark=%d changed=%d", strategy.value, known.marks + 1, changes)
        return changes

    def _tell(self, strategy: SyncStrategy, **changed: Any) -> None:  # noqa: ANN401 - fields of RhythmStatus
        self._rhythms[strategy] = replace(self._rhythms[strategy], **changed)

    def _settings(self) -> Settings:
        return self._given or load_settings(**self.config.settings())

    @contextmanager
    def _runtime(self) -> Iterator[Runtime]:
        with Runtime.open(self._settings()) as runtime:
            yield runtime


def _rhythms(strategy: SyncStrategy) -> tuple[SyncStrategy, ...]:
    return (SyncStrategy.HYBRID, SyncStrategy.EPHEMERAL) if strategy is SyncStrategy.AUTO else (strategy,)


def _owner(settings: Settings) -> str:
    coordinator = load_inventory(settings.hosts, coordinator=settings.coordinator).coordinator
    return coordinator.name if coordinator else settings.coordinator or OWNER


def _changes(reports: list[Reports]) -> int:
    return sum(outcome.changed for found in reports for report in found.values() for outcome in report.outcomes)


def _log_to(path: Path) -> logging.Handler:
    """Write the package's log to a file that is kept small."""
    with disk_errors(path.parent, "make"):
        path.parent.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=_LOG_FILES, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    _PACKAGE_LOG.addHandler(handler)
    if _PACKAGE_LOG.getEffectiveLevel() > logging.INFO:
        _PACKAGE_LOG.setLevel(logging.INFO)
    return handler
