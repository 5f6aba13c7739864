"""Merging at once what nodes push to the owner's agent: a finished game is canonical seconds after it was pushed.

One thread takes in one pack after the other, through the one intake and under its leases, so it never writes beside
another process. What fails, and what comes while the queue is full, stays in ``incoming/``: it is tried again here
after a while, and the sweep of the next pass finds it too. The change that a merge writes waits in the state database
until Dagster records it.
"""

from __future__ import annotations

import logging
import queue
import threading
from pathlib import Path
from typing import Final

from ringrift_sync_dagster.agent.metrics import Metrics
from ringrift_sync_dagster.errors import LeaseHeldError, PackRefusedError, SyncError
from ringrift_sync_dagster.intake.games import GamesIntake
from ringrift_sync_dagster.intake.rows import RowsIntake
from ringrift_sync_dagster.intake.sitting import sitting
from ringrift_sync_dagster.intake.sweep import take_in, waiting
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.new_games import tell_new_games, watch_new_games
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.storage.layout import Layout

log = logging.getLogger(__name__)

TRIGGER: Final = "push"
_QUEUE: Final = 1000
_LEASE_SECONDS: Final = 0.2
"""How long to wait for another process that merges into the same config; then the pack is left for later."""
_SITTING_SECONDS: Final = 1.0
"""For so long packs that wait are merged under the leases of the first ones; then a pass has its turn."""
_FIRST_PAUSE: Final = 2.0
_LONGEST_PAUSE: Final = 60.0


class Merger:
    """Takes in packs in a thread of its own; one object for the agent of the owner.

    Args:
        owner: This node.
        state: The shared facts; a connection of its own, closed by ``close``.
        layout: The owner's disk.
        metrics: Counts what is merged.

    """

    def __init__(self, owner: str, state: StateStore, layout: Layout, metrics: Metrics) -> None:
        self._state = state
        self._metrics = metrics
        self._games = GamesIntake(owner, state, layout, lease_wait_seconds=_LEASE_SECONDS)
        self._rows = RowsIntake(owner, state, layout, lease_wait_seconds=_LEASE_SECONDS)
        self._arrived: queue.Queue[Path | None] = queue.Queue(_QUEUE)
        self._closed = threading.Event()
        self._left_over = True  # what lay there before this agent began
        self._pause = self._left_over_at = 0.0
        self._thread = threading.Thread(target=self._work, name="merge", daemon=True)

    def start(self) -> None:
        """Begin, with what lies there already."""
        self._thread.start()

    def arrived(self, path: Path) -> None:
        """Take note of a whole, verified artifact that lies in ``incoming/``; never waits."""
        try:
            self._arrived.put_nowait(path)
        except queue.Full:
            self._leave()

    def close(self) -> None:
        """Wait for the merge that goes on, and end; what waits stays on the disk."""
        self._closed.set()
        self._arrived_or_full()
        if self._thread.is_alive():
            self._thread.join()
        self._state.close()

    def _arrived_or_full(self) -> None:
        """Wake the thread; where the queue is full it is awake."""
        try:
            self._arrived.put_nowait(None)
        except queue.Full:
            return

    def _work(self) -> None:
        untold = False
        while not self._closed.is_set():
            path = self._next()
            if self._closed.is_set():
                return
            try:
                if path is not None:
                    untold |= self._take_several(path)
                elif self._left_over:
                    untold |= self._take_left_over()
                if untold and self._arrived.empty():  # one event for many packs
                    tell_new_games(self._state)
                    untold = False
            except Exception:  # whatever one pack does, the next one is merged
                log.exception("a merge failed path=%s", path)
                self._leave()

    def _next(self) -> Path | None:
        """Wait for the next pack; None where it is time to look at what is left over, however fast packs come."""
        seconds = max(0.0, self._left_over_at - clock.monotonic()) if self._left_over else None
        if seconds == 0.0:
            return None
        try:
            return self._arrived.get(timeout=seconds)
        except queue.Empty:
            return None

    def _leave(self) -> None:
        """Look at what lies there after a pause."""
        if not self._left_over:
            self._left_over_at, self._left_over = clock.monotonic() + self._pause, True

    def _take_several(self, path: Path) -> bool:
        """Take in an artifact and those that came meanwhile, in one sitting; True when one was merged."""
        merged, ends = False, clock.monotonic() + _SITTING_SECONDS
        with sitting(self._state):
            merged = self._take(path)
            while clock.monotonic() < ends and not self._closed.is_set():
                try:
                    after = self._arrived.get_nowait()
                except queue.Empty:
                    break
                if after is not None:
                    merged |= self._take(after)
        return merged

    def _take_left_over(self) -> bool:
        """Take in what lies there; try again later, ever more seldom, while something stays."""
        self._left_over = False
        self._pause = min(max(_FIRST_PAUSE, self._pause * 2), _LONGEST_PAUSE)
        merged = False
        for path in waiting(self._games):
            if self._closed.is_set():
                break
            merged |= self._take(path)
        if not self._left_over:
            self._pause = _FIRST_PAUSE
        return merged

    def _take(self, path: Path) -> bool:
        """Take in one artifact; True when that was a merge."""
        started = clock.monotonic()
        try:
            watch_new_games(self._state)
            accepted = take_in(self._games, self._rows, path, TRIGGER)
        except FileNotFoundError:
            return False  # a pass was faster
        except PackRefusedError as error:
            self._metrics.merges.labels("refused").inc()
            log.warning("refused=%s error=%s", path.name, error)  # it is in quarantine
            return False
        except (SyncError, OSError) as error:
            self._leave()
            self._metrics.merges.labels("later" if isinstance(error, LeaseHeldError) else "failed").inc()
            level = logging.DEBUG if isinstance(error, LeaseHeldError) else logging.WARNING
            log.log(level, "left for later artifact=%s error=%s", path.name, error)
            return False
        if accepted is None:
            return False
        self._metrics.merges.labels("merged").inc()
        seconds = clock.monotonic() - started
        log.info(
            "merged artifact=%s node=%s config=%s seconds=%.3f", path.name, path.parent.name, accepted.config, seconds
        )
        return True
