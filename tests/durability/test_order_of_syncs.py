"""What is acknowledged is on the disk: seen from outside, in the order of the system calls."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.transports.p2p_http import P2PHttpTransport
from tests.agent.agents import AgentProcess
from tests.agent.conftest import coordinator_key, free_addresses, start_agent
from tests.durability.tracing import events, position, run_traced, traced
from tests.node.merging import game
from tests.sync.conftest import Field, field_
from tests.sync.test_collect import COLLECT, environment

__all__ = ["coordinator_key", "field_", "free_addresses", "start_agent"]


def test_an_agent_answers_a_push_after_file_directory_and_receipt_are_on_the_disk(
    start_agent: Callable[..., AgentProcess], tmp_path: Path
) -> None:
    agent, trace = start_agent(), tmp_path / "trace"
    data = random.Random(1).randbytes(300_000)
    (tmp_path / "pack").write_bytes(data)
    artifact = Artifact(hashlib.sha256(data).hexdigest(), len(data), "games")

    with (
        P2PHttpTransport(agent.inventory_node(), agent.token) as transport,
        traced(agent.pid, trace),
    ):
        transport.push(artifact, tmp_path / "pack", "vast-9", deadline=Deadline.after(60))

    found = events(trace)
    synced = position(found, "sync", f"{artifact.sha256}.part")
    renamed = position(found, "rename", artifact.sha256, after=synced)
    directory = position(found, "sync", "incoming/vast-9", after=renamed)
    receipt = position(found, "sync", "agent.db", after=directory)
    answer = position(found, "send", "HTTP/1.1 201")
    assert synced < renamed < directory < receipt < answer


def test_a_pass_commits_and_writes_the_receipt_before_anything_is_forgotten(field_: Field, tmp_path: Path) -> None:
    config, node, trace = "hex8_2p", "vast-900001", tmp_path / "trace"
    field_.play(node, "data/games/x.db", *(game(f"g{number}", config=config) for number in range(20)))
    field_.one("square8_2p", node)  # databases and folders exist, so that only the pass itself is seen

    run_traced([sys.executable, "-c", COLLECT, config, node, ""], trace, environment(field_))

    found = events(trace)
    fetched = position(found, "sync", ".part")
    renamed = position(found, "rename", f"incoming/{node}/", after=fetched)
    directory = position(found, "sync", f"incoming/{node}", after=renamed)
    removed = position(found, "unlink", f"incoming/{node}/", after=directory)
    forgotten = position(found, "send", "DELETE /v1/artifacts")
    committed = position(found, "sync", f"canonical_{config}.db-wal", after=directory)
    receipt = position(found, "sync", "state.db-wal", after=committed)
    assert directory < committed < receipt < removed < forgotten


@pytest.mark.cluster
def test_games_of_a_finished_pass_survive_a_power_cut(field_: Field, disk: tuple[Path, Callable[[], None]]) -> None:
    """The coordinator's root and state lie on a file system whose power is cut right after the pass."""
    root, cut = disk
    config, node = "hex8_2p", "vast-900001"
    field_.play(node, "data/games/x.db", *(game(f"g{number}", config=config) for number in range(50)))
    changed = {"root": root / "root", "state_url": f"sqlite:///{root}/state.db"}
    field_.settings = field_.settings.model_copy(update=changed)
    field_.base = root

    assert field_.one(config, node).games_new == 50
    cut()

    lost = field_.one(config, node)
    assert (lost.games_new, lost.canonical_games) == (0, 50)
