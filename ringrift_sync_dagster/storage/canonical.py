"""The canonical store of games on this disk: one database per config, reached through the kit.

The kit's errors are translated into those that say what to do next. Nothing here opens a database file in any other
way than as a SQLite connection: a plain open and close would drop the locks of the other threads of this process.
Whoever merges holds the lease of the config (``intake``).
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ringrift_sync_dagster.errors import CanonicalStoreError, LeaseHeldError, LocalDiskError
from ringrift_sync_dagster.node import canonical
from ringrift_sync_dagster.node.errors import KitError
from ringrift_sync_dagster.node.merge import Merged, Origin, SetAside, merge_pack
from ringrift_sync_dagster.node.packfile import Declared
from ringrift_sync_dagster.storage.layout import Layout

_BUSY: Final = ("locked", "busy")
_DISK: Final = ("full", "unable to open", "readonly", "i/o error")


@dataclass(frozen=True, slots=True)
class CanonicalStore:
    """The canonical databases under one root, or those of evaluation games; safe for threads and processes.

    Args:
        layout: Where they lie.
        evaluation: True: games of tournaments, gauntlets and baselines, which nobody trains on.

    """

    layout: Layout
    evaluation: bool = False

    def path(self, config: str) -> Path:
        """The database of a config."""
        return self.layout.evaluation(config) if self.evaluation else self.layout.canonical(config)

    def cursor(self, config: str, node: str, path: str) -> dict[str, Any] | None:
        """How far the store has read a node's database; None when it never did, or when there is no store."""
        with self._read(config) as conn:
            return canonical.read_cursor(conn, node, path, config) if conn else None

    def cursors(self, config: str, nodes: Collection[str] | None = None) -> dict[tuple[str, str], dict[str, Any]]:
        """How far the store has read each database of these nodes (None: of all), by (node, path)."""
        with self._read(config) as conn:
            return canonical.read_cursors(conn, config, nodes) if conn else {}

    def set_cursor(self, config: str, node: str, path: str, cursor: Mapping[str, Any]) -> None:
        """Remember a cursor for which there was nothing to merge; makes the database when there is none."""
        with self._write(config) as conn, canonical.writing(conn):
            canonical.prepare(conn)
            canonical.write_cursor(conn, node, path, config, dict(cursor))

    def add_change(
        self,
        config: str,
        node: str,
        change_id: str,
        summary: Mapping[str, Any],
        cursor: tuple[str, dict[str, Any]] | None,
    ) -> None:
        """Write down a change that merged nothing, only set games aside, with the cursor behind it."""
        with self._write(config) as conn, canonical.writing(conn):
            canonical.prepare(conn)
            canonical.note_taken(conn, str(summary["artifact"]))
            canonical.add_change(conn, change_id, {**summary, "canonical_games": canonical.count(conn)})
            if cursor is not None:
                canonical.write_cursor(conn, node, cursor[0], config, cursor[1])

    def taken(self, config: str, artifacts: Sequence[str]) -> set[str]:
        """Of these artifacts, those that were merged into the database that is there now."""
        with self._read(config) as conn:
            return canonical.taken(conn, artifacts) if conn else set()

    def missing(self, config: str, listed: Sequence[tuple[str, str]]) -> list[str]:
        """Of games listed as (id, identity digest), the ids whose identity the store does not hold."""
        with self._read(config) as conn:
            known = canonical.known_identities(conn, [game_id for game_id, _ in listed]) if conn else {}
        return [game_id for game_id, identity in listed if identity not in known.get(game_id, ())]

    def holds(self, config: str, listed: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """Of games listed as (id, identity digest), those that the store holds, under whatever id."""
        with self._read(config) as conn:
            known = canonical.known_identities(conn, sorted({game_id for game_id, _ in listed})) if conn else {}
        return {(game_id, identity) for game_id, identity in listed if identity in known.get(game_id, ())}

    def known(self, config: str, ids: Sequence[str]) -> dict[str, list[str]]:
        """Of games by their original ids, those that the store holds, under whatever id: each with its identities."""
        with self._read(config) as conn:
            found = canonical.known_identities(conn, list(ids)) if conn else {}
        return {game_id: identities for game_id, identities in found.items() if identities}

    def differing(self, config: str, node: str, told: Mapping[str, str]) -> list[str]:
        """Of games that a node told as id to annotation digest, those whose annotation the store has not met."""
        with self._read(config) as conn:
            has_store = conn is not None and canonical.get(conn, "store_id") is not None
            return canonical.differing(conn, node, dict(told)) if conn is not None and has_store else []

    def looked(self, config: str, node: str, told: Mapping[str, str]) -> None:
        """Remember annotations of a node that were merged."""
        with self._write(config) as conn, canonical.writing(conn):
            canonical.looked(conn, node, dict(told))

    def games(self, config: str) -> int:
        """Number of games; 0 when there is no database."""
        with self._read(config) as conn:
            return canonical.count(conn) if conn else 0

    def generation(self, config: str) -> str:
        """The state of the database: another text after each merge that changed it; empty when there is none."""
        with self._read(config) as conn:
            if conn is None or canonical.get(conn, "store_id") is None:
                return ""
            return f"{canonical.get(conn, 'store_id')}.{canonical.get(conn, 'generation') or 0}"

    def merge(
        self,
        config: str,
        pack: Path,
        origin: Origin,
        set_aside: SetAside,
        *,
        cursor: tuple[str, dict[str, Any]] | Declared | None,
        note: dict[str, Any],
        before_commit: Callable[[], None],
    ) -> Merged:
        """Merge a proved pack; see ``node.merge``.

        Raises:
            LocalDiskError: The disk is full or not writable; nothing was merged.
            LeaseHeldError: Another process held the database for 30 s; nothing was merged.
            CanonicalStoreError: The canonical database itself is damaged; nothing was merged.
            KitError: ``corrupt``: the pack does not hold what it declares; nothing was merged.

        """
        path = self.path(config)
        with self._translated(config):
            return merge_pack(str(path), str(pack), origin, config, set_aside, cursor, note, before_commit)

    def unsent_changes(self, config: str) -> list[tuple[int, dict[str, Any]]]:
        """What was merged and is not yet known to be in the state database, as (sequence number, summary).

        Evaluation games count under a name of their own, because they are no games of the canonical store.
        """
        with self._read(config) as conn:
            found = canonical.unsent_changes(conn) if conn else []
        return [(number, _of_evaluation(summary)) for number, summary in found] if self.evaluation else found

    def mark_sent(self, config: str, up_to: int) -> None:
        """The state database holds the changes up to this sequence number."""
        with self._write(config) as conn:
            canonical.mark_sent(conn, up_to)

    @contextlib.contextmanager
    def _read(self, config: str) -> Iterator[sqlite3.Connection | None]:
        """A connection to a database that exists, or None."""
        path = self.path(config)
        if not path.exists():
            yield None
            return
        with self._translated(config), canonical.opened(str(path), create=False) as conn:
            yield conn

    @contextlib.contextmanager
    def _write(self, config: str) -> Iterator[sqlite3.Connection]:
        with self._translated(config), canonical.opened(str(self.path(config))) as conn:
            yield conn

    @contextlib.contextmanager
    def _translated(self, config: str) -> Iterator[None]:
        """Turn SQLite's errors about a canonical database into those that say what to do next."""
        path = self.path(config)
        try:
            yield
        except UnicodeDecodeError as error:  # SQLite's own words quote bytes of a damaged file
            raise CanonicalStoreError(path, "its schema is damaged: it holds bytes that are no text") from error
        except sqlite3.DatabaseError as error:
            text = str(error).lower()
            if any(word in text for word in _BUSY):
                raise LeaseHeldError(path.name, "another process that has been writing it for 30 s") from error
            if isinstance(error, sqlite3.OperationalError) and any(word in text for word in _DISK):
                raise LocalDiskError(
                    "", "", f"{path}: {error}; nothing was merged: free some space or check permissions"
                ) from error
            raise CanonicalStoreError(path, str(error)) from error
        except KitError as error:
            if error.code == "old_dialect":
                raise CanonicalStoreError(path, error.message) from error
            raise


def _of_evaluation(summary: Mapping[str, Any]) -> dict[str, Any]:
    counts = {"evaluation_games": int(summary.get("games_new", 0))}
    names = ("games_new", "games_same", "games_revised", "games_renamed", "games_annotated")
    return {**summary, **dict.fromkeys(names, 0), "canonical_games": None, "lag_seconds": None, "counts": counts}
