"""The ladder of transports: which rung comes when, how long and how often it is tried, and what an error means for it.

    P2P HTTP -> SSH/rsync -> base64

A rung that cannot serve the node is left at once; one whose connection broke is tried again, a random moment later;
what a person must mend (who we are, who the node is) and what is our own fault ends the ladder. One budget of time
covers all rungs, so that a dead node costs seconds and not the sum of all limits. Retry count means tries in all.
Sources: sync guide, "Transport Escalation"; architecture.md, 1 rule 7 and 7 "Deadlines".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from types import MappingProxyType
from typing import Final

from ringrift_sync_dagster.errors import (
    ArtifactGoneError,
    ChecksumError,
    DeadlineExceededError,
    LocalToolError,
    NextStep,
    NodeDownError,
    RemoteCallError,
    RungUnusableError,
    SourceChangedError,
    SyncError,
    TransferError,
    UnreachableError,
)

LONGEST_SECONDS: Final = 900.0
LONGEST_RESCUE_SECONDS: Final = 1800.0
REMEMBERED_SECONDS: Final = 900.0
"""So long the rung that worked last is tried first."""
SLACK: Final = 2.0
"""A transfer may take so many times what its granted rate would need."""
_PAUSE_BASE_SECONDS: Final = 0.25
_PAUSE_MOST_SECONDS: Final = 5.0


class Rung(StrEnum):
    """A transport of the ladder, fastest first."""

    P2P = "p2p_http"
    RSYNC = "rsync"
    BASE64 = "base64"


FORCED: Final[Mapping[str, Rung]] = MappingProxyType({"p2p": Rung.P2P, "rsync": Rung.RSYNC, "base64": Rung.BASE64})
"""The names that ``--transport`` takes."""


@dataclass(frozen=True, slots=True)
class RungLimits:
    """One line of the guide's table, and the longest silence of architecture.md 7.

    Args:
        connect_seconds: Longest time for connecting.
        transfer_seconds: Time that any transfer gets on this rung; a large one gets more.
        tries: Tries in all.
        stall_seconds: Longest silence.
        endpoint: What must answer for it: rungs with the same one fail together when nothing does.

    """

    connect_seconds: float
    transfer_seconds: float
    tries: int
    stall_seconds: float
    endpoint: str


LADDER: Final[Mapping[Rung, RungLimits]] = MappingProxyType(
    {
        Rung.P2P: RungLimits(5.0, 120.0, 2, 15.0, "agent"),
        Rung.RSYNC: RungLimits(10.0, 300.0, 3, 30.0, "ssh"),
        Rung.BASE64: RungLimits(30.0, 600.0, 1, 60.0, "ssh"),
    }
)


class Then(Enum):
    """What the ladder does after an error."""

    RETRY = "retry"  # the same rung, a moment later
    GO_ON = "go_on"  # the same rung at once: it only was slow
    NEXT_RUNG = "next_rung"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What an error means.

    Args:
        then: What to do.
        blames: True: it counts against the rung's breaker.
        worked: True: the node answered over this rung; it counts as a success there.

    """

    then: Then
    blames: bool = False
    worked: bool = False


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of one rung, as a transfer's row keeps it.

    Args:
        rung: Which one.
        error: Name of the error's class; empty when it worked, ``Skipped`` when it was not tried.
        message: The error's text, or why it was not tried.
        seconds: How long it took.
        bytes_moved: Bytes that had arrived on it, as far as they were told.

    """

    rung: str
    error: str = ""
    message: str = ""
    seconds: float = 0.0
    bytes_moved: int = 0

    def __str__(self) -> str:
        return f"{self.rung}: {self.message or 'ok'}"


SKIPPED: Final = "Skipped"


def judge(error: SyncError, *, budget_spent: bool, moved: bool = False) -> Judgement:
    """Say what an error means for the ladder.

    Args:
        error: What a rung raised.
        budget_spent: True when the whole ladder's time is over, not only this rung's share.
        moved: True when bytes arrived in this try: whoever moves and is only slow is not to blame, and goes on.

    """
    if isinstance(error, DeadlineExceededError) and not budget_spent:
        return Judgement(Then.GO_ON) if moved else Judgement(Then.NEXT_RUNG, blames=True)
    for kinds, judged in _BY_KIND:
        if isinstance(error, kinds):
            return judged
    if error.next_step is NextStep.RETRY and not isinstance(error, DeadlineExceededError):
        return Judgement(Then.STOP if budget_spent else Then.RETRY, blames=True)
    return Judgement(Then.STOP)


# The first that fits; a class stands before its base.
_BY_KIND: Final[tuple[tuple[tuple[type[SyncError], ...], Judgement], ...]] = (
    ((RemoteCallError, ArtifactGoneError, SourceChangedError), Judgement(Then.STOP, worked=True)),
    ((ChecksumError, LocalToolError), Judgement(Then.NEXT_RUNG)),
    ((RungUnusableError,), Judgement(Then.NEXT_RUNG, blames=True)),
)


def order(rungs: Sequence[Rung], first: str) -> tuple[Rung, ...]:
    """Give the rungs as they are tried: the one that worked last first, the others in the ladder's order."""
    return tuple(sorted(rungs, key=lambda rung: (rung.value != first, list(LADDER).index(rung))))


def budget_seconds(rungs: Sequence[Rung], size_bytes: int, bytes_per_second: float, *, rescue: bool = False) -> float:
    """Give the time that a transfer gets for the whole ladder, in seconds.

    Args:
        rungs: The rungs that may be tried; at least one.
        size_bytes: What is to move.
        bytes_per_second: The rate that was granted; above 0.
        rescue: True: the node may be lost soon, and what moves has no other copy.

    """
    connecting = sum(LADDER[rung].connect_seconds for rung in rungs)
    moving = max(_moving_seconds(rung, size_bytes, bytes_per_second) for rung in rungs)
    return min(connecting + moving, LONGEST_RESCUE_SECONDS if rescue else LONGEST_SECONDS)


def share_seconds(
    rung: Rung, later: Sequence[Rung], remaining_seconds: float, size_bytes: int | None, bytes_per_second: float
) -> float:
    """Give the part of the remaining time that one try may take, so that the later rungs can still connect.

    Args:
        rung: The rung that is tried.
        later: Those that come after it.
        remaining_seconds: What is left of the whole budget.
        size_bytes: What is to move; None for a call, whose work on the node takes as long as the caller allows.
        bytes_per_second: The rate that was granted; above 0.

    """
    own = math.inf
    if size_bytes is not None:
        own = LADDER[rung].connect_seconds + _moving_seconds(rung, size_bytes, bytes_per_second)
    kept = sum(LADDER[other].connect_seconds for other in later)
    return min(own, max(remaining_seconds - kept, remaining_seconds / (len(later) + 1)))


def _moving_seconds(rung: Rung, size_bytes: int, bytes_per_second: float) -> float:
    needed = SLACK * size_bytes / bytes_per_second if math.isfinite(bytes_per_second) else 0.0
    return max(LADDER[rung].transfer_seconds, needed)


def pause_seconds(tries_done: int, chance: float) -> float:
    """Give how long to wait before the next try: full jitter, so that many that failed together come back apart.

    Args:
        tries_done: At least 1.
        chance: From 0 to 1.

    """
    return chance * min(_PAUSE_MOST_SECONDS, _PAUSE_BASE_SECONDS * 2.0**tries_done)


def summary(node: str, errors: Sequence[TransferError], attempts: Sequence[Attempt]) -> TransferError:
    """Give the one error that a climb without success ends with; it names every rung and why it failed.

    When nothing answered on any of them the node is down. Otherwise the class of the last error that was more than a
    rung that cannot serve is kept, because it says best what to do next.
    """
    words = "; ".join(str(attempt) for attempt in _last_of_each(attempts))
    telling = [error for error in errors if not isinstance(error, RungUnusableError)]
    kind = type(telling[-1]) if telling else _kind_of_silence(errors)
    return kind(node, "", words or "no transport is allowed for it")


def _kind_of_silence(errors: Sequence[TransferError]) -> type[TransferError]:
    if any(isinstance(error, LocalToolError) for error in errors):
        return LocalToolError  # what is missing here is for a person here to mend
    if all(isinstance(error, UnreachableError) for error in errors):
        return NodeDownError
    return RungUnusableError  # it answers, and nothing that it has can serve us


def _last_of_each(attempts: Sequence[Attempt]) -> list[Attempt]:
    return list({attempt.rung: attempt for attempt in attempts if attempt.error}.values())
