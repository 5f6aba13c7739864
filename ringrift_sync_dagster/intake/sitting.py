"""A sitting: several packs taken in one after the other, with what each would do alone done once for all of them.

Alone, a small pack costs more in leases and in copying its change into the state database than in the merge itself.
During a sitting a lease that one pack took is kept for the next ones, and changes are copied at the end, as they are
for a process that was killed before it could: they are in the databases that they belong to from the merge on.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Final

from ringrift_sync_dagster.state.leases import Lease, hold
from ringrift_sync_dagster.state.store import StateStore

_LOCAL: Final = threading.local()


class Sitting:
    """What one thread keeps while its sitting goes on.

    Args:
        state: Where leases are.

    """

    def __init__(self, state: StateStore) -> None:
        self.state = state
        self._kept = contextlib.ExitStack()
        self._leases: dict[str, Lease] = {}
        self._refused: set[str] = set()
        self._at_end: dict[object, Callable[[], object]] = {}

    def lease(self, name: str, wait_seconds: float, lock: threading.Lock | None) -> Lease:
        """Give a lease that is ours until the end; one that was waited for in vain is not waited for again.

        Raises:
            LeaseHeldError: Somebody else has it.

        """
        if name not in self._leases:
            seconds = 0.0 if name in self._refused else wait_seconds
            with contextlib.ExitStack() as taking:
                if lock is not None:
                    taking.enter_context(lock)
                self._refused.add(name)
                self._leases[name] = taking.enter_context(hold(self.state, name, wait_seconds=seconds))
                self._kept.push(taking.pop_all())
        return self._leases[name]

    def at_end(self, key: object, work: Callable[[], object]) -> None:
        """Do something once when the sitting ends, however often that is asked for."""
        self._at_end[key] = work

    def end(self) -> None:
        """Do what was put off, and let the leases go."""
        with self._kept:
            for work in self._at_end.values():
                work()


@contextlib.contextmanager
def sitting(state: StateStore) -> Iterator[None]:
    """Take in several packs in this thread during the body.

    Raises:
        StateError: What was put off could not be done; a later sweep does it.

    """
    _LOCAL.sitting = one = Sitting(state)
    try:
        yield
    finally:
        _LOCAL.sitting = None
        one.end()


def current(state: StateStore) -> Sitting | None:
    """Give the sitting of this thread on this state, if there is one."""
    found: Sitting | None = getattr(_LOCAL, "sitting", None)
    return found if found is not None and found.state is state else None


@contextlib.contextmanager
def held(
    state: StateStore, name: str, wait_seconds: float = 0.0, lock: threading.Lock | None = None
) -> Iterator[Lease]:
    """Hold a lease during the body, or until the end of this thread's sitting.

    Args:
        state: Where leases are.
        name: What to exclude.
        wait_seconds: How long to wait for another holder.
        lock: Excludes other threads of this process, which would wait for the lease more dearly.

    Raises:
        LeaseHeldError: Another holder has it, and still had it after the wait.
        StateError: The database cannot be used.

    """
    one = current(state)
    if one is not None:
        yield one.lease(name, wait_seconds, lock)
        return
    with lock or contextlib.nullcontext(), hold(state, name, wait_seconds=wait_seconds) as lease:
        yield lease
