"""Doing what the schedule says, and keeping book of what is broken when, by the harness's own looks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

from ringrift_sync_dagster.demo.cluster import agent_name
from ringrift_sync_dagster.demo.dev import DAGSTER, dagster
from ringrift_sync_dagster.settings import clock
from tests.ledger.cluster import OWNER, PEERS, TURNCOAT, LedgerCluster
from tests.ledger.schedule import COORDINATOR, OF_DISKS, Fault, Kind
from tests.living import kill_with_children, slowness

_LONGEST_GAP = 0.5
"""Two looks at which something is bad, with no more than so many seconds between them, are one time."""


@dataclass
class Times:
    """When something was bad: times without gaps, in seconds since 1970."""

    found: list[tuple[float, float]] = field(default_factory=list)

    def look(self, now: float, *, bad: bool, since: float) -> None:
        """Take note of one look."""
        if not bad:
            return
        if self.found and since - self.found[-1][1] <= _LONGEST_GAP:
            self.found[-1] = self.found[-1][0], now
        else:
            self.found.append((since, now))

    def start_of_window(self, end: float, seconds: float) -> float:
        """Give the moment so many good seconds before ``end``: what was bad does not count as time that passed."""
        start = end - seconds
        for began, ended in reversed(self.found):
            if ended < start:
                break
            if began < end:
                start = min(start, began - seconds)
        return start


@dataclass(frozen=True)
class Note:
    """Something that happened: when, to which nodes (``*``: to all), and what."""

    at: float
    nodes: frozenset[str]
    text: str


@dataclass
class Death:
    """One node that was lost: its name, when, and how loaded the machine was then (see ``tests.living.slowness``)."""

    node: str
    at: float
    slowness: float


class Breaker:
    """Breaks and mends; used by the one thread of the harness.

    Args:
        cluster: The cluster, which runs.
        port: Dagster's; 0: there is none.
        stack: Ends what is started here.
        say: Tells a person.

    """

    def __init__(
        self, cluster: LedgerCluster, port: int, stack: contextlib.ExitStack, say: Callable[[str], None]
    ) -> None:
        self._cluster, self._port, self._stack, self._say = cluster, port, stack, say
        self._starting: set[str] = set()
        self._down: dict[str, str] = {}
        self._full: set[str] = set()
        self._victims: dict[Fault, str] = {}
        self._looked_at = clock.wall()
        self.unsafe: dict[str, Times] = {}
        """By node: when its agent was down, or its disk full, or nobody who stays could be reached."""
        self.disturbed: dict[str, Times] = {}
        """By node: when anything was bad that could slow it down."""
        self.unheard: dict[str, Times] = {}
        """By node: when its heartbeats cannot have reached the coordinator."""
        self.notes: list[Note] = []
        self.deaths: list[Death] = []

    def begin(self, fault: Fault) -> None:
        """Break something."""
        cluster, kind = self._cluster, fault.kind
        victim = self._victims[fault] = self._victim(fault.target)
        self._note(victim, f"{kind} ({victim})")
        if kind in (Kind.KILL_AGENT, Kind.KILL_PEER, Kind.KILL_COORDINATOR):
            cluster.kill_agent(victim)
            self._down[victim] = "killed"
            self._starting.discard(victim)
        elif kind in (Kind.STOP_AGENT, Kind.STOP_PEER, Kind.STOP_COORDINATOR):
            cluster.suspend(agent_name(victim))
            self._down[victim] = "stopped"
        elif kind is Kind.KILL_DAGSTER:
            kill_with_children(cluster.processes.pid(DAGSTER))
            cluster.processes.kill(DAGSTER)
        elif kind is Kind.STOP_DAGSTER:
            cluster.suspend(DAGSTER)
        elif kind in (Kind.CUT_FROM_COORDINATOR, Kind.CUT_FROM_ALL):
            for name in self._receivers(kind):
                cluster.relays[name].cut(victim)
        elif kind in OF_DISKS:
            cluster.fill(victim)
            self._full.add(victim)
        else:
            self._lose(fault.target)

    def mend(self, fault: Fault) -> None:
        """Mend it; what went with a lost node needs none."""
        cluster, kind, victim = self._cluster, fault.kind, self._victims.pop(fault)
        if kind is Kind.LOSE_NODE:
            node = cluster.replace(fault.target)
            self._starting.add(node)
            self._note(node, f"{node} is new, in the place of {victim}")
            return
        if victim in cluster.lost:
            return
        self._note(victim, f"mended: {kind} ({victim})")
        if kind in (Kind.KILL_AGENT, Kind.KILL_PEER, Kind.KILL_COORDINATOR):
            cluster.launch(victim)
            del self._down[victim]
            self._starting.add(victim)
        elif kind in (Kind.STOP_AGENT, Kind.STOP_PEER, Kind.STOP_COORDINATOR):
            cluster.resume(agent_name(victim))
            del self._down[victim]
        elif kind is Kind.KILL_DAGSTER:
            self.start_dagster()
        elif kind is Kind.STOP_DAGSTER:
            cluster.resume(DAGSTER)
        elif kind in (Kind.CUT_FROM_COORDINATOR, Kind.CUT_FROM_ALL):
            for name in self._receivers(kind):
                cluster.relays[name].mend(victim)
        else:
            cluster.empty(victim)
            self._full.discard(victim)

    def start_dagster(self) -> None:
        """Start Dagster, if there is one here."""
        if self._port:
            self._stack.enter_context(dagster(self._cluster, self._port))

    def look(self) -> None:
        """Take note of what is bad now, and of who has come back.

        Raises:
            AssertionError: An agent ended by itself.

        """
        now, since = clock.wall(), self._looked_at
        self._starting = {node for node in self._starting if not self._cluster.answers(node)}
        for node in (OWNER, TURNCOAT, *PEERS, *self._cluster.slots.values()):
            gone = node in self._cluster.lost or self._down.get(node) == "killed"
            running = self._cluster.processes.is_running(agent_name(node))
            if not (gone or running) and node in self._full:
                # The first start of an agent needs room; a supervisor starts it again until there is some.
                self._cluster.launch(node)
                self._starting.add(node)
                self._note(node, f"{node} could not start on a full disk, and is started again")
                continue
            assert gone or running, f"the agent of {node} ended:\n{self._cluster.processes.tail(agent_name(node), 40)}"
        for node in self._cluster.slots.values():
            if node not in self._cluster.lost:
                safe = [self._takes(node, receiver) for receiver in (OWNER, *PEERS)]
                own = self._runs(node) and node not in self._full
                self._times(self.unsafe, node).look(now, bad=not (own and any(safe)), since=since)
                self._times(self.disturbed, node).look(now, bad=not (own and all(safe)), since=since)
                heard = own and self._runs(OWNER) and not self._cluster.relays[OWNER].is_cut(node)
                self._times(self.unheard, node).look(now, bad=not heard, since=since)
        self._looked_at = now

    @property
    def is_whole(self) -> bool:
        """Whether everybody runs, as far as was seen at the last look."""
        return not (self._starting or self._down or self._full)

    def near(self, node: str, at: float, seconds: float = 20.0) -> list[str]:
        """Tell what happened to a node around a moment, as seconds before and after it."""
        return [
            f"{note.at - at:+.1f} s {note.text}"
            for note in self.notes
            if abs(note.at - at) <= seconds and not note.nodes.isdisjoint({node, "*"})
        ]

    def _lose(self, slot: str) -> None:
        at = clock.wall()
        self.look()
        node = self._cluster.lose(slot)
        self.deaths.append(Death(node, at, slowness()))
        self._down.pop(node, None)
        self._full.discard(node)
        self._starting.discard(node)
        self._cluster.wipe_turncoat()
        self._starting.add(TURNCOAT)
        self._note("*", f"{TURNCOAT} vanished with {node}, and is there again, empty")

    def _runs(self, node: str) -> bool:
        return node not in self._down and node not in self._starting

    def _takes(self, node: str, receiver: str) -> bool:
        return self._runs(receiver) and receiver not in self._full and not self._cluster.relays[receiver].is_cut(node)

    @staticmethod
    def _receivers(kind: Kind) -> tuple[str, ...]:
        return (OWNER,) if kind is Kind.CUT_FROM_COORDINATOR else (OWNER, *PEERS)

    @staticmethod
    def _times(book: dict[str, Times], node: str) -> Times:
        return book.setdefault(node, Times())

    def _victim(self, target: str) -> str:
        known = {COORDINATOR: OWNER, **self._cluster.slots}
        return known.get(target, target)

    def _note(self, node: str, text: str) -> None:
        nodes = frozenset({node} if node in self._cluster.slots.values() else {node, "*"})
        self.notes.append(Note(clock.wall(), nodes, text))
        self._say(text)
