"""Which way data goes: per data type, what comes up from a node, what goes down to it, and how it is put in place.

The table is architecture.md, 3 ("flow"), as data. The coordinator is never a target of distribution and always the
sink of collection; PULL runs the "up" column on demand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from ringrift_sync_dagster.core.model import DataType, SyncStrategy


class Carrier(StrEnum):
    """As what the data travels."""

    GAME_PACK = "game_pack"  # complete finished games with all their rows
    FILE = "file"  # one immutable file
    ROWS = "rows"  # rows of a small database


class Audience(StrEnum):
    """Which nodes get the data that goes down."""

    TRAINING_THAT_ASKS = "training_that_asks"
    TRAINING = "training"
    PLAY_OR_TRAIN = "play_or_train"
    EVERYBODY = "everybody"


class Placing(StrEnum):
    """How what has arrived is put in place at the owner."""

    GAME_UNION = "game_union"  # row union by game_id
    NEVER_WORSE = "never_worse"  # versioned file, never replaced by a worse one unless forced
    BY_HASH_THEN_SWITCH = "by_hash_then_switch"  # versioned file by hash, then an atomic symlink switch
    MATCH_UNION = "match_union"  # union of matches, ratings recomputed
    VERSION_UNION = "version_union"  # union by (model_id, version) and hash


@dataclass(frozen=True, slots=True)
class Flow:
    """One line of the table.

    Args:
        up: As what it is collected from a node.
        audience: Who gets what goes down.
        placing: How it is merged or installed.
        auto_ephemeral: What AUTO means on an ephemeral node.
        auto_persistent: What AUTO means on a persistent node.

    """

    up: Carrier
    audience: Audience
    placing: Placing
    auto_ephemeral: SyncStrategy
    auto_persistent: SyncStrategy


FLOWS: Final[Mapping[DataType, Flow]] = MappingProxyType(
    {
        DataType.GAMES: Flow(
            Carrier.GAME_PACK,
            Audience.TRAINING_THAT_ASKS,
            Placing.GAME_UNION,
            SyncStrategy.EPHEMERAL,
            SyncStrategy.HYBRID,
        ),
        DataType.NPZ: Flow(
            Carrier.FILE,
            Audience.TRAINING,
            Placing.NEVER_WORSE,
            SyncStrategy.EPHEMERAL,
            SyncStrategy.HYBRID,
        ),
        DataType.MODELS: Flow(
            Carrier.FILE,
            Audience.PLAY_OR_TRAIN,
            Placing.BY_HASH_THEN_SWITCH,
            SyncStrategy.BROADCAST,
            SyncStrategy.BROADCAST,
        ),
        DataType.ELO: Flow(
            Carrier.ROWS,
            Audience.EVERYBODY,
            Placing.MATCH_UNION,
            SyncStrategy.HYBRID,
            SyncStrategy.HYBRID,
        ),
        DataType.REGISTRY: Flow(
            Carrier.ROWS,
            Audience.EVERYBODY,
            Placing.VERSION_UNION,
            SyncStrategy.HYBRID,
            SyncStrategy.HYBRID,
        ),
    }
)


def is_brought(data_type: DataType, *, trains: bool, plays: bool, asked: bool = False) -> bool:
    """Say whether this data goes down to a node that trains or plays; ``asked``: a person named the node."""
    audience = FLOWS[data_type].audience
    if audience is Audience.EVERYBODY or asked:
        return True
    return trains or (plays and audience is Audience.PLAY_OR_TRAIN)


def strategy_for(data_type: DataType, *, ephemeral: bool, chosen: SyncStrategy = SyncStrategy.AUTO) -> SyncStrategy:
    """Give the strategy that moves this data on such a node; a chosen one wins, AUTO asks the table."""
    if chosen is not SyncStrategy.AUTO:
        return chosen
    flow = FLOWS[data_type]
    return flow.auto_ephemeral if ephemeral else flow.auto_persistent
