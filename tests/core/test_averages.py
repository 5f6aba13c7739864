"""Moving averages: between what they had and what came, and a transfer that says nothing changes nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringrift_sync_dagster.core.averages import LEAST_BYTES, moved_average, throughput

NUMBERS = st.floats(0, 1e12)
BIG = 10 * LEAST_BYTES


@given(NUMBERS, NUMBERS)
def test_an_average_lies_between_the_old_one_and_the_sample(before: float, sample: float) -> None:
    after = moved_average(before, sample)
    slack = 1e-9 * (before + sample)
    assert min(before, sample) - slack <= after <= max(before, sample) + slack


@given(NUMBERS)
def test_the_first_sample_is_the_average(sample: float) -> None:
    assert moved_average(None, sample) == sample


@given(NUMBERS, st.lists(NUMBERS, min_size=20, max_size=20))
def test_after_twenty_samples_the_beginning_hardly_counts(start: float, samples: list[float]) -> None:
    one, other = start, 0.0
    for sample in samples:
        one, other = moved_average(one, sample), moved_average(other, sample)
    assert abs(one - other) <= start / 1000 + 1e-3


@pytest.mark.parametrize("weight", [0.0, -1.0, 1.5])
def test_a_weight_outside_its_range_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="at most 1"):
        moved_average(1.0, 2.0, weight)


@pytest.mark.parametrize(
    "before, moved, seconds, granted, after",
    [
        pytest.param(None, BIG, 1.0, 0.0, float(BIG), id="the first one"),
        pytest.param(1e6, LEAST_BYTES - 1, 1.0, 0.0, 1e6, id="too small to say anything"),
        pytest.param(None, LEAST_BYTES - 1, 1.0, 0.0, None, id="too small, and none before"),
        pytest.param(1e6, BIG, 0.0, 0.0, 1e6, id="no time"),
        pytest.param(9e6, BIG, 1.0, float(BIG), 9e6, id="held back by its own share"),
        pytest.param(1e6, BIG, 1.0, float(BIG), 1e6 + 0.3 * (BIG - 1e6), id="held back, and faster all the same"),
        pytest.param(9e6, BIG, 1.0, 100e6, 9e6 + 0.3 * (BIG - 9e6), id="slow although it might be fast"),
    ],
)
def test_throughput(before: float | None, moved: int, seconds: float, granted: float, after: float | None) -> None:
    found = throughput(before, moved, seconds, granted)
    assert found == (None if after is None else pytest.approx(after))
