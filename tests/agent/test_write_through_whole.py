"""From a live writer on a spot node to the canonical store, over the agents alone: no pass runs, and no Dagster."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ringrift_sync_dagster.state.nodes import seen
from ringrift_sync_dagster.state.risks import every
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.storage.canonical import CanonicalStore
from ringrift_sync_dagster.storage.layout import Layout
from tests.agent.agents import AgentProcess, wait_until
from tests.agent.conftest import StartAgent
from tests.agent.through_parts import CONFIG, OWNER, SPOT, Field, arrived, outbox_of, status, wait_for, wait_until_empty

pytestmark = pytest.mark.cluster


@pytest.fixture
def field(start_agent: StartAgent, tmp_path: Path) -> Field:
    return Field(start_agent, tmp_path)


def coordinator(field: Field) -> AgentProcess:
    """An owner's agent that merges, takes heartbeats and names peers."""
    root = field.folder / OWNER
    hosts = field.folder / "hosts.yaml"
    hosts.write_text(f"hosts:\n  {OWNER}: {{ssh_host: 127.0.0.1, role: coordinator, ringrift_path: /srv}}\n")
    paths = {"incoming": root / "data/incoming", "merge_into": root, "hosts": hosts}
    more = {name: f"Path({str(path)!r})" for name, path in paths.items()}
    url = f"sqlite:///{field.folder}/state.db"
    return field.start(node=OWNER, root=root, trusted=("127.0.0.0/8",), state_url=url, more=more)


def canonical(owner: AgentProcess) -> int:
    """Give how many games of the config the canonical store has."""
    store = CanonicalStore(Layout(owner.root))
    return store.games(CONFIG) if store.path(CONFIG).exists() else 0


def test_a_finished_game_is_durable_at_once_and_canonical_soon_after(field: Field) -> None:
    owner = coordinator(field)
    spot = field.spot(owner, heartbeat_seconds=0.2)
    field.play("warm")
    wait_until(lambda: canonical(owner) == 1, 20)

    started = time.monotonic()
    field.play("g1", "g2")
    wait_until(lambda: canonical(owner) == 3, 20)

    print(f"finished to canonical: {time.monotonic() - started:.2f} s")
    wait_until_empty(spot)
    with StateStore.open(owner.state_url) as state:
        wait_until(lambda: [(one.node, one.games) for one in every(state)] == [(SPOT, 0)])


def test_the_owner_names_peers_and_says_what_they_brought_home(field: Field) -> None:
    owner = coordinator(field)
    peer = field.receiver("stays-1")
    entry = f"  stays-1: {{ssh_host: {peer.host}, agent_port: {peer.port}, ringrift_path: /srv}}\n"
    with (field.folder / "hosts.yaml").open("a") as hosts:
        hosts.write(entry + f"  {SPOT}: {{ssh_host: 127.0.0.9, is_ephemeral: true, ringrift_path: /srv}}\n")
    with StateStore.open(owner.state_url) as state:
        seen(state, "stays-1", at=time.time(), transport="p2p_http")
    spot = field.spot(owner, heartbeat_seconds=0.2)

    def peers() -> str:
        with outbox_of(spot) as outbox:
            return outbox.note("peers")

    time.sleep(6)
    spot.kill()
    assert "stays-1" in peers()
    owner.stop()
    spot.start()
    field.play("g1")
    wait_for(peer, "g1")
    wait_until_empty(spot)
    assert (status(spot)["games"], arrived(peer)) == (0, ["g1"])
