"""What a soak left behind, read from the state database and from Dagster's own storage; pure judgements of it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import dagster as dg
import sqlalchemy as sa

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.state import schema
from ringrift_sync_dagster.state.marks import Mark
from ringrift_sync_dagster.state.store import StateStore

BAR = 40


@dataclass(frozen=True, slots=True)
class Recorded:
    """One materialization as Dagster has it.

    Args:
        data_type: The asset.
        partition: Its partition.
        change_ids: The changes that it says it was made of.

    """

    data_type: str
    partition: str
    change_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ticks:
    """How the ticks of one schedule or sensor ended.

    Args:
        count: How many there were, by status.
        errors: What the failed ones said.

    """

    count: Mapping[str, int]
    errors: tuple[str, ...]


def gaps(found: Sequence[Mark]) -> list[float]:
    """Seconds between the beginnings of two marks' work."""
    return [after.began_at - before.began_at for before, after in itertools.pairwise(found)]


def histogram(values: Sequence[float], width: float) -> list[str]:
    """Lines of text, one for each class of values that there is."""
    counted = Counter(int(value / width) for value in values)
    most = max(counted.values(), default=1)
    return [
        f"  {number * width:6.1f} to {(number + 1) * width:6.1f} s {counted[number]:5} "
        + "#" * max(1, round(BAR * counted[number] / most))
        for number in sorted(counted)
    ]


def overlaps(found: Sequence[Mark]) -> list[str]:
    """Say which marks of different holders were worked for at the same time; a millisecond of clock is forgiven."""
    return [
        f"{after.holder} began {before.began_at + before.seconds - after.began_at:.3f} s before {before.holder} ended"
        for before, after in itertools.pairwise(found)
        if before.holder != after.holder and after.began_at < before.began_at + before.seconds - 0.001
    ]


def materializations(instance: dg.DagsterInstance) -> list[Recorded]:
    """Give every materialization that Dagster has."""
    found = []
    for data_type in DataType:
        cursor = None
        while True:
            page = instance.fetch_materializations(dg.AssetKey(data_type.value), limit=500, cursor=cursor)
            for record in page.records:
                event = record.asset_materialization
                assert event is not None
                ids = event.metadata.get("change_ids")
                values = ids.value if isinstance(ids, dg.JsonMetadataValue) else []
                assert isinstance(values, list)
                found.append(Recorded(data_type.value, str(event.partition), tuple(str(one) for one in values)))
            cursor = page.cursor
            if not page.has_more:
                break
    return found


def unfounded(found: Iterable[Recorded], state: StateStore) -> list[str]:
    """Say which materializations tell of nothing that changed, or of a change that another one tells of too."""
    with state.read() as connection:
        rows = connection.execute(sa.select(schema.changes)).all()
    known = {row.change_id: (row.data_type, f"{row.config}|{row.node}") for row in rows}
    wrong, told = [], Counter[str]()
    for one in found:
        told.update(one.change_ids)
        if not one.change_ids:
            wrong.append(f"{one.data_type} {one.partition} tells of no change")
        wrong += [
            f"{one.data_type} {one.partition} tells of {change_id[:12]}, which is {known.get(change_id)}"
            for change_id in one.change_ids
            if known.get(change_id) != (one.data_type, one.partition)
        ]
    return wrong + [f"{change_id[:12]} was told {count} times" for change_id, count in told.items() if count > 1]


def unrecorded(state: StateStore, before_at: float) -> int:
    """Count the changes that were made before that and were never recorded."""
    statement = sa.select(sa.func.count()).where(
        schema.changes.c.recorded_at.is_(None), schema.changes.c.at < before_at
    )
    with state.read() as connection:
        return int(connection.execute(statement).scalar_one())


def ticks(instance: dg.DagsterInstance) -> dict[str, Ticks]:
    """Give the ticks of each schedule and sensor by its name."""
    found = {}
    for state in instance.all_instigator_state():
        mine = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=2000)
        errors = tuple(str(tick.error.message) for tick in mine if tick.error is not None)
        found[state.instigator_name] = Ticks(Counter(tick.status.value for tick in mine), errors)
    return found
