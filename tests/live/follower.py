"""Collects one live database into a canonical one, in this process, as the coordinator does over the wire.

The same order of steps as ``sync.source``: packs from the cursor on until nothing is left, and a listing where the
anchor no longer holds. What the kit refuses for the moment (a lock, a change under its hands) waits for the next cycle.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ringrift_sync_dagster.demo.content import fingerprint, read_games
from ringrift_sync_dagster.node import canonical, packfile
from ringrift_sync_dagster.node.cursor import parse
from ringrift_sync_dagster.node.errors import KitError
from ringrift_sync_dagster.node.listing import list_games
from tests.live.writers import CONFIG
from tests.node.merging import NAME, Shop

NODE: Final = "vast-1"
FOR_THE_MOMENT: Final = frozenset({"locked", "changed"})
_LISTINGS: Final = 20


@dataclass
class Follower:
    """One store that follows one database.

    ``max_games`` bounds each pack; ``artifacts`` are all packs in the order of their making.
    """

    folder: Path
    database: Path
    max_games: int = 50
    artifacts: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.shop = Shop(self.folder)

    def cycle(self) -> bool:
        """Collect everything there is at the moment; tell whether the database let us."""
        try:
            self._collect()
        except KitError as error:
            self.refused[error.code] += 1
            if error.code not in FOR_THE_MOMENT:
                raise
            return False
        return True

    def until_empty(self) -> None:
        """Collect until a cycle brings nothing more."""
        for _ in range(_LISTINGS):
            before = len(self.artifacts)
            if self.cycle() and len(self.artifacts) == before:
                return
        raise AssertionError(f"a database that nobody writes is never read to its end: {self.refused}")

    def _collect(self) -> None:
        cursor = self._cursor()
        while True:
            result = self._order(cursor=cursor)
            self.modes[result["mode"]] += 1
            if result["mode"] == "listing_needed":
                self._collect_by_listing()
                return
            self._take_in(result, result["cursor"])
            cursor = result["cursor"]
            if not result["more"] or not result["games"]:
                return

    def _collect_by_listing(self) -> None:
        after, more, scratch = None, True, str(self.folder / "scratch")
        while more:
            page = list_games(str(self.database), NAME, scratch, CONFIG, parse(after), self.max_games, time.time())
            ids = self._missing(page["games"])
            while ids:
                result = self._order(ids=tuple(ids))
                self._take_in(result, None)
                ids = list(result["left"])
            after, more = page["cursor"], page["more"]
            with canonical.opened(str(self.shop.canonical)) as conn, canonical.writing(conn):
                canonical.prepare(conn)
                canonical.write_cursor(conn, NODE, NAME, CONFIG, after)

    def _order(self, **request: Any) -> dict[str, Any]:  # noqa: ANN401 - fields of Request
        return self.shop.pack(self.database, max_games=self.max_games, **request)

    def _take_in(self, result: dict[str, Any], cursor: dict[str, Any] | None) -> None:
        if result["artifact"] is not None:
            self.shop.merge(result["artifact"], NODE, cursor)
            self.artifacts.append(result["artifact"])
        elif cursor is not None:
            with canonical.opened(str(self.shop.canonical)) as conn, canonical.writing(conn):
                canonical.prepare(conn)
                canonical.write_cursor(conn, NODE, NAME, CONFIG, cursor)

    def _cursor(self) -> dict[str, Any] | None:
        if not self.shop.canonical.exists():
            return None
        with canonical.opened(str(self.shop.canonical)) as conn:
            return canonical.read_cursor(conn, NODE, NAME, CONFIG)

    def _missing(self, games: list[list[Any]]) -> list[str]:
        if not self.shop.canonical.exists():
            return [game_id for game_id, *_ in games]
        with canonical.opened(str(self.shop.canonical)) as conn:
            known = canonical.known_identities(conn, [game_id for game_id, *_ in games])
        return [game_id for game_id, identity, *_ in games if identity not in known.get(game_id, ())]

    def packed(self) -> set[tuple[str, str]]:
        """Every game that ever left in a pack, as (id, content); each must be complete."""
        found = set()
        for artifact in dict.fromkeys(self.artifacts):
            with packfile.open_pack(str(self.folder / f"{artifact}.db")) as conn:
                declared = conn.execute("SELECT COUNT(*) FROM pack_games").fetchone()[0]
                games = list(read_games(conn))
                assert declared == len(games)
                assert conn.execute(_INCOMPLETE).fetchall() == [], artifact
            found |= {(game_id, fingerprint(rows)) for game_id, rows in games}
        return found

    def canonical(self) -> dict[str, str]:
        """What the store holds, id to content, by the demo's own fingerprint."""
        with contextlib.closing(sqlite3.connect(self.shop.canonical)) as conn:
            assert conn.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            assert conn.execute("PRAGMA foreign_key_check").fetchall() == []
            return {game_id: fingerprint(rows) for game_id, rows in read_games(conn)}


_INCOMPLETE: Final = (
    "SELECT g.game_id FROM games g WHERE g.game_status NOT IN ('completed', 'finished') OR g.total_moves > (SELECT"
    " COUNT(*) FROM game_moves m WHERE m.game_id = g.game_id) OR (SELECT MAX(m.move_number) FROM game_moves m"
    " WHERE m.game_id = g.game_id) IS NOT g.total_moves"
)


@contextlib.contextmanager
def halted(statement: str, meanwhile: Callable[[], object]) -> Iterator[None]:
    """Run ``meanwhile`` once, in the middle of a read: when a connection made here begins a ``statement``."""
    real, begun, errors = sqlite3.connect, list[str](), list[BaseException]()

    def interrupt(sql: str) -> None:
        if statement in sql and not begun:
            begun.append(sql)
            try:
                meanwhile()
            except BaseException as error:  # noqa: BLE001 - SQLite would swallow it
                errors.append(error)

    def traced(*args: Any, **kwargs: Any) -> sqlite3.Connection:  # noqa: ANN401 - as sqlite3.connect
        conn: sqlite3.Connection = real(*args, **kwargs)
        conn.set_trace_callback(interrupt)
        return conn

    sqlite3.connect = traced  # type: ignore[assignment]
    try:
        yield
    finally:
        sqlite3.connect = real
    for error in errors:
        raise error
    assert begun, f"nothing read {statement!r}"
