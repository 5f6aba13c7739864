"""The kinds of fields that payloads of events are made of, with their bounds: what every database takes."""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeAlias

from pydantic import AfterValidator, Field, JsonValue

from ringrift_sync_dagster.core.model import SHA256, checked_node_name
from ringrift_sync_dagster.errors import storable
from ringrift_sync_dagster.node.patterns import CONFIGS

MAX_BYTES: Final = 64 * 1024
"""Longest payload, as JSON: an event says what happened, and never carries data."""
MAX_NAMES: Final = 200
"""Longest list of names; a count beside it tells how many there are."""


def _node(value: str) -> str:
    return value and checked_node_name(value)


def _config(value: str) -> str:
    if value and value not in CONFIGS:
        raise ValueError(f"{value!r} is no config; use one of {', '.join(CONFIGS)}")
    return value


def _digest(value: str) -> str:
    if value and not SHA256.fullmatch(value):
        raise ValueError(f"{value!r} is not a SHA-256 in lower-case hexadecimal")
    return value


def _json(value: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Give JSON that every database takes."""
    if isinstance(value, str):
        return storable(value, MAX_BYTES)
    if isinstance(value, dict):
        return {storable(key, MAX_BYTES): _json(one) for key, one in value.items()}
    return [_json(one) for one in value] if isinstance(value, list) else value


Text: TypeAlias = Annotated[str, AfterValidator(storable)]
NodeName: TypeAlias = Annotated[str, AfterValidator(_node)]
Config: TypeAlias = Annotated[str, AfterValidator(_config)]
Digest: TypeAlias = Annotated[str, AfterValidator(_digest)]
Count: TypeAlias = Annotated[int, Field(ge=0)]
Amount: TypeAlias = Annotated[float, Field(ge=0)]
Details: TypeAlias = Annotated[dict[str, JsonValue], AfterValidator(_json)]
Names: TypeAlias = Annotated[tuple[Text, ...], Field(max_length=MAX_NAMES)]
