"""A full outbox or disk: games stay in their databases, everybody is told without room on the disk, numbers say so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ringrift_sync_dagster.state.events import newest_events
from ringrift_sync_dagster.state.node_reports import report_in
from ringrift_sync_dagster.state.nodes import node_row
from ringrift_sync_dagster.state.store import StateStore
from tests.agent.agents import AgentProcess, wait_until
from tests.agent.conftest import StartAgent
from tests.agent.through_parts import OWNER, SPOT, Field, arrived, outbox_of, status, wait_for, wait_until_empty
from tests.disks import small_disk

pytestmark = pytest.mark.cluster


@pytest.fixture
def field(start_agent: StartAgent, tmp_path: Path) -> Field:
    return Field(start_agent, tmp_path)


def owner_with_events(field: Field) -> tuple[AgentProcess, StateStore]:
    url = f"sqlite:///{field.folder}/state.db"
    store = StateStore.open(url)
    return field.start(node=OWNER, root=field.folder / OWNER, trusted=("127.0.0.0/8",), state_url=url), store


def refuse_packs(owner: AgentProcess) -> Path:
    """Let the owner take heartbeats and events, and no packs."""
    in_the_way = owner.scratch / "incoming" / SPOT
    in_the_way.parent.mkdir(parents=True, exist_ok=True)
    in_the_way.write_text("no room for packs of this node")
    return in_the_way


def told_full(store: StateStore) -> list[str]:
    return [str(event.payload["details"]["reason"]) for event in newest_events(store, ["DISK_SPACE_LOW"])]


def stopped_by(store: StateStore) -> str:
    row = node_row(store, SPOT)
    return "" if row is None else report_in(row).stopped_by


def numbers(spot: AgentProcess) -> dict[str, float]:
    lines = [line for line in spot.request("GET", "/metrics").text.splitlines() if line[0] != "#"]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_a_full_outbox_is_an_event_and_its_numbers_are_in_the_metrics(field: Field) -> None:
    owner, store = owner_with_events(field)
    in_the_way = refuse_packs(owner)
    spot = field.spot(owner, max_bytes=1, heartbeat_seconds=0.2)
    field.play("g1", "g2")
    wait_until(lambda: status(spot)["games"] == 2)
    field.play("g3")

    wait_until(lambda: told_full(store) == ["the outbox is full"], 20)

    assert stopped_by(store) == "the outbox is full"
    wait_until(lambda: numbers(spot)["ringrift_agent_outbox_push_failures_total"] >= 1)
    told = numbers(spot)
    names = ("games", "packs", "stopped", "saved_games_total")
    assert [told[f"ringrift_agent_outbox_{name}"] for name in names] == [2, 1, 1, 0]
    assert told["ringrift_agent_outbox_bytes"] > 0
    assert told["ringrift_agent_outbox_oldest_seconds"] > 0
    in_the_way.unlink()

    wait_for(owner, "g1", "g2", "g3", seconds=30)
    wait_until_empty(spot)
    wait_until(lambda: stopped_by(store) == "")
    told = numbers(spot)
    assert [told[f"ringrift_agent_outbox_{name}"] for name in names] == [0, 0, 0, 3]
    assert told_full(store) == ["the outbox is full"]  # once
    store.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
def test_a_full_disk_is_an_event_and_empties_itself_without_room_for_a_transaction(field: Field) -> None:
    owner, store = owner_with_events(field)
    in_the_way = refuse_packs(owner)
    with small_disk(field.folder / "disk", "3m") as disk:
        spot = field.spot(owner, heartbeat_seconds=0.2, drain_seconds=1.0)
        spot.stop()
        spot.own_scratch = disk / "scratch"
        spot.start()
        field.play("g1")
        wait_until(lambda: status(spot)["games"] == 1, 20)
        (disk / "others").write_bytes(b"")
        with (disk / "others").open("ab", buffering=0) as filler:
            while True:
                try:
                    filler.write(b"x" * 4096)
                except OSError:
                    break
        field.play("g2")

        wait_until(lambda: len(told_full(store)) == 1, 30)
        assert stopped_by(store)
        assert status(spot)["games"] == 1
        in_the_way.unlink()
        wait_for(owner, "g1", seconds=60)
        wait_until_empty(spot, 60)  # the pack that nobody needs made room for its own end
        (disk / "others").unlink()
        wait_for(owner, "g1", "g2", seconds=90)
        wait_until(lambda: stopped_by(store) == "", 30)
        assert arrived(owner) == ["g1", "g2"]
        assert spot.stop() == 0
        with outbox_of(spot) as outbox:
            assert outbox.entries() == []
    store.close()
