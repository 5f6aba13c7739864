"""What room this machine has: its disks and its memory, as the kernel tells them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from ringrift_sync_dagster.core.room import Disk
from ringrift_sync_dagster.storage.files import disk_errors

_MEMINFO: Final = Path("/proc/meminfo")


def disk_of(path: Path) -> Disk:
    """Give the disk that a directory lies on.

    Raises:
        LocalDiskError: It is not there.

    """
    with disk_errors(path, "look at"):
        found = shutil.disk_usage(path)
    return Disk(found.used, found.free)


def memory() -> tuple[int, int]:
    """Give the machine's memory and what is available of it, in bytes; zeros where the system does not tell."""
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0, 0
    values = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines) if rest}
    return values.get("MemTotal", 0), values.get("MemAvailable", 0)
