"""The long-running parts of the system, by the guide's word ``DaemonType``, and how each may stand.

Source: sync guide, "Sync Not Starting" (``launch_daemons.py --status``).
"""

from __future__ import annotations

from enum import StrEnum


class DaemonType(StrEnum):
    """What must run, and what it is here."""

    AUTO_SYNC = "AUTO_SYNC"
    """The hybrid pass: Dagster's ``hybrid_schedule``, or an ``AutoSyncDaemon``."""
    EPHEMERAL_SYNC = "EPHEMERAL_SYNC"
    """The 5 s loop for nodes that may vanish."""
    EVENT_ROUTER = "EVENT_ROUTER"
    """The bus: the table of events in the state database, which no process need serve."""
    AGENT = "AGENT"
    """The coordinator's own agent, which takes what nodes push."""
    DAGSTER_DAEMON = "DAGSTER_DAEMON"
    """What evaluates schedules and sensors, and starts runs."""
    DAGSTER_WEBSERVER = "DAGSTER_WEBSERVER"
    """The UI."""


class DaemonState(StrEnum):
    """How a part stands."""

    ACTIVE = "active"
    STOPPED = "not running"
    UNKNOWN = "unknown"
