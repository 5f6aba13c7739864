"""The ladder at work: a transport that is made of transports, tries them in order, and tells what it tried.

It is the one place that tries again, and the one that asks and feeds the breakers, which all processes share. Verified
bytes of one rung serve the next, because all of them collect in the same ``.part``. The rules are values in
``core.escalation``; here is only their doing.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from ringrift_sync_dagster.core.breaker import CircuitBreakerConfig
from ringrift_sync_dagster.core.escalation import (
    LADDER,
    SKIPPED,
    Attempt,
    Rung,
    Then,
    budget_seconds,
    judge,
    order,
    pause_seconds,
    share_seconds,
    summary,
)
from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.errors import AuthenticationError, TransferError, UnreachableError
from ringrift_sync_dagster.settings.clock import Deadline, monotonic
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.state import breakers, rungs
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.transports.base import Fetched, Pacer, Probe, Progress, Pushed, Transport

NAME: Final = "ladder"
_CALL_BYTES: Final = 0

T = TypeVar("T")


@dataclass(slots=True)
class _Climb:
    """One operation on its way over the rungs: what was tried so far.

    Args:
        what: The operation, for messages.
        deadline: Of the whole operation.
        size_bytes: What is to move; 0 for a call.
        rate: Bytes per second that were granted; 0 when nobody paces.
        cancel: Ends the pause between two tries.

    """

    what: str
    deadline: Deadline
    size_bytes: int = _CALL_BYTES
    rate: float = 0.0
    cancel: threading.Event | None = None
    arrived: int = 0
    attempts: list[Attempt] = field(default_factory=list)
    errors: list[TransferError] = field(default_factory=list)
    silent: set[str] = field(default_factory=set)

    def add(self, rung: Rung, error: TransferError, started: float, arrived_before: int) -> None:
        """Note a try that failed."""
        self.errors.append(error)
        moved = max(0, self.arrived - arrived_before)
        self.attempts.append(Attempt(rung, type(error).__name__, str(error), monotonic() - started, moved))

    def skip(self, rung: Rung, why: str) -> None:
        """Note a rung that was not tried."""
        self.attempts.append(Attempt(rung, SKIPPED, why))


class EscalatingTransport:
    """The way to one node over whichever rung works; safe in several threads.

    Args:
        node: The node.
        makers: The rungs that there are for it, each made when it is first needed.
        state: Where breakers and the rung that worked last are kept, for all processes.
        config: Numbers of the breakers.
        chance: Gives numbers from 0 to 1; another one only in tests.

    """

    def __init__(
        self,
        node: Node,
        makers: Mapping[Rung, Callable[[], Transport]],
        state: StateStore,
        *,
        config: CircuitBreakerConfig | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._node = node
        self._makers = dict(makers)
        self._state = state
        self._config = config or CircuitBreakerConfig()
        self._chance = chance
        self._made: dict[Rung, Transport] = {}
        self._lock = threading.Lock()
        self._last = ""

    @property
    def name(self) -> str:
        """The rung that worked last; ``ladder`` before any did."""
        return self._last or NAME

    def probe(self, deadline: Deadline) -> Probe:
        """Say whether the node answers over any rung, and over which."""

        def look(transport: Transport, limit: Deadline) -> Probe:
            found = transport.probe(limit)
            if not found.reachable:
                raise found.cause or UnreachableError(self._node.name, transport.name, found.detail)
            return found

        climb = _Climb("the probe", deadline)
        try:
            rung, found = self._climb(climb, look)
        except TransferError as error:
            return Probe(reachable=False, detail=error.message or str(error), cause=error)
        return replace(found, transport=rung.value)

    def call(self, op: str, args: dict[str, Any], *, deadline: Deadline) -> dict[str, Any]:
        """Run a kit operation; give its result."""
        return self._climb(_Climb(op, deadline), lambda way, limit: way.call(op, args, deadline=limit))[1]

    def manifest(self, since: str | None, *, deadline: Deadline) -> dict[str, Any]:
        """Give what changed on the node since a token."""
        return self._climb(_Climb("the manifest", deadline), lambda way, limit: way.manifest(since, deadline=limit))[1]

    def forget(self, artifact: Artifact, *, deadline: Deadline) -> None:
        """Let the node delete its copy. Idempotent."""
        self._climb(_Climb("forget", deadline), lambda way, limit: way.forget(artifact, deadline=limit))

    def fetch(
        self,
        artifact: Artifact,
        dest: Path,
        *,
        deadline: Deadline,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
        pacer: Pacer | None = None,
    ) -> Fetched:
        """Bring an artifact to ``dest``; see ``base``."""
        climb = self._transfer(f"artifact {artifact.sha256[:12]}", artifact, deadline, cancel, pacer)
        told = _Told(climb, progress)
        started = monotonic()
        rung, fetched = self._climb(
            climb,
            lambda way, limit: way.fetch(artifact, dest, deadline=limit, progress=told, cancel=cancel, pacer=pacer),
        )
        earlier = sum(attempt.bytes_moved for attempt in climb.attempts)
        return replace(
            fetched, bytes_moved=fetched.bytes_moved + earlier, seconds=monotonic() - started,
            transport=rung.value, attempts=self._told(climb, rung, fetched.seconds, fetched.bytes_moved),
        )  # fmt: skip

    def push(
        self,
        artifact: Artifact,
        source: Path,
        origin_node: str,
        *,
        deadline: Deadline,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
        pacer: Pacer | None = None,
    ) -> Pushed:
        """Bring the file ``source`` to the node; see ``base``."""
        climb = self._transfer(f"pushing {artifact.sha256[:12]}", artifact, deadline, cancel, pacer)
        told = _Told(climb, progress)
        started = monotonic()
        rung, pushed = self._climb(
            climb,
            lambda way, limit: way.push(
                artifact, source, origin_node, deadline=limit, progress=told, cancel=cancel, pacer=pacer
            ),
        )
        earlier = sum(attempt.bytes_moved for attempt in climb.attempts)
        return replace(
            pushed, bytes_moved=pushed.bytes_moved + earlier, seconds=monotonic() - started,
            transport=rung.value, attempts=self._told(climb, rung, pushed.seconds, pushed.bytes_moved),
        )  # fmt: skip

    def close(self) -> None:
        """Close the connections of every rung. Idempotent."""
        with self._lock:
            made, self._made = self._made, {}
        for transport in made.values():
            transport.close()

    def _transfer(
        self, what: str, artifact: Artifact, deadline: Deadline, cancel: threading.Event | None, pacer: Pacer | None
    ) -> _Climb:
        rate = pacer.rate if pacer is not None else float("inf")
        seconds = budget_seconds(tuple(self._makers), artifact.size_bytes, rate) if self._makers else 0.0
        return _Climb(what, Deadline.after(deadline.at_most(seconds)), artifact.size_bytes, rate, cancel)

    def _climb(self, climb: _Climb, attempt: Callable[[Transport, Deadline], T]) -> tuple[Rung, T]:
        """Try the rungs in order until one works; give it and its result.

        Raises:
            TransferError: What ended it; ``attempts`` says what was tried.

        """
        climb.deadline.check(self._node.name, NAME, climb.what)
        ladder = order(tuple(self._makers), rungs.remembered(self._state, self._node.name))
        for place, rung in enumerate(ladder):
            done = self._try_rung(climb, rung, ladder[place + 1 :], attempt)
            if done is not None:
                return rung, done[0]
        raise self._ended(climb, summary(self._node.name, climb.errors, climb.attempts))

    def _try_rung(
        self, climb: _Climb, rung: Rung, later: Sequence[Rung], attempt: Callable[[Transport, Deadline], T]
    ) -> tuple[T] | None:
        """Try one rung as often as its line allows; None: go on with the next."""
        limits = LADDER[rung]
        if limits.endpoint in climb.silent:
            climb.skip(rung, f"not tried: nothing answers for {limits.endpoint}")
            return None
        for tries_done in range(1, limits.tries + 1):
            admitted = breakers.admit(
                self._state, self._node.name, rung.value, self._config, probe_seconds=climb.deadline.remaining() + 1.0
            )
            if not admitted.allowed:
                climb.skip(rung, f"not tried: {admitted.why}")
                return None
            started, before = monotonic(), climb.arrived
            try:
                share = share_seconds(rung, later, climb.deadline.remaining(), climb.size_bytes, climb.rate or 1.0)
                result = attempt(self._transport(rung), Deadline.after(min(share, climb.deadline.remaining())))
            except TransferError as error:
                climb.add(rung, error, started, before)
                if self._after(climb, rung, error) is Then.NEXT_RUNG or tries_done == limits.tries:
                    return None
                self._pause(climb, tries_done)
            except BaseException:
                breakers.released(self._state, self._node.name, rung.value)
                raise
            else:
                self._worked(rung)
                return (result,)
        return None

    def _after(self, climb: _Climb, rung: Rung, error: TransferError) -> Then:
        """Tell the breaker what an error means, and give what to do; raises when the ladder ends here."""
        judged = judge(error, budget_spent=climb.deadline.expired)
        if judged.blames:
            self._blame(rung, error)
        elif judged.worked:
            self._worked(rung)
        else:
            breakers.released(self._state, self._node.name, rung.value)
        if isinstance(error, UnreachableError):
            climb.silent.add(LADDER[rung].endpoint)
        if judged.then is Then.STOP:
            raise self._ended(climb, error) from error
        return judged.then

    def _blame(self, rung: Rung, error: TransferError) -> None:
        """Count a failure; where nothing answered, for every rung that needs the same port."""
        endpoint = LADDER[rung].endpoint
        shared = [other for other in self._makers if other is not rung and LADDER[other].endpoint == endpoint]
        told, jitter = f"{type(error).__name__}: {error}", 2.0 * self._chance() - 1.0
        for blamed in (rung, *(shared if isinstance(error, UnreachableError) else ())):
            breakers.failed(self._state, self._node.name, blamed.value, self._config, told, jitter)

    def _worked(self, rung: Rung) -> None:
        self._last = rung.value
        breakers.succeeded(self._state, self._node.name, rung.value)
        rungs.remember(self._state, self._node.name, rung.value)

    def _pause(self, climb: _Climb, tries_done: int) -> None:
        seconds = climb.deadline.at_most(pause_seconds(tries_done, self._chance()))
        (climb.cancel or threading.Event()).wait(seconds)

    def _transport(self, rung: Rung) -> Transport:
        with self._lock:
            if rung not in self._made:
                self._made[rung] = self._makers[rung]()
            return self._made[rung]

    def _ended(self, climb: _Climb, error: TransferError) -> TransferError:
        """Give the error that ends the climb, with what was tried; a person must also know why SSH was asked at all."""
        earlier = [attempt for attempt in climb.attempts if attempt.rung != error.transport]
        if isinstance(error, AuthenticationError) and earlier:
            told = "; ".join(str(attempt) for attempt in earlier)
            error = type(error)(error.node, error.transport, f"{error.message} (tried before: {told})")
        error.attempts = tuple(climb.attempts)
        return error

    def _told(self, climb: _Climb, rung: Rung, seconds: float, moved: int) -> tuple[Attempt, ...]:
        return (*climb.attempts, Attempt(rung, "", "", seconds, moved))


class _Told:
    """Hands progress on, and remembers it for the row of a try that fails."""

    def __init__(self, climb: _Climb, progress: Progress | None) -> None:
        self._climb, self._progress = climb, progress

    def __call__(self, there: int) -> None:
        self._climb.arrived = there
        if self._progress is not None:
            self._progress(there)
