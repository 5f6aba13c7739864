"""The schedule of faults: what is broken when, and for how long. A pure function of the seed.

Kinds come as from a shuffled deck, so that none is rare; a kind whose targets are all broken already waits for its
turn. A target is broken in one way at a time in each respect (its process, its network, its disk), and in several
respects at once; a node that is lost was running, however cut off or full it was.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

COORDINATOR: Final = "coordinator"
DAGSTER: Final = "dagster"
EVERY_SECONDS: Final = 10.0
_SLOWEST_START: Final = 5.0
"""After a mend its target is left alone for so long: a process that is killed while it starts shows nothing."""


class Kind(StrEnum):
    """Ways to break something."""

    KILL_AGENT = "kill -9 of a node's agent"
    STOP_AGENT = "SIGSTOP of a node's agent"
    KILL_PEER = "kill -9 of a peer's agent"
    STOP_PEER = "SIGSTOP of a peer's agent"
    KILL_COORDINATOR = "kill -9 of the coordinator's agent"
    STOP_COORDINATOR = "SIGSTOP of the coordinator's agent"
    KILL_DAGSTER = "kill -9 of Dagster"
    STOP_DAGSTER = "SIGSTOP of Dagster"
    CUT_FROM_COORDINATOR = "a node cut off from the coordinator"
    CUT_FROM_ALL = "a node cut off from everybody who stays"
    FILL_NODE = "a full disk on a node"
    FILL_PEER = "a full disk on a peer"
    FILL_COORDINATOR = "a full disk on the coordinator"
    LOSE_NODE = "a node lost with its directory"


OF_DAGSTER: Final = frozenset({Kind.KILL_DAGSTER, Kind.STOP_DAGSTER})
OF_DISKS: Final = frozenset({Kind.FILL_NODE, Kind.FILL_PEER, Kind.FILL_COORDINATOR})


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Args:
        at: When it begins, in seconds.
        until: When it is mended: processes run again, a lost node has a successor.
        kind: What is done.
        target: To whom: a slot such as ``spot-0`` or ``peer-1``, ``coordinator`` or ``dagster``.

    """

    at: float
    until: float
    kind: Kind
    target: str

    def __str__(self) -> str:
        return f"{self.at:7.1f} s to {self.until:7.1f} s  {self.kind} ({self.target})"


@dataclass(frozen=True, slots=True)
class _Manner:
    """Whom a kind may hit, in which respect, and for how long at the usual pace."""

    targets: str
    respect: str
    least: float
    most: float


_MANNERS: Final = {
    Kind.KILL_AGENT: _Manner("spot", "process", 2, 15),
    Kind.STOP_AGENT: _Manner("spot", "process", 5, 30),
    Kind.KILL_PEER: _Manner("peer", "process", 5, 20),
    Kind.STOP_PEER: _Manner("peer", "process", 5, 30),
    Kind.KILL_COORDINATOR: _Manner(COORDINATOR, "process", 5, 25),
    Kind.STOP_COORDINATOR: _Manner(COORDINATOR, "process", 5, 25),
    Kind.KILL_DAGSTER: _Manner(DAGSTER, "process", 3, 15),
    Kind.STOP_DAGSTER: _Manner(DAGSTER, "process", 5, 30),
    Kind.CUT_FROM_COORDINATOR: _Manner("spot", "network", 5, 40),
    Kind.CUT_FROM_ALL: _Manner("spot", "network", 5, 40),
    Kind.FILL_NODE: _Manner("spot", "disk", 5, 30),
    Kind.FILL_PEER: _Manner("peer", "disk", 5, 30),
    Kind.FILL_COORDINATOR: _Manner(COORDINATOR, "disk", 5, 20),
    Kind.LOSE_NODE: _Manner("spot", "process", 5, 20),
}


def schedule(
    seed: int,
    seconds: float,
    spots: int,
    peers: int = 2,
    *,
    kinds: Sequence[Kind] = tuple(Kind),
    every: float = EVERY_SECONDS,
) -> tuple[Fault, ...]:
    """Give the faults of a run, in order; the same arguments give the same faults.

    Args:
        seed: Source of all chance.
        seconds: How long the run is; everything is mended by then.
        spots: How many ephemeral nodes there are at a time.
        peers: How many persistent ones, beside the coordinator.
        kinds: What may be done.
        every: Time between the beginnings of two faults; what they last shrinks and grows with it.

    """
    rng, found, waiting = random.Random(seed), list[Fault](), list[Kind]()
    busy, pace = dict[tuple[str, str], float](), every / EVERY_SECONDS
    slots = {"spot": [f"spot-{n}" for n in range(spots)], "peer": [f"peer-{n}" for n in range(peers)]}
    for number in range(1, int(seconds / every)):
        at = number * every
        while True:
            if not any(_free(kind, slots, busy, at) for kind in waiting):
                waiting += rng.sample(kinds, len(kinds))
            kind = next((one for one in waiting if _free(one, slots, busy, at)), None)
            if kind is not None or len(waiting) > 4 * len(kinds):
                break
        if kind is None:
            continue  # all that could be broken is broken
        waiting.remove(kind)
        manner, target = _MANNERS[kind], rng.choice(_free(kind, slots, busy, at))
        until = min(seconds, at + rng.uniform(manner.least, manner.most) * pace)
        # Where there is no node, nothing else can be broken until its successor is there.
        respects = {one.respect for one in _MANNERS.values()} if kind is Kind.LOSE_NODE else {manner.respect}
        for respect in respects:
            busy[target, respect] = max(busy.get((target, respect), 0.0), until + _SLOWEST_START * pace)
        found.append(Fault(at, until, kind, target))
    return tuple(found)


def shifted(faults: Sequence[Fault], seconds: float) -> tuple[Fault, ...]:
    """Give the same faults so much later."""
    return tuple(replace(one, at=one.at + seconds, until=one.until + seconds) for one in faults)


def _free(kind: Kind, slots: dict[str, list[str]], busy: dict[tuple[str, str], float], at: float) -> list[str]:
    manner = _MANNERS[kind]
    targets = slots.get(manner.targets, [manner.targets])
    return [target for target in targets if busy.get((target, manner.respect), 0.0) <= at]
