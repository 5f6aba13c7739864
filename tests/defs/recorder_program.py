"""Record the pending changes in an instance of its own and die by SIGKILL where the first argument says.

Arguments: point, state URL. DAGSTER_HOME names the instance. Started by test_recording.py.
"""

import os
import signal
import sys

import dagster as dg

from ringrift_sync_dagster.defs.recording import record_materializations
from ringrift_sync_dagster.node import faults
from ringrift_sync_dagster.state.store import StateStore


@dg.op
def drain(context: dg.OpExecutionContext) -> None:
    with StateStore.open(sys.argv[2]) as state:
        record_materializations(context, state)


@dg.job(executor_def=dg.in_process_executor)
def drain_job() -> None:
    drain()


def die_at(point: str) -> None:
    if point == sys.argv[1]:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    faults.hook = die_at
    with dg.DagsterInstance.get() as instance:
        drain_job.execute_in_process(instance=instance)
