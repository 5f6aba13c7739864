"""What a copy tries: how often, whether the node's breaker allows it, and what its row says of it.

The breaker is that of the ladder's rsync rung, and is fed as the ladder feeds it.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar

from ringrift_sync_dagster.core.escalation import LADDER, SKIPPED, Attempt, Rung, Then, judge, pause_seconds
from ringrift_sync_dagster.errors import NodeDownError, SyncError, TransferError
from ringrift_sync_dagster.settings.clock import Deadline, monotonic
from ringrift_sync_dagster.state import breakers
from ringrift_sync_dagster.sync.runtime import Runtime

T = TypeVar("T")

RUNG: Final = Rung.RSYNC


def attempt_of(error: SyncError, seconds: float) -> Attempt:
    """Give what a row keeps of a try that failed."""
    return Attempt(RUNG.value, type(error).__name__, str(error), seconds)


@contextmanager
def told_in_full(attempts: Sequence[Attempt]) -> Iterator[None]:
    """Have an error of the body say what was tried, so that the transfer's row can keep it.

    Args:
        attempts: What was tried so far; it may grow meanwhile.

    """
    started = monotonic()
    try:
        yield
    except TransferError as error:
        error.attempts = error.attempts or (*attempts, attempt_of(error, monotonic() - started))
        raise


@contextmanager
def breaker_asked(runtime: Runtime, node: str, deadline: Deadline) -> Iterator[None]:
    """Reach the node during the body if its breaker allows that, and tell the breaker how it went.

    Args:
        runtime: Where breakers are shared.
        node: The node.
        deadline: Of what the body does.

    Raises:
        NodeDownError: The breaker is open; ``attempts`` says why.

    """
    state, config = runtime.state, runtime.ladder.breakers
    admitted = breakers.admit(state, node, RUNG.value, config, probe_seconds=deadline.remaining() + 1.0)
    if not admitted.allowed:
        refused = NodeDownError(node, RUNG.value, f"not tried: {admitted.why}")
        refused.attempts = (Attempt(RUNG.value, SKIPPED, refused.message),)
        raise refused
    try:
        yield
    except TransferError as error:
        judged = judge(error, budget_spent=deadline.expired)
        if judged.blames:
            words, jitter = f"{type(error).__name__}: {error}", random.uniform(-1.0, 1.0)  # noqa: S311 - jitter
            breakers.failed(state, node, RUNG.value, config, words, jitter)
        elif judged.worked:
            breakers.succeeded(state, node, RUNG.value)
        else:
            breakers.released(state, node, RUNG.value)
        raise
    except BaseException:
        breakers.released(state, node, RUNG.value)
        raise
    breakers.succeeded(state, node, RUNG.value)


def with_tries(
    runtime: Runtime,
    node: str,
    work: Callable[[], T],
    attempts: list[Attempt],
    deadline: Deadline,
    cancel: threading.Event,
) -> T:
    """Do the work, as often as the guide's table says, while another try may help and the breaker allows it.

    Args:
        runtime: Where breakers are shared.
        node: The node that the work reaches.
        work: What to do.
        attempts: Grows by each try.
        deadline: Of all tries.
        cancel: Ends the pause between two tries.

    Raises:
        TransferError: What ended the last try, or why there was none.

    """
    while True:
        started = monotonic()
        try:
            with breaker_asked(runtime, node, deadline):
                done = work()
        except TransferError as error:
            skipped = [one for one in error.attempts if isinstance(one, Attempt) and one.error == SKIPPED]
            attempts += skipped or [attempt_of(error, monotonic() - started)]
            error.attempts = tuple(attempts)
            judged = judge(error, budget_spent=deadline.expired)
            if judged.then is not Then.RETRY or len(attempts) >= LADDER[RUNG].tries:
                raise
            cancel.wait(deadline.at_most(pause_seconds(len(attempts), random.random())))  # noqa: S311 - full jitter
        else:
            attempts.append(Attempt(RUNG.value, seconds=monotonic() - started))
            return done
