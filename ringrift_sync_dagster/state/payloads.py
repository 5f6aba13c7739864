"""The payload of each type of event: its fields, their kinds and bounds; nothing is published that does not fit.

A payload names its ``version``; a field is added with a default and never changes its meaning, so that who reads an
older or newer event reads it right. Amounts are in bytes and seconds. What others call a field is told by
``core/dialects.py``. Source: domain facts, 8 ("typed, versioned payload schemas with validation at publish").
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ringrift_sync_dagster.core.dialects import normalised
from ringrift_sync_dagster.core.events import DataEventType
from ringrift_sync_dagster.errors import EventError, storable
from ringrift_sync_dagster.state.event_fields import (
    MAX_BYTES,
    Amount,
    Config,
    Count,
    Details,
    Digest,
    Names,
    NodeName,
    Text,
)


class Payload(BaseModel):
    """What every event tells.

    Args:
        version: Of the payload's shape.
        publisher: The node that sent it, where it came through the agent; empty for what was published here.

    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )

    version: Literal[1] = 1
    publisher: NodeName = ""


class Detailed(Payload):
    """An event that others publish too: what only they know is in ``details``."""

    details: Details = Field(default_factory=dict)


class DataSyncStarted(Payload):
    """A pass has work: ``data_types``, on how many ``configs`` and ``nodes``, by which ``trigger``."""

    trigger: Text = ""
    data_types: Names = ()
    configs: Count = 0
    nodes: Count = 0


class TypeTotals(Payload):
    """What a pass did for one data type."""

    partitions: Count = 0
    changed: Count = 0
    games_synced: Count = 0
    bytes_transferred: Count = 0


class DataSyncCompleted(Payload):
    """A pass has moved something, or looked where a person asked it to; ``changed`` names the first 200 partitions."""

    trigger: Text = ""
    data_types: Names = ()
    games_synced: Count = 0
    bytes_transferred: Count = 0
    duration_seconds: Amount = 0.0
    partitions: Count = 0
    changed_partitions: Count = 0
    changed: Names = ()
    failed_nodes: Count = 0
    by_type: dict[str, TypeTotals] = Field(default_factory=dict)


class DataSyncFailed(Payload):
    """Some ``partitions`` of a node failed in a pass (what is told is of the first one), or a run did."""

    node: NodeName = ""
    config: Config = ""
    data_type: Text = ""
    error: Text
    message: Text = ""
    partitions: Count = 0
    trigger: Text = ""
    job: Text = ""
    run_id: Text = ""


class NewGamesAvailable(Payload):
    """Games were merged: ``new_games`` of a config, from ``nodes``; ``source`` is what started it."""

    config: Config
    new_games: Annotated[int, Field(ge=1)]
    total_games: Count | None = None
    source: Text = ""
    node: NodeName = ""
    nodes: Names = ()


class ModelPromoted(Detailed):
    """A model is the promoted one of its config; ``serial`` is above 0 where our own publishing switched to it."""

    config: Config
    model_id: Text = ""
    model_path: Text = ""
    sha256: Digest = ""
    serial: Count = 0
    elo: float | None = None
    previous_elo: float | None = None
    elo_gain: float | None = None
    promoted_at: Text | float | None = None
    supersedes: Text = ""
    source: Text = ""


class ModelDistributionStarted(Payload):
    """Published models begin to reach nodes."""

    total_models: Count = 0
    configs: Names = ()
    target_hosts: Names = ()
    trigger: Text = ""


class ModelDistributionComplete(Payload):
    """Published models have reached the nodes of ``hosts`` in a pass."""

    total_models: Count = 0
    configs: Names = ()
    hosts: Names = ()
    bytes_transferred: Count = 0
    duration_seconds: Amount = 0.0
    trigger: Text = ""


class ModelDistributionFailed(Payload):
    """Published models did not reach the nodes of ``hosts``, in a pass that brought them to others or was asked to."""

    hosts: Names = ()
    configs: Names = ()
    error: Text
    message: Text = ""
    trigger: Text = ""


class OrphanGames(Detailed):
    """Games that are on one node only: how many ``games`` and ``databases``, where that is known."""

    node: NodeName = ""
    config: Config = ""
    configs: Names = ()
    games: Count | None = None
    databases: Count | None = None
    bytes: Count | None = None
    paths: Names = ()


class OrphanGamesDetected(OrphanGames):
    """Games were found that no other host has."""


class OrphanGamesRegistered(OrphanGames):
    """Such games have arrived and are merged."""


class GamesLost(Payload):
    """A node is gone with games that it said were on it alone, and that did not arrive: how many, and some ids."""

    node: NodeName
    games: Count
    bytes: Count = 0
    ids: Names = ()
    last_heartbeat_at: float | None = None
    oldest_at: float | None = None
    reason: Text = ""


class SyncStalled(Payload):
    """No byte arrived from a node for the transport's stall time."""

    node: NodeName
    config: Config = ""
    data_type: Text = ""
    transport: Text = ""
    timeout_seconds: Amount = 0.0
    retry_count: Count = 0
    artifact: Text = ""
    message: Text = ""


class SyncChecksumFailed(Payload):
    """Bytes that arrived were not what their name says; the copy was removed."""

    node: NodeName
    config: Config = ""
    data_type: Text = ""
    transport: Text = ""
    artifact: Text = ""
    path: Text = ""
    message: Text = ""


class SyncNodeUnreachable(Payload):
    """A node that answered, or was never asked, does not answer now; told once, until it answers again."""

    node: NodeName
    error: Text = ""
    last_seen_at: float | None = None


class NodeRecovered(Payload):
    """A node that was down answers again; ``down_since`` is when it was last found down."""

    node: NodeName
    transport: Text = ""
    down_since: float | None = None


class HostSeen(Detailed):
    """What a host, or who looks after it, says of its being there."""

    node: NodeName
    reason: Text = ""
    last_seen: Text | float | None = None


class HostOnline(HostSeen):
    """A host has come."""


class HostOffline(HostSeen):
    """A host goes, such as a spot machine that is taken back."""


class Backpressure(Detailed):
    """Whose work is throttled, how hard it is pressed (0 to 1), and what says so."""

    owner: NodeName = ""
    node: NodeName = ""
    pressure: Annotated[float, Field(ge=0, le=1)] | None = None
    signals: dict[str, float] = Field(default_factory=dict)
    source: Text = ""
    reason: Text = ""


class BackpressureActivated(Backpressure):
    """Background work pauses, for at most ``longest_seconds``."""

    longest_seconds: Amount | None = None


class BackpressureReleased(Backpressure):
    """It goes on; ``source`` is ``manual`` where a person said so."""

    paused_seconds: Amount | None = None


class CircuitOpened(Payload):
    """A transport of a node is left alone for a while, after ``failures`` in a row."""

    node: NodeName
    transport: Text
    failures: Count = 0
    open_seconds: Amount = 0.0
    error: Text = ""


class CircuitClosed(Payload):
    """It works again."""

    node: NodeName
    transport: Text


class TrainingStarted(Detailed):
    """A node trains, and wants what is new."""

    node: NodeName = ""
    config: Config = ""
    model_id: Text = ""


class TrainingCompleted(TrainingStarted):
    """A node trains no longer, however that ended."""


class DiskSpaceLow(Detailed):
    """A disk is nearly full."""

    node: NodeName = ""
    path: Text = ""
    used_percent: Annotated[float, Field(ge=0, le=100)] | None = None
    free_bytes: Count | None = None
    total_bytes: Count | None = None


PAYLOADS: Final[Mapping[DataEventType, type[Payload]]] = MappingProxyType(
    {
        DataEventType.DATA_SYNC_STARTED: DataSyncStarted,
        DataEventType.DATA_SYNC_COMPLETED: DataSyncCompleted,
        DataEventType.DATA_SYNC_FAILED: DataSyncFailed,
        DataEventType.NEW_GAMES_AVAILABLE: NewGamesAvailable,
        DataEventType.MODEL_PROMOTED: ModelPromoted,
        DataEventType.MODEL_DISTRIBUTION_STARTED: ModelDistributionStarted,
        DataEventType.MODEL_DISTRIBUTION_COMPLETE: ModelDistributionComplete,
        DataEventType.MODEL_DISTRIBUTION_FAILED: ModelDistributionFailed,
        DataEventType.ORPHAN_GAMES_DETECTED: OrphanGamesDetected,
        DataEventType.ORPHAN_GAMES_REGISTERED: OrphanGamesRegistered,
        DataEventType.GAMES_LOST: GamesLost,
        DataEventType.SYNC_STALLED: SyncStalled,
        DataEventType.SYNC_CHECKSUM_FAILED: SyncChecksumFailed,
        DataEventType.SYNC_NODE_UNREACHABLE: SyncNodeUnreachable,
        DataEventType.BACKPRESSURE_ACTIVATED: BackpressureActivated,
        DataEventType.BACKPRESSURE_RELEASED: BackpressureReleased,
        DataEventType.CIRCUIT_OPENED: CircuitOpened,
        DataEventType.CIRCUIT_CLOSED: CircuitClosed,
        DataEventType.HOST_ONLINE: HostOnline,
        DataEventType.HOST_OFFLINE: HostOffline,
        DataEventType.NODE_RECOVERED: NodeRecovered,
        DataEventType.TRAINING_STARTED: TrainingStarted,
        DataEventType.TRAINING_COMPLETED: TrainingCompleted,
        DataEventType.DISK_SPACE_LOW: DiskSpaceLow,
    }
)


def event_type(name: str) -> DataEventType:
    """Give the type of this name.

    Raises:
        EventError: There is none.

    """
    try:
        return DataEventType(name)
    except ValueError:
        known = ", ".join(DataEventType)
        raise EventError(storable(str(name), 80), "", f"there is no such type; use one of {known}") from None


def read_payload(name: str, payload: Mapping[str, Any]) -> Payload:
    """Read a payload in any known dialect.

    Args:
        name: The event's type.
        payload: JSON values, as somebody wrote them.

    Raises:
        EventError: There is no such type, or the payload is not what the type says; it names the field.

    """
    kind = event_type(name)
    model = PAYLOADS[kind]
    try:
        read = model.model_validate(normalised(kind, payload, model.model_fields))
        size = len(json.dumps(read.model_dump(mode="json"), allow_nan=False))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise EventError(kind.value, field, storable(_sentence(first, model), 500)) from error
    except RecursionError as error:
        raise EventError(kind.value, "", "it is nested too deeply") from error
    if size > MAX_BYTES:
        raise EventError(kind.value, "", f"{size} bytes as JSON; at most {MAX_BYTES} are allowed")
    return read


def _sentence(error: Mapping[str, Any], model: type[Payload]) -> str:
    """Say what is wrong with a field in our words."""
    if error["type"] == "extra_forbidden":
        return f"there is no such field; there are {', '.join(model.model_fields)}"
    if error["type"] == "missing":
        return "it is missing"
    return f"{str(error['msg']).removeprefix('Value error, ')}; got {error['input']!r:.100}"
