"""Sensors for what went wrong: games that are on one node alone for too long, and runs that failed.

The orphan sensor asks for a priority sync *from* the node, again and again with growing pauses while it is silent, and
tells when the games have come. It reads only what is known here, so that a dead node cannot hold it up.
"""

import json
from typing import Any, Final

import dagster as dg

from ringrift_sync_dagster.core.events import DataEventType
from ringrift_sync_dagster.defs.resources import SyncResource
from ringrift_sync_dagster.defs.risks import loss_observation
from ringrift_sync_dagster.defs.strategies import REASON_TAG, priority_sync
from ringrift_sync_dagster.errors import SyncError
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.events import publish
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.sync.losses import find_losses, speaking, too_old
from ringrift_sync_dagster.sync.orphans import PATHS_TOLD, Orphans, Watch, come, files_behind, grace_by_node

NODE_TAG: Final = "ringrift/node"
REASON: Final = "orphan_games_recovery"


@dg.sensor(
    name="orphan_games_sensor",
    job=priority_sync,
    minimum_interval_seconds=4,  # a true 5 s
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Brings games that have been on one node alone for longer than ephemeral_max_data_age (300 s).",
)
def orphan_games_sensor(context: dg.SensorEvaluationContext, sync: SyncResource) -> dg.SensorResult:
    """Ask for a priority sync from each node with orphans that is due to be asked."""
    memory: dict[str, Any] = json.loads(context.cursor) if context.cursor else {}
    watch = Watch.read(memory)
    told: dict[str, dict[str, Any]] = dict(memory.get("told", {}))
    now = clock.wall()
    try:
        with sync.runtime() as runtime:
            behind = files_behind(runtime)
            losses = find_losses(runtime)
            orphans = watch.look(behind, now, grace_by_node(runtime))
            late = too_old(runtime, now, runtime.settings.ephemeral_max_data_age)
            orphans += [one for one in late if one.node not in {other.node for other in orphans}]
            _tell(runtime.state, orphans, told)
            recovered = []
            for node in sorted(set(told) - {one.node for one in orphans}):
                named = list(told[node].get("orphan_paths", ()))
                paths = come(runtime, node, named, behind)
                if paths is None:
                    continue
                if paths or (not named and node in speaking(runtime.state)):
                    recovered.append(node)
                    _tell_recovered(runtime.state, node, told[node], paths)
                del told[node]
                watch.tries.pop(node, None)
    except (SyncError, dg.Failure) as error:
        return dg.SensorResult(skip_reason=f"nothing can be looked at: {error}", cursor=context.cursor)
    requests = [_request(one, watch.asked(one.node, now)) for one in orphans if watch.is_due(one.node, now)]
    cursor = json.dumps({**watch.as_json(), "told": told}, sort_keys=True)
    lost = loss_observation(losses)
    if requests:
        return dg.SensorResult(run_requests=requests, cursor=cursor, asset_events=lost)
    words = _reason(len(behind), orphans, recovered, watch, now)
    words += "".join(f"; {loss.risk.node} is gone with {loss.games} games: {loss.reason}" for loss in losses)
    return dg.SensorResult(skip_reason=words, cursor=cursor, asset_events=lost)


def _request(one: Orphans, count: int) -> dg.RunRequest:
    config = {"reason": REASON, "source_node": one.node}
    return dg.RunRequest(
        run_key=json.dumps([one.node, count, [file.key for file in one.files[:PATHS_TOLD]], round(one.seconds)]),
        run_config={"ops": {"pull_urgently": {"config": config}}},
        tags={REASON_TAG: REASON, NODE_TAG: one.node, "ringrift/try": str(count)},
    )


def _tell(state: StateStore, orphans: list[Orphans], told: dict[str, dict[str, Any]]) -> None:
    """Publish what was not told before."""
    for one in orphans:
        if one.node not in told:
            told[one.node] = one.payload()
            publish(state, DataEventType.ORPHAN_GAMES_DETECTED, told[one.node])


def _tell_recovered(state: StateStore, node: str, told: dict[str, Any], paths: list[str]) -> None:
    payload = {
        "host": node,
        "registered_count": len(paths),
        "registered_paths": paths,
        "games_recovered": int(told.get("orphan_count", 0)),
    }
    publish(state, DataEventType.ORPHAN_GAMES_REGISTERED, payload)


def _reason(behind: int, orphans: list[Orphans], recovered: list[str], watch: Watch, now: float) -> str:
    words = [f"{behind} files are being read" if behind else "every finished game that is known has been read"]
    for one in orphans:
        count, again_at = watch.tries[one.node]
        words.append(
            f"{one.node}: {one.games} games in {len(one.files)} files for {one.seconds:.0f} s, asked {count} times, "
            f"again in {max(0.0, again_at - now):.0f} s"
        )
    words += [f"{node}: its games have come" for node in recovered]
    return "; ".join(words)


@dg.run_failure_sensor(
    name="run_failure_sensor",
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Publishes DATA_SYNC_FAILED for every run that failed, a crashed one too.",
)
def run_failure_sensor(context: dg.RunFailureSensorContext, sync: SyncResource) -> None:
    """Tell everybody who listens that a run failed."""
    run = context.dagster_run
    payload = {
        "host": run.tags.get(NODE_TAG, ""),
        "error": context.failure_event.message or "the run failed",
        "job": run.job_name,
        "run_id": run.run_id,
    }
    with StateStore.open(sync.settings().state_url) as state:
        publish(state, DataEventType.DATA_SYNC_FAILED, payload)
