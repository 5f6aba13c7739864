"""Bars on a terminal while a verb moves data: one for each transfer that runs now, read from the state database.

Nothing is drawn into a pipe, with ``--json``, or with ``-v`` (whose lines would tear the bars).
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from ringrift_sync_dagster.cli.session import Session
    from ringrift_sync_dagster.state.store import StateStore

LOOK_SECONDS: Final = 0.5
_BARS: Final = 8
"""Transfers that have a bar; more are counted."""


@contextlib.contextmanager
def shown_progress(session: Session, state: StateStore) -> Iterator[None]:
    """Draw the bars while the body runs; they are gone afterwards."""
    if session.as_json or session.verbose or not sys.stdout.isatty():
        yield
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TransferSpeedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    ended = threading.Event()
    with Progress(*columns, transient=True) as progress:
        drawer = threading.Thread(target=_draw, args=(progress, state, ended), name="progress", daemon=True)
        drawer.start()
        try:
            yield
        finally:
            ended.set()
            drawer.join()


def _draw(progress: Progress, state: StateStore, ended: threading.Event) -> None:
    from ringrift_sync_dagster.errors import StateError
    from ringrift_sync_dagster.state.transfers import transfer_rows

    whole = progress.add_task("asking nodes", total=None)
    bars: dict[int, TaskID] = {}
    while not ended.wait(LOOK_SECONDS):
        try:
            running = {one.id: one for one in transfer_rows(state, running=True)}
        except StateError:
            continue  # a busy database: the next look draws again
        for gone in set(bars) - set(running):
            progress.remove_task(bars.pop(gone))
        for number, one in list(running.items())[:_BARS]:
            if number not in bars:
                words = f"{one.direction} {one.node} {one.config or one.artifact[:12]}"
                bars[number] = progress.add_task(words, total=one.size_bytes or None)
            progress.update(bars[number], completed=one.received_bytes)
        more = len(running) - len(bars)
        words = f"{len(running)} transfers" + (f", {more} not shown" if more else "")
        progress.update(whole, description=words if running else "asking nodes, merging")
