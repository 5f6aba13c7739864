"""What a node says about itself, checked: it is somebody else's word, and only these shapes are believed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

_TEXT_MAX_CHARS: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Found:
    """What is on a node before a deploy.

    Args:
        root: Its ``ai-service`` directory, absolute.
        root_exists: Whether that is there.
        storage: Its further roots, absolute.
        directory: Where the agent lies, or would.
        python: Version of the Python that was found, such as ``3.11``.
        no_systemd: Why systemd user units cannot be used; empty when they can.
        unit: The present unit; None when there is none.
        config: The present ``agent.json``; None when there is none.
        keys: Name and content of the present files of ``keys/`` that are brought.
        pin: SHA-256 of its certificate; empty when it has none.
        program: SHA-256 of the present ``agent.pyz``; None when there is none.
        releases: Names of the releases that can run.
        current: The release that runs or shall; None when none.
        pending: True: a change was cut off.
        kept_by: What keeps the agent running; empty when nothing does.
        healthy: True: the agent answers.

    """

    root: str
    root_exists: bool
    storage: tuple[str, ...]
    directory: str
    python: str
    no_systemd: str
    unit: str | None
    config: str | None
    keys: Mapping[str, str] = field(repr=False)
    pin: str
    program: str | None
    releases: tuple[str, ...]
    current: str | None
    pending: bool
    kept_by: str
    healthy: bool


def read_found(answer: Mapping[str, Any]) -> Found:
    """Read the answer to ``inspect``.

    Raises:
        ValueError: It has not the shape that this version knows.

    """
    return Found(**{name: _SHAPES[kind](answer.get(name), name) for name, kind in Found.__annotations__.items()})


def _unusable(name: str) -> ValueError:
    return ValueError(f"the node's answer has no usable {name}")


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or len(value) > _TEXT_MAX_CHARS:
        raise _unusable(name)
    return value


def _texts(value: object, name: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _unusable(name)
    return tuple(_text(member, name) for member in value)


def _mapping(value: object, name: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _unusable(name)
    return {_text(key, name): _text(member, name) for key, member in value.items()}


def _flag(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise _unusable(name)
    return value


def _text_or_none(value: object, name: str) -> str | None:
    return None if value is None else _text(value, name)


_SHAPES: Final[Mapping[str, Callable[[object, str], Any]]] = {
    "str": _text,
    "str | None": _text_or_none,
    "bool": _flag,
    "tuple[str, ...]": _texts,
    "Mapping[str, str]": _mapping,
}
