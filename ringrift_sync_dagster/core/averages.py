"""Moving averages of what was measured of a node: the last few samples count, and old ones fade.

A new average is a pure function of the one before and a sample, so that it is kept as one number. None: nothing was
measured yet, and the first sample is the average.
"""

from __future__ import annotations

from typing import Final

WEIGHT: Final = 0.3
"""Part of a new average that its newest sample makes; after 6 samples an old one counts about a tenth."""
LEAST_BYTES: Final = 256 << 10
"""A smaller transfer says nothing of throughput: its time is that of the round trip."""
_HELD_BACK: Final = 0.8


def moved_average(before: float | None, sample: float, weight: float = WEIGHT) -> float:
    """Give the average after a sample.

    Args:
        before: The average before; None when there is none.
        sample: What was measured.
        weight: Which part of the new average the sample makes, above 0 and at most 1.

    Raises:
        ValueError: The weight is outside its range.

    """
    if not 0 < weight <= 1:
        raise ValueError(f"a sample makes a part of the average, above 0 and at most 1, not {weight!r}")
    return sample if before is None else before + weight * (sample - before)


def throughput(before: float | None, moved_bytes: int, seconds: float, granted: float = 0.0) -> float | None:
    """Give the average of bytes per second after a transfer; as before where the transfer says nothing of it.

    Args:
        before: The average before; None when there is none.
        moved_bytes: What travelled.
        seconds: How long that took.
        granted: Bytes per second that it might use; 0 when nobody said. A transfer that used about all of that could
            have been faster, so that it never makes the average smaller.

    """
    if moved_bytes < LEAST_BYTES or seconds <= 0:
        return before
    sample = moved_bytes / seconds
    if before is not None and sample < before and granted > 0 and sample >= _HELD_BACK * granted:
        return before
    return moved_average(before, sample)
