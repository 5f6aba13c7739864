"""Several processes that work at the same time, each a program of this folder: they begin together and end together.

A worker says that it is ready, begins when it is told so on its standard input, works until that input ends, and tells
what it found as one line of JSON. When the parent dies the input ends too, so that nobody works on alone.
"""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from bench.harness import CannotMeasureError
from ringrift_sync_dagster.demo.processes import PYTHON, command

READY_SECONDS: Final = 60.0
_END_SECONDS: Final = 30.0
_READY: Final = "ready"


class Workers:
    """Running workers; made by ``workers``."""

    def __init__(self, children: Sequence[subprocess.Popen[str]], logs: Sequence[Path]) -> None:
        self._children, self._logs = children, logs

    def begin(self) -> None:
        """Wait until all are ready, and let them begin.

        Raises:
            CannotMeasureError: One of them ended, or was not ready in time.

        """
        limit = time.monotonic() + READY_SECONDS
        for number, child in enumerate(self._children):
            assert child.stdout is not None
            if not select.select([child.stdout], [], [], max(0.0, limit - time.monotonic()))[0]:
                raise CannotMeasureError(f"worker {number} was not ready within {READY_SECONDS:.0f} s")
            if child.stdout.readline().strip() != _READY:
                raise self._failed(number)
        for child in self._children:
            assert child.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it ended, which ``end`` will tell
                print("go", file=child.stdin, flush=True)

    def end(self) -> list[Any]:
        """Let all end, and give what each of them found.

        Raises:
            CannotMeasureError: One of them failed, or did not end in time.

        """
        for child in self._children:
            _close(child.stdin)
        found = []
        for number, child in enumerate(self._children):
            assert child.stdout is not None
            try:
                child.wait(_END_SECONDS)
                found.append(json.loads(child.stdout.read()))
            except (subprocess.TimeoutExpired, ValueError) as error:
                raise self._failed(number) from error
        return found

    def _failed(self, number: int) -> CannotMeasureError:
        words = self._logs[number].read_text(encoding="utf-8", errors="replace")[-300:]
        return CannotMeasureError(f"worker {number} told nothing: {words}")


@contextmanager
def workers(folder: Path, module: str, arguments: Sequence[Sequence[str]]) -> Iterator[Workers]:
    """Start a worker for each list of arguments; those that still run at the end of the body are killed.

    Args:
        folder: For what they complain of.
        module: The program, such as ``bench.limits``.
        arguments: Of each one.

    """
    folder.mkdir(parents=True, exist_ok=True)
    logs = [folder / f"worker-{number}.log" for number in range(len(arguments))]
    children: list[subprocess.Popen[str]] = []
    try:
        for own, log in zip(arguments, logs, strict=True):
            with log.open("ab") as output:
                line = command([PYTHON, "-m", module, *own], {})
                children.append(
                    subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, text=True)
                )
        yield Workers(children, logs)
    finally:
        for child in children:
            child.kill()
            child.wait()
            _close(child.stdin)
            _close(child.stdout)


def wait_for_the_others() -> threading.Event:
    """Say that this worker is ready, and wait until it may begin; the event tells when to end. For workers."""
    print(_READY, flush=True)
    if not sys.stdin.readline():
        sys.exit("nobody waits for this worker")
    ended = threading.Event()
    threading.Thread(target=_watch, args=(ended,), daemon=True).start()
    return ended


def tell(found: object) -> None:
    """Tell the parent what was found. For workers."""
    print(json.dumps(found), flush=True)


def _watch(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


def _close(pipe: IO[str] | None) -> None:
    if pipe is not None:
        with contextlib.suppress(BrokenPipeError):
            pipe.close()
