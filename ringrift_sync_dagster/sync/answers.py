"""What nodes answer, proved before anything believes it: the one place where their JSON becomes values.

A node may be broken, of another version, or in the wrong hands. Every field is held against its type and range, every
name against what a name may be; whatever does not fit is a TransferError of that node, which says what is wrong.
Fields that we do not know are left out. Sizes are bounded by what a pack may have (``node.packfile``).
Source: architecture.md, 1 rule 9.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ringrift_sync_dagster.core.model import SHA256, Artifact
from ringrift_sync_dagster.errors import TransferError
from ringrift_sync_dagster.node import cursor as cursors
from ringrift_sync_dagster.node.errors import KitError
from ringrift_sync_dagster.node.packfile import RAW_LIMIT_BYTES
from ringrift_sync_dagster.node.patterns import CONFIGS

Cursor = dict[str, Any]
"""A cursor as it is kept: JSON that ``node.cursor`` reads, or that of another version, which nobody here looks into."""

UNKNOWN_CONFIG: Final = "unknown_config"
_INTEGERS: Final = 1 << 63
_WORD_CHARS: Final = 64
_PATH_CHARS: Final = 4096
_ID_CHARS: Final = 1024
_TEXT_CHARS: Final = 500  # of a sentence for people; longer ones are cut
_WARNINGS: Final = 20
_STRANGE_DEPTH: Final = 8  # of a cursor of another version
_STRANGE_CHARS: Final = 8 << 20
_WAITING: Final = 2 * cursors.WAITING_LIMIT
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
        cursor: How far the page reaches.
        more: There is another page.

    """

    games: tuple[tuple[str, str], ...]
    cursor: Cursor
    more: bool


@dataclass(frozen=True, slots=True)
class Sender:
    """Whose answer it is, and about what: for messages.

    Args:
        node: The node.
        transport: What carried the answer.
        what: The file, or the kind of answer.

    """

    node: str
    transport: str
    what: str

    def error(self, message: str) -> TransferError:
        """Give the error about this answer."""
        return TransferError(self.node, self.transport, f"{self.what}: {message}")


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
    with _makes_sense(sender):
        mode = _one_of(result, "mode", _MODES)
        if (ids is not None) != (mode == "ids"):
            raise ValueError(f"mode {mode} is no answer to what was asked")
        games, artifact = _whole(result["games"], "games"), _artifact(result, kind)
        if (games > 0) != (artifact is not None):
            raise ValueError(f"{games} games are in {'no' if artifact is None else 'a'} pack")
        position = None if result["cursor"] is None else read_cursor(result["cursor"])
        if position is None and mode == "incremental":
            raise ValueError("cursor is missing")
        left = _ids(result["left"], "left")
        if ids is not None and left and (len(left) >= len(ids) or not set(left) <= set(ids)):
            raise ValueError(f"left names {len(left)} games of {len(ids)} that were ordered")
        return PackAnswer(
            artifact, _whole(result["raw_bytes"], "raw_bytes"), games, position, _flag(result, "more"),
            mode == "listing_needed", _whole(result["waiting"], "waiting"), _ids(result["short"], "short"), left,
            _warnings(result["warnings"]),
        )  # fmt: skip


def read_list(result: Mapping[str, Any], sender: Sender, *, limit: int) -> ListAnswer:
    """Read the result of ``list``: a page of at most ``limit`` games, and what waited, which may exceed it a little.

    Raises:
        TransferError: It makes no sense.

    """
    with _makes_sense(sender):
        rows = _list(result["games"], "games", 2 * limit)
        games = tuple(_listed(row) for row in rows)
        return ListAnswer(games, read_cursor(result["cursor"]), _flag(result, "more"))


def read_manifest(answer: Mapping[str, Any], sender: Sender) -> dict[str, Any]:
    """Read a manifest; give it back with nothing in it but what was proved.

    Finished games of boards or player counts that nobody knows become a note of the entry, which is collected all the
    same.

    Raises:
        TransferError: It makes no sense.

    """
    with _makes_sense(sender):
        return {
            "token": _text(answer["token"], "token", _PATH_CHARS),
            "full": _flag(answer, "full"),
            "entries": [_entry(entry) for entry in _list(answer["entries"], "entries")],
            "removed": [_path(path) for path in _list(answer["removed"], "removed")],
        }


def read_cursor(value: object) -> Cursor:
    """Read a cursor that a node or a pack gave.

    Raises:
        ValueError: It is none.
        TypeError: It is no object.

    """
    if not isinstance(value, dict):
        raise TypeError(f"cursor is no object: {value!r:.100}")
    _whole(value.get("v"), "the version of the cursor")
    try:
        found = cursors.parse(value)
    except KitError as error:
        raise ValueError(error.message[:_TEXT_CHARS]) from error
    if found is None:
        if not _is_flat(value, _STRANGE_DEPTH) or len(json.dumps(value)) > _STRANGE_CHARS:
            raise ValueError("the cursor of another version is too large")
        return value
    if len(found.waiting) > _WAITING:
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
    found = None if kept is None else cursors.parse(kept)
    if found is None or any(one.finished and not one.reported for one in found.waiting.values()):
        return ""
    return found.token


def _is_flat(value: object, depth: int) -> bool:
    """Whether JSON is nested no deeper than ``depth``: what is nested a thousand deep can be read, but not written."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return inner is None or (depth > 0 and all(_is_flat(item, depth - 1) for item in inner))


@contextlib.contextmanager
def _makes_sense(sender: Sender) -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise sender.error(f"its answer makes no sense: {error} is missing") from error
    except (ValueError, TypeError) as error:
        raise sender.error(f"its answer makes no sense: {error}") from error
    except RecursionError as error:
        raise sender.error("its answer makes no sense: it is nested too deeply") from error


def _artifact(result: Mapping[str, Any], kind: str) -> Artifact | None:
    sha256 = result["artifact"]
    if sha256 is None:
        return None
    if not isinstance(sha256, str) or not SHA256.fullmatch(sha256):
        raise ValueError(f"artifact is no SHA-256: {sha256!r:.100}")
    for name in ("bytes", "raw_bytes"):
        if not 0 < _whole(result[name], name) <= RAW_LIMIT_BYTES:
            raise ValueError(f"no pack has {result[name]} {name}; {RAW_LIMIT_BYTES} are the limit")
    return Artifact(sha256, result["bytes"], kind)


def _listed(row: object) -> tuple[str, str]:
    game_id, identity, moves = _list(row, "a game of the list", 3)
    if not isinstance(identity, str) or not SHA256.fullmatch(identity):
        raise ValueError(f"a game of the list has no digest: {identity!r:.100}")
    _whole(moves, "moves")
    return _text(game_id, "a game's id", _ID_CHARS), identity


def _entry(entry: object) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise TypeError(f"an entry is no object: {entry!r:.100}")
    path = _path(entry["path"])
    try:
        games, unknown = _games(entry.get("games"), entry.get("unknown_config"))
        return {
            "path": path,
            "data_type": _text(entry["data_type"], "data_type", _WORD_CHARS),
            "kind": _text(entry["kind"], "kind", _WORD_CHARS),
            "config": entry["config"] if entry["config"] in CONFIGS else None,
            "collectable": _flag(entry, "collectable"),
            "bytes": _whole(entry["bytes"], "bytes"),
            "mtime_ns": _whole(entry["mtime_ns"], "mtime_ns", least=-_INTEGERS),
            "token": _text(entry["token"], "token", _PATH_CHARS),
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
    counts = {config: _whole(count, "games") for config, count in games.items()}
    strange = sum(count for config, count in counts.items() if config not in CONFIGS)
    known = {config: count for config, count in counts.items() if config in CONFIGS}
    return known, strange + _whole(unknown or 0, "unknown_config")


def _trouble(error: object) -> dict[str, str] | None:
    if error is None:
        return None
    if not isinstance(error, dict):
        raise TypeError(f"error is no object: {error!r:.100}")
    code = _text(error["code"], "code", _WORD_CHARS)
    return {"code": code, "message": _sentence(error["message"])}


def _unknown(games: int) -> dict[str, str] | None:
    if not games:
        return None
    message = f"{games} finished games have a board or a number of players that nobody knows; they stay on the node"
    return {"code": UNKNOWN_CONFIG, "message": message}


def _path(value: object) -> str:
    path = _text(value, "a path", _PATH_CHARS)
    if not path or "\0" in path or path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"{path!r:.200} is no path under a node's root")
    return path


def _text(value: object, name: str, at_most: int) -> str:
    """Text that every database takes: valid Unicode without NUL, of bounded length."""
    if not isinstance(value, str):
        raise TypeError(f"{name} is no text: {value!r:.100}")
    if len(value) > at_most or "\0" in value or not _is_unicode(value):
        raise ValueError(f"{name} is no usable text: {value!r:.100}")
    return value


def _sentence(value: object) -> str:
    """Text for people: cut, and made valid."""
    return str(value)[:_TEXT_CHARS].encode("utf-8", "replace").decode("utf-8").replace("\0", "?")


def _is_unicode(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _whole(value: object, name: str, *, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is no whole number: {value!r:.100}")
    if not least <= value < _INTEGERS:
        raise ValueError(f"{name} cannot be {value!r:.100}" if value.bit_length() < _PATH_CHARS else f"{name} is huge")
    return value


def _flag(mapping: Mapping[str, Any], name: str) -> bool:
    value = mapping[name]
    if not isinstance(value, bool):
        raise TypeError(f"{name} is neither true nor false: {value!r:.100}")
    return value


def _one_of(mapping: Mapping[str, Any], name: str, words: Collection[str]) -> str:
    value = mapping[name]
    if not isinstance(value, str) or value not in words:
        raise ValueError(f"{name} is none of {', '.join(words)}: {value!r:.100}")
    return value


def _list(value: object, name: str, at_most: int | None = None) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{name} is no list: {value!r:.100}")
    if at_most is not None and len(value) > at_most:
        raise ValueError(f"{name} has {len(value)} items, more than {at_most}")
    return value


def _ids(value: object, name: str) -> tuple[str, ...]:
    return tuple(_text(item, f"an id of {name}", _ID_CHARS) for item in _list(value, name, _WAITING))


def _warnings(value: object) -> tuple[str, ...]:
    return tuple(_sentence(item) for item in _list(value, "warnings")[:_WARNINGS])
