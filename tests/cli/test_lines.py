"""What `sync` and `status` write: one line for each thing, and nothing in it that moves a terminal's cursor."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringrift_sync_dagster.cli import sync
from ringrift_sync_dagster.cli.status import partition_rows
from ringrift_sync_dagster.core.model import Partition
from ringrift_sync_dagster.intake.arrival import SetAside
from ringrift_sync_dagster.state.changes import Change, add_changes
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.sync.report import CollectReport, Failure, Note, Outcome


def _outcome(config: str, node: str, aside: int = 0, message: str = "") -> Outcome:
    partition = Partition(config, node)
    failure = Failure(partition, "NodeDownError", message) if message else None
    asides = tuple(SetAside(f"g{number}", "0" * 64, "short") for number in range(aside))
    return Outcome(partition, set_aside=asides, failure=failure)


def test_games_set_aside_are_named_up_to_twenty() -> None:
    report = CollectReport((_outcome("hex8_2p", "n-1", 15), _outcome("hex8_3p", "n-1", 15)))

    lines = sync.aside_lines(report)

    assert len(lines) == 21
    assert lines[19] == "set aside: hex8_3p|n-1: short: g4"
    assert "and 10 more" in lines[20]
    assert len(sync.aside_lines(CollectReport((_outcome("hex8_2p", "n-1", 20),)))) == 20


def test_what_a_dead_node_says_for_all_its_configs_is_one_line() -> None:
    outcomes = [_outcome(config, "n-1", message="n-1 is down") for config in ("hex8_2p", "hex8_3p", "hex8_4p")]
    outcomes += [_outcome("hex8_2p", "n-2", message="n-2 is down"), _outcome("hex8_4p", "n-1", message="other")]

    assert sync.failure_lines(CollectReport(tuple(outcomes)).failures) == [
        "3 configs of n-1: n-1 is down (NodeDownError)",
        "hex8_2p|n-2: n-2 is down (NodeDownError)",
        "hex8_4p|n-1: other (NodeDownError)",
    ]


def test_nothing_that_a_node_wrote_moves_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    partition, hostile = Partition("hex8_2p", "n-1"), "g\x1b[2J\n\x071"
    outcome = Outcome(
        partition, set_aside=(SetAside(hostile, "0" * 64, "short"),), failure=Failure(partition, "E", hostile)
    )

    sync._show("games", CollectReport((outcome,), (Note("n-1", hostile, "corrupt", hostile),)))

    out, err = capsys.readouterr()
    assert not {"\x1b", "\x07"} & set(out + err)
    assert len(err.splitlines()) == 1
    assert [line.split(":")[0] for line in out.splitlines()[3:]] == [
        "set aside",
        "note",
        "1 partitions, 1 failed, 0 new games, 0.0 s",
    ]


def test_every_partition_of_a_config_shows_what_the_canonical_store_has_now(tmp_path: Path) -> None:
    with StateStore.open(f"sqlite:///{tmp_path}/state.db") as state:
        for number, (config, node, games) in enumerate(
            [("hex8_2p", "n-1", 3), ("hex8_3p", "n-1", 1), ("hex8_2p", "n-2", 7)]
        ):
            add_changes(state, [Change(str(number), float(number), "games", "up", config, node, canonical_games=games)])
        rows = partition_rows(state)

    assert [(row.config, row.node, row.canonical_games, row.changed_at) for row in rows] == [
        ("hex8_2p", "n-1", 7, 0.0),
        ("hex8_2p", "n-2", 7, 2.0),
        ("hex8_3p", "n-1", 1, 1.0),
    ]
