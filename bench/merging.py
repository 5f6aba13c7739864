"""A pack into a canonical database, beside the same rows by bare ``INSERT ... SELECT`` over ATTACH.

Both write one pack of the usual size into a copy of the same database: the same schema, indices and triggers, WAL and
``synchronous=FULL``, one transaction, opened and closed. What ours does besides: it checks every game, writes
provenance, recomputes digests of a sample, and looks again at the rows written. A pack of which one digest is wrong
makes it recompute all of them: that game goes to quarantine, and the rate is shown.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from bench import data
from bench.harness import Contest, Part, check, note, seconds_of
from bench.lines import OURS, Line, Reach, Result
from ringrift_sync_dagster.node import canonical, packfile
from ringrift_sync_dagster.node.cursor import Cursor, parse
from ringrift_sync_dagster.node.merge import Origin, merge_pack
from ringrift_sync_dagster.node.pack import Request, make_pack
from ringrift_sync_dagster.node.reader import source_uri
from ringrift_sync_dagster.node.schema import CHILDREN, GAMES
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.storage.files import fsync_file

STORED_GAMES: Final = 6000
PACKED_GAMES: Final = 1500  # about what fits into a pack of the usual size
PROVING: Final = "ours, inflating and proving the pack"
ALL_DIGESTS: Final = "ours, all digests recomputed"
BARE: Final = "bare INSERT ... SELECT"

LINES: Final = (
    Line("merge", "games/s", "rate", BARE, Reach("at least", "1/2")),
    Line("merge, all digests recomputed", "games/s", "rate", BARE, mine=ALL_DIGESTS),
    Line("merge, with inflating and proving the pack", "games/s", "rate", BARE, mine=PROVING),
)


@dataclass(frozen=True, slots=True)
class _Pack:
    """A pack as it travels and as a database, and its number of games."""

    artifact: Path
    database: Path
    games: int


_Work = Callable[[_Pack, Path], object]


def measure(folder: Path, runs: int) -> Result:
    """Measure in a folder of its own."""
    note(f"merge: playing {STORED_GAMES + PACKED_GAMES} games")
    base, pack = _base(folder), _packs(folder, "new", PACKED_GAMES)[0]
    lying = _with_one_wrong_digest(pack, folder / "lying.db")
    contest = Contest("merge", runs)
    work: dict[str, tuple[_Work, int]] = {
        OURS: (_merge, pack.games),
        BARE: (_bare, pack.games),
        ALL_DIGESTS: (partial(_merge_lying, lying), pack.games - 1),
        PROVING: (partial(_prove_and_merge, folder / "inflated.db"), pack.games),
    }
    for contender, (doing, entering) in work.items():
        contest.enter(contender, partial(partial, _timed, base, pack, doing, entering))
    return contest.run()


def _timed(base: Path, pack: _Pack, work: _Work, entering: int, _: int) -> Mapping[str, float]:
    """Do the work on a fresh copy of the base, and prove that the games entered."""
    store = Path(shutil.copyfile(base, base.with_name("store.db")))
    fsync_file(store)
    seconds = seconds_of(lambda: work(pack, store))
    with closing(sqlite3.connect(store)) as conn:
        found = conn.execute("SELECT COUNT(*) FROM games").fetchone()[0]
    check(found == STORED_GAMES + entering, f"{found} games instead of {STORED_GAMES + entering}")
    return {"rate": entering / seconds}


def _merge(pack: _Pack, store: Path) -> None:
    origin = Origin(pack.artifact.name, "bench-1", pack.artifact.name)
    merge_pack(str(store), str(pack.database), origin, data.CONFIG, lambda _: None)


def _merge_lying(lying: Path, pack: _Pack, store: Path) -> None:
    _merge(_Pack(pack.artifact, lying, pack.games), store)


def _prove_and_merge(inflated: Path, pack: _Pack, store: Path) -> None:
    packfile.inflate(str(pack.artifact), str(inflated))
    with packfile.open_pack(str(inflated)):
        pass
    _merge(_Pack(pack.artifact, inflated, pack.games), store)


def _bare(pack: _Pack, store: Path) -> None:
    """The least that brings the rows in: moves before games, as the triggers want them."""
    with canonical.opened(str(store)) as conn:
        conn.execute("ATTACH DATABASE ? AS pack", (source_uri(str(pack.database)),))
        with canonical.writing(conn):
            for table in (*CHILDREN, GAMES):
                names = ", ".join(table.names())
                conn.execute(f"INSERT INTO main.{table.name} ({names}) SELECT {names} FROM pack.{table.name}")


def _base(folder: Path) -> Path:
    """A canonical database that has games already."""
    store = folder / "base.db"
    for pack in _packs(folder, "stored", STORED_GAMES):
        _merge(pack, store)
    return store


def _packs(folder: Path, name: str, count: int) -> list[_Pack]:
    """Play games and pack them all, as an agent would."""
    source, scratch = folder / f"{name}.db", folder / f"{name}-scratch"
    data.play(source, name, count)
    found: list[_Pack] = []
    cursor: Cursor | None = None
    while sum(pack.games for pack in found) < count:
        request = Request(data.CONFIG, cursor)
        result = make_pack(str(source), f"data/games/{name}.db", str(scratch), request, clock.wall())
        cursor = parse(result["cursor"])
        artifact = scratch / "artifacts" / str(result["artifact"])
        database = folder / f"{name}-{len(found)}.db"
        packfile.inflate(str(artifact), str(database))
        found.append(_Pack(artifact, database, int(result["games"])))
    return found


def _with_one_wrong_digest(pack: _Pack, target: Path) -> Path:
    """A copy of which the first game, one of those looked at in every pack, has another digest than it declares."""
    shutil.copyfile(pack.database, target)
    with closing(sqlite3.connect(target)) as conn, conn:
        conn.execute(
            "UPDATE pack_games SET identity = ? WHERE game_id = (SELECT MIN(game_id) FROM pack_games)", ("0" * 64,)
        )
    return target


PART: Final = Part("merge", LINES, measure)
