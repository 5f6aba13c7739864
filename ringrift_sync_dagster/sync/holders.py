"""Who serves an artifact to whom: nodes that have it serve the next ones, so that the owner's uplink pays few times.

The owner serves one node at a time, and only when no holder is free; a holder serves ``PER_HOLDER``. Whoever finds
nobody free waits for the next one that is, since in the time of one more copy from the owner several come from holders;
but not for ever: a slow first node must not hold up the others.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ringrift_sync_dagster.settings import clock

PER_HOLDER: Final = 2
PATIENCE_SECONDS: Final = 30.0
OWNER: Final = ""
"""Stands for the owner among the sources."""


class Holders:
    """The holders of each artifact, and how many nodes each serves now; one for a pass, safe in several threads.

    Args:
        patience_seconds: After so long a node that waits for a holder is served by the owner.

    """

    def __init__(self, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._patience_seconds = patience_seconds
        self._changed = threading.Condition()
        self._of: defaultdict[str, set[str]] = defaultdict(set)
        self._failed: defaultdict[str, set[str]] = defaultdict(set)
        self._serving: Counter[str] = Counter()
        self._pushed: Counter[str] = Counter()

    def add(self, sha256: str, node: str) -> None:
        """Let a node, which has the artifact, serve others; not one that has failed in this pass."""
        with self._changed:
            if node not in self._failed[sha256]:
                self._of[sha256].add(node)
                self._changed.notify_all()

    def drop(self, sha256: str, node: str) -> None:
        """Ask a node no more: it served other bytes, or nothing."""
        with self._changed:
            self._failed[sha256].add(node)
            self._of[sha256].discard(node)

    def of(self, sha256: str) -> frozenset[str]:
        """Give the holders of an artifact."""
        with self._changed:
            return frozenset(self._of[sha256])

    @contextmanager
    def serving(self, sha256: str, target: str) -> Iterator[str]:
        """Choose who serves the target, wait for a turn, and hold it while the body runs; ``OWNER`` is the owner."""
        limit = clock.Deadline.after(self._patience_seconds)
        with self._changed:
            while (source := self._free(sha256, target, in_haste=limit.expired)) is None:
                self._changed.wait(limit.remaining())
            counts, key = (self._pushed, sha256) if source == OWNER else (self._serving, source)
            counts[key] += 1
        try:
            yield source
        finally:
            with self._changed:
                counts[key] -= 1
                self._changed.notify_all()

    def _free(self, sha256: str, target: str, *, in_haste: bool) -> str | None:
        free = [node for node in self._of[sha256] - {target} if self._serving[node] < PER_HOLDER]
        if free:
            return min(free, key=lambda node: (self._serving[node], node))
        return OWNER if in_haste or not self._pushed[sha256] else None
