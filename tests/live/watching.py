"""The test's side of a writer: its process, and its ledger as read so far; neither ever asks the database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.live.writers import ROOT, Plan


@dataclass
class Ledger:
    """What a writer says: games that may be in the database, and those that must be."""

    path: Path
    played: set[tuple[str, str]] = field(default_factory=set)  # may be in the database
    final: dict[str, str] = field(default_factory=dict)  # must be there, with this content
    done: int = 0
    _read: int = 0

    def read(self) -> Ledger:
        """Read what was appended; a line that is being written waits for the next time."""
        with self.path.open("rb") if self.path.exists() else open(os.devnull, "rb") as file:  # noqa: PTH123
            file.seek(self._read)
            whole = file.read().rpartition(b"\n")[0]
        self._read += len(whole) + 1 if whole else 0
        for line in whole.decode().splitlines():
            verb, *words = line.split()
            if verb == "did":
                self.done += 1
            else:
                self.played.add((words[0], words[1]))
            if verb == "finished":
                self.final[words[0]] = words[1]
        return self


class Writer:
    """A writer's process; killed at the end of the ``with`` block at the latest."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.ledger = Ledger(Path(plan.ledger))
        command = [sys.executable, "-m", "tests.live.writers", json.dumps(asdict(plan))]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate(timeout=10)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def wait_for(self, what: Callable[[Ledger], bool], seconds: float = 20.0) -> None:
        """Wait until the ledger says so."""
        limit = time.monotonic() + seconds
        while not what(self.ledger.read()):
            assert self.alive, "the writer is dead"
            assert time.monotonic() < limit, f"{self.plan} has finished {len(self.ledger.final)} games"
            time.sleep(0.005)

    def stop(self) -> list[float]:
        """Tell it to stop and wait until it has; give the seconds of its commits. Its own database must be whole."""
        out, _ = self.process.communicate("stop\n", timeout=30)
        assert self.process.returncode == 0
        result = json.loads(out)
        assert result["integrity"] == "ok"
        self.ledger.read()
        return [float(value) for value in result["seconds"]]

    def go_on(self) -> None:
        """Let a writer that holds play on."""
        assert self.process.stdin is not None
        self.process.stdin.write("go on\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """``kill -9``."""
        self.process.kill()
        self.process.communicate(timeout=10)
        self.ledger.read()
