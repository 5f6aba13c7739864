"""From a node's database to a canonical one in this process: make a pack, prove it, merge it; look at the result."""

from __future__ import annotations

import contextlib
import copy
import secrets
import sqlite3
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ringrift_sync_dagster.demo.content import Row
from ringrift_sync_dagster.demo.games import Game, make_game
from ringrift_sync_dagster.demo.recorder import Recorder
from ringrift_sync_dagster.demo.schemas import Dialect
from ringrift_sync_dagster.node import canonical, packfile
from ringrift_sync_dagster.node.cursor import parse
from ringrift_sync_dagster.node.digest import GameDigests, digests
from ringrift_sync_dagster.node.merge import Aside, Merged, Origin, merge_pack
from ringrift_sync_dagster.node.pack import Request, make_pack

CONFIG = "hex8_2p"
NAME = "data/games/selfplay.db"


def game(key: str, *, game_id: str = "", length: int = 6, config: str = CONFIG, **columns: object) -> Game:
    """Make up a game; ``columns`` replace those of its row in ``games``."""
    made = make_game(key, config, game_id=game_id or key, length=length)
    rows = copy.deepcopy(made.rows)
    rows["games"][0].update(columns)  # type: ignore[arg-type]
    return Game(made.game_id, config, rows)


def with_moves(one: Game, **columns: object) -> Game:
    """The same game with other values in its rows of ``game_moves``."""
    rows = copy.deepcopy(one.rows)
    for row in rows["game_moves"]:
        row.update(columns)  # type: ignore[arg-type]
    return Game(one.game_id, one.config, rows)


def record(path: Path, *games: Game, dialect: Dialect = Dialect.V18) -> Path:
    """Write finished games into a database as self-play does."""
    with Recorder(path, dialect) as recorder:
        recorder.record_all(list(games))
    return path


def give_up(path: Path, game_id: str) -> None:
    """Delete a game that is not over as upstream's self-play does: the next one takes the rowid of the newest."""
    with contextlib.closing(sqlite3.connect(path)) as conn:
        tables = [row[0] for row in conn.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            if "game_id" in {row[1] for row in conn.execute(f"PRAGMA table_info({table})")}:
                conn.execute(f"DELETE FROM {table} WHERE game_id = ?", (game_id,))
        conn.commit()


@dataclass
class Shop:
    """A canonical database with what makes its packs and what it set aside."""

    folder: Path
    asides: list[Aside] = field(default_factory=list)
    merges: int = 0

    @property
    def canonical(self) -> Path:
        return self.folder / f"canonical_{CONFIG}.db"

    def pack(self, database: Path, *, now: float | None = None, **request: Any) -> dict[str, Any]:  # noqa: ANN401 - fields of Request
        """Order a pack of ``database``; ``cursor`` as JSON."""
        request["cursor"] = parse(request.get("cursor"))
        at = time.time() if now is None else now
        return make_pack(str(database), NAME, str(self.folder / "scratch"), Request(CONFIG, **request), at)

    def inflated(self, artifact: str) -> Path:
        target = self.folder / f"{artifact}.db"
        packfile.inflate(str(self.folder / "scratch" / "artifacts" / artifact), str(target))
        with packfile.open_pack(str(target)):
            return target

    def merge(self, artifact: str, node: str = "vast-1", cursor: dict[str, Any] | None = None) -> Merged:
        self.merges += 1
        origin = Origin(artifact, node, secrets.token_hex(8))
        to_write = (NAME, cursor) if cursor else None
        pack = self.inflated(artifact)
        return merge_pack(str(self.canonical), str(pack), origin, CONFIG, self.asides.append, to_write)

    def push(self, artifact: str, node: str = "vast-1") -> Merged:
        """Merge a pack that nobody asked for: how far its reader was, it says itself."""
        pack = self.inflated(artifact)
        with packfile.open_pack(str(pack)) as conn:
            declared = packfile.declared(packfile.read_meta(conn))
        origin = Origin(artifact, node, secrets.token_hex(8))
        return merge_pack(str(self.canonical), str(pack), origin, CONFIG, self.asides.append, declared)

    def stored(self, node: str = "vast-1") -> dict[str, Any] | None:
        """How far the store has read the node's database."""
        if not self.canonical.exists():
            return None
        with canonical.opened(str(self.canonical)) as conn:
            return canonical.read_cursor(conn, node, NAME, CONFIG)

    def collect(self, database: Path, node: str = "vast-1") -> Merged:
        """Order one pack with everything and merge it."""
        result = self.pack(database)
        return self.merge(result["artifact"], node, result["cursor"])

    def content(self) -> dict[str, GameDigests]:
        """Digests of every canonical game, recomputed from its rows."""
        with contextlib.closing(sqlite3.connect(self.canonical)) as conn:
            return {found.game_id: found for found in digests(conn)}

    def value(self, sql: str, *values: object) -> Any:  # noqa: ANN401 - whatever the column holds
        with contextlib.closing(sqlite3.connect(self.canonical)) as conn:
            return conn.execute(sql, values).fetchone()[0]

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.canonical)) as conn:
            return conn.execute(sql, values).fetchall()


def first_row(one: Game) -> Row:
    """The game's row in ``games``."""
    return one.rows["games"][0]


def bring(shop: Shop, *games: Game, node: str = "vast-1") -> Merged:
    """Play these games on a node of their own and collect them."""
    database = record(shop.folder / f"{node}-{shop.merges}.db", *games)
    return shop.collect(database, node)
