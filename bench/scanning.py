"""What a node's manifest costs: 16,000 files and 500 databases, first by an agent that knows nothing, then again.

Processor time is that of the agent and of all its processes, as the kernel counts it: in steps of 10 ms, therefore over
several scans at a time.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from bench import data
from bench.agents import agent
from bench.harness import Contest, Part, check, note, seconds_of
from bench.lines import OURS, Line, Reach, Result
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.storage.layout import SCRATCH_DIR

FILES: Final = 16_000
DATABASES: Final = 500
RESCANS: Final = 10
_SECONDS: Final = 120.0

LINES: Final = (
    Line("manifest of 16,000 files and 500 databases: first scan", "s", "first"),
    Line("manifest: first scan, processor time of the agent", "ms", "first_cpu"),
    Line("manifest: unchanged rescan", "ms", "rescan"),
    Line("manifest: unchanged rescan, processor time of the agent", "ms", "rescan_cpu", reach=Reach("below", "250")),
)


def measure(folder: Path, runs: int) -> Result:
    """Measure in a folder of its own."""
    root = folder / "node"
    note(f"manifest: laying out {FILES + DATABASES} files")
    data.node_files(root, FILES, DATABASES)
    contest = Contest("manifest", runs)
    contest.enter(OURS, lambda: lambda _: _once(folder, root))
    return contest.run()


def _once(folder: Path, root: Path) -> Mapping[str, float]:
    """An agent that has never seen these files: its first answer, and the next ones."""
    shutil.rmtree(root / SCRATCH_DIR, ignore_errors=True)
    with agent(folder / "agent", root) as running, running.transport() as transport:
        answers: list[dict[str, Any]] = []

        def ask() -> None:
            since = answers[-1]["token"] if answers else None
            answers.append(transport.manifest(since, deadline=clock.Deadline.after(_SECONDS)))

        cpu = [running.cpu_seconds()]
        first = seconds_of(ask)
        cpu.append(running.cpu_seconds())
        again = sum(seconds_of(ask) for _ in range(RESCANS))
        cpu.append(running.cpu_seconds())
    found = len(answers[0]["entries"])
    check(found == FILES + DATABASES, f"the manifest names {found} of {FILES + DATABASES} files")
    check(not any(answer["entries"] or answer["full"] for answer in answers[1:]), "a rescan told of changes")
    return {
        "first": first,
        "first_cpu": (cpu[1] - cpu[0]) * 1000,
        "rescan": again / RESCANS * 1000,
        "rescan_cpu": (cpu[2] - cpu[1]) / RESCANS * 1000,
    }


PART: Final = Part("manifest", LINES, measure)
