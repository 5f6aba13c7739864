"""A node that plays, with its agent; agents that take what it pushes; and what arrived at them."""

from __future__ import annotations

import contextlib
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ringrift_sync_dagster.agent.outbox import Outbox
from ringrift_sync_dagster.demo.recorder import Recorder
from ringrift_sync_dagster.demo.schemas import Dialect
from ringrift_sync_dagster.settings.identity import TlsCertificate
from tests.agent.agents import AgentProcess, wait_until
from tests.agent.conftest import StartAgent
from tests.node.merging import game

SPOT = "spot-1"
OWNER = "owner"
DATABASE = "data/games/selfplay.db"
CONFIG = "hex8_2p"
DURABLE_SECONDS = 15.0  # what a test waits at most; the bench says how long it takes


_IMPORT = "__import__('importlib').import_module('ringrift_sync_dagster.{}')"


def told(root: Path, coordinator: AgentProcess, peers: Sequence[AgentProcess], kill_at: str, **more: Any) -> str:  # noqa: ANN401
    """Give the Python expression that an agent's process is told for ``write_through``; it may die at a named point."""
    nodes = "".join(f"{_node(peer)}," for peer in peers)
    fields = "".join(f", {name}={value!r}" for name, value in more.items())
    config = f"{_IMPORT.format('agent.through_config')}.WriteThrough"
    value = f"{config}({_node(coordinator)}, Path({str(root / 'token.jwt')!r}), ({nodes}){fields})"
    if not kill_at:
        return value
    # Only with a pack at hand: an agent installs other files too, before it listens.
    packs = f"next(Path({str(root)!r}).glob('data/.ringrift-sync/*/artifacts/*'), None)"
    packs += f" or next(Path({str(root)!r}).glob('data/.ringrift-sync/outbox/*'), None)"
    dying = f"lambda name: name == {kill_at!r} and ({packs}) and __import__('os').kill(__import__('os').getpid(), 9)"
    return f"(setattr({_IMPORT.format('node.faults')}, 'hook', {dying}), {value})[1]"


def _node(agent: AgentProcess) -> str:
    module = _IMPORT.format("settings.nodes")
    return f"{module}.Node({agent.node!r}, '', '', tailscale_ip={agent.host!r}, agent_port={agent.port})"


@dataclass
class Field:
    """A spot node, its coordinator, and peers; all real agents."""

    start: StartAgent
    folder: Path

    def receiver(self, name: str = OWNER, *, ephemeral: bool = False) -> AgentProcess:
        return self.start(
            node=name, root=self.folder / name, trusted=("127.0.0.0/8",), more={"is_ephemeral": str(ephemeral)}
        )

    def spot(
        self,
        owner: AgentProcess,
        *peers: AgentProcess,
        kill_at: str = "",
        tls: TlsCertificate | None = None,
        **more: Any,  # noqa: ANN401
    ) -> AgentProcess:
        root = self.folder / SPOT
        root.mkdir(exist_ok=True)
        (root / "token.jwt").write_text(owner.token("node", sub=SPOT))
        expression = told(root, owner, peers, kill_at, **{"watch_seconds": 0.1, **more})
        settings = {"is_ephemeral": "True", "write_through": expression}
        files = None if tls is None else (tls.certificate, tls.key)
        return self.start(node=SPOT, root=root, trusted=("127.0.0.0/8",), more=settings, tls=files)

    def play(self, *keys: str, database: str = DATABASE, config: str = CONFIG) -> None:
        """Finish games on the spot node."""
        with Recorder(self.folder / SPOT / database, Dialect.V18) as recorder:
            recorder.record_all([game(key, config=config) for key in keys])


def arrived(receiver: AgentProcess, origin: str = SPOT) -> list[str]:
    """Give the ids of the games in all whole packs that an agent holds of a node; twice where it holds one twice."""
    found = []
    for path in sorted((receiver.scratch / "incoming" / origin).glob("*")):
        if path.suffix == "" and len(path.name) == 64:
            found += games_of(path)
    return sorted(found)


def games_of(pack: Path) -> list[str]:
    """Give the ids of the games in a pack."""
    database = pack.parent / f"{pack.name}.test"
    database.write_bytes(zlib.decompress(pack.read_bytes()))
    with contextlib.closing(sqlite3.connect(database)) as conn:
        ids = [row[0] for row in conn.execute("SELECT game_id FROM games")]
    database.unlink()
    return ids


def wait_for(receiver: AgentProcess, *games: str, seconds: float = DURABLE_SECONDS) -> None:
    """Wait until an agent holds these games of the spot node."""
    wait_until(lambda: set(games) <= set(arrived(receiver)), seconds)


@contextlib.contextmanager
def outbox_of(spot: AgentProcess) -> Iterator[Outbox]:
    """Open the outbox of an agent that has ended."""
    outbox = Outbox(spot.scratch, OWNER, 10**9)
    try:
        yield outbox
    finally:
        outbox.close()


def status(spot: AgentProcess) -> dict[str, Any]:
    """Give what the agent says of its write-through."""
    answer: dict[str, Any] = spot.request("GET", "/v1/status").json()["write_through"]
    return answer


def wait_until_empty(spot: AgentProcess, seconds: float = DURABLE_SECONDS) -> None:
    """Wait until nothing is at risk any more."""
    wait_until(lambda: status(spot)["outbox_packs"] == 0, seconds)
