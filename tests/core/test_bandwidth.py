"""Who may use how much: the guide's numbers, the formula of the shares, and a bucket that keeps its rate."""

from __future__ import annotations

import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringrift_sync_dagster.core.bandwidth import (
    AGEING_SECONDS,
    BYTES_PER_MB,
    PROVIDER_LIMITS_MB_PER_S,
    Direction,
    TokenBucket,
    TransferPriority,
    Waiting,
    budget,
    data_type_priority,
    effective_order,
    head_start,
    host_limit,
    shares,
)
from ringrift_sync_dagster.core.model import DataType

CRITICAL, HIGH, NORMAL, LOW, BACKGROUND = TransferPriority
MB = BYTES_PER_MB
LIMITS = st.floats(1.0, 1e12)
MULTIPLIERS = st.lists(
    st.one_of(st.sampled_from([p.multiplier for p in TransferPriority]), st.floats(0.01, 8.0)), min_size=1, max_size=40
)


def test_the_priorities_have_the_guides_multipliers() -> None:
    assert {priority.name: priority.multiplier for priority in TransferPriority} == {
        "CRITICAL": 2.0, "HIGH": 1.5, "NORMAL": 1.0, "LOW": 0.5, "BACKGROUND": 0.25,
    }  # fmt: skip


def test_the_providers_have_the_guides_limits() -> None:
    assert PROVIDER_LIMITS_MB_PER_S == {
        "runpod": 100, "nebius": 100, "lambda": 100, "vultr": 75, "vast": 50, "hetzner": 50,
    }  # fmt: skip


@pytest.mark.parametrize(
    "data_type, direction, priority",
    [
        ("games", "up", NORMAL),
        ("games", "down", HIGH),
        ("npz", "up", HIGH),
        ("npz", "down", HIGH),
        ("models", "up", NORMAL),
        ("models", "down", NORMAL),
        ("elo", "up", LOW),
        ("elo", "down", LOW),
        ("registry", "up", LOW),
        ("registry", "down", LOW),
    ],
)
def test_each_data_type_has_its_priority(data_type: str, direction: Direction, priority: TransferPriority) -> None:
    assert data_type_priority(DataType(data_type), direction) is priority


@pytest.mark.parametrize("direction", get_args(Direction))
def test_a_promoted_model_is_critical_and_an_archive_is_background(direction: Direction) -> None:
    assert data_type_priority(DataType.MODELS, direction, promoted=True) is CRITICAL
    assert data_type_priority(DataType.ELO, direction, promoted=True) is LOW
    for data_type in DataType:
        assert data_type_priority(data_type, direction, promoted=True, archive=True) is BACKGROUND


@pytest.mark.parametrize(
    "name, provider, own, limit",
    [
        ("vast-1", "vast", 12.0, 12.0),
        ("vast-1", "vast", None, 7.0),
        ("vast-10", "vast", None, 30.0),
        ("vast-2", "vast", None, 40.0),
        ("runpod-1", "runpod", None, 100.0),
        ("mac-1", "mac", None, 33.0),
        ("VAST-10", "vast", None, 50.0),
    ],
)
def test_a_hosts_own_limit_wins_over_overrides_its_provider_and_the_setting(
    name: str, provider: str, own: float | None, limit: float
) -> None:
    overrides = {"vast-1?": 30.0, "vast-*": 40.0, "vast-1": 7.0}
    assert host_limit(name, provider, own, overrides, setting=33.0) == limit


@pytest.mark.parametrize(
    "priorities, hard, expected",
    [
        ([], False, []),
        ([NORMAL], False, [100.0]),
        ([CRITICAL], False, [200.0]),
        ([CRITICAL], True, [100.0]),
        ([BACKGROUND], False, [25.0]),
        ([BACKGROUND], True, [25.0]),
        ([NORMAL, NORMAL], False, [50.0, 50.0]),
        ([CRITICAL, BACKGROUND, BACKGROUND], False, [160.0, 20.0, 20.0]),
        ([CRITICAL, CRITICAL], True, [50.0, 50.0]),
        ([LOW, LOW], False, [50.0, 50.0]),
        ([LOW, BACKGROUND], False, [50.0, 25.0]),
        (
            list(TransferPriority), False,
            [200 * 2 / 5.25, 200 * 1.5 / 5.25, 200 / 5.25, 200 * 0.5 / 5.25, 200 * 0.25 / 5.25],
        ),
    ],
)  # fmt: skip
def test_shares_follow_the_formula(priorities: list[TransferPriority], *, hard: bool, expected: list[float]) -> None:
    given_shares = shares(100.0, [priority.multiplier for priority in priorities], hard=hard)
    assert given_shares == pytest.approx(tuple(expected))


@given(limit=LIMITS, multipliers=MULTIPLIERS, hard=st.booleans())
def test_shares_never_pass_the_budget_and_none_starves(limit: float, multipliers: list[float], *, hard: bool) -> None:
    rates = shares(limit, multipliers, hard=hard)
    whole = budget(limit, multipliers, hard=hard)
    assert sum(rates) <= whole * (1 + 1e-12)
    assert whole == (limit if hard else limit * max(1.0, *multipliers))
    for multiplier, rate in zip(multipliers, rates, strict=True):
        assert 0 < rate <= min(multiplier * limit, whole) * (1 + 1e-12)
        assert rate >= min(multiplier * limit, whole * multiplier / sum(multipliers)) * (1 - 1e-12)


def test_without_transfers_the_budget_is_the_limit() -> None:
    assert budget(100.0, [], hard=False) == 100.0


@pytest.mark.parametrize("limit, multipliers", [(0.0, [1.0]), (math.nan, [1.0]), (1.0, [1.0, 0.0]), (1.0, [-1.0])])
def test_a_limit_or_multiplier_that_is_not_above_0_is_refused(limit: float, multipliers: list[float]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        shares(limit, multipliers, hard=False)


def test_priority_orders_those_that_wait_and_then_who_came_first() -> None:
    priorities = [BACKGROUND, NORMAL, CRITICAL, NORMAL, HIGH, LOW]
    waiting = [Waiting(ticket, priority.multiplier, 100.0) for ticket, priority in enumerate(priorities)]
    assert [one.ticket for one in effective_order(waiting)] == [2, 4, 1, 3, 5, 0]


def test_thirty_seconds_of_waiting_are_worth_one_class() -> None:
    newer = Waiting(2, NORMAL.multiplier, 1000.0)
    for waited, first in ((29.0, 2), (31.0, 1)):
        older = Waiting(1, LOW.multiplier, 1000.0 - waited)
        assert effective_order([newer, older])[0].ticket == first
    assert [one.ticket for one in effective_order([newer, Waiting(1, LOW.multiplier, 970.0)])] == [1, 2]


def test_a_multiplier_between_two_priorities_has_the_class_of_the_lower_one() -> None:
    waiting = [Waiting(1, 1.2, 0.0), Waiting(2, 1.0, 0.0), Waiting(3, 9.0, 0.0), Waiting(4, 0.1, 0.0)]
    assert [one.ticket for one in effective_order(waiting)] == [3, 1, 2, 4]


@given(st.lists(st.tuples(st.sampled_from(TransferPriority), st.floats(0, 300)), max_size=20))
def test_nobody_waits_for_what_came_150_seconds_later(arrivals: list[tuple[TransferPriority, float]]) -> None:
    waiting = [Waiting(ticket, priority.multiplier, at) for ticket, (priority, at) in enumerate(arrivals)]
    order = effective_order(waiting)
    assert sorted(one.ticket for one in order) == [one.ticket for one in waiting]
    for place, one in enumerate(order):
        assert all(later.requested <= one.requested + 5 * AGEING_SECONDS for later in order[:place])


def _moved(bucket: TokenBucket, *, begin: float, end: float, chunk: int, oversleep: float) -> int:
    """Move chunks as fast as the bucket lets, each sleep a little too long; give the bytes."""
    now, moved = begin, 0
    while now < end:
        wait = bucket.take(chunk, now)
        if wait:
            now += wait + oversleep
        else:
            moved += chunk
    return moved


@pytest.mark.parametrize("rate", [64_000.0, 1.25 * MB, 100.0 * MB])
@pytest.mark.parametrize("chunk", [1500, 64 * 1024, 4 * 1024 * 1024])
@pytest.mark.parametrize("oversleep", [0.0, 0.003])
def test_the_long_run_rate_is_kept_within_1_percent(rate: float, chunk: int, oversleep: float) -> None:
    # Long enough that the last chunk and the last sleep are below half a percent.
    end = max(1.0, 200 * chunk / rate)
    moved = _moved(TokenBucket(rate, 7.0), begin=7.0, end=7.0 + end, chunk=chunk, oversleep=oversleep)
    assert moved == pytest.approx(rate * end, rel=0.01)


def test_a_request_larger_than_the_burst_goes_into_debt_and_is_paid_off() -> None:
    bucket = TokenBucket(1.0 * MB, 0.0)
    assert bucket.burst_bytes == 100_000
    assert bucket.take(3 * MB, 0.0) == 0.0
    assert bucket.take(1, 1.0) == pytest.approx(2.0)
    assert bucket.take(1, 3.0) == 0.0


def test_another_rate_counts_from_the_moment_it_is_set() -> None:
    bucket = TokenBucket(1.0 * MB, 0.0)
    bucket.take(4 * MB, 0.0)
    bucket.set_rate(10.0 * MB, 1.0)
    assert bucket.rate == 10.0 * MB
    assert bucket.take(1, 1.0) == pytest.approx(0.3)
    bucket.set_rate(0.5 * MB, 1.1)
    assert bucket.take(1, 1.1) == pytest.approx(4.0)


def test_who_moved_nothing_for_long_may_catch_up_with_one_burst_only() -> None:
    bucket = TokenBucket(10.0 * MB, 0.0)
    assert bucket.take(1 * MB, 3600.0) == 0.0
    assert bucket.take(1 * MB, 3600.0) == 0.0
    assert bucket.take(1, 3600.0) == pytest.approx(0.1)
    assert TokenBucket(1000.0, 0.0).burst_bytes == 64 * 1024


def test_a_slower_rate_takes_back_the_burst_of_the_faster_one() -> None:
    bucket = TokenBucket(100.0 * MB, 0.0)
    bucket.take(0, 60.0)
    bucket.set_rate(1.0 * MB, 60.0)
    assert bucket.take(200_000, 60.0) == 0.0
    assert bucket.take(1, 60.0) == pytest.approx(0.1)


@given(st.floats(1e3, 1e9), st.lists(st.tuples(st.integers(0, 10**7), st.floats(0, 0.5)), min_size=1, max_size=50))
def test_no_more_than_the_rate_one_burst_and_one_request_ever_pass(rate: float, asks: list[tuple[int, float]]) -> None:
    bucket, now, moved, largest = TokenBucket(rate, 0.0), 0.0, 0, 0
    for count, passed in asks:
        now += passed
        if bucket.take(count, now) == 0.0:
            moved, largest = moved + count, max(largest, count)
        assert moved <= rate * now + bucket.burst_bytes + largest + 1


def test_a_clock_that_goes_back_gives_nothing_twice() -> None:
    bucket = TokenBucket(1.0 * MB, 10.0)
    bucket.take(1 * MB, 10.0)
    assert bucket.take(1, 5.0) == pytest.approx(1.0)
    assert bucket.take(1, 10.5) == pytest.approx(0.5)


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan])
def test_a_bucket_without_a_rate_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="above 0 bytes per second"):
        TokenBucket(rate, 0.0)
    with pytest.raises(ValueError, match="above 0 bytes per second"):
        TokenBucket(1.0, 0.0).set_rate(rate, 0.0)


@pytest.mark.parametrize("boost, earlier", [(1.0, 0.0), (2.0, 60.0), (100.0, 60.0)])
def test_a_boosted_transfer_counts_as_one_that_came_earlier(boost: float, earlier: float) -> None:
    assert head_start(TransferPriority.NORMAL.multiplier, boost) == earlier
    assert head_start(TransferPriority.CRITICAL.multiplier, boost) == 0.0
