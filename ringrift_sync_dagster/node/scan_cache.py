"""What the last scan learnt about each database, kept in a small SQLite file so that a new process knows it too.

It is only a cache: whatever is wrong with it (damaged, of another version, held by another process, disk full), the
scan goes on and the file is made anew when it can be. Nothing in it is worth a sync to disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from typing import Any, Dict, Iterable, Iterator, NamedTuple, Optional

from . import KIT_VERSION

_BUSY_SECONDS = 1.0
_DDL = """CREATE TABLE IF NOT EXISTS seen (kit TEXT NOT NULL, path TEXT PRIMARY KEY, token TEXT NOT NULL,
first_seen REAL NOT NULL, inspected REAL NOT NULL, facts TEXT NOT NULL) WITHOUT ROWID"""


class Seen(NamedTuple):
    """What a database held: ``facts`` was true of ``token``; both times are seconds of this node's clock."""

    token: str
    first_seen: float
    inspected: float
    facts: Dict[str, Any]


def _facts(text: str) -> Dict[str, Any]:
    facts = dict(json.loads(text))
    if not {"error", "marker"} <= facts.keys():
        raise ValueError("these are no facts about a database")
    return facts


@contextlib.contextmanager
def _opened(path: str) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)) as conn:
        conn.execute("PRAGMA synchronous=OFF")
        conn.execute(_DDL)
        yield conn


class ScanCache:
    """The cache file at ``path``; with None everything is kept in memory only. Not for more than one thread."""

    def __init__(self, path: Optional[str]) -> None:
        self._path = path
        self._seen: Optional[Dict[str, Seen]] = None

    def known(self) -> Dict[str, Seen]:
        """Give what is known per path, read from the file the first time."""
        if self._seen is None:
            self._seen = self._load()
        return self._seen

    def replace(self, seen: Dict[str, Seen]) -> None:
        """Keep what this scan learnt and forget the databases that are gone."""
        before = self.known()
        changed = [(path, entry) for path, entry in seen.items() if before.get(path) is not entry]
        gone = [path for path in before if path not in seen]
        self._seen = seen
        if self._path is not None and (changed or gone):
            self._store(self._path, ((path, entry) for path, entry in changed), gone)

    def _load(self) -> Dict[str, Seen]:
        if self._path is None or not os.path.exists(self._path):
            return {}
        try:
            with _opened(self._path) as conn:
                rows = conn.execute(
                    "SELECT path, token, first_seen, inspected, facts FROM seen WHERE kit = ?", (KIT_VERSION,)
                ).fetchall()
            return {path: Seen(token, first, at, _facts(text)) for path, token, first, at, text in rows}
        except sqlite3.OperationalError:
            return {}  # Held by another process, or not to be opened: no reason to remove it.
        except (sqlite3.Error, ValueError, TypeError):
            self._discard()
            return {}

    def _store(self, path: str, changed: Iterable[Any], gone: Iterable[str]) -> None:
        try:
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            with _opened(path) as conn:
                conn.execute("BEGIN IMMEDIATE")
                conn.executemany("DELETE FROM seen WHERE path = ?", ((name,) for name in gone))
                conn.executemany(
                    "INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        (KIT_VERSION, name, entry.token, entry.first_seen, entry.inspected, json.dumps(entry.facts))
                        for name, entry in changed
                    ),
                )
                conn.execute("COMMIT")
        except (sqlite3.OperationalError, OSError):
            return
        except sqlite3.Error:
            self._discard()

    def _discard(self) -> None:
        for suffix in ("", "-journal"):
            with contextlib.suppress(OSError):
                os.unlink(f"{self._path}{suffix}")
