"""3,600 changed partitions into Dagster on SQLite, beside a bare ``context.log_event`` loop in the same run.

Both write the same events; ours reads them from the state database under its lease, makes the nodes known, writes the
checks and marks the changes as recorded. Each round is one Dagster run in a process and an instance of its own; which
of the two begins alternates. As a program of its own (``python -m bench.recording FOLDER ours|bare``) it is one round.
"""

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Final

import dagster as dg

from bench import data
from bench.harness import Part, check, note, seconds_of
from bench.lines import OURS, Line, Reach, Result, Samples
from ringrift_sync_dagster.defs.events import changed_event
from ringrift_sync_dagster.defs.recording import record_materializations
from ringrift_sync_dagster.state.changes import PendingGroup, add_changes
from ringrift_sync_dagster.state.store import StateStore

PARTITIONS: Final = 3600
BARE: Final = "bare log_event loop"
_ASSET: Final = dg.AssetKey("games")
_LONGEST_SECONDS: Final = 1800.0

LINES: Final = (Line("recording 3,600 partitions", "events/s", "rate", BARE, Reach("at least", "0.8")),)


def measure(folder: Path, runs: int) -> Result:
    """Measure in a folder of its own."""
    samples: Samples = defaultdict(list)
    for number in range(runs):
        round_folder = folder / f"round-{number}"
        round_folder.mkdir()
        first = (OURS, "bare")[number % 2]
        command = [sys.executable, "-m", "bench.recording", str(round_folder), first]
        home = {"DAGSTER_HOME": str(round_folder), "DAGSTER_DISABLE_TELEMETRY": "1"}  # nothing lands in the checkout
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=_LONGEST_SECONDS, env=os.environ | home
        )
        output = round_folder / "seconds.json"
        if done.returncode != 0 or not output.exists():
            problem = " ".join(done.stderr.split())[-300:]
            return Result({}, (f"record: the Dagster run failed: {problem}",))
        for contender, seconds in json.loads(output.read_text()).items():
            samples["rate", contender].append(PARTITIONS / seconds)
            note(f"record: round {number + 1}: {contender}: rate={PARTITIONS / seconds:.4g}")
    return Result(samples)


def _one_round(folder: Path, first: str) -> None:
    """One Dagster run that records the partitions both ways."""
    changes = data.changes(PARTITIONS)
    bare_events = [changed_event(PendingGroup("games", c.config, c.node, (c,))) for c in changes]
    seconds: dict[str, float] = {}

    @dg.op
    def both(context: dg.OpExecutionContext) -> None:
        def ours() -> None:
            seconds[OURS] = seconds_of(lambda: record_materializations(context, state))

        def bare() -> None:
            seconds[BARE] = seconds_of(lambda: [context.log_event(event) for event in bare_events])

        for work in (ours, bare) if first == OURS else (bare, ours):
            work()

    @dg.job(executor_def=dg.in_process_executor)
    def record_job() -> None:
        both()

    (folder / "dagster").mkdir()
    with (
        StateStore.open(f"sqlite:///{folder}/state.db") as state,
        dg.DagsterInstance.local_temp(str(folder / "dagster"), {"telemetry": {"enabled": False}}) as instance,
    ):
        add_changes(state, changes)
        record_job.execute_in_process(instance=instance)
        told = len(instance.get_materialized_partitions(_ASSET))
        check(told == PARTITIONS, f"Dagster knows {told} of {PARTITIONS} partitions")
    (folder / "seconds.json").write_text(json.dumps(seconds))


PART: Final = Part("record", LINES, measure)

if __name__ == "__main__":
    _one_round(Path(sys.argv[1]), sys.argv[2])
