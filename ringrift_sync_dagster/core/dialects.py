"""The dialects of events: what upstream's emitters, handlers and documents call the same thing, in our one shape.

Upstream publishes a promotion in three shapes, orphans in three and backpressure in four, and each consumer reads
another one: so a handler never learned the node of an orphan. Here every payload is brought into the shape of
``state/payloads.py`` before it is stored; what that has no field for is kept under ``details`` where the type is known
to have dialects, and refused elsewhere. Source: domain facts, 5 and 8; the guide, "Backpressure Issues".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from ringrift_sync_dagster.core.events import DataEventType
from ringrift_sync_dagster.node.patterns import config_key

Raw: TypeAlias = Mapping[str, Any]
Shape: TypeAlias = dict[str, Any]

# Names of one field, the first being ours; a later one is read where no earlier one is given.
_NODE: Final = ("node", "source_node", "target_host", "host", "node_id")
_CONFIG: Final = ("config", "config_key")
_PATHS: Final = ("paths", "orphan_paths")
_PRESSURES: Final = ("queue", "training", "disk", "sync", "memory")


def normalised(event_type: DataEventType, payload: Raw, fields: Collection[str]) -> Shape:
    """Give a payload in our shape; one that has it already comes back equal.

    Values are not judged here: what is wrong stays wrong, and is refused by the payload's model.

    Args:
        event_type: What happened.
        payload: As somebody wrote it.
        fields: The fields of our shape.

    """
    rest = dict(payload)
    shape: Shape = {}
    if "node" in fields:
        _take(rest, shape, *_NODE)
    if "config" in fields:
        _take(rest, shape, *_CONFIG)
    if "config" in shape:
        shape["config"] = _config(shape["config"])
    read = _DIALECTS.get(event_type)
    if read is None:
        return {**rest, **shape}
    read(rest, shape)
    return _with_details(rest, shape, fields)


def _model_promoted(rest: Shape, shape: Shape) -> None:
    """Helper {model_id, config, elo, elo_gain}; controller {model_path, board_type, ...}; document {new_elo, ...}."""
    if "config" not in shape and "board_type" in rest and "num_players" in rest:
        found = config_key(rest["board_type"], rest["num_players"])
        if found is not None:
            shape["config"] = found
    _take(rest, shape, "elo", "new_elo")
    _take(rest, shape, "elo_gain", "elo_delta", "elo_improvement")
    _take(rest, shape, "previous_elo")
    if "elo" not in shape and "current_elo" in rest:
        _take(rest, shape, "elo", "current_elo")  # the controller's word for that of the promoted model
    _take(rest, shape, "sha256", "checksum")


def _orphans_detected(rest: Shape, shape: Shape) -> None:
    """``orphan_count`` counts databases where ``total_games`` stands beside it, else games."""
    counted = "databases" if "total_games" in rest else "games"
    _take(rest, shape, counted, "orphan_count")
    _take(rest, shape, "games", "total_games")
    _take(rest, shape, "bytes", "total_bytes")
    _take(rest, shape, "configs", "config_keys")
    _take(rest, shape, *_PATHS)


def _orphans_registered(rest: Shape, shape: Shape) -> None:
    _take(rest, shape, "games", "games_recovered")
    _take(rest, shape, "databases", "registered_count")
    _take(rest, shape, "paths", "registered_paths")


def _backpressure(rest: Shape, shape: Shape) -> None:
    """Emitter {overall_pressure, <name>_pressure, ...}; handlers {queue_depth, threshold} / {reason}; {source}."""
    _take(rest, shape, "pressure", "overall_pressure")
    _take(rest, shape, "paused_seconds", "paused_duration_seconds")
    signals = {name: rest.pop(f"{name}_pressure") for name in _PRESSURES if f"{name}_pressure" in rest}
    if signals:
        given = rest.pop("signals", None)
        shape["signals"] = {**signals, **(given if isinstance(given, Mapping) else {})}


def _nothing_more(_rest: Shape, _shape: Shape) -> None:
    """The names of node and config are all that differs."""


_DIALECTS: Final[Mapping[DataEventType, Callable[[Shape, Shape], None]]] = MappingProxyType(
    {
        DataEventType.MODEL_PROMOTED: _model_promoted,
        DataEventType.ORPHAN_GAMES_DETECTED: _orphans_detected,
        DataEventType.ORPHAN_GAMES_REGISTERED: _orphans_registered,
        DataEventType.BACKPRESSURE_ACTIVATED: _backpressure,
        DataEventType.BACKPRESSURE_RELEASED: _backpressure,
        DataEventType.TRAINING_STARTED: _nothing_more,
        DataEventType.TRAINING_COMPLETED: _nothing_more,
        DataEventType.HOST_ONLINE: _nothing_more,
        DataEventType.HOST_OFFLINE: _nothing_more,
        DataEventType.DISK_SPACE_LOW: _nothing_more,
    }
)

WITH_DIALECTS: Final = frozenset(_DIALECTS)
"""Types that others publish too, each in words of its own: fields that we do not know are kept under ``details``."""


def _take(rest: Shape, shape: Shape, *names: str) -> None:
    """Move the first of these names that is given into ``shape`` under the first name; equal ones beside it go too."""
    given = [name for name in names if rest.get(name) is not None]
    if not given:
        return
    value = rest[given[0]]
    shape[names[0]] = value
    for name in given:
        if rest[name] == value:
            del rest[name]


def _config(value: object) -> object:
    """A config by its key, whichever name of the board it has; what is none comes back as it is."""
    if not isinstance(value, str):
        return value
    board, _, players = value.rpartition("_")
    return config_key(board, players.removesuffix("p")) or value


def _with_details(rest: Shape, shape: Shape, fields: Collection[str]) -> Shape:
    known = {name: rest.pop(name) for name in list(rest) if name in fields and name not in {"details", *shape}}
    details = rest.pop("details", None)
    more = dict(details) if isinstance(details, Mapping) else {} if details is None else {"details": details}
    return {**known, **shape, "details": {**rest, **more}}
