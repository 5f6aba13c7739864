"""Whatever an agent does to one database at once, SQLite's locks hold: nobody commits inside another's transaction.

POSIX drops all locks that a process has on a file when it closes any descriptor of it; so one careless look at a
database, by a scan or a hash beside a pack, would open its read transaction to writers.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest

from ringrift_sync_dagster.demo.cluster import EmbeddedCluster
from ringrift_sync_dagster.demo.content import fingerprint, read_games
from ringrift_sync_dagster.errors import RemoteCallError
from ringrift_sync_dagster.node import packfile
from ringrift_sync_dagster.node.errors import KitError
from ringrift_sync_dagster.node.ops import OPS, Context
from ringrift_sync_dagster.node.roots import Roots
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.transports.p2p_http import P2PHttpTransport
from tests.live.follower import FOR_THE_MOMENT, halted
from tests.live.watching import Writer
from tests.live.writers import CONFIG, Plan
from tests.node.merging import game, record

NAME: Final = "data/games/selfplay.db"
ORDER: Final[dict[str, Any]] = {"path": NAME, "config": CONFIG}
COMMIT: Final = """
import sqlite3, sys
conn = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)
try:
    conn.execute("BEGIN IMMEDIATE")
    conn.execute("UPDATE games SET winner = winner")
    conn.execute("COMMIT")
    print("committed")
except sqlite3.OperationalError as error:
    print(error)
"""


def foreign_commit(database: Path) -> str:
    """Try to commit from another process, without waiting."""
    done = subprocess.run([sys.executable, "-c", COMMIT, str(database)], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A database in rollback-journal mode under a node's root."""
    path = record(tmp_path / NAME, game("g1"), game("g2"))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as conn:
        assert conn.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    return path


def pack_and_commit_inside(root: Path, meanwhile: Callable[[Context], None]) -> list[str]:
    """Pack, and in the middle do ``meanwhile`` and try a foreign commit; say how that one went, and one afterwards."""
    context = Context(Roots([str(root)]), str(root / "data" / ".ringrift-sync"), time.time())
    went: list[str] = []

    def interrupt() -> None:
        meanwhile(context)
        went.append(foreign_commit(root / NAME))

    with halted("src.game_moves", interrupt):
        assert OPS["pack"](context, ORDER)["games"] == 2
    return [*went, foreign_commit(root / NAME)]


def everything_at_once(context: Context) -> None:
    """Scan, list, pack again and try to hash the database in other threads of this process."""
    with ThreadPoolExecutor(4) as pool:
        asked = [
            pool.submit(OPS["scan"], context, {}),
            pool.submit(OPS["list"], context, ORDER),
            pool.submit(OPS["pack"], context, {**ORDER, "max_games": 1}),
        ]
        refused = pool.submit(OPS["hash"], context, {"path": NAME}).exception()
    assert isinstance(refused, KitError)
    assert refused.code == "bad_arguments"
    assert [entry["error"] for entry in asked[0].result()["entries"]] == [None]
    assert (len(asked[1].result()["games"]), asked[2].result()["games"]) == (2, 1)


def test_no_foreign_commit_enters_a_pack_beside_a_scan_a_hash_and_another_pack(tmp_path: Path, database: Path) -> None:
    assert pack_and_commit_inside(tmp_path, everything_at_once) == ["database is locked", "committed"]


def test_one_plain_look_at_the_file_would_let_it_in(tmp_path: Path, database: Path) -> None:
    """The control: the hazard is real on this machine, so the test above can fail."""
    assert pack_and_commit_inside(tmp_path, lambda _: database.open("rb").close()) == ["committed", "committed"]


def asked_again_and_again(cluster: EmbeddedCluster, op: str, path: str, stop: threading.Event) -> list[dict[str, Any]]:
    """Ask one agent for the same operation until told to stop; what it refuses for the moment is not counted."""
    token = Path(cluster.environment["RINGRIFT_SYNC_TOKEN_FILE"]).read_text().strip()
    order: dict[str, Any] = {"path": path, "config": CONFIG}
    found: list[dict[str, Any]] = []
    with P2PHttpTransport(cluster.inventory.nodes[cluster.nodes[0]], lambda: token) as transport:
        for number in itertools.count(5):
            if stop.is_set():
                return found
            arguments = {"pack": {**order, "max_games": number}, "list": order, "hash": {"path": path}, "scan": {}}[op]
            try:
                found.append(transport.call(op, arguments, deadline=Deadline.after(30.0)))
            except RemoteCallError as error:
                if error.code not in FOR_THE_MOMENT and (op, error.code) != ("hash", "bad_arguments"):
                    raise
    raise AssertionError


@pytest.fixture
def at_agent(shared_cluster: EmbeddedCluster) -> Path:
    """A path for a games database at a live agent."""
    path = shared_cluster.node_root(shared_cluster.nodes[0]) / "data" / "games" / "live_writer.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
def test_scans_hashes_lists_and_packs_at_once_in_one_agent_leave_a_writer_alone(
    shared_cluster: EmbeddedCluster, at_agent: Path, tmp_path: Path, journal: str
) -> None:
    stop = threading.Event()
    with Writer(Plan(str(at_agent), f"{tmp_path}/ledger", journal)) as writer, ThreadPoolExecutor(5) as pool:
        try:
            writer.wait_for(lambda ledger: len(ledger.final) >= 5)
            path = f"data/games/{at_agent.name}"
            asking = [
                pool.submit(asked_again_and_again, shared_cluster, op, path, stop)
                for op in ("scan", "hash", "list", "pack", "pack")
            ]
            time.sleep(0.3)
            writer.wait_for(lambda ledger: len(ledger.final) >= 30)
        finally:
            stop.set()
        _, _, listed, *packed = [future.result() for future in asking]
        writer.stop()

    assert listed
    assert all(packed)
    scratch = shared_cluster.node_root(shared_cluster.nodes[0]) / "data" / ".ringrift-sync" / "artifacts"
    for artifact in {str(result["artifact"]) for result in itertools.chain(*packed)}:
        target = tmp_path / f"{artifact}.db"
        packfile.inflate(str(scratch / artifact), str(target))
        with packfile.open_pack(str(target)) as conn:
            assert {(game_id, fingerprint(rows)) for game_id, rows in read_games(conn)} <= writer.ledger.played
