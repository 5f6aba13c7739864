"""Backpressure: how loaded the coordinator is, when transfers are held because of it, and which ones.

Pressure is a weighted mean of signals, each rising in a line from 0 at ``low`` to 1 at ``high``. It activates at 0.65
and releases at 0.45: between them nothing changes, so a load that trembles makes no storm of transitions. A pause ends
after 900 s whatever the signals say, and then none begins for 300 s, so that what is held is never stale for long; no
release is ever delayed. Training jobs, a fifth of the source's weights, are left out, since they run on other machines:
what they cost the coordinator shows in its memory and disk; the other weights stand in the same ratios.
Source: domain.md, 8 "Backpressure" and 10 (35, 47, 56); architecture.md, 1 rules 6 and 8. It reads no clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ringrift_sync_dagster.core.bandwidth import Direction, TransferPriority
from ringrift_sync_dagster.core.model import DataType

ACTIVATE_AT: Final = 0.65
RELEASE_AT: Final = 0.45
MAX_PAUSE_SECONDS: Final = 900.0
"""The longest that anything is held without a break."""
REST_SECONDS: Final = 300.0
"""After the longest pause, or when a person ended one: so long none begins."""
URGENT_TRIGGER: Final = "priority:"
"""How the trigger of a priority sync, such as an orphan recovery, begins."""


@dataclass(frozen=True, slots=True)
class Signal:
    """How one measure becomes pressure.

    Args:
        weight: Its part of the whole, before all weights are scaled to 1.
        low: Up to here it is no pressure.
        high: From here on it is all that it can be.
        meaning: What is measured, with its unit.

    """

    weight: float
    low: float
    high: float
    meaning: str

    def level(self, measured: float) -> float:
        """Give the pressure of a measure, 0 to 1."""
        return min(1.0, max(0.0, (measured - self.low) / (self.high - self.low)))


SIGNALS: Final[Mapping[str, Signal]] = MappingProxyType(
    {
        "queue": Signal(0.25, 5.0, 50.0, "artifacts that lie in `incoming/` whole and are not merged"),
        "memory": Signal(0.25, 30.0, 70.0, "used memory of the coordinator, in percent"),
        "disk": Signal(0.15, 40.0, 75.0, "used part of the disk of the coordinator's root, in percent"),
        "transfers": Signal(0.15, 3.0, 30.0, "transfers that run or wait for their turn, over all processes"),
    }
)
"""What is measured, by name. Partitions of a pass do not count as queue: most are only looked at."""


def pressure(measured: Mapping[str, float]) -> float:
    """Give the pressure, 0 to 1; what was not measured counts as no pressure.

    Raises:
        ValueError: There is no such signal.

    """
    unknown = measured.keys() - SIGNALS.keys()
    if unknown:
        raise ValueError(f"no such signals: {', '.join(sorted(unknown))}; there are {', '.join(SIGNALS)}")
    whole = sum(signal.weight for signal in SIGNALS.values())
    return sum(SIGNALS[name].weight * SIGNALS[name].level(value) for name, value in measured.items()) / whole


@dataclass(frozen=True, slots=True)
class Standing:
    """How things stand before a look.

    Args:
        active: Whether transfers are held.
        left_seconds: Active: until the longest pause is over. Not active: until one may begin.

    """

    active: bool
    left_seconds: float


@dataclass(frozen=True, slots=True)
class Turn:
    """A transition.

    Args:
        active: What it becomes.
        source: What decided: ``measured``, or ``longest_pause``.
        left_seconds: As in ``Standing``, from now.

    """

    active: bool
    source: str
    left_seconds: float


def turn(standing: Standing, level: float) -> Turn | None:
    """Give the transition that a pressure makes; None where everything stays as it is."""
    if standing.active:
        if standing.left_seconds <= 0:
            return Turn(active=False, source="longest_pause", left_seconds=REST_SECONDS)
        return Turn(active=False, source="measured", left_seconds=0.0) if level <= RELEASE_AT else None
    if level >= ACTIVATE_AT and standing.left_seconds <= 0:
        return Turn(active=True, source="measured", left_seconds=MAX_PAUSE_SECONDS)
    return None


_HELD_PRIORITIES: Final = frozenset({TransferPriority.NORMAL, TransferPriority.LOW, TransferPriority.BACKGROUND})
_MERGED_ROWS: Final = frozenset({DataType.ELO, DataType.REGISTRY})


def may_be_held(priority: TransferPriority, *, last_copy: bool, trigger: str = "") -> bool:
    """Say whether backpressure holds a transfer.

    Args:
        priority: CRITICAL and HIGH are never held.
        last_copy: True: what moves may be on no other host that lasts; it is never held.
        trigger: What started it; a priority sync is never held.

    """
    return priority in _HELD_PRIORITIES and not last_copy and not is_urgent(trigger)


def is_urgent(trigger: str) -> bool:
    """Whether what started a transfer is a rescue: a priority sync, such as that of an orphan recovery."""
    return trigger.startswith(URGENT_TRIGGER)


def may_be_last_copy(data_type: DataType, direction: Direction, *, ephemeral: bool, evaluation: bool = False) -> bool:
    """Say whether a transfer of a pass may carry what is on no other host that lasts.

    What goes down lies at the owner. What comes up does not, or it would not move. A persistent node that has rows of
    matches and of the registry, or evaluation games, keeps them, and a pause of minutes loses none; self-play games and
    what was trained or exported are worth more than that, whatever node has them.

    Args:
        data_type: What moves.
        direction: From the node or to it.
        ephemeral: True: the node may be gone in a minute.
        evaluation: True: games of tournaments, gauntlets and baselines.

    """
    return direction == "up" and (ephemeral or not (data_type in _MERGED_ROWS or evaluation))
