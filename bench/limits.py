"""What the shared limits cost: admissions, renewals and breakers of 4 processes, beside bare SQLite transactions.

Ours are the calls that each transfer makes, on a state database with the history of 10,000 transfers: an admission and
its end are two commits, a renewal is one, asking a closed breaker writes nothing. The bare ones are BEGIN IMMEDIATE,
one small UPDATE, COMMIT, and BEGIN, SELECT, COMMIT: in WAL mode with ``synchronous=FULL`` too, through Python's own
driver. Each contender has a database of its own. How many calls go through is counted while all processes call without
a pause. SQLite's lock is not fair, and whoever calls again at once has it again; so the longest wait of a call in any
process is taken from another 1.5 seconds, in which everybody pauses for up to 0.1 s: 20 calls per second and process.
As a program of its own (``python -m bench.limits DATABASE CONTENDER NUMBER``) it is one of the processes.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from bench.harness import Contest, Part, Run, seconds_of
from bench.lines import Line, Result
from bench.workers import tell, wait_for_the_others, workers
from ringrift_sync_dagster.core.bandwidth import TransferPriority
from ringrift_sync_dagster.core.breaker import CircuitBreakerConfig
from ringrift_sync_dagster.state import admission, breakers, schema, shares, transfers
from ringrift_sync_dagster.state.admission import TransferRequest
from ringrift_sync_dagster.state.store import BUSY_SECONDS, StateStore

PROCESSES: Final = 4
SECONDS: Final = 1.5
_PAUSE_SECONDS: Final = 0.1
HISTORY: Final = 10_000
ADMISSIONS: Final = "admissions"
RENEWALS: Final = "renewals"
BREAKERS: Final = "breakers"
BARE_WRITES: Final = "bare SQLite, one UPDATE"
BARE_READS: Final = "bare SQLite, one SELECT"
_DATABASE: Final = "state.db"
_NODE: Final = "vast-1"
_LIMIT: Final = (50e6, False)

LINES: Final = (
    Line("admission and end of a transfer, 4 processes", "/s", "rate", BARE_WRITES, mine=ADMISSIONS),
    Line("admission and end of a transfer: longest wait", "ms", "longest", BARE_WRITES, mine=ADMISSIONS),
    Line("renewal of a transfer, 4 processes", "/s", "rate", BARE_WRITES, mine=RENEWALS),
    Line("renewal of a transfer: longest wait", "ms", "longest", BARE_WRITES, mine=RENEWALS),
    Line("asking a closed breaker, 4 processes", "/s", "rate", BARE_WRITES, mine=BREAKERS),
    Line("asking a closed breaker, 4 processes", "/s", "rate", BARE_READS, mine=BREAKERS),
    Line("asking a closed breaker: longest wait", "ms", "longest", BARE_READS, mine=BREAKERS),
)

Call = Callable[[], object]


def measure(folder: Path, runs: int) -> Result:
    """Measure in a folder of its own."""
    _prepare(folder / _DATABASE)
    contest = Contest("limits", runs, warm_up=0)
    for contender in _CALLS:
        contest.enter(contender, lambda contender=contender: _contender(folder, contender))  # type: ignore[misc]
    return contest.run()


def _contender(folder: Path, contender: str) -> Run:
    def run(number: int) -> Mapping[str, float]:
        home = folder / f"{number}-{contender.replace(' ', '-')}"
        home.mkdir()
        database = shutil.copyfile(folder / _DATABASE, home / _DATABASE)
        lists = [(str(database), contender, str(process)) for process in range(PROCESSES)]
        with workers(home, "bench.limits", lists) as running:
            running.begin()
            time.sleep(2 * SECONDS)
            found = running.end()
        return {"rate": sum(one["rate"] for one in found), "longest": 1000 * max(one["longest"] for one in found)}

    return run


def _prepare(database: Path) -> None:
    """Lay out the state database with its history, and the bare table beside it."""
    row = {
        "artifact": "ab" * 32, "node": _NODE, "direction": "fetch", "size_bytes": 1_000_000, "started_at": 1.0,
        "updated_at": 1.0, "finished_at": 1.0, "state": transfers.TransferState.DONE.value, "rungs": [],
    }  # fmt: skip
    with StateStore.open(f"sqlite:///{database}") as store:
        with store.begin() as connection:
            connection.execute(sa.insert(schema.transfers), [row] * HISTORY)
        breakers.failed(store, _NODE, "rsync", CircuitBreakerConfig(), "no answer")
    with _bare(database) as connection:
        connection.execute("CREATE TABLE bare (id INTEGER PRIMARY KEY, value INTEGER NOT NULL)")
        connection.executemany("INSERT INTO bare VALUES (?, 0)", [(number,) for number in range(PROCESSES)])


def _work(database: Path, contender: str, number: int) -> None:
    with _CALLS[contender](database, number) as call:
        call()  # connects
        wait_for_the_others()
        without = _waits(call, 0.0)
        paused = _waits(call, _PAUSE_SECONDS)
        tell({"rate": len(without) / sum(without), "longest": max(paused)})


def _waits(call: Call, pause_seconds: float) -> list[float]:
    """Call for a while, with pauses by chance; give the seconds of each call."""
    waits, limit = list[float](), time.monotonic() + SECONDS
    while not waits or time.monotonic() < limit:
        waits.append(seconds_of(call))
        if pause_seconds:
            time.sleep(random.uniform(0, pause_seconds))
    return waits


@contextmanager
def _admissions(database: Path, _number: int) -> Iterator[Call]:
    with StateStore.open(f"sqlite:///{database}") as store:

        def call() -> None:
            transfer, admitted = admission.request_and_admit(store, _wanted(), max_running=PROCESSES + 1)
            assert admitted
            transfers.finish(store, transfer, seconds=1.0, transport="p2p_http")

        yield call


@contextmanager
def _renewals(database: Path, _number: int) -> Iterator[Call]:
    with StateStore.open(f"sqlite:///{database}") as store:
        transfer, _ = admission.request_and_admit(store, _wanted(), max_running=PROCESSES + 1)
        received = {transfer: 1000}
        yield lambda: shares.renew(store, [transfer], lambda _: _LIMIT, received=received)


@contextmanager
def _breakers(database: Path, _number: int) -> Iterator[Call]:
    config = CircuitBreakerConfig()
    with StateStore.open(f"sqlite:///{database}") as store:

        def call() -> None:
            assert breakers.admit(store, _NODE, "rsync", config).allowed

        yield call


@contextmanager
def _bare_writes(database: Path, number: int) -> Iterator[Call]:
    with _bare(database) as connection:

        def call() -> None:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("UPDATE bare SET value = value + 1 WHERE id = ?", (number,))
            connection.execute("COMMIT")

        yield call


@contextmanager
def _bare_reads(database: Path, number: int) -> Iterator[Call]:
    with _bare(database) as connection:

        def call() -> None:
            connection.execute("BEGIN")
            connection.execute("SELECT value FROM bare WHERE id = ?", (number,)).fetchall()
            connection.execute("COMMIT")

        yield call


@contextmanager
def _bare(database: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(database, isolation_level=None, timeout=BUSY_SECONDS)
    try:
        connection.execute("PRAGMA synchronous = FULL")
        yield connection
    finally:
        connection.close()


def _wanted() -> TransferRequest:
    return TransferRequest("cd" * 32, _NODE, "fetch", 1_000_000, TransferPriority.NORMAL)


_CALLS: Final[Mapping[str, Callable[[Path, int], AbstractContextManager[Call]]]] = {
    ADMISSIONS: _admissions,
    RENEWALS: _renewals,
    BREAKERS: _breakers,
    BARE_WRITES: _bare_writes,
    BARE_READS: _bare_reads,
}

PART: Final = Part("limits", LINES, measure)

if __name__ == "__main__":
    _work(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
