"""When backpressure begins and ends, whatever the load does, and which transfers it holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringrift_sync_dagster.core.bandwidth import TransferPriority
from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.core.pressure import (
    ACTIVATE_AT,
    MAX_PAUSE_SECONDS,
    RELEASE_AT,
    REST_SECONDS,
    SIGNALS,
    Standing,
    may_be_held,
    may_be_last_copy,
    pressure,
    turn,
)

MEASURED = st.fixed_dictionaries({}, optional={name: st.floats(-10.0, 1000.0) for name in SIGNALS})
LOADS = st.lists(st.tuples(st.floats(0.0, 400.0), st.floats(0.0, 1.0)), max_size=60)


def test_the_signals_are_the_sources_in_the_sources_ratios() -> None:
    assert {name: (one.weight, one.low, one.high) for name, one in SIGNALS.items()} == {
        "queue": (0.25, 5, 50),
        "memory": (0.25, 30, 70),
        "disk": (0.15, 40, 75),
        "transfers": (0.15, 3, 30),
    }


@given(MEASURED)
def test_pressure_is_between_0_and_1(measured: dict[str, float]) -> None:
    assert 0.0 <= pressure(measured) <= 1.0


@given(MEASURED, st.sampled_from(sorted(SIGNALS)), st.floats(0.0, 1000.0))
def test_more_of_a_signal_is_never_less_pressure(measured: dict[str, float], name: str, more: float) -> None:
    grown = {**measured, name: measured.get(name, 0.0) + more}
    assert pressure(grown) >= pressure(measured) - 1e-12


def test_all_signals_at_their_ends_are_no_pressure_and_all_of_it() -> None:
    assert pressure({name: one.low for name, one in SIGNALS.items()}) == 0.0
    assert pressure({name: one.high for name, one in SIGNALS.items()}) == pytest.approx(1.0)
    assert pressure({}) == 0.0


def test_a_signal_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="training"):
        pressure({"training": 5})


def run(loads: list[tuple[float, float]]) -> list[tuple[float, bool, float, str]]:
    """Look after each pause with that pressure; give (now, active, pressure, source of the transition)."""
    now, active, until, seen = 0.0, False, 0.0, []
    for pause, level in loads:
        now += pause
        made = turn(Standing(active, max(0.0, until - now)), level)
        if made is not None:
            active, until = made.active, now + made.left_seconds
        seen.append((now, active, level, made.source if made else ""))
    return seen


@given(LOADS)
def test_between_the_two_levels_nothing_changes_but_by_time(loads: list[tuple[float, float]]) -> None:
    for _, active, level, source in run(loads):
        if RELEASE_AT < level < ACTIVATE_AT:
            assert source in {"", "longest_pause"}
        if source == "measured":
            assert level >= ACTIVATE_AT if active else level <= RELEASE_AT


@given(LOADS)
def test_nothing_is_held_at_a_look_after_the_longest_pause_and_a_low_pressure_releases_at_once(
    loads: list[tuple[float, float]],
) -> None:
    began: float | None = None
    for now, active, level, source in run(loads):
        began = now if active and source else began if active else None
        assert began is None or now - began < MAX_PAUSE_SECONDS or source
        assert not (active and level <= RELEASE_AT)


@given(LOADS)
def test_after_the_longest_pause_there_is_a_rest(loads: list[tuple[float, float]]) -> None:
    ended: float | None = None
    for now, active, _, source in run(loads):
        if source == "longest_pause":
            ended = now
        elif source and active:
            assert ended is None or now - ended >= REST_SECONDS


CRITICAL, HIGH, NORMAL, LOW, BACKGROUND = TransferPriority


@pytest.mark.parametrize(
    "priority,held", [(CRITICAL, False), (HIGH, False), (NORMAL, True), (LOW, True), (BACKGROUND, True)]
)
def test_critical_and_high_are_never_held(priority: TransferPriority, held: bool) -> None:  # noqa: FBT001 - a column of the table
    assert may_be_held(priority, last_copy=False) is held
    assert not may_be_held(priority, last_copy=True)
    assert not may_be_held(priority, last_copy=False, trigger="priority:orphan_games_recovery")


@pytest.mark.parametrize("data_type", DataType)
def test_what_comes_up_from_an_ephemeral_node_may_be_the_last_copy(data_type: DataType) -> None:
    assert may_be_last_copy(data_type, "up", ephemeral=True)
    assert may_be_last_copy(data_type, "up", ephemeral=True, evaluation=True)
    assert not may_be_last_copy(data_type, "down", ephemeral=True)
    assert not may_be_last_copy(data_type, "down", ephemeral=False)


def test_a_persistent_node_keeps_rows_and_evaluation_games_but_is_not_trusted_with_the_rest() -> None:
    kept = {one for one in DataType if not may_be_last_copy(one, "up", ephemeral=False)}
    assert kept == {DataType.ELO, DataType.REGISTRY}
    assert not may_be_last_copy(DataType.GAMES, "up", ephemeral=False, evaluation=True)
