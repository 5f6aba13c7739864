"""docs/guide.md on backpressure and daemons: its tables and numbers are the code's."""

from __future__ import annotations

from ringrift_sync_dagster.core.bandwidth import Direction, data_type_priority
from ringrift_sync_dagster.core.daemons import DaemonType
from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.core.pressure import (
    ACTIVATE_AT,
    MAX_PAUSE_SECONDS,
    RELEASE_AT,
    REST_SECONDS,
    SIGNALS,
    may_be_held,
    may_be_last_copy,
)
from tests.test_guide import GUIDE, table_after

NAMES = {"self-play games": "games", "evaluation games": "games", "promoted models": "models"}


def section(heading: str) -> str:
    return GUIDE.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def is_held(what: str, way: Direction, *, ephemeral: bool) -> bool:
    """What a pass does; as ``sync.passes.Work.is_held``."""
    data_type, evaluation = DataType(NAMES.get(what, what)), what == "evaluation games"
    priority = data_type_priority(data_type, way, promoted=way == "down", archive=evaluation)
    last_copy = may_be_last_copy(data_type, way, ephemeral=ephemeral, evaluation=evaluation)
    return may_be_held(priority, last_copy=last_copy)


def test_the_signals_are_the_codes() -> None:
    told = {
        name.strip("`"): (float(weight), float(low), float(high), meaning)
        for name, weight, low, high, meaning in table_after("Backpressure")
    }
    assert told == {name: (one.weight, one.low, one.high, one.meaning) for name, one in SIGNALS.items()}


def test_the_levels_and_times_are_the_codes() -> None:
    numbers = f"activates at {ACTIVATE_AT}", f"releases at {RELEASE_AT}"
    words = [*numbers, f"ends after {MAX_PAUSE_SECONDS:.0f} s", f"none begins for {REST_SECONDS:.0f} s"]
    text = " ".join(section("Backpressure").split())
    assert all(one in text for one in words)


def test_what_is_held_is_what_a_pass_holds() -> None:
    text = section("Backpressure").partition("| What moves |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines()[2:]]
    assert {DataType(NAMES.get(what, what)) for what, *_ in rows} == set(DataType)
    for what, way, on_ephemeral, on_persistent in rows:
        direction: Direction = "up" if way == "up" else "down"
        for told, ephemeral in ((on_ephemeral, True), (on_persistent, False)):
            assert told == ("held" if is_held(what, direction, ephemeral=ephemeral) else "moves"), (what, way)


def test_the_daemons_are_the_codes() -> None:
    assert [name.strip("`") for name, *_ in table_after("Sync not starting")] == [kind.value for kind in DaemonType]
