"""A coordinator and spot nodes as real processes of ``ringrift-sync agent``, and what became durable and when.

A game's receipt is timed by the coordinator's answer, as the node noted it when it came. What a killed node had lost is
asked of the canonical store: a pack with a receipt lies at the coordinator, and its agent merges it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from bench.agents import tree_cpu_seconds, tree_of
from bench.data import CONFIG
from bench.harness import CannotMeasureError, check
from bench.hosts import lay_out
from bench.peers import free_port
from ringrift_sync_dagster.core.model import SHA256
from ringrift_sync_dagster.demo.processes import PYTHON, Processes
from ringrift_sync_dagster.node.gate import SETTLED_SECONDS
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.settings.identity import PUBLIC_NAME, Scope, create_coordinator_key, issue_token
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.storage.layout import SCRATCH_DIR, Layout
from ringrift_sync_dagster.transports.p2p_http import P2PHttpTransport

OWNER: Final = "hub-1"
DATABASE: Final = "data/games/selfplay.db"
_OWNER_ADDRESS: Final = "127.82.0.1"
_ADDRESS: Final = "127.82.0.{}"
_FIRST: Final = 11
_READY_SECONDS: Final = 60.0
_QUIET_SECONDS: Final = 20.0


class SpotField:
    """The agents of some spot nodes and their coordinator.

    Args:
        base: For everything.
        count: How many spot nodes.

    """

    def __init__(self, base: Path, count: int) -> None:
        self.base = base
        self.names = [f"spot-{number:02d}" for number in range(count)]
        self._addresses = {name: _ADDRESS.format(_FIRST + number) for number, name in enumerate(self.names)}
        self._addresses[OWNER] = _OWNER_ADDRESS
        self._port = free_port(_OWNER_ADDRESS)
        self._processes = Processes(base / "logs")
        key = create_coordinator_key(base / "keys")
        hosts = {name: self._host(name) for name in (OWNER, *self.names)}
        lay_out(base, hosts, exist_ok=True)
        (base / "tokens").mkdir(mode=0o700)
        for name in (OWNER, *self.names):
            scope = Scope.COORDINATOR if name == OWNER else Scope.NODE
            (base / "tokens" / f"{name}.jwt").write_text(issue_token(key, name, [scope], clock.wall()))
            self.root(name).joinpath("data/games").mkdir(parents=True)

    def _host(self, name: str) -> dict[str, object]:
        own = {"role": "coordinator"} if name == OWNER else {"role": "gpu_selfplay", "is_ephemeral": True}
        address = self._addresses[name]
        return {"ssh_host": address, "ringrift_path": str(self.root(name)), "agent_port": self._port, **own}

    def root(self, name: str) -> Path:
        """The root of a node."""
        return self.base / name

    def database(self, name: str) -> Path:
        """Where the node's self-play writes."""
        return self.root(name) / DATABASE

    def start(self, names: Iterable[str], *options: str) -> None:
        """Start agents, all at once, and wait until each answers."""
        wanted = list(names)
        for name in wanted:
            command = [PYTHON, "-m", "ringrift_sync_dagster.cli", "agent", "--node", name]
            command += ["--host", self._addresses[name], "--port", str(self._port)]
            command += ["--public-key", str(self.base / "keys" / PUBLIC_NAME), *options]
            environment = {
                "RINGRIFT_SYNC_HOME": str(self.base), "RINGRIFT_SYNC_HOSTS": str(self.base / "hosts.yaml"),
                "RINGRIFT_SYNC_ROOT": str(self.root(OWNER)),
                "RINGRIFT_SYNC_STATE_URL": f"sqlite:///{self.base / 'state.db'}",
                "RINGRIFT_SYNC_TOKEN_FILE": str(self.base / "tokens" / f"{name}.jwt"),
            }  # fmt: skip
            self._processes.start(name, command, environment)
        for name in wanted:
            self._wait_for(name)

    def kill(self, name: str) -> None:
        """``kill -9`` for an agent."""
        self._processes.kill(name)

    def stop(self, name: str) -> None:
        """Let an agent end."""
        self._processes.stop([name])

    def forget(self, name: str) -> None:
        """Take a node's directory away, as its provider does, and make an empty one."""
        shutil.rmtree(self.root(name))
        self.root(name).joinpath("data/games").mkdir(parents=True)

    def pid(self, name: str) -> int:
        """Process id of an agent."""
        return self._processes.pid(name)

    def cpu_seconds(self, name: str) -> float:
        """Processor time so far of an agent and what it started."""
        return tree_cpu_seconds(self.pid(name))

    def memory_bytes(self, name: str) -> int:
        """Memory of an agent and what it started; what several share counts once (PSS)."""
        return sum(_pss(pid) for pid in tree_of(self.pid(name)))

    def receipts(self, name: str) -> dict[str, float]:
        """Give for each durable game of a node when the coordinator's answer came."""
        outbox = self.root(name) / SCRATCH_DIR / "outbox.db"
        with closing(sqlite3.connect(f"file:{outbox}?mode=ro", uri=True, timeout=10.0)) as conn:
            return dict(conn.execute("SELECT game_id, at FROM saved").fetchall())

    def wait_for_receipts(self, name: str, games: Sequence[str]) -> dict[str, float]:
        """Wait until all these games have a receipt, and give them.

        Raises:
            CannotMeasureError: They have none after a long time.

        """
        found: dict[str, float] = {}

        def all_there() -> bool:
            found.update(self.receipts(name))
            return set(games) <= found.keys()

        wait_until(all_there, _QUIET_SECONDS, f"{name}: some of {len(games)} games have no receipt")
        return {game: found[game] for game in games}

    def held_ids(self) -> set[str]:
        """Give the games that the coordinator has: merged, or in packs that lie there whole."""
        found = set[str]()
        for pack in (self.root(OWNER) / "data" / "incoming").glob("*/*"):
            # What is merged meanwhile is in the store, which is read after this.
            with contextlib.suppress(FileNotFoundError):
                if SHA256.fullmatch(pack.name):
                    found |= _games_of_pack(pack)
        return found | games_in(Layout(self.root(OWNER)).canonical(CONFIG))

    def close(self) -> None:
        """End all agents."""
        self._processes.stop_all()

    def _wait_for(self, name: str) -> None:
        node = Node(name, self._addresses[name], str(self.root(name)), agent_port=self._port)
        token = (self.base / "tokens" / f"{OWNER}.jwt").read_text()
        with P2PHttpTransport(node, lambda: token) as transport:

            def is_up() -> bool:
                check(self._processes.is_running(name), f"the agent ended: {self._processes.tail(name)}")
                return transport.probe(Deadline.after(2.0)).reachable

            wait_until(is_up, _READY_SECONDS, f"the agent of {name} does not answer")


@contextmanager
def spot_field(base: Path, count: int) -> Iterator[SpotField]:
    """Run a coordinator and so many spot nodes."""
    field = SpotField(base, count)
    try:
        field.start([OWNER])
        field.start(field.names)
        yield field
    finally:
        field.close()


def games_in(database: Path) -> set[str]:
    """Give the finished games of a database; none where it cannot be read."""
    if not database.exists():
        return set()
    with contextlib.suppress(sqlite3.Error), closing(sqlite3.connect(database, timeout=10.0)) as conn:
        return {row[0] for row in conn.execute("SELECT game_id FROM games WHERE game_status = 'completed'")}
    return set()


def wait_until(is_so: Callable[[], bool], seconds: float, otherwise: str) -> None:
    """Wait for something.

    Raises:
        CannotMeasureError: It did not come about.

    """
    limit = clock.monotonic() + seconds
    while not is_so():
        if clock.monotonic() > limit:
            raise CannotMeasureError(otherwise)
        time.sleep(0.05)


def settle() -> None:
    """Wait until no database counts as just written."""
    time.sleep(2 * SETTLED_SECONDS)


def kill_process(pid: int) -> None:
    """``kill -9`` for a child of ours, if it still runs."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _games_of_pack(pack: Path) -> set[str]:
    with closing(sqlite3.connect(":memory:")) as conn:
        conn.deserialize(zlib.decompress(pack.read_bytes()))
        return {row[0] for row in conn.execute("SELECT game_id FROM games")}


def _pss(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
