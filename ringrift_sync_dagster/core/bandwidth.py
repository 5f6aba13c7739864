"""How fast a transfer may be, and which one goes first: priorities, limits, shares, order, and a bucket of bytes.

The budget of a host with limit L is B = L x max(1, highest multiplier m of its live transfers); a transfer may use
min(m x L, B x m / sum of m). CRITICAL alone so uses 2 L, BACKGROUND alone a quarter of L, and what a slow one leaves
over is nobody's. Units: MB/s is 10**6 bytes per second. It reads no clock: callers pass ``now`` in seconds.
Numbers: sync guide, "Bandwidth Limits", "Transfer Priorities" and "Data Types"; architecture.md, 3 and 7.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Final, Literal

from ringrift_sync_dagster.core.model import DataType

BYTES_PER_MB: Final = 1_000_000
SMALLEST_BURST_BYTES: Final = 64 * 1024
BURST_SECONDS: Final = 0.1
AGEING_SECONDS: Final = 30.0
"""So much waiting is worth one class of priority; nothing waits for what came 150 s later."""

Direction = Literal["up", "down"]
"""``up``: collected from a node; ``down``: brought to it."""


class TransferPriority(StrEnum):
    """How important a transfer is; the guide's table."""

    CRITICAL = "critical"  # model distribution after promotion
    HIGH = "high"  # training data
    NORMAL = "normal"  # regular self-play
    LOW = "low"  # elo and registry databases
    BACKGROUND = "background"  # archives

    @property
    def multiplier(self) -> float:
        """By how much it may exceed, or must stay below, the limit of its host."""
        return _MULTIPLIERS[self]


_MULTIPLIERS: Final[Mapping[TransferPriority, float]] = MappingProxyType(
    {
        TransferPriority.CRITICAL: 2.0,
        TransferPriority.HIGH: 1.5,
        TransferPriority.NORMAL: 1.0,
        TransferPriority.LOW: 0.5,
        TransferPriority.BACKGROUND: 0.25,
    }
)

PROVIDER_LIMITS_MB_PER_S: Final[Mapping[str, float]] = MappingProxyType(
    {"runpod": 100.0, "nebius": 100.0, "lambda": 100.0, "vultr": 75.0, "vast": 50.0, "hetzner": 50.0}
)
"""MB/s of one host; other providers have the limit of the settings."""

# MEDIUM of the guide's table of data types is NORMAL.
_PRIORITIES: Final[Mapping[tuple[DataType, Direction], TransferPriority]] = MappingProxyType(
    {
        (DataType.GAMES, "up"): TransferPriority.NORMAL,
        (DataType.GAMES, "down"): TransferPriority.HIGH,
        (DataType.NPZ, "up"): TransferPriority.HIGH,
        (DataType.NPZ, "down"): TransferPriority.HIGH,
        (DataType.MODELS, "up"): TransferPriority.NORMAL,
        (DataType.MODELS, "down"): TransferPriority.NORMAL,
        (DataType.ELO, "up"): TransferPriority.LOW,
        (DataType.ELO, "down"): TransferPriority.LOW,
        (DataType.REGISTRY, "up"): TransferPriority.LOW,
        (DataType.REGISTRY, "down"): TransferPriority.LOW,
    }
)


def data_type_priority(
    data_type: DataType, direction: Direction, *, promoted: bool = False, archive: bool = False
) -> TransferPriority:
    """Give the priority of a transfer for which nobody chose one.

    Args:
        data_type: What it carries.
        direction: From the node or to it.
        promoted: True for a model that was just promoted.
        archive: True for a copy that only an archive waits for, whatever it holds.

    """
    if archive:
        return TransferPriority.BACKGROUND
    if promoted and data_type is DataType.MODELS:
        return TransferPriority.CRITICAL
    return _PRIORITIES[data_type, direction]


def host_limit(name: str, provider: str, own: float | None, overrides: Mapping[str, float], setting: float) -> float:
    """Give the limit of a host in MB/s; the first that is there counts.

    Args:
        name: Name of the host.
        provider: Its provider, such as ``vast``.
        own: Its own key ``bandwidth_mbps``; None when it has none.
        overrides: MB/s by name or glob, in the order in which they are written; the exact name wins, else the first
            glob that matches.
        setting: ``bandwidth_limit_mbps``, for hosts with no other limit.

    """
    if own is not None:
        return own
    if name in overrides:
        return overrides[name]
    matching = (limit for glob, limit in overrides.items() if fnmatchcase(name, glob))
    return next(matching, PROVIDER_LIMITS_MB_PER_S.get(provider, setting))


def budget(limit_bytes_per_s: float, multipliers: Sequence[float], *, hard: bool) -> float:
    """Give what all transfers of a host may use together, in bytes per second.

    Args:
        limit_bytes_per_s: Its limit; above 0.
        multipliers: Those of its live transfers; each above 0.
        hard: True: no priority may pass the limit.

    Raises:
        ValueError: A number is not above 0.

    """
    if not (limit_bytes_per_s > 0 and all(multiplier > 0 for multiplier in multipliers)):
        raise ValueError(f"limit and multipliers are above 0, not {limit_bytes_per_s!r} and {list(multipliers)!r}")
    return limit_bytes_per_s if hard else limit_bytes_per_s * max([1.0, *multipliers])


def shares(limit_bytes_per_s: float, multipliers: Sequence[float], *, hard: bool) -> tuple[float, ...]:
    """Give the rate of each transfer of a host, in bytes per second; together never more than the budget.

    Args:
        limit_bytes_per_s: Its limit; above 0.
        multipliers: Those of its live transfers, in the order of the answer; each above 0.
        hard: True: the budget is the limit itself; no transfer then passes it, because no share passes the budget.

    Raises:
        ValueError: A number is not above 0.

    """
    if not multipliers:
        return ()
    whole, total = budget(limit_bytes_per_s, multipliers, hard=hard), sum(multipliers)
    return tuple(min(m * limit_bytes_per_s, whole * m / total) for m in multipliers)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A transfer that waits for its turn.

    Args:
        ticket: Counts up; who came first has the smaller one.
        multiplier: Its priority.
        requested: Since when it waits, in seconds of one clock for all.

    """

    ticket: int
    multiplier: float
    requested: float


def effective_order(waiting: Iterable[Waiting]) -> list[Waiting]:
    """Give the transfers in the order in which they may start: by priority, then by ticket, and nobody waits forever.

    Each 30 s of waiting count as one class of priority. That is the same as if a higher class had come 30 s earlier, so
    the order of two transfers never changes while they wait, and no time is needed to tell it.
    """
    return sorted(waiting, key=lambda one: (one.requested - AGEING_SECONDS * _class(one.multiplier), one.ticket))


def head_start(multiplier: float, boost: float) -> float:
    """Give how many seconds earlier a transfer counts as having come when its weight is multiplied for the order."""
    return AGEING_SECONDS * max(0, _class(multiplier * boost) - _class(multiplier))


def _class(multiplier: float) -> int:
    """Give the number of the guide's priorities that are not above this multiplier, which need not be one of them."""
    return sum(known <= multiplier for known in _MULTIPLIERS.values())


class TokenBucket:
    """Keeps a stream of bytes at a rate that may change at any time; not safe in several threads by itself.

    Bytes may move whenever there is no debt, however many: they then make a debt that the rate pays off. Who is late
    catches up with at most one burst of max(64 KiB, 0.1 s), so that the long-run rate is right although every sleep
    takes a little too long.

    Args:
        rate: Bytes per second; above 0.
        now: The moment, in seconds.

    Raises:
        ValueError: The rate is not above 0.

    """

    __slots__ = ("_credit", "_rate", "_since")

    def __init__(self, rate: float, now: float) -> None:
        self._credit = 0.0  # bytes; below 0 it is a debt
        self._rate = _checked(rate)
        self._since = now

    @property
    def rate(self) -> float:
        """Bytes per second from now on."""
        return self._rate

    @property
    def burst_bytes(self) -> float:
        """The most that can be caught up with at once."""
        return max(float(SMALLEST_BURST_BYTES), self._rate * BURST_SECONDS)

    def set_rate(self, rate: float, now: float) -> None:
        """Go on at another rate; a debt stays what it is, and is paid off at the new rate.

        Raises:
            ValueError: The rate is not above 0.

        """
        checked = _checked(rate)
        self._refill(now)
        self._rate = checked
        self._credit = min(self._credit, self.burst_bytes)

    def take(self, count: int, now: float) -> float:
        """Take ``count`` bytes if they may move now.

        Returns:
            0 when they are taken; else the seconds after which to ask again, at the present rate, and nothing is
            taken. Whoever waits asks again earlier when the rate may have changed.

        """
        self._refill(now)
        if self._credit <= -1:  # less than one byte is what floats leave over
            return -self._credit / self._rate
        self._credit -= count
        return 0.0

    def _refill(self, now: float) -> None:
        earned = max(0.0, now - self._since) * self._rate
        self._credit = min(self._credit + earned, self.burst_bytes)
        self._since = max(self._since, now)


def _checked(rate: float) -> float:
    if not rate > 0:
        raise ValueError(f"the rate of a bucket is above 0 bytes per second, not {rate!r}")
    return rate
