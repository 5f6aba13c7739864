"""Bring what runs to what is ordered, and take it back when the agent does not answer afterwards.

The agent is stopped before anything changes, so that none ever starts a worker process of another release. A change
that was cut off anywhere leaves ``pending`` behind, and the next deploy does it again.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import health
from .files import RefusedError, read_text, switch_link, write_whole
from .keepers import SUPERVISOR, SYSTEMD, Keeper, Supervised, Systemd, unit_path
from .place import MODES, Place

_WORDS_CHARS = 500


def keeper_in_place(place: Place, node: str) -> tuple[str, Keeper]:
    """Give what keeps the agent running now: the unit if there is one, else the supervisor, alive or not."""
    unit = unit_path(node)
    if unit.exists():
        return SYSTEMD, Systemd(unit, read_text(unit))
    return SUPERVISOR, Supervised(place)


def change(place: Place, order: Mapping[str, Any], program: bytes) -> None:
    """Stop, change, start, and look.

    Args:
        place: Where the agent lies.
        order: ``Order`` as JSON.
        program: This program, for the supervisor.

    Raises:
        RefusedError: The agent did not answer; what ran before runs again, or nothing where nothing did.

    """
    before = _Before.take(place, order["node"])
    write_whole(place.pending, b"", 0o600)
    before.keeper.stop()
    if order["kept_by"] != before.kept_by:
        before.keeper.forget()
    write_keys(place, order["keys"])
    write_whole(place.program, program, 0o600)
    write_whole(place.config, order["config"].encode(), 0o600)
    switch_link(place.current, f"releases/{order['release']}")
    systemd = order["kept_by"] == SYSTEMD
    keeper: Keeper = Systemd(unit_path(order["node"]), order["unit"]) if systemd else Supervised(place)
    keeper.start()
    if not health.becomes_healthy(keeper, health.address_of(place), order["health_seconds"]):
        words = " ".join(keeper.last_words().split())[-_WORDS_CHARS:]
        keeper.stop()
        if order["kept_by"] != before.kept_by:
            keeper.forget()
        raise RefusedError(f"{before.bring_back(place, order)}. Its last words: {words or 'none'}")
    place.pending.unlink()


def write_keys(place: Place, keys: Mapping[str, str]) -> None:
    """Write the files of ``keys/`` that are brought."""
    for name, text in keys.items():
        write_whole(place.keys / name, text.encode(), MODES[name])


@dataclass(frozen=True, slots=True)
class _Before:
    """What was there before a change.

    Args:
        files: Content and mode of the files that a change replaces.
        current: The release that ran; None when none did.
        kept_by: What kept the agent running.
        keeper: The same, to start it again.

    """

    files: Mapping[Path, tuple[bytes, int]]
    current: str | None
    kept_by: str
    keeper: Keeper

    @classmethod
    def take(cls, place: Place, node: str) -> _Before:
        """Remember what is there."""
        paths = [place.config, place.program, *(place.keys / name for name in MODES)]
        files = {path: (path.read_bytes(), path.stat().st_mode & 0o777) for path in paths if path.exists()}
        return cls(files, place.running_release(), *keeper_in_place(place, node))

    def bring_back(self, place: Place, order: Mapping[str, Any]) -> str:
        """Go back to it; say what now is true."""
        seconds, new = order["health_seconds"], order["release"]
        what = f"{new} was started and did not answer (waited {seconds:.0f} s at most)"
        for path, (data, mode) in self.files.items():
            write_whole(path, data, mode)
        if self.current is None or place.config not in self.files:
            self.keeper.forget()
            place.current.unlink(missing_ok=True)
            place.config.unlink(missing_ok=True)
            return f"{what}; it was stopped, and nothing runs"
        switch_link(place.current, f"releases/{self.current}")
        if new != self.current:
            shutil.rmtree(place.releases / new, ignore_errors=True)
        self.keeper.start()
        if not health.becomes_healthy(self.keeper, health.address_of(place), seconds):
            return f"{what}; {self.current} was put back as it was and does not answer either"
        place.pending.unlink()
        return f"{what}; {self.current} runs again as before"
