"""Whose turn it is: work of many nodes in an order that lets no node wait for all the work of another.

A node with a thousand new games in twelve configs must not hold back the one game of its neighbour, which may vanish.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Generic, TypeVar

Work = TypeVar("Work")


class Turns(Generic[Work]):
    """Work that waits, by node; nodes take turns in the order in which they first had work, each keeps its own order.

    Args:
        per_node: How much work of one node may be under way at the same time; None for no limit.

    """

    def __init__(self, per_node: int | None = None) -> None:
        self._per_node = per_node
        self._queues: dict[str, deque[Work]] = {}
        self._running: Counter[str] = Counter()

    @property
    def waiting(self) -> bool:
        """Whether any work waits, even if it may not start yet."""
        return bool(self._queues)

    def add(self, node: str, work: Work) -> None:
        """Let ``work`` of ``node`` wait for its turn."""
        self._queues.setdefault(node, deque()).append(work)

    def take(self) -> Work | None:
        """Give the next work that may start, or None; its node goes to the end of the line."""
        for node in list(self._queues):
            if self._per_node is not None and self._running[node] >= self._per_node:
                continue
            queue = self._queues.pop(node)
            work = queue.popleft()
            if queue:
                self._queues[node] = queue
            self._running[node] += 1
            return work
        return None

    def done(self, node: str) -> None:
        """Say that one work of ``node`` has ended."""
        self._running[node] -= 1
