"""A node that accepts connections and never answers holds nobody up."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from ringrift_sync_dagster.demo.cluster import EmbeddedCluster
from ringrift_sync_dagster.sync import survey
from tests.node.merging import game
from tests.sync.conftest import Field

HUNG, WELL = "runpod-a1", "vast-900001"


@pytest.fixture
def hung(agents: EmbeddedCluster) -> Iterator[None]:
    """Stop an agent without ending it: its kernel goes on accepting connections."""
    os.kill(agents.pid(HUNG), signal.SIGSTOP)
    yield
    os.kill(agents.pid(HUNG), signal.SIGCONT)


@pytest.mark.timeout(40)
@pytest.mark.usefixtures("hung")
def test_a_hung_agent_fails_its_own_partitions_within_seconds(field_: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "PROBE_SECONDS", 6.0)  # asked twice, for a third of this each time
    field_.play(WELL, "data/games/x.db", game("g1", config="hex8_2p"))

    report = field_.collect("hex8_2p", "hex8_3p")

    by_node = {(outcome.partition.node, outcome.partition.config): outcome for outcome in report.outcomes}
    assert by_node[WELL, "hex8_2p"].games_new == 1
    assert {node for (node, _), outcome in by_node.items() if outcome.failure} == {HUNG}
