"""A small file system in memory, for tests of full disks; mounting one takes root."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_PATIENCE_SECONDS: Final = 10.0


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """Mount an empty file system of ``size`` (in the words of mount, such as ``2m``) at ``path``.

    A process of the test that has just been told to end may still hold a file there; the end waits for it.
    """
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        limit = time.monotonic() + _PATIENCE_SECONDS
        while subprocess.run(["umount", str(path)], check=False, capture_output=True).returncode:
            if time.monotonic() > limit:
                raise AssertionError(f"somebody still uses {path}: {users(path)}")
            time.sleep(0.05)


def resize(path: Path, size: str) -> None:
    """Give a small disk more room, or less."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(path)], check=True)


def users(path: Path) -> list[str]:
    """The command lines of the processes that have a file open under ``path``, or work in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            held = [link.readlink() for link in (*(process / "fd").iterdir(), process / "cwd")]
            if any(there.is_relative_to(path) for there in held):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found
