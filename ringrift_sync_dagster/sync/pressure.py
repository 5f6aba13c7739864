"""Measuring the coordinator's load, and telling a pass and the bandwidth what is held because of it.

A process looks at most every 10 s, before and while it works; between two looks it asks the state database at most once
a second, so that a release by anybody is known at once. Which transfers are held is ``core.pressure``'s table.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ringrift_sync_dagster.core.model import SHA256
from ringrift_sync_dagster.errors import LocalDiskError, StateError
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state import backpressure
from ringrift_sync_dagster.state.backpressure import Backpressure
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.transfers import TransferState, transfer_rows
from ringrift_sync_dagster.storage import room
from ringrift_sync_dagster.storage.layout import Layout

LOOK_SECONDS: Final = 10.0
"""How often a process looks."""
ASK_SECONDS: Final = 1.0
"""How often it asks what others found."""
_LIVE: Final = (TransferState.RUNNING, TransferState.WAITING)

_LOG: Final = logging.getLogger(__name__)


def measure(store: StateStore, layout: Layout) -> dict[str, float]:
    """Measure every signal of ``core.pressure`` now.

    Args:
        store: The shared database.
        layout: The owner's disk.

    Raises:
        StateError: The database cannot be read.
        LocalDiskError: The root is not there.

    """
    total, available = room.memory()
    disk = room.disk_of(layout.root)
    return {
        "queue": float(unmerged(layout.root / "data" / "incoming")),
        "memory": 100.0 * (total - available) / total if total else 0.0,
        "disk": 100.0 * disk.used_bytes / max(1, disk.used_bytes + disk.free_bytes),
        "transfers": float(sum(row.state in _LIVE for row in transfer_rows(store, running=True))),
    }


def unmerged(incoming: Path) -> int:
    """Count the artifacts that have arrived whole and are not merged or installed yet."""
    count = 0
    for folder in _names(incoming):
        count += sum(SHA256.fullmatch(name) is not None for name in _names(incoming / folder))
    return count


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:  # nothing has come yet, or it is a file
        return []


def look_now(store: StateStore, owner: str, layout: Layout) -> Backpressure:
    """Measure and look once, for who does so at intervals of its own.

    Raises:
        StateError: The database cannot be used.
        LocalDiskError: The root is not there.

    """
    return backpressure.look(store, owner, measure(store, layout))


class PressureGauge:
    """The backpressure of one owner, as one process sees it; safe in several threads.

    Args:
        store: The shared database.
        owner: Whose transfers.
        layout: The owner's disk.

    """

    def __init__(self, store: StateStore, owner: str, layout: Layout) -> None:
        self._store, self._owner, self._layout = store, owner, layout
        self._lock = threading.Lock()
        self._found = Backpressure(owner)
        self._looked = self._asked = float("-inf")

    def current(self) -> Backpressure:
        """Give how the owner stands; look first when the last look is 10 s old.

        It raises nothing: what cannot be measured holds nothing back.
        """
        with self._lock:
            now = clock.monotonic()
            try:
                if now - self._looked >= LOOK_SECONDS:
                    self._looked = self._asked = now
                    self._say(backpressure.look(self._store, self._owner, self._measured()))
                elif now - self._asked >= ASK_SECONDS:
                    self._asked = now
                    self._say(backpressure.current(self._store, self._owner))
            except StateError as error:
                _LOG.warning("backpressure=unknown holds=nothing cause=%s", error)
                self._found = Backpressure(self._owner)
            return self._found

    def is_active(self) -> bool:
        """Say whether transfers are held now."""
        return self.current().active

    def _measured(self) -> Mapping[str, float]:
        try:
            return measure(self._store, self._layout)
        except LocalDiskError as error:
            _LOG.warning("backpressure=unmeasured cause=%s", error)
            return {}

    def _say(self, found: Backpressure) -> None:
        if found.active != self._found.active:
            _LOG.info(
                "backpressure=%s pressure=%.2f signals=%s source=%s",
                "activated" if found.active else "released", found.pressure, dict(found.signals), found.source,
            )  # fmt: skip
        self._found = found


def shown(found: Backpressure) -> str:
    """Say in a sentence how an owner stands, for a person."""
    parts = ", ".join(f"{name} {value:.0f}" for name, value in found.signals.items()) or "not measured yet"
    level = f"pressure {found.pressure:.2f} ({parts})"
    if found.active:
        return f"active by {found.source}, at most {found.left_seconds:.0f} s more: {level}"
    rest = f"; it may not begin for {found.left_seconds:.0f} s" if found.left_seconds > 0 else ""
    return f"not active: {level}{rest}"
