"""Packs that agents hold of other nodes: asked for after a loss, and let go once the owner holds them itself.

A node whose owner is not in reach brings its packs to other agents. Each lies there under its origin's name, with a
receipt; it may be all that is left of a node that died. Only agents can hold, so only agents are asked.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

from ringrift_sync_dagster.core.bandwidth import TransferPriority
from ringrift_sync_dagster.core.escalation import Rung
from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.errors import ArtifactGoneError, RungUnusableError, SyncError, TransferUnderWayError
from ringrift_sync_dagster.intake.sweep import sweep
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.state.admission import TransferRequest
from ringrift_sync_dagster.state.held_places import HeldPlace, place_of, set_place
from ringrift_sync_dagster.state.nodes import DOWN, UP, node_rows
from ringrift_sync_dagster.storage.files import make_dirs
from ringrift_sync_dagster.sync.report import Note
from ringrift_sync_dagster.sync.runtime import Runtime
from ringrift_sync_dagster.transports.held import Held
from ringrift_sync_dagster.transports.p2p_http import P2PHttpTransport

ASK_SECONDS: Final = 30.0
FETCH_SECONDS: Final = 1800.0
AGAIN_SECONDS: Final = 30.0
HELD: Final = "held"
_HOUR: Final = 3600.0
_PAGES: Final = 10_000
"""Pages of receipts of one node, at most: one that never ends stops there."""

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Brought:
    """What came of asking one node.

    Args:
        holder: The node.
        notes: What was brought, for people.
        error: What stopped it; None when everything that it holds is here.

    """

    holder: str
    notes: tuple[Note, ...]
    error: SyncError | None = None


def bring_held(runtime: Runtime, nodes: Sequence[Node], trigger: str) -> list[Brought]:
    """Fetch from each node what it holds of others and the owner does not have; take it in under its origin.

    Errors of one node are in what is given for it, and never stop the others. Idempotent.

    Raises:
        StateError: The state database cannot be used.

    """
    asked = [node for node in nodes if not node.is_coordinator]
    with ThreadPoolExecutor(runtime.settings.max_concurrent_syncs, thread_name_prefix="held") as pool:
        brought = list(pool.map(lambda node: _bring(runtime, node, trigger)[0], asked))
    if any(note.code == HELD for one in brought for note in one.notes):
        sweep(runtime.intake, runtime.rows, trigger)
    return brought


def bring_of_silent(runtime: Runtime, silent: Collection[str], trigger: str) -> list[Note]:
    """While nodes are silent, fetch what agents of nodes that stay hold of others and the owner does not have.

    Each of them is asked for what is new since the last time, at most every ``AGAIN_SECONDS``, whoever passes; the
    first time in each hour for everything, because a node may have lost its count. What fails is tried again.

    Raises:
        StateError: The state database cannot be used.

    """
    rows = node_rows(runtime.state)
    down = {row.name for row in rows if row.status == DOWN}
    has_agent = {row.name for row in rows if row.status == UP and row.transport == Rung.P2P}
    if down.isdisjoint(silent):
        return []
    now = clock.wall()
    holders = [
        place_of(runtime.state, node.name)
        for node in runtime.nodes()
        if not node.is_ephemeral and node.name in has_agent
    ]
    due = [place for place in holders if not 0 <= now - place.at < AGAIN_SECONDS]
    for place in due:  # first of all, so that no other process asks too
        set_place(runtime.state, replace(place, at=now))
    if not due:
        return []
    with ThreadPoolExecutor(runtime.settings.max_concurrent_syncs, thread_name_prefix="held") as pool:
        brought = list(pool.map(lambda place: _bring_newer(runtime, place, now, trigger), due))
    notes = [note for one in brought for note in one.notes if note.code == HELD]
    if notes:
        sweep(runtime.intake, runtime.rows, trigger)
    return notes


def _bring_newer(runtime: Runtime, place: HeldPlace, now: float, trigger: str) -> Brought:
    after = place.receipt_id if now // _HOUR == place.at // _HOUR else 0
    brought, last = _bring(runtime, runtime.inventory.nodes[place.holder], trigger, after)
    if brought.error is None:
        set_place(runtime.state, HeldPlace(place.holder, last, now))
    else:
        _LOG.warning("holder=%s error=%s", place.holder, brought.error)
    return brought


def _bring(runtime: Runtime, node: Node, trigger: str, after: int = 0) -> tuple[Brought, int]:
    """Fetch what one node holds into ``incoming/<origin>/``; give the id of its last receipt too."""
    last = after
    notes: list[Note] = []
    error: SyncError | None = None
    try:
        with contextlib.closing(runtime.ladder.agent_of(node)) as agent:
            for page in _pages(agent, after):
                here = runtime.intake.holding.held([held.sha256 for held in page])
                for held in page:
                    if held.origin != runtime.intake.owner and held.sha256 not in here:
                        notes += _fetched(runtime, agent, node, held, trigger)
                    last = max(last, held.id)
    except RungUnusableError as raised:
        notes.append(Note(node.name, "incoming", "no_agent", f"what it holds of others is not known: {raised}"))
    except SyncError as raised:
        error = raised
    return Brought(node.name, tuple(notes), error), last


def _fetched(runtime: Runtime, agent: P2PHttpTransport, node: Node, held: Held, trigger: str) -> list[Note]:
    try:
        _fetch(runtime, agent, node, held, trigger)
    except (ArtifactGoneError, TransferUnderWayError):
        return []  # it was merged there, or somebody brings it now
    words = f"a pack of {held.origin} that {node.name} held was brought"
    return [Note(node.name, f"incoming/{held.origin}/{held.sha256}", HELD, words)]


def _fetch(runtime: Runtime, agent: P2PHttpTransport, node: Node, held: Held, trigger: str) -> None:
    path = runtime.layout.incoming_artifact(held.origin, held.sha256)
    make_dirs(path.parent)
    artifact = Artifact(held.sha256, held.size_bytes, "games")
    wanted = TransferRequest(
        held.sha256, node.name, "fetch", held.size_bytes, TransferPriority.HIGH, trigger=trigger,
        reserved_bytes=held.size_bytes, disk=runtime.intake.owner, transport=agent.name,
    )  # fmt: skip
    with runtime.bandwidth.transfer(wanted, disk=path.parent, rescue=True) as transfer:
        moved = agent.fetch(
            artifact, path, deadline=clock.Deadline.after(FETCH_SECONDS), progress=transfer.progress,
            cancel=transfer.cancel, pacer=transfer.pacer,
        )  # fmt: skip
        transfer.done(moved)


def held_by(agent: P2PHttpTransport, after: int = 0) -> Iterator[Held]:
    """Give everything that an agent has a receipt for, page by page; only those with a larger id than ``after``.

    Raises:
        SyncError: The agent could not be asked.

    """
    for page in _pages(agent, after):
        yield from page


def _pages(agent: P2PHttpTransport, after: int) -> Iterator[Sequence[Held]]:
    for _ in range(_PAGES):
        page = agent.held(after, deadline=clock.Deadline.after(ASK_SECONDS))
        yield page
        if not page or max(one.id for one in page) <= after:
            return
        after = max(one.id for one in page)
