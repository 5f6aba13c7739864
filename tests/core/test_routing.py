"""Rules keep a node out, each with its reason; scores order the others, by what was measured and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringrift_sync_dagster.core.breaker import CircuitState
from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.core.room import Disk, DiskLimits
from ringrift_sync_dagster.core.routing import (
    SOURCE_WEIGHTS,
    TARGET_WEIGHTS,
    Facts,
    Rules,
    quality,
    source_refusals,
    source_score,
    target_refusals,
    target_score,
)

GB = 10**9
FACTS = st.builds(
    Facts,
    node=st.just("n"),
    status=st.sampled_from(["ready", "offline"]),
    active=st.booleans(),
    is_owner=st.booleans(),
    is_coordinator=st.booleans(),
    skip_receive=st.booleans(),
    ephemeral=st.booleans(),
    trains=st.booleans(),
    plays=st.booleans(),
    has_gpu=st.booleans(),
    trains_now=st.booleans(),
    is_priority=st.booleans(),
    answered=st.sampled_from([None, True, False]),
    circuit=st.sampled_from(CircuitState),
    excluded_seconds=st.sampled_from([0.0, 60.0]),
    bytes_per_second=st.none() | st.floats(0, 1e9),
    success=st.none() | st.floats(0, 1),
    rtt_seconds=st.none() | st.floats(0, 60),
    disk=st.none() | st.builds(Disk, st.integers(0, 10**12), st.integers(0, 10**12)),
    brought_ago=st.dictionaries(st.sampled_from(DataType), st.floats(0, 1e7)),
)
TYPES = st.sampled_from(DataType)


@given(FACTS, TYPES, st.booleans(), st.booleans())
def test_a_score_is_the_sum_of_its_parts_and_each_is_in_the_table(
    facts: Facts,
    data_type: DataType,
    collecting: bool,  # noqa: FBT001 - drawn
    only: bool,  # noqa: FBT001 - drawn
) -> None:
    source = source_score(facts, data_type, collecting=collecting, only_copy=only)
    for score, weights in ((target_score(facts, data_type), TARGET_WEIGHTS), (source, SOURCE_WEIGHTS)):
        assert score.value == pytest.approx(sum(part.value for part in score.parts))
        for part in score.parts:
            points = weights[part.name].points
            assert min(0.0, points) <= part.value <= max(0.0, points)
            assert part.value != 0
            assert part.why == weights[part.name].why


@given(FACTS, TYPES)
def test_what_a_person_named_comes_before_all_others(facts: Facts, data_type: DataType) -> None:
    worst = Facts(
        "worst", named_first=True, ephemeral=True, answered=False, circuit=CircuitState.HALF_OPEN, success=0.0,
        rtt_seconds=1e6, disk=Disk(99 * GB, GB), brought_ago={data_type: 0.0},
    )  # fmt: skip
    assert target_score(worst, data_type).value > target_score(facts, data_type).value


@given(FACTS, TYPES, st.booleans())
def test_what_holds_the_only_copy_comes_before_all_other_sources(
    facts: Facts,
    data_type: DataType,
    collecting: bool,  # noqa: FBT001 - drawn
) -> None:
    worst = Facts("worst", ephemeral=True, answered=False, success=0.0, rtt_seconds=1e6)
    only = source_score(worst, data_type, collecting=collecting, only_copy=True)
    assert only.value > source_score(facts, data_type, collecting=collecting).value


@given(FACTS, TYPES, st.floats(0, 1), st.floats(0, 1e9), st.floats(0, 1e9))
def test_who_is_better_never_scores_less(
    facts: Facts, data_type: DataType, success: float, rate: float, more: float
) -> None:
    worse = replace(facts, success=success / 2, bytes_per_second=rate)
    better = replace(facts, success=success, bytes_per_second=rate + more)
    assert target_score(better, data_type).value >= target_score(worse, data_type).value - 1e-9
    assert quality(better) >= quality(worse) - 1e-9
    collected = [source_score(one, data_type, collecting=True).value for one in (worse, better)]
    assert collected[1] >= collected[0] - 1e-9


@given(FACTS)
def test_quality_is_from_0_to_1_and_a_node_that_nobody_measured_has_all_of_it(facts: Facts) -> None:
    assert 0 <= quality(facts) <= 1
    assert quality(Facts("new")) == 1


@given(FACTS, TYPES, st.floats(0, 1))
def test_no_quality_keeps_a_node_from_being_a_source(facts: Facts, data_type: DataType, least: float) -> None:
    rules = {one.rule for one in source_refusals(facts)}
    assert rules <= {"status", "breaker"}
    node = replace(facts, is_owner=False)  # of an owner nothing else is told
    skipped = {one.rule for one in target_refusals(node, data_type, Rules(min_quality_score=least))}
    assert ("min_quality_score" in skipped) == (quality(facts) < least)


@given(FACTS, TYPES)
def test_a_low_score_alone_keeps_nobody_out(facts: Facts, data_type: DataType) -> None:
    welcome = replace(
        facts, active=True, is_owner=False, is_coordinator=False, skip_receive=False, trains=True,
        excluded_seconds=0.0, circuit=CircuitState.HALF_OPEN,
    )  # fmt: skip
    assert target_refusals(welcome, data_type, Rules()) == () or welcome.disk is not None


@pytest.mark.parametrize(
    "change, rule",
    [
        ({"is_owner": True}, "owner"),
        ({"is_coordinator": True}, "coordinator"),
        ({"active": False, "status": "retired"}, "status"),
        ({"skip_receive": True}, "skip_sync_receive"),
        ({"listed_out": "auto_sync.exclude_hosts"}, "excluded_hosts"),
        ({"trains": False}, "flow"),
        ({"disk": Disk(80 * GB, 20 * GB)}, "disk"),
        ({"shares_with": frozenset({"hub"})}, "shared_storage"),
        ({"circuit": CircuitState.OPEN, "circuit_seconds": 41.0}, "breaker"),
        ({"excluded_seconds": 60.0, "excluded_because": "it was silent"}, "excluded"),
        ({"success": 0.1}, "min_quality_score"),
    ],
)
def test_each_rule_keeps_a_node_out_with_its_reason_and_what_changes_it(change: dict[str, object], rule: str) -> None:
    good = Facts("n1", trains=True, success=1.0)
    rules = Rules("hub", 0.5, disk_limits=DiskLimits(max_usage_percent=70))
    assert target_refusals(good, DataType.NPZ, rules) == ()
    (refusal,) = target_refusals(replace(good, **change), DataType.NPZ, rules)  # type: ignore[arg-type]
    assert refusal.rule == rule
    assert refusal.why
    assert refusal.fix


def test_rules_that_a_caller_lifts_keep_nobody_out() -> None:
    second = Facts("hub-2", is_coordinator=True, shares_with=frozenset({"hub"}))
    rules = Rules("hub", exclude_coordinators=False, exclude_nfs_hosts=False)
    assert target_refusals(second, DataType.ELO, rules) == ()


def test_the_weights_of_upstream_are_kept() -> None:
    assert {name: TARGET_WEIGHTS[name].points for name in ("base", "training_active", "training_node")} == {
        "base": 50, "training_active": 50, "training_node": 30,
    }  # fmt: skip
    fresh = Facts("n", brought_ago={DataType.NPZ: 0.0})
    half = replace(fresh, brought_ago={DataType.NPZ: 1800.0})
    scores = [target_score(one, DataType.NPZ).value for one in (fresh, half, Facts("n"))]
    assert scores == pytest.approx([50, 65, 80])
