"""Make a pack: the complete finished games of one config that a canonical store lacks.

They are read in one transaction of the live database. The selection looks again at the games that waited and goes
forward by rowid from the anchor of the asker's cursor. A backlog leaves as many packs, each bounded in games and bytes
and useful alone. A game is complete when it is finished and has at least max(5, total_moves) rows in ``game_moves``;
one that is over but short is told after a time of stillness and leaves in a pack of kind ``aside``, for quarantine.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from . import KIT_VERSION, gate
from .cursor import WAITING_LIMIT, Cursor, Waiting, anchor_holds, next_anchor, parse, short_games
from .digest import all_digests, digests
from .errors import KitError
from .packfile import file_sha256, seal, write_json
from .reader import BUSY_SECONDS
from .schema import INCLUDABLE, SCHEMA_VERSION, Table
from .source import Row, Source, inode, needed_moves, open_games, printable

MAX_GAMES = 2_000
MAX_BYTES = 32 << 20
SHORT_AFTER_SECONDS = 600.0
_STEP = 50  # rows looked at between two checks of the bounds
_KEEP_SECONDS = 24 * 3600.0  # packs nobody asked for again


class Request(NamedTuple):
    """What the asker wants; the same request again gets the same artifact while it is still there."""

    config: str
    cursor: Optional[Cursor] = None
    max_games: int = MAX_GAMES
    max_bytes: int = MAX_BYTES
    ids: Optional[Tuple[str, ...]] = None
    aside: bool = False
    short_after_seconds: float = SHORT_AFTER_SECONDS
    include: Tuple[str, ...] = ()
    tell: bool = False


class Found(NamedTuple):
    """What the selection left behind besides the copied rows."""

    cursor: Optional[Cursor]
    more: bool
    left: Tuple[str, ...] = ()
    warnings: Tuple[str, ...] = ()


def make_pack(
    path: str, name: str, scratch: str, request: Request, now: float, busy_seconds: float = BUSY_SECONDS
) -> Dict[str, Any]:
    """Pack games of the database ``path`` and return the description of the artifact (see ``ops`` for its keys).

    Args:
        path: The database, absolute.
        name: Its path as manifests and cursors know it.
        scratch: The kit's own folder; the artifact lies in ``artifacts/<sha256>`` there.
        request: What to pack.
        now: The node's wall clock, seconds; compared only with earlier values of itself.
        busy_seconds: How long to wait for a writer that holds the whole database.

    """
    artifacts, temporary = folders(scratch)
    prune(artifacts, temporary, now)
    key = hashlib.sha256(json.dumps([name, _moment(path, request), _key(request)], sort_keys=True).encode()).hexdigest()
    remembered = os.path.join(artifacts, f"request-{key}.json")
    earlier = _remembered(remembered, artifacts)
    if earlier is not None:
        return earlier
    handle, database = tempfile.mkstemp(prefix=f"{os.getpid()}-", suffix=".pack.tmp", dir=temporary)
    os.close(handle)
    os.unlink(database)
    try:
        result = _pack_into(database, path, name, scratch, request, now, busy_seconds)
        if result["games"]:
            sealed = seal(database, artifacts)
            result.update(artifact=sealed.sha256, bytes=sealed.size_bytes, raw_bytes=sealed.raw_bytes)
            write_json(
                os.path.join(artifacts, f"{sealed.sha256}.json"),
                {"kind": "pack", "path": name, "bytes": sealed.size_bytes},
            )
            write_json(remembered, result)
    finally:
        for leftover in (database, database + ".seal"):
            if os.path.exists(leftover):
                os.unlink(leftover)
    return result


def _pack_into(
    database: str, path: str, name: str, scratch: str, request: Request, now: float, busy_seconds: float
) -> Dict[str, Any]:
    """Fill the pack database and describe it; the artifact's keys are set by the caller."""
    token = gate.token_of_read(path, now)
    number = inode(path)
    with open_games(path, scratch, database, busy_seconds) as source:
        mode = "ids" if request.ids is not None else "incremental"
        if request.ids is not None:
            found = _pick(source, request)
        elif request.cursor is not None and (
            request.cursor.crowded or not anchor_holds(source, request.cursor, number)
        ):
            mode, found = "listing_needed", Found(None, more=False)
        else:
            found = read_on(source, request, request.cursor or Cursor(number), now, token)
        games = _describe(source, request, name, found)
        told = source.conn.execute("SELECT game_id, identity FROM pack_games").fetchall() if request.tell else []
        warnings = [*source.warnings(), *found.warnings]
    waiting = found.cursor.waiting if found.cursor else {}
    return {
        "artifact": None, "bytes": 0, "raw_bytes": 0, "games": games, "mode": mode, "more": found.more,
        "left": list(found.left), "cursor": found.cursor.as_json() if found.cursor else None, "waiting": len(waiting),
        "warnings": warnings,
        "short": [] if request.aside else short_games(waiting, now, request.short_after_seconds),
        **({"told": [list(row) for row in told]} if request.tell else {}),
    }  # fmt: skip


def read_on(source: Source, request: Request, start: Cursor, now: float, token: str) -> Found:
    """Copy what has become complete since ``start``: first the games that waited, then rows in rowid order.

    What waits behind the anchor is met again there, so that nothing is packed twice.
    """
    taker = _Taker(source, request, dict(start.waiting), now, crowded=start.crowded)
    ids = list(start.waiting)
    while ids and taker.room():
        part, ids = ids[:_STEP], ids[_STEP:]
        rows = source.rows_of(part)
        taker.forget([game_id for game_id in part if game_id not in {row.game_id for row in rows}])
        taker.take([row for row in rows if row.rowid <= start.rowid])
    end, anchor = start.rowid, None
    tail: List[Row] = []
    while taker.room() and not taker.must_tell_first():
        rows = source.rows_after(end, min(_STEP, request.max_games - taker.packed))
        if not rows:
            break
        taker.take(rows)
        end = rows[-1].rowid
        found, tail = next_anchor([*tail, *rows])
        anchor = found or anchor
    more = bool(ids) or bool(source.rows_after(end, 1))
    place = (start.rowid, start.game_id, start.digest)
    if anchor is not None:
        place = (anchor.rowid, anchor.game_id, _anchor_digest(source, anchor))
    cursor = Cursor(start.inode, *place, "" if more else token, taker.waiting, taker.crowded)
    return Found(cursor, more, warnings=tuple(taker.warnings))


def _anchor_digest(source: Source, row: Row) -> Optional[str]:
    """Identity digest of the game of the anchor, if it is complete.

    Otherwise the game may change, and only its id counts; so it does for one whose id is no valid text.
    """
    if not printable([row.game_id])[0]:
        return None
    already = next(iter(list(digests(source.conn, only=[row.game_id]))), None)
    found = already or source.digest_one(row.game_id)
    return found.identity if found and row.finished and found.moves >= needed_moves(row) else None


class _Taker:
    """Copies the complete games among the rows it is shown, and keeps the list of those that wait."""

    def __init__(
        self, source: Source, request: Request, waiting: Dict[str, Waiting], now: float, *, crowded: bool = False
    ) -> None:
        self.source, self.request, self.waiting, self.now, self.crowded = source, request, waiting, now, crowded
        self._told = [game_id for game_id, entry in waiting.items() if entry.reported]
        self.include = tables(request.include)
        self.packed = 0
        self.warnings: List[str] = []

    def room(self) -> bool:
        """Whether another game may enter."""
        return self.packed < self.request.max_games and self.source.scratch_bytes() < self.request.max_bytes

    def forget(self, ids: Sequence[str]) -> None:
        """These games are no longer in the database."""
        for game_id in ids:
            self.waiting.pop(game_id, None)

    def take(self, rows: Sequence[Row]) -> None:
        """Copy what is complete among ``rows`` of this config; the others wait."""
        mine = {row.game_id: row for row in rows if row.config == self.request.config}
        good, bad = printable(list(mine))
        if bad:
            self.warnings.append(f"{bad} games have ids that are not valid UTF-8; they are left at home")
        counts = self.source.move_counts([game_id for game_id in good if mine[game_id].finished])
        ready = [
            game_id
            for game_id in good
            if mine[game_id].finished and counts.get(game_id, 0) >= needed_moves(mine[game_id])
        ]
        ready = self._copy(ready, mine)
        for game_id in good:
            if game_id in ready:
                self.waiting.pop(game_id, None)
            else:
                self._wait(mine[game_id], counts.get(game_id, 0))

    def _copy(self, ids: List[str], rows: Dict[str, Row]) -> List[str]:
        """Copy games and take those out again whose rows turn out to be fewer.

        That happens with duplicates and NULL keys in a source without keys.
        """
        if not ids:
            return []
        self.source.copy(ids, self.include)
        counts = dict(self.source.conn.execute(
            "SELECT game_id, COUNT(*) FROM main.game_moves WHERE game_id IN (SELECT game_id FROM temp.wanted)"
            " GROUP BY game_id"
        ))  # fmt: skip
        lacking = [game_id for game_id in ids if counts.get(game_id, 0) < needed_moves(rows[game_id])]
        self.source.drop(lacking)
        self.packed += len(ids) - len(lacking)
        return [game_id for game_id in ids if game_id not in lacking]

    def must_tell_first(self) -> bool:
        """Whether the list is full and will have room once its short games were told; the rows behind wait for that."""
        if len(self.waiting) < WAITING_LIMIT:
            return False
        untold = [entry for entry in self.waiting.values() if not entry.reported]
        return len(untold) >= WAITING_LIMIT and any(entry.finished for entry in untold)

    def _wait(self, row: Row, moves: int) -> None:
        before = self.waiting.get(row.game_id)
        if before is not None and (before.finished, before.moves) == (row.finished, moves):
            return
        if before is None and len(self.waiting) >= WAITING_LIMIT + _STEP and not self._make_room():
            self.crowded = True
            return
        self.waiting[row.game_id] = Waiting(row.finished, moves, self.now, reported=False)

    def _make_room(self) -> bool:
        """Let go of a game that was told as short: quarantine has it."""
        while self._told:
            game_id = self._told.pop()
            entry = self.waiting.get(game_id)
            if entry is not None and entry.reported:  # one that has moved since it was told waits like any other
                del self.waiting[game_id]
                return True
        return False


def _pick(source: Source, request: Request) -> Found:
    """Copy named games: complete ones, or for quarantine (``aside``) whatever rows they have."""
    cursor = request.cursor
    if request.aside:
        source.copy(list(request.ids or ()), tables(request.include))
        if cursor is not None:
            told = {
                game_id: entry._replace(reported=True)
                for game_id, entry in cursor.waiting.items()
                if game_id in (request.ids or ())
            }
            cursor = cursor._replace(waiting={**cursor.waiting, **told})
        return Found(cursor, more=False)
    ids = list(request.ids or ())
    taker = _Taker(source, request, {}, 0.0)
    while ids and taker.room():
        part, ids = ids[:_STEP], ids[_STEP:]
        taker.take(source.rows_of(part))
    return Found(None, more=bool(ids), left=tuple(ids), warnings=tuple(taker.warnings))


def _describe(source: Source, request: Request, name: str, found: Found) -> int:
    """Write ``pack_games`` and ``pack_meta``; return the number of games."""
    rows = all_digests(source.conn)
    source.conn.executemany("INSERT INTO pack_games VALUES (?, ?, ?, ?)", rows)
    meta = {
        "config": request.config,
        "path": name,
        "kind": "aside" if request.aside else "games",
        "cursor": json.dumps(found.cursor.as_json(), sort_keys=True) if found.cursor else "",
        "after": json.dumps(request.cursor.as_json() if request.cursor else None, sort_keys=True),
        "schema_version": str(SCHEMA_VERSION),
        "kit_version": KIT_VERSION,
    }
    source.conn.executemany("INSERT INTO pack_meta VALUES (?, ?)", sorted(meta.items()))
    return len(rows)


def tables(include: Sequence[str]) -> List[Table]:
    """The tables that ``include`` adds to a pack."""
    unknown = [name for name in include if name not in INCLUDABLE]
    if unknown:
        raise KitError("bad_arguments", f"include knows {', '.join(INCLUDABLE)}, not {', '.join(unknown)}")
    return [INCLUDABLE[name] for name in include]


def folders(scratch: str) -> Tuple[str, str]:
    """The folders for finished artifacts and for work in progress, made when missing."""
    artifacts, temporary = os.path.join(scratch, "artifacts"), os.path.join(scratch, "tmp")
    for folder in (artifacts, temporary):
        os.makedirs(folder, exist_ok=True)
    return artifacts, temporary


def prune(artifacts: str, temporary: str, now: float) -> None:
    """Remove packs and their notes a day after they were made, and at once what a killed process left in ``tmp``."""
    for folder, is_litter in ((artifacts, _old), (temporary, _ownerless)):
        for entry in os.scandir(folder):
            try:
                if entry.is_file(follow_symlinks=False) and is_litter(entry, now):
                    os.unlink(entry.path)
            except FileNotFoundError:
                continue  # another worker pruned it


def _old(entry: os.DirEntry, now: float) -> bool:  # type: ignore[type-arg]  # Python 3.8 cannot subscript it
    return now - entry.stat(follow_symlinks=False).st_mtime > _KEEP_SECONDS


def _ownerless(entry: os.DirEntry, now: float) -> bool:  # type: ignore[type-arg]
    """A file of work in progress begins with the id of its process."""
    owner = entry.name.split("-")[0]
    if not owner.isdigit():
        return _old(entry, now)
    try:
        os.kill(int(owner), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return _old(entry, now)


def _moment(path: str, request: Request) -> str:
    """What of the database must be as it was for an earlier answer to hold.

    A cursor says how far its asker was, and what changed behind it is found later. Games asked for by name are wanted
    as they are now: an old answer would be merged as known, and a revision of them never seen.
    """
    return str(inode(path)) if request.ids is None else gate.change_token(path)


def _key(request: Request) -> Dict[str, Any]:
    value = request._asdict()
    value["cursor"] = request.cursor.as_json() if request.cursor else None
    return value


def _remembered(path: str, artifacts: str) -> Optional[Dict[str, Any]]:
    """The result of the same request, if its artifact is there and whole: a power cut may have torn it."""
    try:
        with open(path, encoding="utf-8") as handle:
            result = json.load(handle)
        whole = file_sha256(os.path.join(artifacts, result["artifact"])) == result["artifact"]
        return dict(result) if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


__all__ = ["MAX_BYTES", "MAX_GAMES", "SHORT_AFTER_SECONDS", "Found", "Request", "make_pack", "parse", "read_on"]
