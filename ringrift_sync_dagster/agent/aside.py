"""Log lines of the agent are written by a thread of their own, so that writing them never holds up the event loop.

A supervisor that does not read, a pipe that is full, or a disk whose journal is being committed blocks whoever writes a
line. What the thread cannot write yet waits in a bounded queue; what does not fit is dropped and counted.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Iterator, Sequence
from logging.handlers import QueueHandler
from typing import Final

_LINES_KEPT: Final = 2000
_END_SECONDS: Final = 2.0  # an agent that ends waits no longer for the reader of its log


class _Aside(QueueHandler):
    """Puts records into the queue; never blocks."""

    def __init__(self, lines: queue.Queue[logging.LogRecord | None]) -> None:
        super().__init__(lines)
        self.dropped = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        """Keep a record for the thread, or count it."""
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1


@contextlib.contextmanager
def logging_aside() -> Iterator[None]:
    """Let the root logger's handlers work in a thread while the body runs; without handlers nothing changes."""
    root = logging.getLogger()
    handlers = list(root.handlers)
    if not handlers:
        yield
        return
    lines: queue.Queue[logging.LogRecord | None] = queue.Queue(_LINES_KEPT)
    aside = _Aside(lines)
    writer = threading.Thread(target=_write, args=(lines, aside, handlers), name="log", daemon=True)
    writer.start()
    root.handlers[:] = [aside]
    try:
        yield
    finally:
        root.handlers[:] = handlers
        with contextlib.suppress(queue.Full):
            lines.put(None, timeout=_END_SECONDS)
        writer.join(_END_SECONDS)


def _write(lines: queue.Queue[logging.LogRecord | None], aside: _Aside, handlers: Sequence[logging.Handler]) -> None:
    told = 0
    while (record := lines.get()) is not None:
        _hand_on(record, handlers)
        if aside.dropped > told:
            count, told = aside.dropped - told, aside.dropped
            _hand_on(_dropped(count), handlers)


def _hand_on(record: logging.LogRecord, handlers: Sequence[logging.Handler]) -> None:
    for handler in handlers:
        if record.levelno >= handler.level:
            handler.handle(record)


def _dropped(count: int) -> logging.LogRecord:
    """The line about lines; not logged, because it would go into the queue that is full."""
    message = "%d log lines were dropped: nobody took them in time"
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, message, (count,), None)
