"""Data at risk in Dagster: the check on ``games``, an observation with each node's numbers, and its materializations'.

What nodes say with their heartbeats is in the state database; here it is only shown.
"""

from collections.abc import Iterable
from typing import Final

import dagster as dg

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.defs.batching import Context
from ringrift_sync_dagster.errors import SyncError
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.node_reports import unread_for
from ringrift_sync_dagster.state.risks import Risk, every, risk_of
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.sync.losses import Loss, known_losses
from ringrift_sync_dagster.sync.runtime import Runtime

NAME: Final = "oldest_unsaved_game"
MAX_AGE_SECONDS: Final = 300.0
"""``ephemeral_max_data_age`` where no settings are at hand."""
_DESCRIPTION: Final = (
    "No finished game has been on one node alone, or unread, for longer than ephemeral_max_data_age (300 s)."
)
_ROWS: Final = 200
_IDS_SHOWN: Final = 50
_FIRST_IDS: Final = 10  # Dagster keeps each event for ever, and writes one for each config of a node


def risk_spec() -> dg.AssetCheckSpec:
    """Give the spec of the check."""
    return dg.AssetCheckSpec(NAME, asset=DataType.GAMES.value, description=_DESCRIPTION)


def risk_evaluation(state: StateStore, now: float, max_age_seconds: float = MAX_AGE_SECONDS) -> dg.AssetCheckEvaluation:
    """Evaluate the check; a node that was given up with its games is told as lost, and fails it no longer.

    Args:
        state: The shared facts.
        now: Seconds since 1970, by the clock that wrote when heartbeats came.
        max_age_seconds: ``ephemeral_max_data_age``.

    """
    risks = every(state)
    late = [risk for risk in risks if risk.lost_at is None and (risk.age(now) or 0.0) > max_age_seconds]
    text = _DESCRIPTION
    if late:
        worst = max(late, key=lambda risk: risk.age(now) or 0.0)
        text = f"{len(late)} nodes, such as {worst.node}: {worst.games} games, the oldest for {worst.age(now):.0f} s"
    gone = {risk.node for risk in risks if risk.lost_at is not None}
    unread = {name: told for name, told in unread_for(state, max_age_seconds, now).items() if name not in gone}
    if unread:
        name, report = min(unread.items(), key=lambda one: one[1].unread_since or now)
        words = f"{len(unread)} nodes have databases that they cannot read, such as {name}: {report.unread_why}"
        text = f"{text}; {words}" if late else words
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(DataType.GAMES.value), check_name=NAME, passed=not (late or unread),
        metadata={**risk_metadata(risks, now), "unread_databases": sum(told.unread for told in unread.values())},
        severity=dg.AssetCheckSeverity.ERROR, description=text,
    )  # fmt: skip


def risk_metadata(risks: list[Risk], now: float) -> dict[str, dg.MetadataValue]:
    """Give the numbers over all nodes that are not given up, and a row for each that has something at risk."""
    alive = [risk for risk in risks if risk.lost_at is None]
    risky = sorted((risk for risk in alive if risk.games), key=lambda risk: -(risk.age(now) or 0.0))
    found: dict[str, dg.MetadataValue] = {
        "games_at_risk": dg.MetadataValue.int(sum(risk.games for risk in risky)),
        "bytes_at_risk": dg.MetadataValue.int(sum(risk.bytes for risk in risky)),
        "oldest_unsaved_seconds": dg.MetadataValue.float(max((risk.age(now) or 0.0 for risk in risky), default=0.0)),
    }
    if risky:
        found["at_risk"] = dg.MetadataValue.table([_row(risk, now) for risk in risky[:_ROWS]])
    return found


def risks_of_nodes(state: StateStore, nodes: Iterable[str], now: float) -> dict[str, dict[str, dg.MetadataValue]]:
    """Give what the materializations of a node's games tell of what is on it alone, by node; of others nothing.

    Args:
        state: The shared facts.
        nodes: Nodes.
        now: Seconds since 1970, by the clock that wrote when heartbeats came.

    Raises:
        StateError: The state database cannot be read.

    """
    risky = {risk.node for risk in every(state) if risk.games and risk.lost_at is None}
    found = [risk_of(state, node) for node in sorted(risky.intersection(nodes))]
    return {risk.node: _of_node(risk, now) for risk in found if risk is not None and risk.games}


def _of_node(risk: Risk, now: float) -> dict[str, dg.MetadataValue]:
    return {
        "games_at_risk": dg.MetadataValue.int(risk.games),
        "bytes_at_risk": dg.MetadataValue.int(risk.bytes),
        "oldest_unsaved_seconds": dg.MetadataValue.float(round(risk.age(now) or 0.0, 3)),
        "ids_at_risk": dg.MetadataValue.json(list(risk.ids[:_FIRST_IDS])),
        "risk_told_at": dg.MetadataValue.timestamp(risk.at),
    }


def record_risks(context: Context, runtime: Runtime) -> None:
    """Write the check and an observation of ``games``; nothing where no node ever sent a heartbeat."""
    risks, now = every(runtime.state), clock.wall()
    if not risks:
        return
    evaluation = risk_evaluation(runtime.state, now, runtime.settings.ephemeral_max_data_age)
    # Dagster's own annotation forgets this kind of event; its body takes it (measured with 1.13).
    context.log_event(evaluation)  # type: ignore[arg-type]
    metadata = risk_metadata(risks, now)
    try:
        metadata |= loss_metadata(known_losses(runtime.state, runtime.layout))
    except SyncError as error:
        context.log.warning("what is lost cannot be told: %s", error)
    context.log_event(dg.AssetObservation(asset_key=DataType.GAMES.value, metadata=metadata))


def loss_metadata(losses: list[Loss]) -> dict[str, dg.MetadataValue]:
    """Give what is known to be lost, by node; nothing where nothing is."""
    if not losses:
        return {}
    rows = [
        dg.TableRecord(
            {
                "node": loss.risk.node,
                "games": loss.games,
                "last_heartbeat": clock.utc_iso(loss.risk.at),
                "ids": ", ".join(loss.ids[:_IDS_SHOWN]) + (" and more" if len(loss.ids) > _IDS_SHOWN else ""),
            }
        )
        for loss in losses[:_ROWS]
    ]
    count = dg.MetadataValue.int(sum(loss.games for loss in losses))
    return {"games_lost": count, "lost": dg.MetadataValue.table(rows)}


def loss_observation(losses: list[Loss]) -> list[dg.AssetObservation]:
    """Give the observation that a sensor writes when it finds that games were lost."""
    lost = [loss for loss in losses if loss.games]
    return [dg.AssetObservation(asset_key=DataType.GAMES.value, metadata=loss_metadata(lost))] if lost else []


def _row(risk: Risk, now: float) -> dg.TableRecord:
    return dg.TableRecord(
        {
            "node": risk.node,
            "games": risk.games,
            "bytes": risk.bytes,
            "oldest_seconds": round(risk.age(now) or 0.0),
            "outbox_bytes": risk.outbox_bytes,
            "outbox_packs": risk.outbox_packs,
            "heartbeat_seconds_ago": round(max(0.0, now - risk.at)),
        }
    )
