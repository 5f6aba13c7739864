"""100,000 matches from 10 nodes united and rated, beside one plain Python computation over the sorted list.

Ours takes in the packs of ten databases whose matches lie in between each other in time, as an owner does in a pass:
inflated, proved, united in durable transactions, and rated. The plain computation has everything in memory already, in
order, and writes nothing. Ours runs in a process of its own, so that its memory is its own; 200 newer matches follow.
"""

from __future__ import annotations

import resource
import shutil
import sqlite3
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from bench.harness import Contest, Part, Run, check, note, seconds_of
from bench.lines import OURS, Line, Reach, Result
from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.demo.ratings import PlayedMatch, make_matches, ratings_by_hand, write_matches
from ringrift_sync_dagster.intake.arrival import Arrival
from ringrift_sync_dagster.intake.rows import RowsIntake
from ringrift_sync_dagster.node import matches as kit
from ringrift_sync_dagster.node.reader import open_source
from ringrift_sync_dagster.node.records import MAX_RECORDS, write_pack
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.storage.layout import Layout

NODES: Final = 10
MATCHES: Final = 10_000  # of each node
NEWER: Final = 200
MODELS: Final = 60
PLAIN: Final = "plain Python over a sorted list"
_CONFIG: Final = "hex8_2p"

_WHAT: Final = "100,000 matches of 10 nodes"
LINES: Final = (
    Line(f"{_WHAT}: united and rated", "matches/s", "rate", PLAIN, Reach("at least", "1/2")),
    Line(f"{_WHAT}: memory at most", "MB", "memory", reach=Reach("below", "300")),
    Line(f"{NEWER} newer matches on top", "s", "newer", reach=Reach("below", "1")),
)


def measure(folder: Path, runs: int) -> Result:
    """Measure in a folder of its own."""
    note("matches: writing the databases of ten nodes")
    played = [make_matches(f"node-{number}", _CONFIG, MATCHES, models=MODELS) for number in range(NODES)]
    packs = [pack for number, found in enumerate(played) for pack in _packs(folder, number, found)]
    newer = _packs(folder, NODES, make_matches("newer", _CONFIG, NEWER, start=MATCHES, models=MODELS))
    everything = sorted((match for found in played for match in found), key=lambda one: (one.timestamp, one.game_id))
    contest = Contest("matches", runs)
    contest.enter(OURS, lambda: partial(_ours, folder, packs, newer, len(everything)))
    contest.enter(PLAIN, lambda: _plain(everything))
    return contest.run()


def _plain(everything: list[PlayedMatch]) -> Run:
    def run(_: int) -> Mapping[str, float]:
        return {"rate": len(everything) / seconds_of(lambda: ratings_by_hand(everything))}

    return run


def _ours(folder: Path, packs: list[Path], newer: list[Path], count: int, _: int) -> Mapping[str, float]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(take_in, folder / "owner", packs, newer, count).result()


def take_in(home: Path, packs: list[Path], newer: list[Path], count: int) -> dict[str, float]:
    """Take in the packs as one pass, then the newer ones as another, in this process; give rate, memory and seconds."""
    layout = Layout(home)
    layout.mkdirs()
    arrivals = [[_arrival(layout, pack) for pack in part] for part in (packs, newer)]
    with StateStore.open(f"sqlite:///{home}/state.db") as state:
        intake = RowsIntake("owner", state, layout)
        first, second = (seconds_of(partial(_pass, intake, part)) for part in arrivals)
        check(intake.store.ratings_hold(_CONFIG), "the ratings are not those of the matches")
    with closing(sqlite3.connect(layout.elo)) as conn:
        found = conn.execute("SELECT COUNT(*) FROM match_history").fetchone()[0]
    check(found == count + NEWER, f"{found} matches instead of {count + NEWER}")
    shutil.rmtree(home)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {"rate": count / first, "memory": peak, "newer": second}


def _pass(intake: RowsIntake, arrivals: list[Arrival]) -> None:
    for arrival in arrivals:
        intake.accept(arrival)
    intake.settle("matches", "bench")


def _arrival(layout: Layout, pack: Path) -> Arrival:
    node = pack.parent.parent.name
    path = layout.incoming_artifact(node, pack.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(pack, path)
    artifact = Artifact(pack.name, pack.stat().st_size, "matches")
    return Arrival(artifact, path, node, "data/unified_elo.db", {}, config=_CONFIG)


def _packs(folder: Path, number: int, played: list[PlayedMatch]) -> list[Path]:
    """Pack the matches as the agent of a node would."""
    home = folder / f"node-{number}"
    database = write_matches(home / "unified_elo.db", played)
    with open_source(str(database), str(home)) as conn:
        found = kit.read(conn, _CONFIG, None, 1, MAX_RECORDS).records
    meta = {"kind": "matches", "config": _CONFIG, "path": "", "cursor": ""}
    sealed = write_pack(found, meta, str(home), clock.wall())
    return [home / "artifacts" / sealed["artifact"]]


PART: Final = Part("matches", LINES, measure)
