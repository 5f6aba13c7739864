"""Tables of pandas over the state database: where data lies, transfers, games by day, throughput, lag, ratings.

The only module that imports pandas; whoever needs no table loads none of it. The same tables are written by
``ringrift-sync report`` and shown in the Dagster UI. Times are UTC timestamps, sizes bytes, durations seconds.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd
import sqlalchemy as sa

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.state.schema import changes
from ringrift_sync_dagster.state.schema import transfers as transfers_table
from ringrift_sync_dagster.state.store import StateStore

_LOG: Final = logging.getLogger(__name__)
PERCENTILES: Final = (0.5, 0.9, 0.99)
_RATINGS: Final = "SELECT board_type, num_players, participant_id, rating, games_played, wins, losses, draws"


def locations(columns: Sequence[str], rows: Sequence[tuple[Any, ...]], copies: Mapping[str, int]) -> pd.DataFrame:
    """One row for each place with data, with ``copies``: how many verified ones of its content there are."""
    frame = _with_times(pd.DataFrame(rows, columns=list(columns)), "seen_at", "verified_at")
    frame["copies"] = frame["sha256"].map(copies).fillna(0).astype("int64")
    return frame


def transfers(store: StateStore) -> pd.DataFrame:
    """One row for each transfer, oldest first, with ``bytes_moved`` and ``bytes_per_second``."""
    columns = ("id", "artifact", "node", "direction", "transport", "config", "trigger", "size_bytes", "state",
               "started_at", "finished_at", "seconds", "error_class", "rungs")  # fmt: skip
    frame = _read(store, sa.select(*(transfers_table.c[name] for name in columns)).order_by(transfers_table.c.id))
    moved = frame["rungs"].map(lambda rungs: sum(int(rung.get("bytes_moved", 0)) for rung in rungs or ()))
    frame["bytes_moved"] = moved.astype("int64")
    frame["bytes_per_second"] = frame["bytes_moved"] / frame["seconds"].where(frame["seconds"] > 0)
    return _with_times(frame.drop(columns="rungs"), "started_at", "finished_at")


def throughput(store: StateStore) -> pd.DataFrame:
    """Finished transfers by ``transport`` and ``hour``: how many, ``bytes``, ``seconds`` and bytes per second."""
    frame = transfers(store)
    done = frame[(frame["state"] == "done") & (frame["bytes_moved"] > 0)].copy()
    done["hour"] = done["started_at"].dt.floor("h")
    grouped = done.groupby(["transport", "hour"], as_index=False).agg(
        transfers=("id", "count"), bytes=("bytes_moved", "sum"), seconds=("seconds", "sum")
    )
    grouped["bytes_per_second"] = grouped["bytes"] / grouped["seconds"].where(grouped["seconds"] > 0)
    return grouped


def moves(store: StateStore) -> pd.DataFrame:
    """One row for each merge or install that changed something, oldest first."""
    names = [column.name for column in changes.columns if column.name not in {"checks", "counts"}]
    frame = _read(store, sa.select(*(changes.c[name] for name in names)).order_by(changes.c.id))
    return _with_times(frame, "at", "recorded_at")


def games_by_day(store: StateStore) -> pd.DataFrame:
    """New games by ``config``, ``node`` and ``day`` of the merge."""
    frame = moves(store)
    games = frame[(frame["data_type"] == DataType.GAMES.value) & (frame["games_new"] > 0)].copy()
    games["day"] = games["at"].dt.floor("D")
    return games.groupby(["config", "node", "day"], as_index=False).agg(games=("games_new", "sum"))


def lag(store: StateStore) -> pd.DataFrame:
    """How old the oldest new game of a merge was when it was durable, in seconds: percentiles by ``config``."""
    frame = moves(store).dropna(subset=["lag_seconds"])
    columns = ["config", "merges", *(f"p{share * 100:g}" for share in PERCENTILES), "max"]
    rows = [
        [config, len(part), *(float(part["lag_seconds"].quantile(share)) for share in PERCENTILES),
         float(part["lag_seconds"].max())]
        for config, part in frame.groupby("config")
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def ratings(database: Path) -> pd.DataFrame:
    """One row for each participant of the merged elo database, by board, players and falling rating.

    None where there is no such database, or none that can be read: the other tables are worth having without it.
    """
    columns = ["board_type", "num_players", "participant_id", "rating", "games_played", "wins", "losses", "draws"]
    if not database.exists():
        return pd.DataFrame(columns=columns)
    with contextlib.closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as conn:
        order = "ORDER BY board_type, num_players, rating DESC, participant_id"
        conn.text_factory = lambda raw: raw.decode("utf-8", "replace")
        try:
            rows = conn.execute(f"{_RATINGS} FROM elo_ratings {order}").fetchall()
        except sqlite3.Error as error:
            _LOG.warning("database=%s no ratings: %s", database, error)
            rows = []
    return pd.DataFrame(rows, columns=columns)


def report(store: StateStore, elo: Path) -> dict[str, pd.DataFrame]:
    """Every table but that of locations by its name; ``elo`` is the merged database of matches."""
    return {
        "transfers": transfers(store), "throughput": throughput(store), "games": games_by_day(store),
        "lag": lag(store), "ratings": ratings(elo),
    }  # fmt: skip


def _read(store: StateStore, statement: sa.Select[Any]) -> pd.DataFrame:
    with store.read() as connection:
        result = connection.execute(statement)
        return pd.DataFrame(result.fetchall(), columns=list(result.keys()))


def _with_times(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    for column in columns:
        frame[column] = pd.to_datetime(frame[column].astype("float64"), unit="s", utc=True)
    return frame
