"""What a node tells of itself when a person asks whether it is fit: programs, clock, user, room and permissions."""

from __future__ import annotations

import getpass
import os
import shutil
import sqlite3
import sys
from typing import Any, Dict

from .roots import Roots, display

_PROGRAMS = ("rsync", "sqlite3")


def facts(roots: Roots, scratch: str, now: float) -> Dict[str, Any]:
    """Look at this node; nothing is written, and what cannot be seen is told as such.

    Args:
        roots: The node's roots.
        scratch: The kit's own folder.
        now: The node's wall clock in seconds since 1970.

    """
    return {
        "now": now,
        "user": _user(),
        "python": ".".join(str(part) for part in sys.version_info[:3]),
        "sqlite": sqlite3.sqlite_version,
        "programs": {name: display(shutil.which(name) or "") for name in _PROGRAMS},
        "roots": [_folder(path) for path in roots.paths],
        "data": _folder(os.path.join(roots.paths[0], "data")),
        "scratch": _folder(scratch),
    }


def _folder(path: str) -> Dict[str, Any]:
    """Tell whether a folder is there, may be listed and written into, and how much room its disk has."""
    found: Dict[str, Any] = {
        "path": display(path),
        "exists": os.path.isdir(path),
        "readable": os.access(path, os.R_OK | os.X_OK),
        "writable": os.access(path, os.W_OK | os.X_OK),
    }
    try:
        room = os.statvfs(path)
    except OSError:
        return found
    return {**found, "free_bytes": room.f_bavail * room.f_frsize, "total_bytes": room.f_blocks * room.f_frsize}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container may run as a number without a name
        return str(os.getuid())
