"""What the kit does for whoever sits at the machine: digest a games database, and merge a pack into a canonical one.

No agent offers these. Merging writes; the caller sees to it that nobody else merges into the same database (the
coordinator's own path holds a lease), and both calls may be repeated: a merge is a union.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import tempfile
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

from . import canonical, packfile, reader
from .digest import digests
from .errors import KitError
from .merge import Aside, Origin, merge_pack
from .pack import folders
from .source import Row, Source, open_games, printable

_PAGE_ROWS = 500  # so many games are in memory at a time


class Order(NamedTuple):
    """One merge: the config, the SHA-256 that the pack must have, and the node that its games came from."""

    config: str
    artifact: str
    node: str


def digest_games(path: str, scratch: str, config: Optional[str], ids: Optional[Sequence[str]]) -> Dict[str, Any]:
    """Give every game as ``[id, identity, annotation, moves]`` in order of ids, finished or not.

    Args:
        path: The database; it is only read.
        scratch: The kit's own folder.
        config: Only games of this config; all when None.
        ids: Only these; one that is not there is left out.

    Raises:
        KitError: The codes of ``source.open_games``.

    """
    folders(scratch)
    games: List[List[Any]] = []
    with open_games(path, scratch) as source:
        for rows in _pages(source, ids):
            wanted, _ = printable([row.game_id for row in rows if config in (None, row.config)])
            source.copy(wanted)
            games += [[found.game_id, *found[1:]] for found in list(digests(source.conn, only=wanted))]
            source.drop(wanted)
    return {"games": sorted(games)}


def _pages(source: Source, ids: Optional[Sequence[str]]) -> Iterator[List[Row]]:
    if ids is not None:
        named = sorted(set(ids))
        for start in range(0, len(named), _PAGE_ROWS):
            yield source.rows_of(named[start : start + _PAGE_ROWS])
        return
    rows = source.rows_after(-(1 << 63), _PAGE_ROWS)
    while rows:
        yield rows
        rows = source.rows_after(rows[-1].rowid, _PAGE_ROWS)


def merge_file(pack: str, into: str, scratch: str, order: Order, now: float) -> Dict[str, Any]:
    """Merge the pack file ``pack`` into the database ``into``, which is made when there is none; give the counts.

    ``asides`` in the answer names each game that does not enter: id, identity, reason, and the file below the scratch
    folder that now holds it.

    Raises:
        KitError: ``corrupt``: the file is not that artifact or no sound pack; ``locked`` and the other codes of
            ``reader``. Nothing was merged.

    """
    folders(scratch)
    if packfile.file_sha256(pack) != order.artifact:
        raise KitError("corrupt", f"the file is not the artifact {order.artifact}; nothing was merged")
    files: List[str] = []
    try:
        with _inflated(pack, scratch) as database:
            with packfile.open_pack(database) as conn:
                meta = packfile.read_meta(conn)
            origin = Origin(order.artifact, order.node, f"{order.artifact[:16]}-{os.urandom(8).hex()}")
            os.makedirs(os.path.dirname(into), exist_ok=True)
            merged = merge_pack(
                into, database, origin, order.config, lambda aside: files.append(_keep(scratch, aside)),
                packfile.declared(meta), _note(order, origin, meta, os.path.getsize(pack), now),
            )  # fmt: skip
    except sqlite3.Error as error:
        raise reader.classified(error, into) from error
    asides = [[*named, file] for named, file in zip(merged.asides, files)]
    return {**merged._asdict(), "asides": asides}


def is_ours(path: str, scratch: str) -> bool:
    """Tell whether a database carries the marker of those that we write.

    Raises:
        KitError: The codes of ``reader``.

    """
    with reader.open_source(path, scratch) as conn:
        return canonical.get(conn, "store_id") is not None


@contextlib.contextmanager
def _inflated(pack: str, scratch: str) -> Iterator[str]:
    """Inflate into the scratch folder; the copy is gone at the end."""
    folder = os.path.join(scratch, "tmp")
    os.makedirs(folder, exist_ok=True)
    handle, database = tempfile.mkstemp(prefix=f"{os.getpid()}-", suffix=".merge.tmp", dir=folder)
    os.close(handle)
    try:
        packfile.inflate(pack, database)
        yield database
    finally:
        os.unlink(database)


def _keep(scratch: str, aside: Aside) -> str:
    """Make a game that does not enter durable; the same game has the same name. Give it relative to the scratch."""
    folder = os.path.join(scratch, "asides")
    os.makedirs(folder, exist_ok=True)
    key = f"{aside.game_id}~{aside.identity}".encode("utf-8", "surrogateescape")
    name = f"{hashlib.sha256(key).hexdigest()}.pack"
    part = os.path.join(folder, f"{name}.{os.getpid()}.part")
    with open(part, "wb") as target:
        target.write(aside.pack)
        target.flush()
        os.fsync(target.fileno())
    os.replace(part, os.path.join(folder, name))
    packfile.sync_directory(folder)
    return f"asides/{name}"


def _note(order: Order, origin: Origin, meta: Dict[str, str], size_bytes: int, now: float) -> Dict[str, Any]:
    """What the change says beside its counts; the same names as the coordinator's own."""
    return {
        "change_id": origin.change_id, "at": now, "config": order.config, "node": order.node,
        "artifact": order.artifact, "source_path": meta.get("path", ""), "size_bytes": size_bytes, "seconds": 0.0,
        "transport": "", "trigger": "kit", "lag_seconds": None,
    }  # fmt: skip
