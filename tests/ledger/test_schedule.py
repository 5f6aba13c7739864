"""The schedule of faults follows from the seed, leaves no kind out, and breaks nothing that is broken already."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from tests.ledger.schedule import OF_DAGSTER, Fault, Kind, schedule

MINUTES_20 = 1200.0


def test_the_same_seed_gives_the_same_faults_and_another_seed_others() -> None:
    assert schedule(7, MINUTES_20, 4) == schedule(7, MINUTES_20, 4)
    assert schedule(7, MINUTES_20, 4) != schedule(8, MINUTES_20, 4)


@pytest.mark.parametrize("seed", range(20))
def test_twenty_minutes_have_a_fault_every_10_s_and_each_kind_at_least_5_times(seed: int) -> None:
    faults = schedule(seed, MINUTES_20, 4)

    assert [fault.at for fault in faults] == [10.0 * number for number in range(1, 120)]
    assert min(Counter(fault.kind for fault in faults)[kind] for kind in Kind) >= 5
    assert all(fault.at < fault.until <= MINUTES_20 for fault in faults)
    assert any(one.until > after.at for one, after in itertools.pairwise(faults)), "faults overlap"


def test_a_process_is_broken_once_at_a_time() -> None:
    of_processes = [one for one in schedule(3, MINUTES_20, 4) if "cut" not in one.kind and "disk" not in one.kind]
    last: dict[str, Fault] = {}
    for fault in of_processes:
        assert fault.target not in last or last[fault.target].until < fault.at
        last[fault.target] = fault


def test_a_run_may_leave_kinds_out_and_be_faster() -> None:
    kinds = [kind for kind in Kind if kind not in OF_DAGSTER]
    faults = schedule(1, 12.0, 3, kinds=kinds, every=1.5)

    assert len(faults) == 7
    assert not OF_DAGSTER & {fault.kind for fault in faults}
    assert all(fault.until - fault.at <= 6.0 for fault in faults)
