"""A node's copy of the canonical games of a config: ``data/games/synced/canonical_{config}.db``, written by us alone.

It is a canonical database like its owner's, merged by the same code; its marker keeps it from being collected again.
The cursor of its owner's database lies in it, so that a copy that was lost asks for everything anew.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any, Dict

from . import canonical, local, reader
from .errors import KitError
from .roots import Roots
from .rows import Arrived

KIND = "games"
_COUNTED = ("games_new", "games_same", "games_annotated", "games_revised", "games_renamed")


def database(roots: Roots, path: str, config: str) -> str:
    """Resolve the copy's name; nothing else is ever written.

    Raises:
        KitError: ``bad_arguments`` for any other file; ``outside`` where its folder leads out of the root.

    """
    if not config or path != f"data/games/synced/canonical_{config}.db":
        raise KitError("bad_arguments", "canonical games go into data/games/synced/canonical_<config>.db only", path)
    return roots.resolve(path)


def _holds_nothing(absolute: str, scratch: str) -> bool:
    """Whether it is a database without any table: what an order leaves that dies before its first commit."""
    with reader.open_source(absolute, scratch) as conn:
        return conn.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None


def apply(absolute: str, scratch: str, pack: Arrived, config: str, now: float) -> Dict[str, Any]:
    """Merge a pack that was pushed here into the copy, then let the pack go. Idempotent.

    Raises:
        KitError: ``missing``: the pack is not here; ``corrupt``: it is no sound pack; ``bad_arguments``: a database
            that we did not write has the name. Nothing was merged.

    """
    path = os.path.join(scratch, "incoming", pack.node, pack.artifact)
    if not os.path.isfile(path):
        raise KitError("missing", "the pack is not here; push it again", pack.artifact)
    if os.path.exists(absolute) and not (local.is_ours(absolute, scratch) or _holds_nothing(absolute, scratch)):
        raise KitError("bad_arguments", "a database that we did not write has this name; move it away")
    try:
        merged = local.merge_file(path, absolute, scratch, local.Order(config, pack.artifact, pack.node), now)
    except KitError as error:
        if error.code == "corrupt":
            os.unlink(path)
        raise
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    told = {name: int(merged[name.replace("games_", "")]) for name in _COUNTED}
    return {
        "counts": told, "refused": len(merged["asides"]), "changed": bool(merged["changed"]),
        "store_id": merged["store_id"],
    }  # fmt: skip


def applied(absolute: str, config: str, node: str, source_path: str) -> Dict[str, Any]:
    """Tell which copy is here (``store_id``, empty where none is) and how far it has read its owner's database."""
    if not os.path.exists(absolute):
        return {"store_id": "", "cursor": None}
    try:
        with canonical.opened(absolute, create=False) as conn:
            store_id = canonical.get(conn, "store_id") or ""
            return {"store_id": store_id, "cursor": canonical.read_cursor(conn, node, source_path, config)}
    except reader.SQLITE_ERRORS as error:
        raise reader.classified(error, absolute) from error
