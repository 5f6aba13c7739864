"""Whether something more fits on a disk or into memory, from numbers alone; what is still under way counts as there.

Percentages are those of ``df``: used / (used + free to us). A limit of the inventory is never a reason to lose data:
a rescue minds only what is physically there. Source: domain.md, 7 (disk) and 10 (18, 27, 33, 34); ``sync_routing`` of
the inventory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SPARE_BYTES: Final = 256 << 20
SPARE_DISK: Final = 0.02
"""What is never used up, the smaller of both: databases must be able to grow a little."""
TRANSFER_MEMORY_BYTES: Final = 64 << 20
"""What one transfer may hold in memory at most, buffers of its programs included."""
SPARE_MEMORY: Final = 0.05
"""Part of the memory that must stay available."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk as it is now, in bytes: what is used, and what is free to us."""

    used_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class DiskLimits:
    """What the inventory allows; None where it says nothing.

    Args:
        max_usage_percent: Above this, a disk takes no more.
        min_free_percent: This much must stay free.

    """

    max_usage_percent: float | None = None
    min_free_percent: float | None = None


def disk_refusal(disk: Disk, limits: DiskLimits, *, reserved_bytes: int, rescue: bool = False) -> str:
    """Say why the bytes that are reserved do not fit; empty when they do.

    Args:
        disk: As it is now.
        limits: The inventory's.
        reserved_bytes: What is still to come, the new transfer included.
        rescue: True: only the physical room counts.

    """
    whole = disk.used_bytes + disk.free_bytes
    free = disk.free_bytes - reserved_bytes
    if free < min(SPARE_BYTES, SPARE_DISK * whole):
        return f"{_gb(disk.free_bytes)} are free and {_gb(reserved_bytes)} are to come; free some space"
    used_percent = 100.0 * (whole - free) / whole if whole > 0 else 100.0
    if rescue:
        return ""
    if limits.max_usage_percent is not None and used_percent > limits.max_usage_percent:
        return f"it would be {used_percent:.1f} % full, and max_disk_usage_percent is {limits.max_usage_percent:g}"
    if limits.min_free_percent is not None and 100.0 - used_percent < limits.min_free_percent:
        left = f"{100.0 - used_percent:.1f} %"
        return f"only {left} would stay free, and min_free_disk_percent is {limits.min_free_percent:g}"
    return ""


def memory_refusal(total_bytes: int, available_bytes: int, *, waiting_to_use: int) -> str:
    """Say why another transfer does not fit into memory; empty when it does.

    Args:
        total_bytes: The machine's memory; 0 when it is unknown, and then everything fits.
        available_bytes: What the kernel could give to programs now.
        waiting_to_use: Transfers that begin now and have not taken their memory yet, the new one included.

    """
    needed = waiting_to_use * TRANSFER_MEMORY_BYTES
    if total_bytes and available_bytes - needed < SPARE_MEMORY * total_bytes:
        return (
            f"{_gb(available_bytes)} of {_gb(total_bytes)} memory are available, and the transfer needs {_gb(needed)}"
        )
    return ""


def _gb(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
