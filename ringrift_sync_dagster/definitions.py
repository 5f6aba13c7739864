"""What Dagster loads: ``dagster definitions validate -m ringrift_sync_dagster.definitions`` must always pass.

Loading opens no file, database or connection: a wrong inventory fails a run with its reason, never the code location.
"""

from typing import Final

import dagster as dg

from ringrift_sync_dagster.defs.archives import archive, archive_schedule, restore_check, restore_check_schedule
from ringrift_sync_dagster.defs.assets import cluster_data
from ringrift_sync_dagster.defs.ephemeral import ephemeral_schedule, ephemeral_sync, loop_guard_sensor
from ringrift_sync_dagster.defs.jobs import asset_jobs, collect_games_job, move_data_job
from ringrift_sync_dagster.defs.orphans import orphan_games_sensor, run_failure_sensor
from ringrift_sync_dagster.defs.pressure import backpressure_sensor
from ringrift_sync_dagster.defs.reports import report_job, verify, verify_schedule
from ringrift_sync_dagster.defs.resources import (
    BandwidthResource,
    CircuitBreakerResource,
    SyncResource,
    TransportResource,
)
from ringrift_sync_dagster.defs.retention import retention, retention_schedule
from ringrift_sync_dagster.defs.sensors import inventory_sensor
from ringrift_sync_dagster.defs.strategies import (
    broadcast_models,
    hybrid_schedule,
    hybrid_sync,
    model_promotion_sensor,
    priority_sync,
    pull,
)

_bandwidth = BandwidthResource.configure_at_launch()
_breakers = CircuitBreakerResource.configure_at_launch()
_transports = TransportResource.configure_at_launch()

defs: Final = dg.Definitions(
    assets=[cluster_data],
    jobs=[
        *asset_jobs,
        collect_games_job,
        move_data_job,
        hybrid_sync,
        ephemeral_sync,
        pull,
        priority_sync,
        broadcast_models,
        archive,
        restore_check,
        retention,
        verify,
        report_job,
    ],
    schedules=[
        hybrid_schedule,
        ephemeral_schedule,
        verify_schedule,
        archive_schedule,
        restore_check_schedule,
        retention_schedule,
    ],
    sensors=[
        inventory_sensor,
        model_promotion_sensor,
        orphan_games_sensor,
        loop_guard_sensor,
        run_failure_sensor,
        backpressure_sensor,
    ],
    # Each may be set in the launchpad by itself, and the one that opens everything sees what was set.
    resources={
        "bandwidth": _bandwidth,
        "breakers": _breakers,
        "transports": _transports,
        "sync": SyncResource(bandwidth=_bandwidth, breakers=_breakers, transports=_transports),
    },
)
