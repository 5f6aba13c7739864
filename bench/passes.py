"""One hybrid pass over 30, 100 and 300 nodes on which nothing changed: wall time, and processor time of its process.

The nodes are scripted (``scripted_nodes``), the HTTP is real, and each has games of all twelve configs and some
models. A first pass brings everything from one node; what it left is written for all others, whose files are the same.
Measured are passes over all of them, in a process that has done one. The peer is a
program that only asks each node for its health and its manifest, with as many threads: what the questions alone cost.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from bench.data import play
from bench.harness import CannotMeasureError, Contest, Part, check, note
from bench.hosts import lay_out
from bench.lines import OURS, Line, Reach, Result
from bench.peers import free_port
from bench.scripted_nodes import addresses, name_of
from ringrift_sync_dagster.demo.exports import write_model
from ringrift_sync_dagster.node.patterns import CONFIGS

SIZES: Final = (30, 100, 300)
QUESTIONS: Final = "questions alone"
_FIRST: Final = "127.81.0.1"
_WAIT_SECONDS: Final = 30.0
_PASS_SECONDS: Final = 900.0

LINES: Final = tuple(
    line
    for count in SIZES
    for line in (
        Line(
            f"no-change pass over {count} nodes", "s", f"wall_{count}",
            reach=Reach("below", "5") if count == max(SIZES) else None,
        ),
        Line(
            f"no-change pass over {count} nodes: processor time", "s", f"cpu_{count}",
            reach=Reach("below", "3") if count == max(SIZES) else None,
        ),
        Line(f"no-change pass over {count} nodes", "s", f"wall_{count}", QUESTIONS),
    )
)  # fmt: skip

OUR_PASSES: Final = """
import json, sys, time
from pathlib import Path
from bench.hosts import settings_of
from ringrift_sync_dagster.sync.collect import Request, move
from ringrift_sync_dagster.sync.runtime import Runtime
home = Path(sys.argv[1])
with Runtime.open(settings_of(home, home / "state.db")) as runtime:
    for _ in range(2):
        started, worked = time.perf_counter(), time.process_time()
        reports = move(runtime, Request(trigger="bench"))
        wall, cpu = time.perf_counter() - started, time.process_time() - worked
outcomes = [outcome for report in reports.values() for outcome in report.outcomes]
failed = [str(outcome.failure) for outcome in outcomes if outcome.failure]
print(json.dumps({"wall": wall, "cpu": cpu, "changed": sum(one.changed for one in outcomes), "failed": failed[:3]}))
"""
THE_QUESTIONS: Final = """
import json, sys, time
from concurrent.futures import ThreadPoolExecutor
from bench.scripted_nodes import TOKEN, addresses
import requests
port, first, count = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
def ask(address):
    with requests.Session() as session:
        session.get(f"http://{address}:{port}/health", timeout=10).raise_for_status()
        session.get(f"http://{address}:{port}/v1/manifest", params={"since": TOKEN}, timeout=10).raise_for_status()
started, worked = time.perf_counter(), time.process_time()
with ThreadPoolExecutor(16) as pool:
    list(pool.map(ask, addresses(first, count)))
print(json.dumps({"wall": time.perf_counter() - started, "cpu": time.process_time() - worked}))
"""


def measure(folder: Path, runs: int) -> Result:
    """Measure in a folder of its own."""
    root = folder / "node"
    for config in CONFIGS:
        play(root / f"data/games/{config}.db", config, 2, config)
        write_model(root / f"models/candidate_{config}.pth", config)
    with scripted(root, max(SIZES)) as port:
        first = folder / "home-1"
        lay_out(first, _hosts(root, port, 1))
        note("passes: the first pass, over one node")
        done = _child(OUR_PASSES, str(first))
        check(not done["failed"], f"the first pass: {done}")
        for count in SIZES:
            home = folder / f"home-{count}"
            shutil.copytree(first, home)
            (home / "hosts.yaml").unlink()
            lay_out(home, _hosts(root, port, count), exist_ok=True)
            _as_if_brought(home, addresses(_FIRST, count))
        contest = Contest("passes", runs)
        contest.enter(OURS, lambda: partial(_ours, folder))
        contest.enter(QUESTIONS, lambda: partial(_questions, port))
        return contest.run()


def _hosts(root: Path, port: int, count: int) -> dict[str, Mapping[str, object]]:
    return {
        name_of(address): {
            "ssh_host": address, "ringrift_path": str(root), "agent_port": port, "role": "gpu_selfplay"
        }
        for address in addresses(_FIRST, count)
    }  # fmt: skip


def _as_if_brought(home: Path, where: Sequence[str]) -> None:
    """Write for all nodes what the first pass wrote for the first one: they have the same files."""
    databases = [home / "state.db", *(home / "root").rglob("*.db")]
    for database in databases:
        with closing(sqlite3.connect(database)) as connection, connection:
            tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for table in {"nodes", "node_files", "placements", "deep_scans", "rungs", "ringrift_cursors"} & set(tables):
                columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
                key = "name" if table == "nodes" else "node"
                values = ", ".join("?" if column == key else column for column in columns)
                copy = f"INSERT INTO {table} SELECT {values} FROM {table} WHERE {key} = ?"
                connection.executemany(copy, [(name_of(other), name_of(where[0])) for other in where[1:]])


def _ours(folder: Path, _: int) -> Mapping[str, float]:
    found: dict[str, float] = {}
    for count in SIZES:
        done = _child(OUR_PASSES, str(folder / f"home-{count}"))
        check(done["changed"] == 0 and not done["failed"], f"a pass over {count} nodes: {done}")
        found |= {f"wall_{count}": done["wall"], f"cpu_{count}": done["cpu"]}
    return found


def _questions(port: int, _: int) -> Mapping[str, float]:
    found: dict[str, float] = {}
    for count in SIZES:
        done = _child(THE_QUESTIONS, str(port), _FIRST, str(count))
        found |= {f"wall_{count}": done["wall"], f"cpu_{count}": done["cpu"]}
    return found


@contextmanager
def scripted(root: Path, count: int) -> Iterator[int]:
    """Let so many nodes answer from a process of their own; give their port.

    Raises:
        CannotMeasureError: They do not answer.

    """
    port = free_port(_FIRST)
    arguments = [sys.executable, "-m", "bench.scripted_nodes", str(root), str(port), _FIRST, str(count)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                raise CannotMeasureError("the scripted nodes do not answer")
            yield port
        finally:
            process.terminate()


def _child(program: str, *arguments: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=_PASS_SECONDS, check=False
    )
    if done.returncode:
        raise CannotMeasureError(f"a pass failed: {done.stderr.strip()[-300:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


PART: Final = Part("passes", LINES, measure)
