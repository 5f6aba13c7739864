"""The merged databases of matches and of the model registry on this disk, reached through the kit.

One file for each family, of all configs. The kit's errors are translated into those that say what to do next. Whoever
merges holds the lease of the family (``intake``).
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ringrift_sync_dagster.errors import CanonicalStoreError, LeaseHeldError, LocalDiskError
from ringrift_sync_dagster.node import canonical, records, standings, union
from ringrift_sync_dagster.node.errors import KitError
from ringrift_sync_dagster.node.records import Merged, Record, Refused
from ringrift_sync_dagster.storage.layout import Layout

_BUSY: Final = ("locked", "busy")
_DISK: Final = ("full", "unable to open", "readonly", "i/o error")


@dataclass(frozen=True, slots=True)
class RecordsStore:
    """The merged databases under one root; safe for threads and processes. A family is ``matches`` or ``registry``.

    Args:
        layout: Where they lie.

    """

    layout: Layout

    def path(self, family: str) -> Path:
        """The database of a family."""
        return self.layout.elo if family == "matches" else self.layout.registry

    def cursor(self, family: str, config: str, node: str, path: str) -> dict[str, Any] | None:
        """How far the store has read a node's database; None when it never did, or when there is no store."""
        with self._read(family) as conn:
            return canonical.read_cursor(conn, node, path, config) if conn else None

    def cursors(
        self, family: str, config: str, nodes: Collection[str] | None = None
    ) -> dict[tuple[str, str], dict[str, Any]]:
        """How far the store has read each database of these nodes (None: of all), by (node, path)."""
        with self._read(family) as conn:
            return canonical.read_cursors(conn, config, nodes) if conn else {}

    def holds(self, family: str, config: str) -> bool:
        """Whether there is any record of a config."""
        with self._read(family) as conn:
            return conn is not None and next(iter(records.family(family).all_records(conn, config)), None) is not None

    def taken(self, family: str, artifacts: Sequence[str]) -> set[str]:
        """Of these artifacts, those that were united with the database that is there now."""
        with self._read(family) as conn:
            return canonical.taken(conn, artifacts) if conn else set()

    def set_cursor(self, family: str, config: str, node: str, path: str, cursor: dict[str, Any]) -> None:
        """Remember a cursor for which there was nothing to merge."""
        with self._read(family) as conn:
            if conn is not None and canonical.get(conn, "schema") is not None:
                with canonical.writing(conn):
                    canonical.write_cursor(conn, node, path, config, cursor)

    def generation(self, family: str) -> str:
        """The state of the database: another text after each merge that changed it, or when it was lost; else equal."""
        with self._read(family) as conn:
            if conn is None:
                return ""
            return f"{canonical.get(conn, 'store_id') or ''}.{canonical.get(conn, 'generation') or 0}"

    def records(self, family: str, config: str) -> list[Record]:
        """Every record of a config (of none, where it is empty)."""
        with self._read(family) as conn:
            return list(records.family(family).all_records(conn, config)) if conn else []

    def ratings_hold(self, config: str) -> bool:
        """Tell whether the ratings of a config are what its matches give."""
        with self._read("matches") as conn:
            return conn is None or standings.ratings_hold(conn, config)

    def merge(
        self,
        pack: union.Proved,
        note: union.Note,
        set_aside: Callable[[Sequence[Refused]], None],
        before_commit: Callable[[], None],
    ) -> Merged:
        """Unite a proved pack; see ``node.union``.

        Raises:
            LocalDiskError: The disk is full or not writable; nothing was merged.
            LeaseHeldError: Another process held the database for 30 s; nothing was merged.
            CanonicalStoreError: The database cannot be used; nothing was merged.

        """
        with self._translated(pack.family):
            return union.into_own(str(self.path(pack.family)), pack, note, set_aside, before_commit)

    def due(self, family: str) -> dict[str, str]:
        """The configs to settle, each with the node that brought the last rows."""
        with self._read(family) as conn:
            return union.due(conn) if conn else {}

    def settle(self, family: str, config: str, note: union.Note, before_commit: Callable[[], None]) -> None:
        """Write what follows from all rows of a config; see ``node.union``. Errors as for ``merge``."""
        with self._translated(family):
            union.settle(str(self.path(family)), family, config, note, before_commit)

    def unsent_changes(self, family: str) -> list[tuple[int, dict[str, Any]]]:
        """What was merged and is not yet known to be in the state database, as (sequence number, summary)."""
        with self._read(family) as conn:
            return canonical.unsent_changes(conn) if conn else []

    def mark_sent(self, family: str, up_to: int) -> None:
        """The state database holds the changes up to this sequence number."""
        with self._read(family) as conn:
            if conn is not None:
                canonical.mark_sent(conn, up_to)

    @contextlib.contextmanager
    def _read(self, family: str) -> Iterator[sqlite3.Connection | None]:
        """A connection to a database that exists, or None."""
        path = self.path(family)
        if not path.exists():
            yield None
            return
        with self._translated(family), canonical.opened(str(path), create=False) as conn:
            yield conn

    @contextlib.contextmanager
    def _translated(self, family: str) -> Iterator[None]:
        path = self.path(family)
        try:
            yield
        except UnicodeDecodeError as error:
            raise CanonicalStoreError(path, "its schema is damaged: it holds bytes that are no text") from error
        except sqlite3.DatabaseError as error:
            text = str(error).lower()
            if any(word in text for word in _BUSY):
                raise LeaseHeldError(path.name, "another process that has been writing it for 30 s") from error
            if isinstance(error, sqlite3.OperationalError) and any(word in text for word in _DISK):
                words = f"{path}: {error}; nothing was merged: free some space or check permissions"
                raise LocalDiskError("", "", words) from error
            raise CanonicalStoreError(path, str(error)) from error
        except KitError as error:
            if error.code == "no_games_table":
                raise CanonicalStoreError(path, error.message) from error
            raise
