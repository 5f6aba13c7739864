"""A game that is lost is reported although a game of another node, which has come, uses the same id."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.intake.arrival import Arrival
from ringrift_sync_dagster.intake.games import GamesIntake
from ringrift_sync_dagster.state.risks import risk_of
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.storage.layout import Layout
from ringrift_sync_dagster.sync.losses import lost_ids
from tests.agent.agents import wait_until
from tests.agent.conftest import StartAgent
from tests.agent.packing import pack
from tests.agent.through_parts import DATABASE, OWNER, SPOT, Field
from tests.node.merging import game, record


@pytest.fixture
def field(start_agent: StartAgent, tmp_path: Path) -> Field:
    return Field(start_agent, tmp_path)


def test_what_a_node_says_is_at_risk_is_known_by_its_content(field: Field, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    owner = field.start(node=OWNER, root=field.folder / OWNER, trusted=("127.0.0.0/8",), state_url=url)
    layout, node = Layout(owner.root), "vast-2"
    layout.mkdirs()
    with StateStore.open(url) as state:
        packed = pack(tmp_path, "diversity_1", "same")
        path = layout.incoming_artifact(node, packed.sha)
        path.parent.mkdir()
        path.write_bytes(packed.data)
        arrival = Arrival(Artifact(packed.sha, len(packed.data), "games"), path, node)
        GamesIntake(OWNER, state, layout).accept(arrival)
        in_the_way = owner.scratch / "incoming" / SPOT  # no pack of the spot node gets through
        in_the_way.parent.mkdir(parents=True, exist_ok=True)
        in_the_way.touch()
        database = field.folder / SPOT / DATABASE
        record(database, game("another", game_id="diversity_1"), game("same"), game("other_1"))
        field.spot(owner, heartbeat_seconds=0.2, drain_seconds=0.5)
        wait_until(lambda: (told := risk_of(state, SPOT)) is not None and len(told.ids) == 3, 15)
        risk = risk_of(state, SPOT)

    assert risk is not None
    assert set(lost_ids(layout, risk)) == {"diversity_1", "other_1"}
