"""The loop of a strategy: one process at a time works at its marks, for an owner, whoever started it.

Dagster's runs and ``AutoSyncDaemon`` are this loop. It holds the lease ``strategy:<strategy>:<owner>`` (6 s, renewed
every 2 s), so that a holder that was killed is followed within seconds, and no old file can keep anybody from starting.
A run hands over to the run of the next minute without a gap: the successor waits under a second lease, and the holder
ends after the work of a mark once somebody waits. Source: architecture.md, 6; domain.md, 10 (43).
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state import marks
from ringrift_sync_dagster.state.leases import Lease, hold, holder_of
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.sync.cadence import Cadence

LEASE_SECONDS: Final = 6.0
"""How long a strategy is held by a process that was killed or stopped."""
HANDOVER_SECONDS: Final = 30.0
"""How long a successor waits for the holder to end the work of its mark."""

_LOG: Final = logging.getLogger(__name__)


def strategy_lease(strategy: str, owner: str) -> str:
    """Name of the lease that whoever acts for a strategy of an owner holds."""
    return f"strategy:{strategy}:{owner}"


@dataclass(frozen=True, slots=True)
class Turn:
    """For which strategy of which owner somebody acts.

    Args:
        state: The shared facts.
        strategy: Which one.
        owner: For whose canonical files.
        holder: Who acts, in words, such as ``daemon 4711``.

    """

    state: StateStore
    strategy: str
    owner: str
    holder: str

    @property
    def lease(self) -> str:
        """Name of the lease."""
        return strategy_lease(self.strategy, self.owner)

    @property
    def next_lease(self) -> str:
        """Name of the lease that one successor holds while it waits."""
        return f"{self.lease}:next"

    @contextlib.contextmanager
    def taken(self, *, wait_seconds: float = 0.0) -> Iterator[Lease]:
        """Hold the turn; another holder is waited for so long.

        Raises:
            LeaseHeldError: Somebody else acts.
            StateError: The state database cannot be used.

        """
        with hold(self.state, self.lease, ttl_seconds=LEASE_SECONDS, wait_seconds=wait_seconds) as lease:
            yield lease

    @contextlib.contextmanager
    def taken_over(self) -> Iterator[Lease]:
        """Hold the turn after the run before this one, which ends as soon as it sees that somebody waits.

        Raises:
            LeaseHeldError: Somebody else waits already, or the holder (a daemon, say) does not hand over.
            StateError: The state database cannot be used.

        """
        with contextlib.ExitStack() as stack:
            with hold(self.state, self.next_lease, ttl_seconds=LEASE_SECONDS):
                lease = stack.enter_context(self.taken(wait_seconds=HANDOVER_SECONDS))
            yield lease


def work_at_marks(
    turn: Turn,
    lease: Lease,
    cadence: Cadence,
    seconds: float,
    work: Callable[[], int],
    *,
    stop: threading.Event | None = None,
    hands_over: bool = False,
    again: bool = False,
) -> int:
    """Work at each mark of the next ``seconds``; give how many marks were worked for.

    Args:
        turn: Whose turn it is.
        lease: The lease that is held.
        cadence: When.
        seconds: For how long new work is begun.
        work: Does what is due at a mark; gives how many partitions changed. What it raises ends the loop.
        stop: Set when no new work is to be begun.
        hands_over: True: end early when a successor waits.
        again: True: work also for a mark that was worked for already, because a person asked.

    Raises:
        LeaseLostError: This process was stopped for so long that another one may act now.
        StateError: The state database cannot be used.

    """
    before = marks.last(turn.state, turn.strategy, turn.owner)
    count = 0
    for mark in cadence.marks(seconds):
        if stop is not None and stop.is_set():
            return count
        lease.check()
        # A mark that the holder before worked for is done, also if this clock is not quite there yet.
        if again or count or before is None or cadence.number(before.mark) - cadence.number(mark) not in {0, 1}:
            began, started = clock.wall(), clock.monotonic()
            row = marks.begin(turn.state, marks.Mark(turn.strategy, turn.owner, mark, began, turn.holder))
            changes = work()
            marks.end(turn.state, row, seconds=clock.monotonic() - started, changes=changes)
            count += 1
        if hands_over and holder_of(turn.state, turn.next_lease) is not None:
            _LOG.info("strategy=%s owner=%s hands_over=yes marks=%d", turn.strategy, turn.owner, count)
            return count
    return count


def who_acts(state: StateStore, strategy: str, owner: str) -> str:
    """Say who acts for a strategy now, such as ``daemon 4711``; empty when nobody does."""
    process = holder_of(state, strategy_lease(strategy, owner))
    if process is None:
        return ""
    last = marks.last(state, strategy, owner)
    return last.holder if last is not None and last.holder.endswith(f" {process.pid}") else str(process)
