"""Retention: look at everything of ours that may go some day, plan by the table of rules, and delete what is due.

Whatever is deleted is looked at once more right before, under the lease of whoever could be using it; what is used is
left for the next time. Each step can be repeated, and a process that is killed leaves whole files only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from ringrift_sync_dagster.core.events import DataEventType
from ringrift_sync_dagster.core.model import Partition
from ringrift_sync_dagster.core.retention import NODE_PACKS, Deletion, Item, Kind, Plan, plan
from ringrift_sync_dagster.errors import LeaseHeldError, RungUnusableError, SyncError
from ringrift_sync_dagster.intake.files import restoring
from ringrift_sync_dagster.intake.games import collecting
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.state.events import publish
from ringrift_sync_dagster.state.leases import hold
from ringrift_sync_dagster.state.pruning import prune
from ringrift_sync_dagster.state.receipts import get_artifact, receipts_at
from ringrift_sync_dagster.sync.held import held_by
from ringrift_sync_dagster.sync.keeping import Found, Look, moving
from ringrift_sync_dagster.sync.runtime import Runtime
from ringrift_sync_dagster.transports.held import Held

LEASE: Final = "retention"
ASK_SECONDS: Final = 15.0
_BYTES_PER_GB: Final = 1e9


@dataclass(frozen=True, slots=True)
class Kept:
    """What retention did, or would do.

    Args:
        plan: What goes, and which class stays above its quota.
        skipped: What was to go and stayed, and why: somebody uses it now.
        rows: Rows of the state database that went, by table.
        notes: What could not be looked at, such as a node that did not answer.
        dry_run: True: nothing was deleted.

    """

    plan: Plan
    skipped: tuple[tuple[str, str], ...]
    rows: Mapping[str, int]
    notes: tuple[str, ...]
    dry_run: bool

    @property
    def deleted(self) -> tuple[Deletion, ...]:
        """What went, or would go."""
        left = {name for name, _ in self.skipped}
        return tuple(one for one in self.plan.deletions if one.item.name not in left)

    @property
    def freed_bytes(self) -> int:
        """How much that was."""
        return sum(one.item.size_bytes for one in self.deleted)


def keep(runtime: Runtime, *, dry_run: bool = False, nodes: Sequence[Node] | None = None) -> Kept:
    """Delete what the rules let go, here and of what agents hold for us, or only say what would go.

    Args:
        runtime: What to work with.
        dry_run: Delete nothing.
        nodes: Whose agents are asked; None: every active node.

    Raises:
        LeaseHeldError: Another process does this now.
        StateError: The state database cannot be used.

    """
    with contextlib.ExitStack() as stack:
        if not dry_run:
            stack.enter_context(hold(runtime.state, LEASE))
            runtime.intake.quarantine.finish_removals()
        return _keep(runtime, runtime.nodes() if nodes is None else nodes, dry_run=dry_run)


def _keep(runtime: Runtime, nodes: Sequence[Node], *, dry_run: bool) -> Kept:
    now = clock.wall()
    found = Look(runtime, now).all()
    held, notes = _node_packs(runtime, nodes, now)
    quotas = {Kind(name): int(gb * _BYTES_PER_GB) for name, gb in runtime.settings.quota_gb.items()}
    by_item = {one.item.name: one for one in (*found, *held)}
    planned = plan([one.item for one in by_item.values()], quotas)
    skipped: list[tuple[str, str]] = []
    if not dry_run:
        for deletion in planned.deletions:
            why = _delete(runtime, by_item[deletion.item.name])
            if why:
                skipped.append((deletion.item.name, why))
        for short in planned.shortages:
            told = {"kind": short.kind.value, "quota_bytes": short.quota_bytes, "used_bytes": short.left_bytes}
            payload = {"node": runtime.intake.owner, "details": {**told, "reason": str(short)}}
            publish(runtime.state, DataEventType.DISK_SPACE_LOW.value, payload)
    return Kept(planned, tuple(skipped), prune(runtime.state, now, dry_run=dry_run), tuple(notes), dry_run)


def _delete(runtime: Runtime, found: Found) -> str:
    """Delete one thing; give why it stays, in an empty sentence where it went."""
    try:
        with contextlib.ExitStack() as stack:
            for lease in _leases(runtime, found):
                stack.enter_context(hold(runtime.state, lease))
            if found.sha256 in moving(runtime.state):
                return "it is being transferred"
            return found.delete()
    except LeaseHeldError as error:
        return str(error)
    except SyncError as error:
        return f"it could not be deleted: {error}"


def _leases(runtime: Runtime, found: Found) -> list[str]:
    """The leases of whoever may be about to take in, or fetch, what lies in ``incoming/``."""
    if found.item.kind is not Kind.INCOMING:
        return []
    names = [restoring(found.sha256)]
    row = get_artifact(runtime.state, found.sha256)
    if row is not None and row.config:
        partition = Partition(row.config, found.node)
        games = row.kind in {"games", "aside"}
        names.append(collecting(partition) if games else f"collect:{row.kind}:{partition.key}")
    return names


def _node_packs(runtime: Runtime, nodes: Sequence[Node], now: float) -> tuple[list[Found], list[str]]:
    """Ask agents what they hold of other nodes than their owner."""
    with ThreadPoolExecutor(runtime.settings.max_concurrent_syncs, thread_name_prefix="held") as pool:
        answers = list(pool.map(lambda node: _ask(runtime, node), [one for one in nodes if not one.is_coordinator]))
    found: list[Found] = []
    notes: list[str] = []
    for node, told, note in answers:
        notes += [note] if note else []
        # What is of the owner was brought by us, and is taken in there by whoever installs it.
        packs = [pack for pack in told if pack.origin != runtime.intake.owner]
        shas = [pack.sha256 for pack in packs]
        ours = runtime.intake.holding.held(shas)
        since = {one.sha256: one.verified_at for one in receipts_at(runtime.state, runtime.intake.owner, shas)}
        for pack in packs:
            at = since.get(pack.sha256, now) if pack.sha256 in ours else now
            why = "so long after our own receipt" if now - at > NODE_PACKS.number else ""
            stays = "our receipt is younger than a day" if pack.sha256 in ours else "we do not have it"
            name = f"{node.name}:incoming/{pack.origin}/{pack.sha256}"
            item = Item(Kind.NODE_PACKS, name, pack.size_bytes, at, why, held="" if why else stays)
            found.append(Found(item, _letting_go(runtime, node, pack), pack.sha256, node.name))
    return found, notes


def _ask(runtime: Runtime, node: Node) -> tuple[Node, list[Held], str]:
    try:
        with contextlib.closing(runtime.ladder.agent_of(node)) as agent:
            return node, list(held_by(agent)), ""
    except RungUnusableError:
        return node, [], f"{node.name}: no agent answers; what it holds for others stays"
    except SyncError as error:
        return node, [], f"{node.name}: {error}"


def _letting_go(runtime: Runtime, node: Node, pack: Held) -> Callable[[], str]:
    def let_go() -> str:
        if not runtime.intake.holding.held([pack.sha256]):
            return "we do not have it any more"
        with contextlib.closing(runtime.ladder.agent_of(node)) as agent:
            agent.let_go(pack, deadline=clock.Deadline.after(ASK_SECONDS))
        return ""

    return let_go
