"""The operations that a deploy asks for: see what is there, bring it to what is ordered, take it away.

What is to be done was decided by whoever asks, from what ``inspect`` found.
"""

from __future__ import annotations

import contextlib
import platform
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import health, release
from .change import change, keeper_in_place, write_keys
from .files import RefusedError, only_one, read_text, sha256
from .keepers import Supervised, Systemd, unit_path, why_no_systemd
from .place import MODES, Place

_LOCK_SECONDS = 20.0
_TRIES = 3
_PATIENCE_SECONDS = 10.0  # an agent that is busy, or was just started again, is left alone


def inspect(request: Mapping[str, Any]) -> dict[str, Any]:
    """Say what is there; changes nothing.

    Args:
        request: ``node``, ``root``, ``storage`` and ``scratch``, as the inventory writes them.

    """
    if platform.system() != "Linux":
        raise RefusedError(f"the node runs {platform.system()}; deploy knows Linux only: run ringrift-sync agent there")
    root = absolute(request["root"])
    place = Place(root / request["scratch"] / "agent")
    kept_by, keeper = keeper_in_place(place, request["node"])
    is_kept = keeper.is_set_up and place.config.exists()
    return {
        "root": str(root),
        "root_exists": root.is_dir(),
        "storage": [str(absolute(path)) for path in request["storage"]],
        "directory": str(place.directory),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "no_systemd": why_no_systemd(),
        "unit": read_text(unit_path(request["node"])),
        "config": read_text(place.config),
        "keys": {name: text for name in MODES if (text := read_text(place.keys / name)) is not None},
        "pin": health.pin_of(place.keys / "agent.crt"),
        "program": sha256(place.program),
        "releases": place.complete(),
        "current": place.running_release(),
        "pending": place.pending.exists(),
        "kept_by": kept_by if is_kept else "",
        "healthy": is_kept and health.becomes_healthy(keeper, health.address_of(place), _PATIENCE_SECONDS),
    }


def apply(order: Mapping[str, Any], files: Mapping[str, bytes], program: bytes) -> dict[str, Any]:
    """Do what is ordered.

    Args:
        order: ``Order`` as JSON.
        files: What the release is made from, by name; empty when it is there.
        program: This program.

    """
    place = Place(Path(order["directory"]))
    place.directory.parent.mkdir(parents=True, exist_ok=True)
    place.directory.mkdir(mode=0o700, exist_ok=True)
    place.keys.mkdir(mode=0o700, exist_ok=True)
    with only_one(place.deploy_lock, _LOCK_SECONDS):
        if files:
            release.build(place, order["release"], files, wheel=order["wheel"], offline=order["offline"])
        if order["certificate"]:
            release.make_certificate(place, order["release"], order["node"], order["certificate"])
        if order["restart"]:
            before = place.running_release()
            change(place, order, program)
            if before != order["release"]:
                release.prune(place, order["release"], before)
        else:
            write_keys(place, order["keys"])
    return {"pin": health.pin_of(place.keys / "agent.crt"), "current": place.running_release()}


def remove(request: Mapping[str, Any]) -> dict[str, Any]:
    """Stop the agent and remove its directory and its unit, and nothing else.

    Args:
        request: As for ``inspect``.

    """
    place = Place(absolute(request["root"]) / request["scratch"] / "agent")
    unit = Systemd(unit_path(request["node"]))
    was_there = place.directory.is_dir() or unit.is_set_up
    unit.forget()
    if place.directory.is_dir():
        with only_one(place.deploy_lock, _LOCK_SECONDS):
            _take_away(place)
    return {"removed": was_there, "directory": str(place.directory)}


def _take_away(place: Place) -> None:
    """Stop what is supervised and remove everything; again when somebody wrote there meanwhile."""
    for _ in range(_TRIES - 1):
        Supervised(place).forget()
        with contextlib.suppress(OSError):
            shutil.rmtree(place.directory)
            return
    Supervised(place).forget()
    shutil.rmtree(place.directory)


def absolute(path: str) -> Path:
    """Read a path of the inventory as this user's login would: ``~``, and what is relative, is below the home."""
    return Path.home() / Path(path).expanduser()
