"""What people use instead of write-through: a copy of each database every five seconds, by rsync or sqlite3_rsync.

All nodes are copied in the same five seconds, some at a time, over a real SSH server. A game is safe when a copy that
has just ended can be opened and holds it. The copy is not synced to the disk and a receipt is never written: both peers
do less than we do.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Final

from bench import peers
from bench.harness import CannotMeasureError
from ringrift_sync_dagster.settings import clock

EVERY_SECONDS: Final = 5.0
_AT_ONCE: Final = 4

Copy = Callable[[Path, Path], None]
"""Copies a database of a node to a file of the coordinator."""


def by_rsync(server: peers.SshServer) -> Copy:
    """Copy the database and its log with rsync."""
    program, client = peers.program("rsync"), server.client(server.port)

    def copy(source: Path, target: Path) -> None:
        folder = f"{server.remote(source.parent)}/"
        peers.run([program, "-rt", "--delete", "--exclude=*-shm", "-e", client, folder, f"{target.parent}/"])

    return copy


def by_sqlite3_rsync(server: peers.SshServer) -> Copy:
    """Copy the database with sqlite3_rsync."""
    program, client = peers.sqlite3_rsync(), server.client(server.port)

    def copy(source: Path, target: Path) -> None:
        peers.run([program, server.remote(source), str(target), "--ssh", client, "--exe", program])

    return copy


class Copying:
    """Copies databases every five seconds until told to end, and notes when each game was safe first.

    Args:
        copy: Copies one.
        sources: The databases.
        folder: Where the copies go, one folder for each.

    """

    def __init__(self, copy: Copy, sources: Sequence[Path], folder: Path) -> None:
        self._copy, self._ended = copy, threading.Event()
        self._targets = {source: folder / f"{number:02d}" / source.name for number, source in enumerate(sources)}
        for target in self._targets.values():
            target.parent.mkdir(parents=True, exist_ok=True)
        self.safe: dict[str, float] = {}
        """When the copy that brought a game first had ended."""
        self.made = 0
        """How many copies were tried."""
        self.causes: list[str] = []
        """Why copies could not be made or opened."""
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Make one last round, and end."""
        self._ended.set()
        self._thread.join()

    def _work(self) -> None:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            while True:
                began, last = clock.monotonic(), self._ended.is_set()
                list(pool.map(self._one, self._targets))
                if last:
                    return
                self._ended.wait(max(0.0, EVERY_SECONDS - (clock.monotonic() - began)))

    def _one(self, source: Path) -> None:
        target = self._targets[source]
        if not source.exists():
            return
        self.made += 1
        try:
            self._copy(source, target)
            at = clock.wall()
            games = _readable(target)
        except (CannotMeasureError, sqlite3.Error) as error:
            self.causes.append(str(error)[-160:])
            return
        for game in games:
            self.safe.setdefault(game, at)


def _readable(copy: Path) -> Iterable[str]:
    """Give the finished games of a copy, as somebody who needs it would find them."""
    with tempfile.TemporaryDirectory(dir=copy.parent.parent) as folder:
        own = Path(folder) / copy.name
        for suffix in ("", "-wal"):
            if Path(f"{copy}{suffix}").exists():
                shutil.copyfile(f"{copy}{suffix}", f"{own}{suffix}")
        with closing(sqlite3.connect(own)) as conn:
            if conn.execute("PRAGMA quick_check").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("the copy is torn")
            return [row[0] for row in conn.execute("SELECT game_id FROM games WHERE game_status = 'completed'")]
