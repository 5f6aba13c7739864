"""What fits on a disk and into memory, from numbers alone."""

from __future__ import annotations

import pytest

from ringrift_sync_dagster.core.room import (
    SPARE_BYTES,
    TRANSFER_MEMORY_BYTES,
    Disk,
    DiskLimits,
    disk_refusal,
    memory_refusal,
)

GB = 10**9
HALF_FULL = Disk(50 * GB, 50 * GB)


def test_without_limits_only_the_physical_room_counts() -> None:
    assert disk_refusal(HALF_FULL, DiskLimits(), reserved_bytes=50 * GB - SPARE_BYTES) == ""
    assert "free some space" in disk_refusal(HALF_FULL, DiskLimits(), reserved_bytes=50 * GB)


def test_of_a_small_disk_only_a_small_part_is_spared() -> None:
    small = Disk(0, 40_000_000)
    assert disk_refusal(small, DiskLimits(), reserved_bytes=39_000_000) == ""
    assert disk_refusal(small, DiskLimits(), reserved_bytes=39_500_000)


@pytest.mark.parametrize("limits", [DiskLimits(max_usage_percent=70), DiskLimits(min_free_percent=30)])
def test_what_would_pass_a_limit_is_refused_and_what_reaches_it_is_not(limits: DiskLimits) -> None:
    assert disk_refusal(HALF_FULL, limits, reserved_bytes=20 * GB) == ""
    assert disk_refusal(HALF_FULL, limits, reserved_bytes=20 * GB + 10**8)


def test_a_rescue_minds_no_percentage_but_never_fills_the_disk() -> None:
    limits = DiskLimits(max_usage_percent=10, min_free_percent=90)
    assert disk_refusal(HALF_FULL, limits, reserved_bytes=GB, rescue=True) == ""
    assert disk_refusal(HALF_FULL, limits, reserved_bytes=50 * GB, rescue=True)


def test_a_transfer_needs_its_memory_and_leaves_a_part_to_the_machine() -> None:
    assert memory_refusal(0, 0, waiting_to_use=1) == ""
    assert memory_refusal(100 * GB, 50 * GB, waiting_to_use=5) == ""
    assert memory_refusal(100 * GB, 5 * GB + TRANSFER_MEMORY_BYTES, waiting_to_use=1) == ""
    assert "memory" in memory_refusal(100 * GB, 5 * GB + TRANSFER_MEMORY_BYTES - 1, waiting_to_use=1)
