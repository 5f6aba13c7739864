"""What nodes answer, proved before anything believes it: the one place where their JSON becomes values.

A node may be broken, of another version, or in the wrong hands. Every field is held against its type and range, every
name against what a name may be; whatever does not fit is a TransferError of that node, which says what is wrong.
Fields that we do not know are left out. Sizes are bounded by what a pack may have (``node.packfile``).
Source: architecture.md, 1 rule 9.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ringrift_sync_dagster.core.model import SHA256, Artifact
from ringrift_sync_dagster.node import cursor as cursors
from ringrift_sync_dagster.node.errors import KitError
from ringrift_sync_dagster.node.patterns import CONFIGS
from ringrift_sync_dagster.sync.fields import (
    ID_CHARS,
    INTEGERS,
    PATH_CHARS,
    TEXT_CHARS,
    WAITING,
    Sender,
    artifact_of,
    flag,
    ids_of,
    list_of,
    makes_sense,
    one_of,
    path_of,
    sentence,
    text,
    warnings,
    whole,
)

Cursor = dict[str, Any]
"""A cursor as it is kept: JSON that ``node.cursor`` reads, or that of another version, which nobody here looks into."""

UNKNOWN_CONFIG: Final = "unknown_config"
_WORD_CHARS: Final = 64
_STRANGE_DEPTH: Final = 8  # of a cursor of another version
_STRANGE_CHARS: Final = 8 << 20
_MODES: Final = ("incremental", "listing_needed", "ids")


@dataclass(frozen=True, slots=True)
class PackAnswer:
    """What a node says of the pack that it was asked to make.

    Args:
        artifact: The pack; None when there is nothing to pack.
        raw_bytes: What the pack inflates to.
        games: Games in it.
        cursor: How far it reaches; None for games ordered by their ids.
        more: There is more behind the cursor.
        listing_needed: The cursor no longer fits the database; nothing was packed.
        waiting: Games that are not complete yet.
        short: Ids of games that are over, not complete, and stood still.
        left: Of the ids that were ordered, those not looked at yet.
        warnings: What a person should know of the database.

    """

    artifact: Artifact | None
    raw_bytes: int
    games: int
    cursor: Cursor | None
    more: bool
    listing_needed: bool
    waiting: int
    short: tuple[str, ...]
    left: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ListAnswer:
    """One page of a listing.

    Args:
        games: Complete games as (id, identity digest).
        annotations: The digest of each game's annotation by id; nothing of a node whose kit does not tell it yet.
        cursor: How far the page reaches.
        more: There is another page.

    """

    games: tuple[tuple[str, str], ...]
    annotations: Mapping[str, str]
    cursor: Cursor
    more: bool


def read_pack(result: Mapping[str, Any], sender: Sender, *, kind: str, ids: Collection[str] | None) -> PackAnswer:
    """Read the result of ``pack``.

    Args:
        result: As it came.
        sender: Who sent it.
        kind: ``games`` or ``aside``.
        ids: The games that were ordered by name; None when the cursor decided.

    Raises:
        TransferError: It makes no sense.

    """
    with makes_sense(sender):
        mode = one_of(result, "mode", _MODES)
        if (ids is not None) != (mode == "ids"):
            raise ValueError(f"mode {mode} is no answer to what was asked")
        games, artifact = whole(result["games"], "games"), artifact_of(result, kind)
        if (games > 0) != (artifact is not None):
            raise ValueError(f"{games} games are in {'no' if artifact is None else 'a'} pack")
        position = None if result["cursor"] is None else read_cursor(result["cursor"])
        if position is None and mode == "incremental":
            raise ValueError("cursor is missing")
        left = ids_of(result["left"], "left")
        if ids is not None and left and (len(left) >= len(ids) or not set(left) <= set(ids)):
            raise ValueError(f"left names {len(left)} games of {len(ids)} that were ordered")
        return PackAnswer(
            artifact, whole(result["raw_bytes"], "raw_bytes"), games, position, flag(result, "more"),
            mode == "listing_needed", whole(result["waiting"], "waiting"), ids_of(result["short"], "short"), left,
            warnings(result["warnings"]),
        )  # fmt: skip


def read_list(result: Mapping[str, Any], sender: Sender, *, limit: int) -> ListAnswer:
    """Read the result of ``list``: a page of at most ``limit`` games, and what waited, which may exceed it a little.

    Raises:
        TransferError: It makes no sense.

    """
    with makes_sense(sender):
        rows = list_of(result["games"], "games", 2 * limit)
        listed = [_listed(row) for row in rows]
        annotations = {game_id: annotation for game_id, _, annotation in listed if annotation}
        games = tuple((game_id, identity) for game_id, identity, _ in listed)
        return ListAnswer(games, annotations, read_cursor(result["cursor"]), flag(result, "more"))


def read_manifest(answer: Mapping[str, Any], sender: Sender) -> dict[str, Any]:
    """Read a manifest; give it back with nothing in it but what was proved.

    Finished games of boards or player counts that nobody knows become a note of the entry, which is collected all the
    same.

    Raises:
        TransferError: It makes no sense.

    """
    with makes_sense(sender):
        return {
            "token": text(answer["token"], "token", PATH_CHARS),
            "full": flag(answer, "full"),
            "entries": [_entry(entry) for entry in list_of(answer["entries"], "entries")],
            "removed": [path_of(path) for path in list_of(answer["removed"], "removed")],
        }


def read_cursor(value: object) -> Cursor:
    """Read a cursor that a node or a pack gave.

    Raises:
        ValueError: It is none.
        TypeError: It is no object.

    """
    if not isinstance(value, dict):
        raise TypeError(f"cursor is no object: {value!r:.100}")
    whole(value.get("v"), "the version of the cursor")
    try:
        found = cursors.parse(value)
    except KitError as error:
        raise ValueError(error.message[:TEXT_CHARS]) from error
    if found is None:
        if not _is_flat(value, _STRANGE_DEPTH) or len(json.dumps(value)) > _STRANGE_CHARS:
            raise ValueError("the cursor of another version is too large")
        return value
    if len(found.waiting) > WAITING:
        raise ValueError(f"cursor lists {len(found.waiting)} waiting games, more than a kit does")
    return found.as_json()


def usable_cursor(kept: Mapping[str, Any] | None) -> Cursor | None:
    """Give a cursor that was kept earlier; None, which begins anew, where it is none (a pushed pack brought it)."""
    try:
        return None if kept is None else read_cursor(dict(kept))
    except (ValueError, TypeError):
        return None


def reached_end_at(kept: Mapping[str, Any] | None) -> str:
    """Give the token up to which everything was read and told; empty when something is left, or nobody knows."""
    try:
        found = None if kept is None else cursors.parse(kept)
    except KitError:  # somebody spoilt it; reading from the beginning replaces it
        return ""
    if found is None or any(one.finished and not one.reported for one in found.waiting.values()):
        return ""
    return found.token


def _is_flat(value: object, depth: int) -> bool:
    """Whether JSON is nested no deeper than ``depth``: what is nested a thousand deep can be read, but not written."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return inner is None or (depth > 0 and all(_is_flat(item, depth - 1) for item in inner))


def _listed(row: object) -> tuple[str, str, str]:
    game_id, identity, moves, *rest = list_of(row, "a game of the list", 4)
    for digest in (identity, *rest):
        if not isinstance(digest, str) or not SHA256.fullmatch(digest):
            raise ValueError(f"a game of the list has no digest: {digest!r:.100}")
    whole(moves, "moves")
    return text(game_id, "a game's id", ID_CHARS), identity, rest[0] if rest else ""


def _entry(entry: object) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise TypeError(f"an entry is no object: {entry!r:.100}")
    path = path_of(entry["path"])
    try:
        games, unknown = _games(entry.get("games"), entry.get("unknown_config"))
        return {
            "path": path,
            "data_type": text(entry["data_type"], "data_type", _WORD_CHARS),
            "kind": text(entry["kind"], "kind", _WORD_CHARS),
            "config": entry["config"] if entry["config"] in CONFIGS else None,
            "collectable": flag(entry, "collectable"),
            "bytes": whole(entry["bytes"], "bytes"),
            "mtime_ns": whole(entry["mtime_ns"], "mtime_ns", least=-INTEGERS),
            "token": text(entry["token"], "token", PATH_CHARS),
            "games": games,
            "error": _trouble(entry.get("error")) or _unknown(unknown),
        }
    except KeyError as error:
        raise ValueError(f"{path}: {error} is missing") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def _games(games: object, unknown: object) -> tuple[dict[str, int] | None, int]:
    """Give finished games per config, and how many are of none that we know; a newer kit may know more."""
    if games is None:
        return None, 0
    if not isinstance(games, dict):
        raise TypeError(f"games is no object: {games!r:.100}")
    counts = {config: whole(count, "games") for config, count in games.items()}
    strange = sum(count for config, count in counts.items() if config not in CONFIGS)
    known = {config: count for config, count in counts.items() if config in CONFIGS}
    return known, strange + whole(unknown or 0, "unknown_config")


def _trouble(error: object) -> dict[str, str] | None:
    if error is None:
        return None
    if not isinstance(error, dict):
        raise TypeError(f"error is no object: {error!r:.100}")
    code = text(error["code"], "code", _WORD_CHARS)
    return {"code": code, "message": sentence(error["message"])}


def _unknown(games: int) -> dict[str, str] | None:
    if not games:
        return None
    message = f"{games} finished games have a board or a number of players that nobody knows; they stay on the node"
    return {"code": UNKNOWN_CONFIG, "message": message}
