"""Looks at ephemeral nodes: each in its own time, none of them for ever, and nothing told twice."""

from __future__ import annotations

import logging
import shutil
import socket
import time
from pathlib import Path

import pytest
import yaml

from ringrift_sync_dagster.core.model import DataType, Partition
from ringrift_sync_dagster.settings.settings import Settings
from ringrift_sync_dagster.state.leases import hold
from ringrift_sync_dagster.state.risks import Risk, put
from ringrift_sync_dagster.sync.acting import SPEAKS_SECONDS, EphemeralLooks
from ringrift_sync_dagster.sync.collect import Request, move
from ringrift_sync_dagster.sync.passes import lease_name
from ringrift_sync_dagster.sync.runtime import Runtime
from tests.node.merging import game
from tests.sync.conftest import Field

CONFIG = "hex8_2p"
HOST = {"ssh_port": 1, "ringrift_path": "/x", "provider": "vast"}


def with_host(field_: Field, folder: Path, name: str, host: dict[str, object]) -> Settings:
    """The settings of the field, with one host more in the inventory."""
    shutil.copytree(field_.settings.hosts, folder / "hosts")
    (folder / "hosts" / "more.yaml").write_text(yaml.safe_dump({"hosts": {name: host}}))
    return field_.settings.model_copy(update={"hosts": folder / "hosts"})


@pytest.mark.cluster
def test_a_node_that_never_answers_keeps_no_other_from_being_looked_at(field_: Field, tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.77.201.1", 0))
        silent.listen(128)
        port = silent.getsockname()[1]
        host = {**HOST, "ssh_host": "127.77.201.1", "ssh_port": port, "agent_port": port}
        settings = with_host(field_, tmp_path, "vast-silent", host)
        with Runtime.open(settings) as runtime, EphemeralLooks(runtime, "test", 1.0) as looks:
            took = []
            for number in range(3):
                field_.play(field_.nodes[0], "data/games/x.db", game(f"g{number}", config=CONFIG))
                for _ in range(5):
                    started = time.monotonic()
                    looks.look()
                    took.append(time.monotonic() - started)
                    if runtime.intake.store.games(CONFIG) > number:
                        break
                assert runtime.intake.store.games(CONFIG) == number + 1
            assert len(took) < 10
            assert "vast-silent" in looks.nodes

    assert max(took) < 3.0


def test_a_node_whose_games_come_by_themselves_is_asked_for_them_once_a_minute_until_it_is_silent(
    field_: Field,
) -> None:
    node = field_.nodes[0]
    field_.play(node, "data/games/x.db", game("g1", config=CONFIG))
    with Runtime.open(field_.settings) as runtime, EphemeralLooks(runtime, "test", 5.0) as looks:
        put(runtime.state, Risk(node, at=time.time()))
        changes = [looks.look()]
        field_.play(node, "data/games/x.db", game("g2", config=CONFIG))
        changes.append(looks.look())
        put(runtime.state, Risk(node, games=1, ids=["g2"], oldest_at=time.time() - 20, at=time.time()))
        changes.append(looks.look())
        field_.play(node, "data/games/x.db", game("g3", config=CONFIG))
        put(runtime.state, Risk(node, at=time.time() - SPEAKS_SECONDS))
        changes.append(looks.look())

    assert changes == [1, 0, 1, 1]


def test_a_dead_node_is_told_once_and_a_node_that_is_well_not_at_all(
    field_: Field, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = with_host(field_, tmp_path, "vast-dead", {**HOST, "ssh_host": "127.77.202.1", "agent_port": 1})
    field_.play(field_.nodes[0], "data/games/x.db", game("g", config=CONFIG))
    caplog.set_level(logging.INFO)
    with Runtime.open(settings) as runtime, EphemeralLooks(runtime, "test", 5.0) as looks:
        changes = [looks.look() for _ in range(3)]

    told = [record.getMessage() for record in caplog.records if record.name.endswith("sync.acting")]
    assert changes == [1, 0, 0]
    assert [text.split()[0] for text in told] == ["node=vast-dead"]


def test_a_partition_that_somebody_works_on_is_left_to_him_by_a_strategy_and_waited_for_by_a_person(
    field_: Field,
) -> None:
    field_.play(field_.nodes[0], "data/games/x.db", game("g", config=CONFIG))
    lease = lease_name(DataType.GAMES, Partition(CONFIG, field_.nodes[0]), up=True)
    with Runtime.open(field_.settings) as runtime:
        with hold(runtime.state, lease):
            request = Request([DataType.GAMES], [CONFIG], [field_.nodes[0]], "schedule", down=False)
            started = time.monotonic()
            report = move(runtime, request)[DataType.GAMES]
            took = time.monotonic() - started
        later = move(runtime, request)[DataType.GAMES]

    assert took < 10
    assert (report.failures, [note.code for note in report.notes]) == ((), ["busy"])
    assert [outcome.games_new for outcome in later.outcomes] == [1]
