"""What one materialization says: the numbers of its changes, under names that Dagster plots over time."""

from collections.abc import Iterable, Mapping, Sequence

import dagster as dg

from ringrift_sync_dagster.core.model import DataType, Partition
from ringrift_sync_dagster.defs.partitions import partition_key, partition_tags
from ringrift_sync_dagster.state.changes import Change, PendingGroup


def changed_event(group: PendingGroup, risk: Mapping[str, dg.MetadataValue] | None = None) -> dg.AssetMaterialization:
    """Give the event of one changed partition: sums over its changes, and the latest count of the canonical store.

    Args:
        group: The changes.
        risk: What is at risk on the node of the partition; only games tell it.

    """
    metadata = _changed_metadata(group.changes)
    if group.data_type == DataType.GAMES.value:
        metadata |= risk or {}
    return _event(DataType(group.data_type), Partition(group.config, group.node), metadata)


def answer_event(
    data_type: DataType,
    partition: Partition,
    outcome: str,
    canonical_games: int | None,
    risk: Mapping[str, dg.MetadataValue] | None = None,
) -> dg.AssetMaterialization:
    """Give the event of a partition that was looked at and had nothing to record; only a backfill asks for it."""
    metadata: dict[str, dg.MetadataValue] = {"outcome": dg.MetadataValue.text(outcome)}
    if data_type is DataType.GAMES:
        metadata |= {"games_new": dg.MetadataValue.int(0), **_canonical(canonical_games), **(risk or {})}
    return _event(data_type, partition, metadata)


def _event(data_type: DataType, partition: Partition, metadata: dict[str, dg.MetadataValue]) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(
        asset_key=data_type.value,
        partition=partition_key(partition),
        tags=partition_tags(partition),
        metadata=metadata,
    )


def _changed_metadata(changes: Sequence[Change]) -> dict[str, dg.MetadataValue]:
    """Units: bytes are those that moved, seconds run from the first byte to the commit, lag is the largest."""
    lags = [change.lag_seconds for change in changes if change.lag_seconds is not None]
    lag = {"lag_seconds": dg.MetadataValue.float(round(max(lags), 3))} if lags else {}
    counted = [change.canonical_games for change in changes if change.canonical_games is not None]
    return {
        "outcome": dg.MetadataValue.text("changed"),
        **{name: dg.MetadataValue.int(number) for name, number in _numbers(changes).items()},
        "seconds": dg.MetadataValue.float(round(sum(change.seconds for change in changes), 3)),
        **lag,
        **_canonical(counted[-1] if counted else None),
        "transport": _names(change.transport for change in changes),
        "trigger": _names(change.trigger for change in changes),
        "direction": _names(change.direction for change in changes),
        "source": _names(change.source_path for change in changes),
        "changed_at": dg.MetadataValue.timestamp(changes[-1].at),
        "artifact": dg.MetadataValue.json(_distinct(change.artifact for change in changes)),
        "change_ids": dg.MetadataValue.json([change.change_id for change in changes]),
        "by_transport": _by_transport(changes),
    }


def _numbers(changes: Sequence[Change]) -> dict[str, int]:
    """Sums: those of games where it is about games, else the counts that the changes carry; up and down told apart."""
    numbers = {"set_aside": sum(change.set_aside for change in changes)}
    if changes[0].data_type == DataType.GAMES.value:
        numbers |= {
            "games_new": sum(change.games_new for change in changes),
            "games_total": sum(_games(change) for change in changes),
            "games_revised": sum(change.games_revised for change in changes),
            "games_renamed": sum(change.games_renamed for change in changes),
            "games_annotated": sum(change.games_annotated for change in changes),
        }
    for change in changes:
        for name, number in change.counts.items():
            numbers[name] = numbers.get(name, 0) + number
    for direction in ("up", "down"):
        numbers[f"{direction}_bytes"] = sum(one.size_bytes for one in changes if one.direction == direction)
    return {**numbers, "bytes": sum(change.size_bytes for change in changes)}


def _by_transport(changes: Sequence[Change]) -> dg.MetadataValue:
    """A table: which way how much went over what."""
    sums: dict[tuple[str, str], int] = {}
    for change in changes:
        key = (change.direction, change.transport or "none")
        sums[key] = sums.get(key, 0) + change.size_bytes
    rows = [
        dg.TableRecord({"direction": direction, "transport": transport, "bytes": count})
        for (direction, transport), count in sorted(sums.items())
    ]
    return dg.MetadataValue.table(rows)


def _games(change: Change) -> int:
    """Count the games that were in what arrived, new or not."""
    return change.games_new + change.games_same + change.games_revised + change.games_renamed + change.games_annotated


def _canonical(games: int | None) -> dict[str, dg.MetadataValue]:
    """Give the count of the canonical store twice: as ours, and under the name that Dagster's pages look for."""
    if games is None:
        return {}
    return {"canonical_games": dg.MetadataValue.int(games), "dagster/row_count": dg.MetadataValue.int(games)}


def _names(values: Iterable[str]) -> dg.MetadataValue:
    return dg.MetadataValue.text(", ".join(_distinct(values)) or "none")


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(value for value in values if value))
