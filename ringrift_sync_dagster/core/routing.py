"""To whom data goes first, and from whom it comes: a score made of named parts, from what was measured of a node.

Rules say no, each with its reason and what would change it; a score only orders those that are left. What was never
measured has no part in a score, in neither direction. ``quality`` (0 to 1) is how well a node is connected: it ranks,
and may skip a node as a target, but a node with the only copy of something always stays a source.
Sources: domain.md, 6.5, 6.6 and 10 (13, 47, 55); sync guide, "priority" and "quality-based".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from ringrift_sync_dagster.core.breaker import CircuitState
from ringrift_sync_dagster.core.flow import is_brought
from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.core.room import Disk, DiskLimits, disk_refusal

STALE_SECONDS: Final = 3600.0
HALF_RATE: Final = 10e6
"""Bytes per second that get half of the points for throughput; the points never end, and grow ever slower."""
HALF_RTT_SECONDS: Final = 0.2
ROOMY: Final = 0.5
TIGHT: Final = 0.7


@dataclass(frozen=True, slots=True)
class Weight:
    """How many points a part brings at most (below 0: takes), and why it counts at all."""

    points: float
    why: str


TARGET_WEIGHTS: Final[Mapping[str, Weight]] = MappingProxyType(
    {
        "named_first": Weight(300, "whoever names hosts wants them before all others"),
        "base": Weight(50, "it may receive at all"),
        "training_active": Weight(50, "it trains now, and waits for data"),
        "training_node": Weight(30, "it trains, and games or npz are for that"),
        "priority_host": Weight(20, "sync_routing.priority_hosts of the inventory names it"),
        "staleness": Weight(30, "it was not brought this for so long; all points after an hour, or when it never was"),
        "throughput": Weight(20, "bytes reach it fast; half of the points at 10 MB/s"),
        "disk_roomy": Weight(10, "less than half of its disk is used"),
        "disk_tight": Weight(-20, "more than 70 % of its disk is used"),
        "ephemeral": Weight(-15, "it may vanish, and what it was brought with it"),
        "failures": Weight(-40, "transfers with it failed lately; all points when all did"),
        "round_trip": Weight(-10, "it is far away; half of the points at 0.2 s"),
        "down": Weight(-20, "it did not answer when it was asked last"),
        "half_open": Weight(-10, "its circuit breaker waits for a probe"),
    }
)
SOURCE_WEIGHTS: Final[Mapping[str, Weight]] = MappingProxyType(
    {
        "only_copy": Weight(400, "it holds what is nowhere else: no other source can stand in for it"),
        "owner": Weight(150, "it holds everything that was merged or published"),
        "makes_it": Weight(100, "such data is made there: games where games are played, npz and models by training"),
        "may_make_it": Weight(50, "a training node plays evaluation games"),
        "gpu": Weight(20, "it has a GPU, and so more of it"),
        "disk_filling": Weight(10, "more than half of its disk is used: what it holds must leave"),
        "at_risk": Weight(15, "it may vanish: what is collected from it cannot be collected later"),
        "ephemeral": Weight(-15, "it may vanish while it serves others"),
        "throughput": Weight(20, "bytes come from it fast; half of the points at 10 MB/s"),
        "failures": Weight(-40, "transfers with it failed lately; all points when all did"),
        "round_trip": Weight(-10, "it is far away; half of the points at 0.2 s"),
        "down": Weight(-20, "it did not answer when it was asked last"),
        "half_open": Weight(-10, "its circuit breaker waits for a probe"),
    }
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a node; None is what nobody measured.

    Args:
        node: Its name.
        status: What the inventory says, such as ``ready``.
        active: False when that status says that nothing is to be asked of it.
        is_owner: True: it owns the canonical store.
        is_coordinator: True: it is one, owner or not.
        skip_receive: True: the inventory wants nothing distributed to it.
        listed_out: The list of the inventory that excludes it, such as ``sync_routing.excluded_hosts``.
        ephemeral: True: it may vanish.
        trains: True: it trains, by role or flag.
        plays: True: it plays, by role or flag.
        has_gpu: True: the inventory tells of a GPU.
        trains_now: True: an event said that training began, and none that it ended.
        named_first: True: the caller named it as one of the first.
        is_priority: True: the inventory names it so.
        answered: Whether it answered when it was asked last.
        circuit: State of its circuit breakers, over all rungs.
        circuit_seconds: How long they stay open.
        excluded_seconds: How long failures still exclude it as a target.
        excluded_because: What failed.
        bytes_per_second: Moving average of what its transfers reached.
        success: Moving average of 1 (done) and 0 (failed).
        rtt_seconds: Moving average of the round trip.
        disk: Its disk when it was looked at last.
        brought_ago: Seconds since it was brought each data type last; one that is missing never was.
        shares_with: Nodes that read back what it wrote on its disk.

    """

    node: str
    status: str = "ready"
    active: bool = True
    is_owner: bool = False
    is_coordinator: bool = False
    skip_receive: bool = False
    listed_out: str = ""
    ephemeral: bool = False
    trains: bool = False
    plays: bool = False
    has_gpu: bool = False
    trains_now: bool = False
    named_first: bool = False
    is_priority: bool = False
    answered: bool | None = None
    circuit: CircuitState = CircuitState.CLOSED
    circuit_seconds: float = 0.0
    excluded_seconds: float = 0.0
    excluded_because: str = ""
    bytes_per_second: float | None = None
    success: float | None = None
    rtt_seconds: float | None = None
    disk: Disk | None = None
    brought_ago: Mapping[DataType, float] = field(default_factory=dict)
    shares_with: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Rules:
    """What a caller wants of targets; the names of the guide's ``AutoSyncConfig``.

    Args:
        source: The node from which data goes, most often the owner; empty when it does not matter.
        min_quality_score: Targets of a lower quality are skipped, 0 to 1.
        exclude_nfs_hosts: True: a target that shares its storage with the source is skipped.
        exclude_coordinators: True: coordinators are no targets.
        disk_limits: What the inventory allows on a disk.

    """

    source: str = ""
    min_quality_score: float = 0.0
    exclude_nfs_hosts: bool = True
    exclude_coordinators: bool = True
    disk_limits: DiskLimits = field(default_factory=DiskLimits)


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a score: its name, the points that it brings, and why."""

    name: str
    value: float
    why: str

    def __str__(self) -> str:
        return f"{self.name} {self.value:+.1f}"


@dataclass(frozen=True, slots=True)
class Score:
    """A score: the sum of its parts, most points first."""

    parts: tuple[Part, ...]

    @property
    def value(self) -> float:
        """The sum; compared with other nodes' only."""
        return sum(part.value for part in self.parts)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a node is left out, and the command or key that would change that."""

    rule: str
    why: str
    fix: str

    def __str__(self) -> str:
        return f"{self.why}; {self.fix}"


def target_score(facts: Facts, data_type: DataType) -> Score:
    """Give how soon the node should be brought this data, if it may be at all."""
    brought = facts.brought_ago.get(data_type)
    stale = 1.0 if brought is None else min(1.0, max(0.0, brought) / STALE_SECONDS)
    shares = {
        "named_first": facts.named_first,
        "base": True,
        "training_active": facts.trains_now,
        "training_node": facts.trains and data_type in {DataType.GAMES, DataType.NPZ},
        "priority_host": facts.is_priority,
        "staleness": stale,
        "disk_roomy": facts.disk is not None and used(facts.disk) < ROOMY,
        "disk_tight": facts.disk is not None and used(facts.disk) > TIGHT,
        "ephemeral": facts.ephemeral,
        **_reach(facts),
    }
    return _score(TARGET_WEIGHTS, shares)


def source_score(facts: Facts, data_type: DataType, *, collecting: bool, only_copy: bool = False) -> Score:
    """Give how soon data should be taken from the node.

    Args:
        facts: What is known of it.
        data_type: What is taken.
        collecting: True: for the owner, who wants what nodes made; False: for a node that any holder could serve.
        only_copy: True: it holds something of this type that is nowhere else.

    """
    makes_it = facts.plays if data_type is DataType.GAMES else facts.trains
    shares = {
        "only_copy": only_copy,
        "owner": facts.is_owner,
        "makes_it": makes_it,
        "may_make_it": data_type is DataType.GAMES and facts.trains and not makes_it,
        "gpu": facts.has_gpu,
        "disk_filling": collecting and facts.disk is not None and used(facts.disk) > ROOMY,
        "at_risk": collecting and facts.ephemeral,
        "ephemeral": not collecting and facts.ephemeral,
        **_reach(facts),
    }
    return _score(SOURCE_WEIGHTS, shares)


def quality(facts: Facts) -> float:
    """Give how well a node is connected, 0 to 1: a mean of what was measured, and 1 where nothing was.

    Success counts three times, throughput twice, the round trip once; a node that did not answer, or whose breaker
    waits for a probe, has half of that.
    """
    measured = [
        (weight, value)
        for weight, value in (
            (3, facts.success),
            (2, None if facts.bytes_per_second is None else _saturating(facts.bytes_per_second, HALF_RATE)),
            (1, None if facts.rtt_seconds is None else 1.0 - _saturating(facts.rtt_seconds, HALF_RTT_SECONDS)),
        )
        if value is not None
    ]
    total = sum(weight for weight, _ in measured)
    mean = sum(weight * value for weight, value in measured) / total if total else 1.0
    in_doubt = facts.answered is False or facts.circuit is not CircuitState.CLOSED
    return min(1.0, max(0.0, mean * (0.5 if in_doubt else 1.0)))


def target_refusals(facts: Facts, data_type: DataType, rules: Rules) -> tuple[Refusal, ...]:
    """Give every rule that keeps the node from being brought this data; empty when it may be."""
    return tuple(_target_refusals(facts, data_type, rules))


def source_refusals(facts: Facts, *, holds: bool = True) -> tuple[Refusal, ...]:
    """Give what keeps data from being taken from the node; one with the only copy is a source all the same.

    An exclusion by failures is not among them: it holds for targets.
    """
    found = [*_unasked(facts), *_open_circuit(facts)]
    if not holds:
        fix = f"`ringrift-sync sync --node {facts.node}` asks it what it has"
        found.append(Refusal("holds_nothing", "it told of no such data", fix))
    return tuple(found)


def used(disk: Disk) -> float:
    """Give which part of a disk is used, 0 to 1, as ``df`` tells it."""
    whole = disk.used_bytes + disk.free_bytes
    return disk.used_bytes / whole if whole > 0 else 0.0


def _target_refusals(facts: Facts, data_type: DataType, rules: Rules) -> Iterator[Refusal]:
    if facts.is_owner:
        yield Refusal("owner", "it owns this data, and is brought none", "`ringrift-sync pull` brings data to it")
        return  # whatever else is true of it changes nothing
    if facts.is_coordinator and rules.exclude_coordinators:
        fix = "set RINGRIFT_SYNC_EXCLUDE_COORDINATORS=false"
        yield Refusal("coordinator", "it is a coordinator, and those are excluded", fix)
    yield from _unasked(facts)
    yield from _unwanted(facts, data_type)
    yield from _no_room(facts, rules)
    yield from _open_circuit(facts)
    if facts.excluded_seconds > 0:
        why = f"it is excluded for another {facts.excluded_seconds:.0f} s: {facts.excluded_because}"
        yield Refusal("excluded", why, f"it ends by itself, or now: `ringrift-sync breakers reset {facts.node}`")
    found = quality(facts)
    if found < rules.min_quality_score:
        why = f"its quality {found:.2f} is below min_quality_score {rules.min_quality_score:g}"
        yield Refusal("min_quality_score", why, "lower min_quality_score")


def _unwanted(facts: Facts, data_type: DataType) -> Iterator[Refusal]:
    """What a person, or the table of flows, decided of the node."""
    if facts.skip_receive:
        yield Refusal("skip_sync_receive", "the inventory says skip_sync_receive", f"remove the key of {facts.node}")
    if facts.listed_out:
        yield Refusal("excluded_hosts", f"{facts.listed_out} names it", "take it from that list of the inventory")
    if not is_brought(data_type, trains=facts.trains, plays=facts.plays):
        fix = f"set training_enabled of {facts.node}, or name it once: `ringrift-sync sync --to {facts.node}`"
        yield Refusal("flow", f"data of type {data_type} is not for a node that {_does(facts)}", fix)


def _no_room(facts: Facts, rules: Rules) -> Iterator[Refusal]:
    """What its disk says."""
    if facts.disk is not None:
        why = disk_refusal(facts.disk, rules.disk_limits, reserved_bytes=0)
        if why:
            yield Refusal("disk", f"its disk takes no more: {why}", f"free space on {facts.node}, or raise the limit")
    if rules.exclude_nfs_hosts and rules.source in facts.shares_with:
        fix = f"`ringrift-sync explain {facts.node} --probe` looks again"
        yield Refusal("shared_storage", f"it reads and writes the same disk as {rules.source}", fix)


def _unasked(facts: Facts) -> Iterator[Refusal]:
    if not facts.active:
        yield Refusal(
            "status", f"its status is {facts.status}", f"set `status: ready` of {facts.node} in the inventory"
        )


def _open_circuit(facts: Facts) -> Iterator[Refusal]:
    if facts.circuit is CircuitState.OPEN:
        why = f"its circuit breakers are open for another {facts.circuit_seconds:.0f} s"
        yield Refusal("breaker", why, f"`ringrift-sync breakers reset {facts.node}` after the cause is mended")


def _does(facts: Facts) -> str:
    words = [word for word, true in (("trains", facts.trains), ("plays", facts.plays)) if true]
    return " and ".join(words) or "neither trains nor plays"


def _reach(facts: Facts) -> dict[str, float]:
    """Which share of the points of each part that both scores have."""
    return {
        "throughput": _saturating(facts.bytes_per_second or 0.0, HALF_RATE),
        "failures": 0.0 if facts.success is None else 1.0 - facts.success,
        "round_trip": _saturating(facts.rtt_seconds or 0.0, HALF_RTT_SECONDS),
        "down": float(facts.answered is False),
        "half_open": float(facts.circuit is CircuitState.HALF_OPEN),
    }


def _saturating(value: float, half: float) -> float:
    return value / (value + half)


def _score(weights: Mapping[str, Weight], shares: Mapping[str, float]) -> Score:
    parts = [Part(name, weights[name].points * share, weights[name].why) for name, share in shares.items() if share]
    return Score(tuple(sorted(parts, key=lambda part: (-part.value, part.name))))
