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
    LONGEST_SECONDS,
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
from ringrift_sync_dagster.errors import (
    AuthenticationError,
    DeadlineExceededError,
    RungUnusableError,
    TransferError,
    UnreachableError,
)
from ringrift_sync_dagster.settings.clock import Deadline, monotonic
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.state import breakers, rungs
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.transports.base import Fetched, Pacer, Probe, Progress, Pushed, Transport
from ringrift_sync_dagster.transports.partial import part_path

NAME: Final = "ladder"
_KNOWN_SECONDS: Final = 10.0  # so long a rung that answered needs not be asked whether it does
_LONG_CALL_SECONDS: Final = 30.0

T = TypeVar("T")


@dataclass(slots=True)
class _Climb:
    """One operation on its way over the rungs: what was tried so far.

    Args:
        what: The operation, for messages.
        deadline: Of the whole operation.
        size_bytes: What is to move; None for a call.
        rate: Bytes per second that were granted.
        cancel: Ends the pause between two tries.
        asks_again: A rung whose share ran out is asked once more when the later ones left their time unused.

    """

    what: str
    deadline: Deadline
    size_bytes: int | None = None
    rate: float = 1.0
    cancel: threading.Event | None = None
    asks_again: bool = False
    arrived: int = 0
    attempts: list[Attempt] = field(default_factory=list)
    errors: list[TransferError] = field(default_factory=list)
    silent: set[str] = field(default_factory=set)

    def add(self, rung: Rung, error: TransferError, started: float, arrived_before: int) -> None:
        """Note a try that failed."""
        self.errors.append(error)
        moved = max(0, self.arrived - arrived_before)
        self.attempts.append(Attempt(rung, type(error).__name__, str(error), monotonic() - started, moved))

    def cut_short(self) -> Attempt | None:
        """Give the first try that ended with its share, when there is time for another one like it."""
        for attempt in self.attempts:
            if attempt.error == DeadlineExceededError.__name__:
                return attempt if self.asks_again and attempt.seconds < self.deadline.remaining() else None
        return None

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
        remembers: False where somebody chose the rung: what worked then is no advice for others.
        chance: Gives numbers from 0 to 1; another one only in tests.

    """

    def __init__(
        self,
        node: Node,
        makers: Mapping[Rung, Callable[[], Transport]],
        state: StateStore,
        *,
        config: CircuitBreakerConfig | None = None,
        remembers: bool = True,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._node = node
        self._makers = dict(makers)
        self._state = state
        self._config = config or CircuitBreakerConfig()
        self._remembers = remembers
        self._answered: dict[Rung, float] = {}
        self._hint = ("", 0.0)
        self._chance = chance
        self._made: dict[Rung, Transport] = {}
        self._lock = threading.Lock()
        self._last = ""

    @property
    def name(self) -> str:
        """The rung that worked last; ``ladder`` before any did."""
        return self._last or NAME

    def probe(self, deadline: Deadline) -> Probe:
        """Say whether the node answers over any rung, and over which.

        A node that was busy for as long as the first question waited is asked again before it is given up, because
        who gives it up leaves it alone for a minute.
        """

        def look(transport: Transport, limit: Deadline) -> Probe:
            found = transport.probe(limit)
            if not found.reachable:
                raise found.cause or UnreachableError(self._node.name, transport.name, found.detail)
            return found

        climb = _Climb("the probe", deadline, asks_again=True)
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
        climb.arrived = _received(dest)
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
        rescue = deadline.remaining() > LONGEST_SECONDS  # nobody else asks for so much time
        seconds = budget_seconds(tuple(self._makers) or tuple(LADDER), artifact.size_bytes, rate, rescue=rescue)
        return _Climb(what, Deadline.after(deadline.at_most(seconds)), artifact.size_bytes, rate, cancel)

    def _climb(self, climb: _Climb, attempt: Callable[[Transport, Deadline], T]) -> tuple[Rung, T]:
        """Try the rungs in order until one works; give it and its result.

        Raises:
            TransferError: What ended it; ``attempts`` says what was tried.

        """
        if not self._makers:
            message = f"{climb.what}: no transport is there for it: the inventory gives no address, or not for this one"
            raise RungUnusableError(self._node.name, "", message)
        climb.deadline.check(self._node.name, NAME, climb.what)
        ladder = order(tuple(self._makers), self._remembered())
        for place, rung in enumerate(ladder):
            done = self._try_rung(climb, rung, ladder[place + 1 :], attempt)
            if done is not None:
                return rung, done[0]
        if (cut := climb.cut_short()) is not None:
            rung, seconds = Rung(cut.rung), cut.seconds
            done = self._try_rung(
                climb, rung, (), lambda way, limit: attempt(way, Deadline.after(limit.at_most(seconds)))
            )
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
        tries_done = 0
        while tries_done < limits.tries:
            why = self._refused(climb, rung)
            if why:
                climb.skip(rung, why)
                return None
            started, before = monotonic(), climb.arrived
            try:
                result = self._once(climb, rung, later, attempt)
            except TransferError as error:
                climb.add(rung, error, started, before)
                then = self._after(climb, rung, error, moved=climb.arrived > before)
                if then is Then.NEXT_RUNG:
                    return None
                if then is Then.RETRY:
                    tries_done += 1
                    if tries_done < limits.tries:
                        self._pause(climb, tries_done)
            except BaseException:
                breakers.released(self._state, self._node.name, rung.value)
                raise
            else:
                self._worked(rung)
                return (result,)
        return None

    def _refused(self, climb: _Climb, rung: Rung) -> str:
        """Say why the rung's breaker leaves it alone now; empty when it may be used."""
        left = climb.deadline.remaining() + 1.0
        admitted = breakers.admit(self._state, self._node.name, rung.value, self._config, probe_seconds=left)
        return "" if admitted.allowed else f"not tried: {admitted.why}"

    def _once(self, climb: _Climb, rung: Rung, later: Sequence[Rung], attempt: Callable[[Transport, Deadline], T]) -> T:
        """Try a rung once within its share.

        A call may be silent as long as the node works, so that silence says nothing: before a long one the rung is
        asked whether it is there at all, unless it just was.
        """
        transport = self._transport(rung)
        share = share_seconds(rung, later, climb.deadline.remaining(), climb.size_bytes, climb.rate)
        known = monotonic() - self._answered.get(rung, -_KNOWN_SECONDS) < _KNOWN_SECONDS
        if climb.size_bytes is None and share > _LONG_CALL_SECONDS and not known:
            found = transport.probe(Deadline.after(min(share, LADDER[rung].stall_seconds)))
            if not found.reachable:
                raise found.cause or UnreachableError(self._node.name, transport.name, found.detail)
            share = share_seconds(rung, later, climb.deadline.remaining(), climb.size_bytes, climb.rate)
        return attempt(transport, Deadline.after(min(share, climb.deadline.remaining())))

    def _after(self, climb: _Climb, rung: Rung, error: TransferError, *, moved: bool) -> Then:
        """Tell the breaker what an error means, and give what to do; raises when the ladder ends here."""
        judged = judge(error, budget_spent=climb.deadline.expired, moved=moved)
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
        told, jitter = f"{type(error).__name__}: {error}", 2.0 * self._chance() - 1.0
        for blamed in (rung, *(self._sharing(rung) if isinstance(error, UnreachableError) else ())):
            breakers.failed(self._state, self._node.name, blamed.value, self._config, told, jitter)

    def _worked(self, rung: Rung) -> None:
        self._last, self._answered[rung] = rung.value, monotonic()
        breakers.succeeded(self._state, self._node.name, rung.value)
        for other in self._sharing(rung):
            breakers.answered(self._state, self._node.name, other.value)
        if self._remembers and self._hint[0] != rung.value:
            rungs.remember(self._state, self._node.name, rung.value)
            self._hint = (rung.value, monotonic())

    def _remembered(self) -> str:
        """Give the rung that worked last; the database is asked once in a while, because it is only advice."""
        name, at = self._hint
        if not name or monotonic() - at > _KNOWN_SECONDS:
            name = rungs.remembered(self._state, self._node.name)
            self._hint = (name, monotonic())
        return name

    def _sharing(self, rung: Rung) -> list[Rung]:
        """The other rungs that need the same port."""
        endpoint = LADDER[rung].endpoint
        return [other for other in self._makers if other is not rung and LADDER[other].endpoint == endpoint]

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


def _received(dest: Path) -> int:
    """Give how many bytes an earlier fetch has left."""
    try:
        return part_path(dest).stat().st_size
    except OSError:
        return 0


class _Told:
    """Hands progress on, and remembers it for the row of a try that fails."""

    def __init__(self, climb: _Climb, progress: Progress | None) -> None:
        self._climb, self._progress = climb, progress

    def __call__(self, there: int) -> None:
        self._climb.arrived = there
        if self._progress is not None:
            self._progress(there)
