"""Packs of games as a node pushes them, and what a canonical database then holds."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from ringrift_sync_dagster.node.pack import Request, make_pack
from ringrift_sync_dagster.settings import clock
from tests.node.merging import CONFIG, game, record


@dataclass(frozen=True, slots=True)
class Packed:
    """A pack: its name, its bytes, and the ids of its games."""

    sha: str
    data: bytes
    ids: tuple[str, ...]


def pack(folder: Path, *names: str, config: str = CONFIG) -> Packed:
    """Let a node finish games of these names, and pack them."""
    database = record(folder / f"{names[0]}.db", *[game(name, config=config) for name in names])
    made = make_pack(str(database), f"data/games/{names[0]}.db", str(folder / names[0]), Request(config), clock.wall())
    data = (folder / names[0] / "artifacts" / made["artifact"]).read_bytes()
    return Packed(made["artifact"], data, names)


def merged(root: Path, config: str = CONFIG) -> set[str]:
    """The ids of the games in a root's canonical database."""
    path = root / "data" / "games" / f"canonical_{config}.db"
    if not path.exists():
        return set()
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        try:
            return {row[0] for row in database.execute("SELECT game_id FROM games")}
        except sqlite3.OperationalError:  # it is being made
            return set()
