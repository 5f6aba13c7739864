"""The backpressure sensor: looks at the coordinator's load every 10 s, so that holding begins and ends by itself.

Passes look as well; this one looks while none runs. Its reason tells pressure and signals at every tick. A transition,
whoever made it, is one observation of ``games``: there an operator sees in the timeline of the data when transfers were
held and why, and Dagster plots the pressure.
"""

import json
from typing import Final

import dagster as dg

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.core.pressure import SIGNALS
from ringrift_sync_dagster.defs.resources import SyncResource
from ringrift_sync_dagster.errors import SyncError
from ringrift_sync_dagster.settings.inventory import load_inventory
from ringrift_sync_dagster.state.backpressure import Backpressure
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.storage.layout import Layout
from ringrift_sync_dagster.sync.pressure import look_now, shown
from ringrift_sync_dagster.sync.runtime import owner_of

INTERVAL_SECONDS: Final = 9
"""A true 10 s: the daemon looks every 5 s."""


@dg.sensor(
    name="backpressure_sensor",
    minimum_interval_seconds=INTERVAL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Holds transfers that can wait while the coordinator is overloaded, and lets them go on afterwards.",
)
def backpressure_sensor(context: dg.SensorEvaluationContext, sync: SyncResource) -> dg.SensorResult | dg.SkipReason:
    """Look once; say how the owner stands, and observe a transition since the last look."""
    try:
        settings = sync.settings()
        owner = owner_of(settings, load_inventory(settings.hosts, coordinator=settings.coordinator))
        with StateStore.open(settings.state_url) as state:
            found = look_now(state, owner, Layout(settings.root))
    except SyncError as error:
        return dg.SkipReason(f"the load cannot be looked at, so nothing changes: {error}")
    before = json.loads(context.cursor) if context.cursor else {"active": False, "since": None}
    now = {"active": found.active, "since": found.since_at}
    # An activation and a release between two looks are two transitions, of which the last one is told.
    turned = now != before and (found.active or before["active"] or context.cursor is not None)
    return dg.SensorResult(
        skip_reason=shown(found),
        cursor=json.dumps(now),
        asset_events=[_observation(found)] if turned else [],
    )


def _observation(found: Backpressure) -> dg.AssetObservation:
    metadata: dict[str, dg.MetadataValue] = {
        "backpressure": dg.MetadataValue.text("activated" if found.active else "released"),
        "source": dg.MetadataValue.text(found.source),
        "pressure": dg.MetadataValue.float(found.pressure),
        "owner": dg.MetadataValue.text(found.owner),
        "held": dg.MetadataValue.text(
            "transfers of NORMAL, LOW and BACKGROUND priority of which another copy lasts"
            if found.active
            else "nothing"
        ),
    }
    metadata |= {f"signal/{name}": dg.MetadataValue.float(found.signals.get(name, 0.0)) for name in SIGNALS}
    return dg.AssetObservation(DataType.GAMES.value, metadata=metadata)
