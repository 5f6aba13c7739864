"""Which long-running parts are active, and how that is known: leases, marks, the agent's own word, and processes.

Nothing is started or told. What may run on another machine and leaves no trace in the state database is ``unknown``
where this machine does not run it. Source: sync guide, "Sync Not Starting".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import requests
import sqlalchemy as sa

from ringrift_sync_dagster.core.daemons import DaemonState, DaemonType
from ringrift_sync_dagster.errors import StateError
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.inventory import Inventory
from ringrift_sync_dagster.settings.settings import Settings
from ringrift_sync_dagster.state import marks
from ringrift_sync_dagster.state.schema import events
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.sync.loop import strategy_lease, who_acts
from ringrift_sync_dagster.sync.runtime import owner_of

ASK_SECONDS: Final = 1.0
"""How long the agent may take to say that it is up."""
_LATE_MARKS: Final = 3.0
"""So many intervals without a mark, and a loop is no longer called active."""
_LEAST_SECONDS: Final = 120.0
_PROC: Final = Path("/proc")
# What stands in the command line of a process of Dagster, however it was started.
_PROGRAMS: Final = {
    DaemonType.DAGSTER_DAEMON: ("dagster-daemon", "dagster._daemon"),
    DaemonType.DAGSTER_WEBSERVER: ("dagster-webserver", "dagster_webserver"),
}


@dataclass(frozen=True, slots=True)
class Daemon:
    """One part.

    Args:
        type: Which one.
        state: How it stands.
        since_at: Since when, in seconds since 1970; None where nobody can tell.
        evidence: How that is known, in a sentence.

    """

    type: DaemonType
    state: DaemonState
    since_at: float | None
    evidence: str


def daemons(settings: Settings, inventory: Inventory, store: StateStore) -> list[Daemon]:
    """Give all parts in the order of ``DaemonType``; within a few seconds.

    Args:
        settings: The settings in force.
        inventory: The nodes.
        store: The shared database.

    """
    owner = owner_of(settings, inventory)
    return [
        _loop(store, DaemonType.AUTO_SYNC, "hybrid", owner, settings.sync_interval),
        _loop(store, DaemonType.EPHEMERAL_SYNC, "ephemeral", owner, settings.ephemeral_sync_interval),
        event_router(store),
        _agent(settings, inventory, owner),
        _process(DaemonType.DAGSTER_DAEMON),
        _process(DaemonType.DAGSTER_WEBSERVER),
    ]


def event_router(store: StateStore) -> Daemon:
    """Say whether events can be read and written; that is all that the bus needs."""
    try:
        with store.begin() as connection:  # taking the write lock and touching no row proves that it can be written
            connection.execute(sa.update(events).where(events.c.id < 0).values(type=""))
            last = connection.execute(sa.select(events).order_by(events.c.id.desc()).limit(1)).one_or_none()
            first_at = connection.execute(sa.select(sa.func.min(events.c.at))).scalar_one()
    except StateError as error:
        return Daemon(DaemonType.EVENT_ROUTER, DaemonState.STOPPED, None, str(error))
    words = "no event yet" if last is None else f"the last event is {last.id}, {last.type}"
    evidence = f"events can be read and written in {store.name}; {words}"
    return Daemon(DaemonType.EVENT_ROUTER, DaemonState.ACTIVE, first_at, evidence)


def _loop(store: StateStore, kind: DaemonType, strategy: str, owner: str, interval: float) -> Daemon:
    """Judge a strategy by who acts for it, or by the last time that it began."""
    name = strategy_lease(strategy, owner)
    try:
        holder, mark = who_acts(store, strategy, owner), marks.last(store, strategy, owner)
    except StateError as error:
        return Daemon(kind, DaemonState.UNKNOWN, None, str(error))
    began_at = None if mark is None else mark.began_at
    if holder:
        return Daemon(kind, DaemonState.ACTIVE, began_at, f"{holder} holds {name}")
    if mark is None:
        return Daemon(kind, DaemonState.STOPPED, None, f"nobody holds {name}, and it never began")
    late = clock.wall() - mark.began_at
    state = DaemonState.ACTIVE if late <= max(_LEAST_SECONDS, _LATE_MARKS * interval) else DaemonState.STOPPED
    return Daemon(kind, state, began_at, f"nobody holds {name} now; {mark.holder} began last, {late:.0f} s ago")


def _agent(settings: Settings, inventory: Inventory, owner: str) -> Daemon:
    here = inventory.coordinator
    port = here.agent_port if here is not None else settings.agent_port
    addresses = dict.fromkeys(["127.0.0.1", *(here.own_addresses if here is not None else ())])
    for address in addresses:
        url = f"http://{address}:{port}/health"
        answer = _asked(url)
        if answer.get("node_id") == owner:
            return Daemon(DaemonType.AGENT, DaemonState.ACTIVE, None, f"{url} answers, version {answer.get('version')}")
    tried = ", ".join(addresses)
    evidence = f"no agent of {owner} answers at port {port} of {tried}"
    return Daemon(DaemonType.AGENT, DaemonState.STOPPED, None, evidence)


def _asked(url: str) -> dict[str, Any]:
    try:
        with requests.Session() as session:
            session.trust_env = False  # no proxy lies between us and this machine
            answer = session.get(url, timeout=ASK_SECONDS).json()
    except (requests.RequestException, ValueError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _process(kind: DaemonType) -> Daemon:
    """Look for a process of this machine; one on another machine leaves nothing here to see."""
    if not (_PROC / "self").exists():
        return Daemon(kind, DaemonState.UNKNOWN, None, "this system does not list its processes")
    for folder in sorted(_PROC.glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            words = (folder / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
            since_at = folder.stat().st_mtime
        except OSError:  # it ended meanwhile
            continue
        if any(Path(word).name in _PROGRAMS[kind] for word in words[:4]):
            return Daemon(kind, DaemonState.ACTIVE, since_at, f"process {folder.name} of this machine")
    return Daemon(kind, DaemonState.STOPPED, None, f"no {_PROGRAMS[kind][0]} runs on this machine")
