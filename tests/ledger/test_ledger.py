"""The ledger harness: live writers, real agents, and faults in a seeded random order; at the end the ledgers are right.

A short form runs with every test run. The long one, twenty minutes with Dagster, is a soak:

    make soak ARGS="-k ledger"
    make soak ARGS="-k ledger --soak-seconds=300 --ledger-seed=7"
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ledger.harness import Plan, run
from tests.ledger.schedule import EVERY_SECONDS, OF_DAGSTER, Fault, Kind, schedule
from tests.living import free_port

SECONDS = 1200.0
GAMES = 5_000
TIMES = 5
"""The long form has at least so many games, and each kind of fault so often."""
SLOTS, RATE = 4, 1.5
SHORT = [kind for kind in Kind if kind not in OF_DAGSTER]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Tell a person at once, with the time."""
    start = time.monotonic()

    def tell(text: str) -> None:
        with capsys.disabled():
            print(f"\n{time.monotonic() - start:7.1f} s  {text}", end="", flush=True)

    return tell


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.cluster) for seed in range(2, 8))])
def test_a_quarter_of_a_minute_with_a_fault_every_second_and_a_half_ends_exact(seed: int, tmp_path: Path) -> None:
    told: list[str] = []
    faults = schedule(seed, 15.0, 3, kinds=SHORT, every=1.5)

    run_of = run(tmp_path / "c", Plan(seed, faults, 15.0, slots=3, rate=3.0, drain_seconds=60.0), told.append)

    assert run_of.problems == [], "\n".join(told)
    assert run_of.games > 60


@pytest.mark.cluster
def test_games_that_only_an_ephemeral_node_could_take_are_not_called_safe(tmp_path: Path) -> None:
    told: list[str] = []
    faults = [Fault(2.0, 28.0, Kind.CUT_FROM_ALL, "spot-0")]  # each that is out of reach is given 5 s first

    run_of = run(tmp_path / "c", Plan(1, faults, 28.0, slots=2, rate=3.0, drain_seconds=15.0), told.append)

    assert run_of.problems == [], "\n".join(told)


@pytest.mark.soak
def test_twenty_minutes_with_a_fault_every_ten_seconds_end_exact(
    tmp_path: Path, pytestconfig: pytest.Config, say: Callable[[str], None]
) -> None:
    seconds = pytestconfig.getoption("--soak-seconds") or SECONDS
    seed = pytestconfig.getoption("--ledger-seed")
    seed = int(time.time()) if seed is None else int(seed)
    faults = schedule(seed, seconds, SLOTS)
    say(f"--ledger-seed={seed} --soak-seconds={seconds:g} gives these {len(faults)} faults again:")
    for fault in faults:
        say(str(fault))

    run_of = run(tmp_path / "c", Plan(seed, faults, seconds, SLOTS, RATE, 180.0, free_port()), say)

    say("verdict: " + ("good" if not run_of.problems else "\n  ".join(["bad", *run_of.problems])))
    assert run_of.problems == []
    assert run_of.games >= GAMES * seconds / SECONDS
    assert run_of.done == Counter(fault.kind for fault in faults), f"a fault every {EVERY_SECONDS:g} s was done"
    assert seconds < SECONDS or min(run_of.done[kind] for kind in Kind) >= TIMES
