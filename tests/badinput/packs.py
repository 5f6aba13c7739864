"""Packs as the kit makes them, and the same packs after somebody changed them."""

from __future__ import annotations

import contextlib
import sqlite3
import zlib
from collections.abc import Callable
from pathlib import Path

from tests.node.merging import Shop, game, record


def good_pack(folder: Path, *ids: str) -> bytes:
    """Make a pack of games; the folder is for work."""
    folder.mkdir(parents=True, exist_ok=True)
    database = record(folder / "source.db", *(game(one) for one in ids or ("p",)))
    artifact: str = Shop(folder).pack(database)["artifact"]
    return (folder / "scratch" / "artifacts" / artifact).read_bytes()


def changed(pack: bytes, folder: Path, *statements: str) -> bytes:
    """Run SQL in a pack, whatever the schema says."""

    def run(path: Path) -> None:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as conn:
            for statement in ("PRAGMA writable_schema=ON", *statements):
                conn.execute(statement)

    return rewritten(pack, folder, run)


def rewritten(pack: bytes, folder: Path, change: Callable[[Path], None]) -> bytes:
    """Change the file inside a pack."""
    path = folder / "changed.db"
    path.write_bytes(zlib.decompress(pack))
    change(path)
    return zlib.compress(path.read_bytes())
