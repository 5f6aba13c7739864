"""Which unfinished transfers are alive: those whose process lives and renewed its word within the last 5 seconds.

A transfer whose word ran out counts for nothing: its slot and its share belong to the others. Its process may only have
been slow (a disk that syncs for seconds), so a later word revives it; only after a minute, or when the process has
certainly ended, is it abandoned. Source: architecture.md, 7 (bandwidth: "a dead process's lease lapses").
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

from ringrift_sync_dagster.state.holder import Process, has_ended, process_of
from ringrift_sync_dagster.state.ticks import Moment

TTL_SECONDS: Final = 5.0
"""How long a word lasts."""
HEARTBEAT_SECONDS: Final = 1.0
"""How often it is renewed."""
FORGOTTEN_SECONDS: Final = 60.0
"""After so much silence nobody waits for a word any more."""


class Liveness:
    """Judges rows of ``transfers`` at one moment; asks the system about each process once.

    Args:
        moment: Now, by the database's clock.
        local: True when all processes run on this machine.

    """

    def __init__(self, moment: Moment, *, local: bool) -> None:
        self.moment = moment
        self._local = local
        self._ended: dict[Process, bool] = {}

    def is_live(self, row: sa.Row[Any]) -> bool:
        """Say whether the transfer counts for admission, bandwidth and reserved space."""
        return self.word_left(row) > 0 and not self._has_ended(row)

    def is_gone(self, row: sa.Row[Any]) -> bool:
        """Say whether nobody will go on with it, so that it can be recorded as abandoned."""
        return self._has_ended(row) or self._is_forgotten(row)

    def word_left(self, row: sa.Row[Any]) -> float:
        """Give the seconds until the process must have renewed its word; 0 when it gave none or it ran out."""
        return self.moment.left(row.expires, row.epoch)

    def _is_forgotten(self, row: sa.Row[Any]) -> bool:
        # Without an expiry it takes no part in the limits, and only the end of its process ends it.
        return row.expires is not None and self.moment.left(row.expires + FORGOTTEN_SECONDS, row.epoch) <= 0

    def _has_ended(self, row: sa.Row[Any]) -> bool:
        process = process_of(row)
        if process not in self._ended:
            self._ended[process] = has_ended(process, local=self._local)
        return self._ended[process]
