"""The clock in which leases, breakers and admissions expire, and the epoch that its numbers belong to.

SQLite: CLOCK_BOOTTIME of this machine, and the id of its boot as the epoch, because it starts anew with each boot.
PostgreSQL: the database's own clock, whose numbers belong to one epoch for ever. A number of another epoch has always
expired. No wall clock of any machine that uses the database counts. Source: architecture.md, 1 rules 6 and 10.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from ringrift_sync_dagster.settings import clock

DATABASE_EPOCH: Final = "database"
"""The one epoch of the database's own clock."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Now, as the database counts it.

    Args:
        seconds: The clock.
        epoch: What the number belongs to.

    """

    seconds: float
    epoch: str

    def left(self, until: float | None, epoch: str) -> float:
        """Give the seconds until a time of that epoch; 0 when it has passed, is of another epoch, or is None."""
        return 0.0 if until is None or epoch != self.epoch else max(0.0, until - self.seconds)


def moment(connection: sa.Connection) -> Moment:
    """Give the moment; on PostgreSQL one round trip."""
    return Moment(now(connection), epoch(connection))


def now(connection: sa.Connection) -> float:
    """Give the clock in seconds."""
    if connection.dialect.name == "sqlite":
        return clock.boottime()
    # Not now(): that is the start of the transaction, which may have waited for a lock since.
    return float(connection.execute(sa.select(sa.extract("epoch", sa.func.clock_timestamp()))).scalar_one())


def epoch(connection: sa.Connection) -> str:
    """Name what the numbers of the clock belong to: this boot of the machine, or the database."""
    return clock.boot_id() if connection.dialect.name == "sqlite" else DATABASE_EPOCH
