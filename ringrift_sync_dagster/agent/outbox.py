"""The outbox: packs of finished games that are not durable elsewhere yet, on this node's own disk.

The order is the promise: the bytes of a pack are synced, it gets its name in the folder, and then one transaction
(``synchronous=FULL``) holds its row and the reader's cursor behind it. Whatever ends the process before that commit
leaves a file without a row, which the next start removes, and the database is read again from the old cursor. An entry
leaves for one reason only: its games are durable on the coordinator, or on enough persistent nodes. Neither age nor
tries ever drop one (domain.md, 6.2: upstream's did, and cleared all of them when one of two databases had arrived).
What somebody removes of it while it is in use is made again: its directory, its database from what is still open, and
packs by reading their games again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ringrift_sync_dagster.agent.outbox_entries import Entry, Packed, Totals
from ringrift_sync_dagster.agent.outbox_file import OutboxFile, Reserve, forget, forget_and_read_again, translated
from ringrift_sync_dagster.core.model import SHA256
from ringrift_sync_dagster.errors import LocalDiskError
from ringrift_sync_dagster.node.faults import reached
from ringrift_sync_dagster.storage.files import fsync_dir, install, make_dirs

log = logging.getLogger(__name__)

DATABASE: Final = "outbox.db"
FOLDER: Final = "outbox"
SAVED_KEPT: Final = 100_000
"""So many games that became durable are remembered, for whoever asks about one of them."""
_PRUNE_EVERY: Final = 1_000


class Outbox:
    """The outbox of one agent; every method blocks on the disk, and all may be called from several threads.

    Args:
        scratch: The agent's own directory.
        coordinator: The node whose durable copy is enough by itself.
        max_bytes: So much may wait; more is left in the databases until there is room.
        min_durable_copies: How many other persistent nodes are as good as the coordinator.

    Raises:
        LocalDiskError: The disk refuses.

    """

    def __init__(self, scratch: Path, coordinator: str, max_bytes: int, min_durable_copies: int = 1) -> None:
        self._coordinator, self._max_bytes, self._min_copies = coordinator, max_bytes, min_durable_copies
        self._folder = make_dirs(scratch / FOLDER)
        self._lock = threading.RLock()
        self._left = 0
        self.saved_games = 0
        """So many games became durable since the start."""
        self.read_again = 0
        """Goes up whenever a cursor may be taken back: what a reader remembers of cursors is then no longer true."""
        self._reserve = Reserve(scratch / "outbox.reserve")
        self._file = OutboxFile(scratch / DATABASE)
        self._sweep()

    def close(self) -> None:
        """Close the database. Idempotent."""
        with self._lock:
            self._file.close()

    def file(self, sha256: str) -> Path:
        """Say where the pack of an entry lies."""
        return self._folder / sha256

    @property
    def is_full(self) -> bool:
        """Whether nothing more is kept now."""
        return self.totals().size_bytes >= self._max_bytes

    def keep(self, packs: Sequence[Packed], now: float, generation: int | None = None) -> None:
        """Take packs in, with the cursors behind them, in one transaction; all are on the disk when this returns.

        Args:
            packs: What to take in.
            now: This node's wall clock.
            generation: What ``read_again`` was when the cursors were read that the packs go on from; None: it is so.

        Raises:
            LocalDiskError: They do not fit, the disk refuses, or a cursor was taken back meanwhile, whose games the
                cursors behind these packs would pass by: none was taken in, and no cursor moved.

        """
        generation = self.read_again if generation is None else generation
        self._find_folder()
        waiting, more = self.totals().size_bytes, sum(pack.size_bytes for pack in packs)
        if waiting and waiting + more > self._max_bytes:
            message = f"the outbox is full: {waiting} bytes wait, {more} more pass the limit of {self._max_bytes}"
            raise LocalDiskError("", "", message)
        try:
            for pack in packs:
                install(pack.file, self.file(pack.sha256))
                reached("outbox.placed")
            with self._transaction() as conn:
                self._require(generation)
                for pack in packs:
                    _add(conn, pack, now)
                reached("outbox.before_commit")
        except LocalDiskError:
            self._remove_without_row([pack.sha256 for pack in packs])
            raise
        reached("outbox.committed")

    def cursor(self, path: str, config: str) -> dict[str, Any] | None:
        """Give where the reader of a database goes on, or None for its beginning."""
        found = self._rows("SELECT cursor FROM cursors WHERE path = ? AND config = ?", (path, config))
        return json.loads(found[0][0]) if found else None

    def entries(self, limit: int = 64, skip: Iterable[str] = ()) -> list[Entry]:
        """Give entries that wait, those that nobody else has first, then the oldest; without those of ``skip``."""
        rows = self._rows(
            "SELECT sha256, config, path, size_bytes, games, created, tries, error FROM entries"
            " WHERE sha256 NOT IN (SELECT value FROM json_each(?))"
            " ORDER BY EXISTS (SELECT 1 FROM copies WHERE copies.sha256 = entries.sha256 AND durable), created, rowid"
            " LIMIT ?",
            (json.dumps(list(skip)), limit),
        )
        return [Entry(*(*row, self._copies(row[0]))) for row in rows]

    def acknowledge(self, sha256: str, copies: Mapping[str, bool], now: float) -> bool:
        """Note who has a pack, and whether that is for good; let the entry go if it is durable. Say whether it is gone.

        Args:
            sha256: The pack, by the name that the answer gave.
            copies: For each node that answered, whether it keeps the pack for good.
            now: This node's wall clock.

        """
        if self._is_durable({**self._copies(sha256), **copies}):
            return self.let_go([sha256], now) > 0
        with self._transaction() as conn:
            conn.executemany(
                "INSERT OR REPLACE INTO copies SELECT ?, ?, ?, ? FROM entries WHERE sha256 = ?",
                [(sha256, node, durable, now, sha256) for node, durable in copies.items()],
            )
        return False

    def let_go(self, packs: Iterable[str], now: float) -> int:
        """Forget entries whose games are durable; give how many there were. Only who knows that they are may ask."""
        there = [sha for sha in packs if SHA256.fullmatch(sha) and self._rows(_THERE, (sha,))]
        if not there:
            return 0
        try:
            self._forget_durable(there, now)
        except LocalDiskError:
            self._forget_on_a_full_disk(there, now)
        self._reserve.make()
        reached("outbox.let_go")
        self._remove(there)  # after a crash here the next start does it
        return len(there)

    def failed(self, sha256: str, error: str) -> None:
        """Count a push in vain."""
        with self._transaction() as conn:
            conn.execute("UPDATE entries SET tries = tries + 1, error = ? WHERE sha256 = ?", (error[:500], sha256))

    def give_back(self, sha256: str) -> None:
        """Let go of an entry whose bytes are not what they were: its database is read again from the beginning."""
        with self._transaction() as conn:
            forget_and_read_again(conn, sha256)
            self.read_again += 1
        self.file(sha256).unlink(missing_ok=True)
        log.warning("a pack of the outbox is damaged; its database is read again pack=%s", sha256)

    def state(self, path: str, game_id: str) -> str:
        """Say of a game ``waits``, ``durable``, or nothing where it is not known here."""
        if self._rows("SELECT 1 FROM games WHERE path = ? AND game_id = ?", (path, game_id)):
            return "waits"
        return "durable" if self._rows("SELECT 1 FROM saved WHERE path = ? AND game_id = ?", (path, game_id)) else ""

    def saved_identity(self, path: str, game_id: str) -> str:
        """Give the identity digest that a game had when it became durable last; nothing where that is not known."""
        found = self._rows("SELECT identity FROM saved WHERE path = ? AND game_id = ?", (path, game_id))
        return str(found[0][0]) if found else ""

    def trouble(self, path: str, game_id: str) -> str:
        """Say what went wrong when the pack of a game was pushed last."""
        found = self._rows(
            "SELECT error FROM entries JOIN games USING (sha256) WHERE games.path = ? AND game_id = ?", (path, game_id)
        )
        return str(found[0][0]) if found else ""

    def totals(self) -> Totals:
        """Say what waits."""
        query = "SELECT COUNT(*), COALESCE(SUM(games), 0), COALESCE(SUM(size_bytes), 0), MIN(created) FROM entries"
        return Totals(*self._rows(query, ())[0])

    def ids(self, limit: int) -> list[str]:
        """Give the ids of games that wait, the oldest first."""
        query = "SELECT game_id FROM entries JOIN games USING (sha256) ORDER BY created, game_id LIMIT ?"
        return [row[0] for row in self._rows(query, (limit,))]

    def identities(self, ids: Sequence[str]) -> list[str]:
        """Give the content identity of each game by its id, nothing where it does not wait any more.

        An id that several games have is given each of theirs in turn.
        """
        query = (
            "SELECT game_id, identity FROM entries JOIN games USING (sha256)"
            " WHERE game_id IN (SELECT value FROM json_each(?)) ORDER BY created DESC"
        )
        found: dict[str, list[str]] = {}
        for game_id, identity in self._rows(query, (json.dumps(ids),)) if ids else ():
            found.setdefault(game_id, []).append(identity)
        return [found[one].pop() if found.get(one) else "" for one in ids]

    def identity(self) -> str:
        """Give a name of this outbox alone: a node that is there again with another one has lost what it had."""
        return self.note("identity") or self.note("identity", secrets.token_hex(8))

    def note(self, name: str, value: str | None = None) -> str:
        """Remember a small text, and give it back; without a value give what was remembered, or nothing."""
        if value is not None:
            with self._transaction() as conn:
                conn.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, value))
            return value
        found = self._rows("SELECT value FROM notes WHERE name = ?", (name,))
        return str(found[0][0]) if found else ""

    def _forget_durable(self, packs: Sequence[str], now: float) -> None:
        games = 0
        with self._transaction() as conn:
            for sha in packs:
                games += conn.execute(
                    "INSERT OR REPLACE INTO saved (path, game_id, identity, at)"
                    " SELECT path, game_id, identity, ? FROM games WHERE sha256 = ?",
                    (now, sha),
                ).rowcount
                forget(conn, sha)
            self._left += len(packs)
            if self._left >= _PRUNE_EVERY:
                self._left = 0
                conn.execute("DELETE FROM saved WHERE serial <= (SELECT MAX(serial) FROM saved) - ?", (SAVED_KEPT,))
            reached("outbox.before_let_go")
        self.saved_games += games

    def _forget_on_a_full_disk(self, packs: Sequence[str], now: float) -> None:
        """A disk without any room takes no transaction either: give up the reserve, and then the packs themselves.

        Nobody needs those any more. Should the process end before their rows go, the games are read again.
        """
        try:
            self._reserve.release()
            self._forget_durable(packs, now)
        except LocalDiskError:
            self._remove(packs)
            self._forget_durable(packs, now)

    def _remove(self, packs: Iterable[str]) -> None:
        for sha in packs:
            self.file(sha).unlink(missing_ok=True)

    def _remove_without_row(self, packs: Iterable[str]) -> None:
        for sha in packs:
            if not self._rows(_THERE, (sha,)):
                with contextlib.suppress(OSError):
                    self.file(sha).unlink(missing_ok=True)

    def _is_durable(self, copies: Mapping[str, bool]) -> bool:
        kept = [node for node, durable in copies.items() if durable]
        return self._coordinator in kept or len(kept) >= self._min_copies

    def _copies(self, sha256: str) -> dict[str, bool]:
        rows = self._rows("SELECT node, durable FROM copies WHERE sha256 = ?", (sha256,))
        return {node: bool(durable) for node, durable in rows}

    def _rows(self, query: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        with self._open() as conn:
            return conn.execute(query, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._open() as conn:
            conn.execute("BEGIN IMMEDIATE")
            try:
                yield conn
                conn.execute("COMMIT")
            except BaseException:
                if conn.in_transaction:
                    conn.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Give the database, which is made again where somebody removed its file."""
        with self._lock, translated(self._folder):
            if not self._file.is_there():
                is_whole = self._file.renew()
                self.read_again += 1
                kept = "what waited is kept" if is_whole else "all games are read again"
                log.warning("the file of the outbox was removed or replaced while it was in use; %s", kept)
                make_dirs(self._folder)
                self._sweep()
            yield self._file.conn

    def _require(self, generation: int) -> None:
        if generation != self.read_again:
            raise LocalDiskError("", "", "a part of the outbox was lost meanwhile; its games are read again")

    def _find_folder(self) -> None:
        """Make the directory of the packs again where somebody removed it; their games are read again."""
        if not self._folder.is_dir():
            make_dirs(self._folder)
            log.warning("the directory of the outbox was removed while it was in use; it is made again")
            self._sweep()

    def _sweep(self) -> None:
        """Bring rows and files together again after whatever ended the last process."""
        sizes = dict(self._rows("SELECT sha256, size_bytes FROM entries", ()))
        files = {path.name: path.stat().st_size for path in self._folder.iterdir() if path.is_file()}
        for name in files.keys() - sizes.keys():
            self.file(name).unlink(missing_ok=True)
        fsync_dir(self._folder)
        for sha in [sha for sha, size in sizes.items() if files.get(sha) != size]:
            self.give_back(sha)


_THERE: Final = "SELECT 1 FROM entries WHERE sha256 = ?"


def _add(conn: sqlite3.Connection, pack: Packed, now: float) -> None:
    conn.execute(
        "INSERT OR IGNORE INTO entries (sha256, config, path, size_bytes, games, created) VALUES (?, ?, ?, ?, ?, ?)",
        (pack.sha256, pack.config, pack.path, pack.size_bytes, len(pack.games), now),
    )
    conn.executemany(
        "INSERT OR IGNORE INTO games (path, game_id, sha256, identity) VALUES (?, ?, ?, ?)",
        [(pack.path, game_id, pack.sha256, identity) for game_id, identity in pack.games],
    )
    if pack.cursor is not None:
        conn.execute(
            "INSERT OR REPLACE INTO cursors VALUES (?, ?, ?)", (pack.path, pack.config, json.dumps(pack.cursor))
        )
