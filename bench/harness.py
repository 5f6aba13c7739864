"""How things are measured: contenders take turns, everybody starts on a quiet disk, and medians are compared.

In each round every contender runs once, and the one that begins is another each time, so that a disturbance of the
machine meets all of them. Before each run all dirty pages are written (``sync``): nobody pays for another's bytes. A
contender that cannot run is left out with one line that says why; the others are still measured.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.lines import Line, Result, Samples
from ringrift_sync_dagster.errors import SyncError

LEAST_RUNS: Final = 5

Run = Callable[[int], Mapping[str, float]]
"""One run of a contender: gets the number of the round, gives its values by measure."""


class CannotMeasureError(Exception):
    """Something that the measuring needs is missing or failed; the text says what to do, in one line."""


@dataclass(frozen=True, slots=True)
class Part:
    """One subject of a program.

    Args:
        name: For ``--only``.
        lines: What its table says.
        measure: Measures in a folder of its own, with so many runs.

    """

    name: str
    lines: tuple[Line, ...]
    measure: Callable[[Path, int], Result]


class Contest:
    """Contenders that take turns.

    Args:
        name: Of the part, for the log.
        runs: Rounds that count.
        warm_up: Rounds before them, which do not.

    """

    def __init__(self, name: str, runs: int, *, warm_up: int = 1) -> None:
        self._name, self._runs, self._warm_up = name, runs, warm_up
        self._contenders: dict[str, Run] = {}
        self._problems: list[str] = []

    def enter(self, contender: str, make: Callable[[], Run]) -> None:
        """Let somebody take part; who cannot be set up is left out."""
        try:
            self._contenders[contender] = make()
        except CannotMeasureError as error:
            self._leave(contender, error)

    def run(self, before_round: Callable[[int], None] = lambda _: None) -> Result:
        """Hold all rounds; ``before_round`` prepares what all of them work on."""
        samples: Samples = defaultdict(list)
        for number in range(self._warm_up + self._runs):
            before_round(number)
            for contender in turns(list(self._contenders), number):
                values = self._once(contender, number)
                note(f"{self._name}: round {number - self._warm_up + 1}: {contender}: {_words(values)}")
                if number >= self._warm_up:
                    for measure, value in values.items():
                        samples[measure, contender].append(value)
        kept = {key: values for key, values in samples.items() if key[1] in self._contenders}
        return Result(kept, tuple(self._problems))

    def _once(self, contender: str, number: int) -> Mapping[str, float]:
        os.sync()
        try:
            return self._contenders[contender](number)
        except (CannotMeasureError, SyncError, OSError, subprocess.SubprocessError) as error:
            del self._contenders[contender]
            self._leave(contender, error)
            return {}

    def _leave(self, contender: str, error: Exception) -> None:
        self._problems.append(f"{self._name}: {contender}: {' '.join(str(error).split())[:300]}")
        note(self._problems[-1])


def turns(contenders: Sequence[str], number: int) -> list[str]:
    """Give the order of one round: another one begins each time."""
    first = number % max(1, len(contenders))
    return [*contenders[first:], *contenders[:first]]


def seconds_of(work: Callable[[], object]) -> float:
    """Give how long the work takes, in seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def note(text: str) -> None:
    """Tell the person who waits what is going on."""
    print(text, file=sys.stderr, flush=True)


def check(as_it_should_be: bool, words: str) -> None:  # noqa: FBT001 - reads as an assertion
    """Refuse a figure of work that was not done."""
    if not as_it_should_be:
        raise CannotMeasureError(words)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that goes away with everything in it; on a real disk, where TMPDIR says."""
    with tempfile.TemporaryDirectory(prefix="ringrift-bench-") as name:
        yield Path(name)


def _words(values: Mapping[str, float]) -> str:
    return ", ".join(f"{measure}={value:.4g}" for measure, value in values.items()) or "left out"
