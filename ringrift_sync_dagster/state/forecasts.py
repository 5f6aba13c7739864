"""Forecasts: what was expected of a partition's transfer, and what it took; what the next prediction learns from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.schema import forecasts
from ringrift_sync_dagster.state.store import StateStore


@dataclass(frozen=True, slots=True)
class Forecast:
    """One partition of one data type, one way, in one pass.

    Args:
        data_type: Which.
        config: Which.
        node: Which.
        direction: ``up`` or ``down``.
        predicted_bytes: Bytes that were expected on the wire.
        predicted_seconds: Seconds that were expected.
        actual_bytes: Bytes that travelled.
        actual_seconds: Seconds that it took.
        trigger: What started the pass.

    """

    data_type: str
    config: str
    node: str
    direction: str
    predicted_bytes: int
    predicted_seconds: float
    actual_bytes: int = 0
    actual_seconds: float = 0.0
    trigger: str = ""


def add_all(store: StateStore, new: Iterable[Forecast]) -> None:
    """Write what came of the forecasts of a pass.

    Raises:
        StateError: The state database cannot be written.

    """
    rows = [{**asdict(one), "at": clock.wall()} for one in new]
    if rows:
        with store.begin() as connection:
            connection.execute(sa.insert(forecasts), rows)


def recent(store: StateStore, limit: int = 500) -> list[Forecast]:
    """Give the last ones, the newest first."""
    columns = [forecasts.c[name] for name in Forecast.__dataclass_fields__]
    with store.read() as connection:
        rows = connection.execute(sa.select(*columns).order_by(forecasts.c.id.desc()).limit(limit)).mappings()
        return [Forecast(**row) for row in rows]
