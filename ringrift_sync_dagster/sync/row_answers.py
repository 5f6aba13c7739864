"""What nodes answer about rows of matches and registry, proved; see ``answers`` and ``fields``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.node.records import canonical_json
from ringrift_sync_dagster.sync.fields import (
    PATH_CHARS,
    Sender,
    artifact_of,
    flag,
    list_of,
    makes_sense,
    text,
    warnings,
    whole,
)

_NAME: Final = re.compile(r"[0-9a-f]{16}")
_NAMES: Final = 5_000_000
_CURSOR_CHARS: Final = 10_000
_WORD_CHARS: Final = 64


@dataclass(frozen=True, slots=True)
class RowsAnswer:
    """What a node says of the rows that it packed.

    Args:
        artifact: The pack; None when there is nothing to pack.
        raw_bytes: What the pack inflates to.
        cursor: How far it reaches.
        more: There is more behind it.
        warnings: What a person should know of the database.

    """

    artifact: Artifact | None
    raw_bytes: int
    cursor: dict[str, Any] | None
    more: bool
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NamesAnswer:
    """The names of the records that a node has, and the change token of its database before they were read."""

    names: frozenset[str]
    token: str


def read_rows(result: Mapping[str, Any], sender: Sender, *, kind: str) -> RowsAnswer:
    """Read the result of ``rows``.

    Raises:
        TransferError: It makes no sense.

    """
    with makes_sense(sender):
        artifact, rows = artifact_of(result, kind), whole(result["rows"], "rows")
        if (rows > 0) != (artifact is not None):
            raise ValueError(f"{rows} rows are in {'no' if artifact is None else 'a'} pack")
        cursor = result["cursor"]
        if cursor is not None and (not isinstance(cursor, dict) or len(canonical_json(cursor)) > _CURSOR_CHARS):
            raise ValueError("its cursor is none")
        return RowsAnswer(
            artifact,
            whole(result["raw_bytes"], "raw_bytes"),
            cursor,
            flag(result, "more"),
            warnings(result["warnings"]),
        )


def read_names(result: Mapping[str, Any], sender: Sender) -> NamesAnswer:
    """Read the result of ``keys``.

    Raises:
        TransferError: It makes no sense.

    """
    with makes_sense(sender):
        found = list_of(result["names"], "names", _NAMES)
        strange = next((name for name in found if not isinstance(name, str) or not _NAME.fullmatch(name)), None)
        if strange is not None:
            raise ValueError(f"a name of a record is {strange!r:.40}")
        return NamesAnswer(frozenset(found), text(result["token"], "token", PATH_CHARS))


def read_applied(result: Mapping[str, Any], sender: Sender) -> dict[str, int]:
    """Read the counts of ``apply``.

    Raises:
        TransferError: It makes no sense.

    """
    with makes_sense(sender):
        counts = result["counts"]
        if not isinstance(counts, dict):
            raise TypeError("its counts are no object")
        return {text(name, "a count", _WORD_CHARS): whole(count, "a count") for name, count in counts.items()}
