"""Circuit breaker of one rung of one node: stop asking what keeps failing, and find out with one probe when it is back.

CLOSED --3 failures in a row--> OPEN --60 s--> HALF_OPEN --success--> CLOSED
                                 ^--120, 240, 480, 600 s--failure--'

Every transition is in this file. It reads no clock and throws no dice: callers pass ``now`` (seconds of any clock that
never goes back) and ``jitter``. That exactly one probe is let through is seen to where breakers are shared
(``state/breakers.py``). Numbers: sync guide, "Circuit Breaker"; architecture.md, 7 (breaker).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final


class CircuitState(StrEnum):
    """What a breaker says to the next one who asks."""

    CLOSED = "closed"  # go on
    OPEN = "open"  # leave it alone
    HALF_OPEN = "half_open"  # one probe may find out


@dataclass(frozen=True, slots=True)
class CircuitBreakerConfig:
    """When a breaker opens, and for how long.

    Args:
        failure_threshold: Failures in a row that open it; at least 1.
        recovery_timeout_seconds: How long the first opening lasts; above 0.
        longest_timeout_seconds: What no opening exceeds, its jitter apart; not below the first one.
        backoff: By how much each opening in a row is longer than the one before; at least 1.
        jitter: By which part an opening after the first may be longer or shorter; 0 to below 1. Breakers that opened
            together then do not all send their probes together.

    Raises:
        ValueError: A number is outside its range.

    """

    failure_threshold: int = 3
    recovery_timeout_seconds: float = 60.0
    longest_timeout_seconds: float = 600.0
    backoff: float = 2.0
    jitter: float = 0.1

    def __post_init__(self) -> None:
        if self.failure_threshold < 1:
            raise ValueError(f"a breaker opens after at least 1 failure, not {self.failure_threshold!r}")
        if not 0 < self.recovery_timeout_seconds <= self.longest_timeout_seconds < float("inf"):
            raise ValueError(
                "a breaker stays open for more than 0 s and never longer than its longest time, not "
                f"{self.recovery_timeout_seconds!r} s of at most {self.longest_timeout_seconds!r} s"
            )
        if not 1 <= self.backoff < float("inf"):
            raise ValueError(
                f"an opening is at least as long as the one before: backoff 1 or more, not {self.backoff!r}"
            )
        if not 0 <= self.jitter < 1:
            raise ValueError(f"jitter is a part of the time, from 0 to below 1, not {self.jitter!r}")

    @classmethod
    def aggressive(cls) -> CircuitBreakerConfig:
        """Fail fast: 2 failures, 30 s."""
        return cls(failure_threshold=2, recovery_timeout_seconds=30.0)

    @classmethod
    def patient(cls) -> CircuitBreakerConfig:
        """More tolerant: 5 failures, 120 s."""
        return cls(failure_threshold=5, recovery_timeout_seconds=120.0)

    def open_seconds(self, opens: int, jitter: float = 0.0) -> float:
        """Give how long an opening lasts.

        Args:
            opens: Its number in a row, from 1.
            jitter: Where in the range of ``self.jitter`` it falls, from -1 to 1; the first opening is exact.

        Raises:
            ValueError: The jitter is outside its range.

        """
        if not -1 <= jitter <= 1:
            raise ValueError(f"jitter is drawn from -1 to 1, not {jitter!r}")
        if opens <= 1:
            return self.recovery_timeout_seconds
        return self._without_jitter(opens) * (1 + self.jitter * jitter)

    def _without_jitter(self, opens: int) -> float:
        try:
            seconds = self.recovery_timeout_seconds * self.backoff ** (opens - 1)
        except OverflowError:
            return self.longest_timeout_seconds
        return min(seconds, self.longest_timeout_seconds)


DEFAULT: Final = CircuitBreakerConfig()
"""The guide's numbers: 3 failures, 60 s."""


@dataclass(frozen=True, slots=True)
class Breaker:
    """What is remembered of one rung of one node; a new one is closed.

    Args:
        failures: Failures in a row.
        opens: Openings in a row, without a success between them.
        open_until: The moment from which a probe may find out; None while closed.

    """

    failures: int = 0
    opens: int = 0
    open_until: float | None = None

    def state(self, now: float) -> CircuitState:
        """Give the state at this moment."""
        if self.open_until is None:
            return CircuitState.CLOSED
        return CircuitState.OPEN if now < self.open_until else CircuitState.HALF_OPEN

    def seconds_left(self, now: float) -> float:
        """Give the seconds until a probe may find out; 0 when nothing has to be waited for."""
        return 0.0 if self.open_until is None else max(0.0, self.open_until - now)

    def on_failure(self, now: float, config: CircuitBreakerConfig = DEFAULT, jitter: float = 0.0) -> Breaker:
        """Give the breaker after a failure that the node is to blame for.

        While it is open only the count grows: transfers that were under way when it opened fail too, and say nothing
        new. Any failure after that, the probe's or a late one's, opens it again.

        Args:
            now: The moment, in seconds.
            config: When it opens, and for how long.
            jitter: By chance from -1 to 1.

        """
        state, failures = self.state(now), self.failures + 1
        if state is CircuitState.OPEN or (state is CircuitState.CLOSED and failures < config.failure_threshold):
            return replace(self, failures=failures)
        opens = self.opens + 1
        return Breaker(failures, opens, now + config.open_seconds(opens, jitter))

    def on_success(self) -> Breaker:
        """Give the breaker after a success, whoever had it: closed, and everything forgotten."""
        return Breaker()


def node_state(rungs: Iterable[CircuitState]) -> CircuitState:
    """Give the state of a node from those of its usable rungs: that of the best one.

    So it is OPEN when all are, HALF_OPEN when none is closed and one waits for its probe, and CLOSED when a rung works
    or there is none that could have failed.
    """
    found = set(rungs)
    if not found or CircuitState.CLOSED in found:
        return CircuitState.CLOSED
    return CircuitState.HALF_OPEN if CircuitState.HALF_OPEN in found else CircuitState.OPEN
