"""A breaker opens after 3 failures in a row for 60 s, then for twice as long each time, and never for good."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringrift_sync_dagster.core.breaker import Breaker, CircuitBreakerConfig, CircuitState, node_state

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
NEVER = float("inf")
CONFIGS = st.sampled_from(
    [CircuitBreakerConfig(), CircuitBreakerConfig.aggressive(), CircuitBreakerConfig.patient(), CircuitBreakerConfig(1)]
)
# What happens to a breaker: seconds pass, then a success or a failure with its jitter.
STEPS = st.lists(st.tuples(st.floats(0, 700), st.one_of(st.none(), st.floats(-1, 1))), max_size=60)


def _opened(opens: int) -> Breaker:
    """A breaker that opened so many times in a row, the last time at 0, without jitter."""
    breaker, now = Breaker(), 0.0
    for _ in range(3):
        breaker = breaker.on_failure(now)
    for _ in range(opens - 1):
        now = breaker.open_until or NEVER
        breaker = breaker.on_failure(now)
    return Breaker(breaker.failures, breaker.opens, (breaker.open_until or NEVER) - now)


def test_third_failure_in_a_row_opens_for_60_seconds() -> None:
    breaker = Breaker()
    for t in (0.0, 1.0, 2.0):
        assert breaker.state(t) is CLOSED
        breaker = breaker.on_failure(now=t)

    assert breaker.state(61.9) is OPEN
    assert breaker.state(62.0) is HALF_OPEN
    assert (breaker.seconds_left(2.0), breaker.seconds_left(61.0), breaker.seconds_left(99.0)) == (60.0, 1.0, 0.0)


def test_a_success_between_failures_starts_the_count_again() -> None:
    breaker = Breaker().on_failure(0.0).on_failure(1.0).on_success().on_failure(2.0).on_failure(3.0)
    assert (breaker.state(3.0), breaker.failures, breaker.seconds_left(3.0)) == (CLOSED, 2, 0.0)


@pytest.mark.parametrize(
    "breaker, at, after_success, after_failure, open_until",
    [
        (Breaker(), 5.0, CLOSED, CLOSED, None),
        (Breaker(failures=1), 5.0, CLOSED, CLOSED, None),
        (Breaker(failures=2), 5.0, CLOSED, OPEN, 65.0),
        (_opened(1), 59.9, CLOSED, OPEN, 60.0),
        (_opened(1), 60.0, CLOSED, OPEN, 60.0 + 120.0),
        (_opened(2), 119.9, CLOSED, OPEN, 120.0),
        (_opened(2), 120.0, CLOSED, OPEN, 120.0 + 240.0),
        (_opened(3), 240.0, CLOSED, OPEN, 240.0 + 480.0),
        (_opened(4), 480.0, CLOSED, OPEN, 480.0 + 600.0),
        (_opened(5), 9999.0, CLOSED, OPEN, 9999.0 + 600.0),
    ],
)
def test_every_transition_is_that_of_the_table(
    breaker: Breaker, at: float, after_success: CircuitState, after_failure: CircuitState, open_until: float | None
) -> None:
    assert breaker.on_success() == Breaker()
    assert breaker.on_success().state(at) is after_success
    failed = breaker.on_failure(at)
    assert (failed.state(at), failed.open_until, failed.failures) == (after_failure, open_until, breaker.failures + 1)


@pytest.mark.parametrize(
    "config, failures, seconds",
    [
        (CircuitBreakerConfig(), 3, 60.0),
        (CircuitBreakerConfig.aggressive(), 2, 30.0),
        (CircuitBreakerConfig.patient(), 5, 120.0),
        (CircuitBreakerConfig(failure_threshold=1, recovery_timeout_seconds=0.5), 1, 0.5),
    ],
)
def test_aggressive_and_patient_open_after_as_many_failures_and_for_as_long_as_the_guide_says(
    config: CircuitBreakerConfig, failures: int, seconds: float
) -> None:
    breaker = Breaker()
    for _ in range(failures):
        assert breaker.state(0.0) is CLOSED
        breaker = breaker.on_failure(0.0, config, jitter=1.0)
    assert breaker.open_until == seconds


def test_failures_of_transfers_that_were_under_way_do_not_keep_it_open_for_longer() -> None:
    breaker = _opened(1)
    for t in range(59):
        breaker = breaker.on_failure(float(t))
    assert (breaker.open_until, breaker.opens, breaker.failures) == (60.0, 1, 62)


def test_jitter_moves_an_opening_after_the_first_by_at_most_a_tenth() -> None:
    config = CircuitBreakerConfig()
    assert [config.open_seconds(1, jitter) for jitter in (-1.0, 1.0)] == [60.0, 60.0]
    assert [config.open_seconds(2, jitter) for jitter in (-1.0, 0.0, 1.0)] == pytest.approx([108.0, 120.0, 132.0])
    assert config.open_seconds(10**6, 1.0) == pytest.approx(660.0)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"failure_threshold": 0}, "at least 1 failure"),
        ({"recovery_timeout_seconds": 0.0}, "more than 0 s"),
        ({"recovery_timeout_seconds": float("nan")}, "more than 0 s"),
        ({"recovery_timeout_seconds": 601.0}, "never longer than its longest time"),
        ({"longest_timeout_seconds": float("inf")}, "never longer"),
        ({"backoff": 0.99}, "backoff 1 or more"),
        ({"backoff": float("nan")}, "backoff 1 or more"),
        ({"jitter": -0.1}, "from 0 to below 1"),
        ({"jitter": 1.0}, "from 0 to below 1"),
    ],
)
def test_numbers_that_make_no_breaker_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CircuitBreakerConfig(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("jitter", [-1.1, 1.1, float("nan")])
def test_jitter_outside_its_range_is_refused(jitter: float) -> None:
    with pytest.raises(ValueError, match="from -1 to 1"):
        CircuitBreakerConfig().open_seconds(2, jitter)


@given(CONFIGS, STEPS)
def test_whatever_happens_the_rules_hold(config: CircuitBreakerConfig, steps: list[tuple[float, float | None]]) -> None:
    breaker, now, in_a_row = Breaker(), 0.0, 0
    for passed, jitter in steps:
        now += passed
        before = breaker
        breaker = before.on_success() if jitter is None else before.on_failure(now, config, jitter)
        in_a_row = 0 if jitter is None else in_a_row + 1

        assert breaker.failures == in_a_row
        assert (breaker.state(now) is CLOSED) == (in_a_row < config.failure_threshold)
        if jitter is not None and before.state(now) is OPEN:
            assert breaker.open_until == before.open_until
        elif breaker.state(now) is OPEN:
            assert breaker.opens == before.opens + 1
            shortest, longest = config.recovery_timeout_seconds, config.longest_timeout_seconds
            assert shortest * 0.9 <= breaker.seconds_left(now) <= longest * 1.1 + 1e-6
        # Every exclusion expires.
        assert breaker.state(now + 661) is not OPEN


@pytest.mark.parametrize(
    "rungs, state",
    [
        ([], CLOSED),
        ([CLOSED], CLOSED),
        ([OPEN, OPEN, OPEN], OPEN),
        ([OPEN, CLOSED, OPEN], CLOSED),
        ([HALF_OPEN, CLOSED], CLOSED),
        ([OPEN, HALF_OPEN], HALF_OPEN),
        ([HALF_OPEN, HALF_OPEN], HALF_OPEN),
    ],
)
def test_a_node_is_as_good_as_its_best_rung(rungs: list[CircuitState], state: CircuitState) -> None:
    assert node_state(rungs) is state
