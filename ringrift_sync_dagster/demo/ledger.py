"""What a writer says it played: an append-only file of JSON lines, independent of the databases and of the product.

A line ``playing`` is on the disk before a game's last commit, a line ``finished`` after it, so that a killed writer
leaves at most one game in doubt. ``unfinished`` games are those that nobody will ever finish.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self


class Plan(StrEnum):
    """Why a game is in the demo, and so what must become of it."""

    NORMAL = "normal"
    LATE = "late"  # begun before the first run, finished before the second
    DUPLICATE = "duplicate"  # the same game on two nodes: one row
    REVISION_LOSER = "revision-loser"  # the shorter version of a game: quarantine
    REVISION_WINNER = "revision-winner"
    SAME_ID = "same-id-other-game"  # different games under one id: all are kept, all but one renamed
    SHORT = "short"  # over after three moves: quarantine
    UNFINISHED = "unfinished"  # never over: stays where it is


@dataclass(frozen=True, slots=True)
class Entry:
    """One game that a writer played.

    Args:
        plan: Why.
        node: Where.
        path: The database, relative to the node's root.
        config: The game's config key.
        game_id: The id under which it was written.
        content: The demo's fingerprint of the finished game.
        moves: Number of moves.
        seed: Its ``rng_seed``.
        created_at: Its ``created_at``, as written.
        finished: It was committed as finished; False for unfinished games and for those in doubt.
        in_doubt: The writer died around the last commit.

    """

    plan: Plan
    node: str
    path: str
    config: str
    game_id: str
    content: str
    moves: int
    seed: int
    created_at: str
    finished: bool = False
    in_doubt: bool = False


class Ledger:
    """Appends to one writer's file; each call is on the disk when it returns. One writer per file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _drop_torn_line(path)
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def playing(self, entries: list[Entry]) -> None:
        """Say that these games are about to be committed as finished."""
        self._write([{"event": "playing", **asdict(entry)} for entry in entries])

    def finished(self, entries: list[Entry]) -> None:
        """Say that they were."""
        self._write([{"event": "finished", "path": entry.path, "game_id": entry.game_id} for entry in entries])

    def unfinished(self, entry: Entry) -> None:
        """Say that this game has begun and is not over."""
        self._write([{"event": "unfinished", **asdict(entry)}])

    def _write(self, lines: list[dict[str, object]]) -> None:
        self._file.write("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
        self._file.flush()
        os.fsync(self._file.fileno())


def _drop_torn_line(path: Path) -> None:
    """Cut off what a killed writer left of a line, so that the next line begins a line."""
    if path.exists():
        whole = path.read_bytes().rpartition(b"\n")[:2]
        os.truncate(path, sum(map(len, whole)))


def read_ledger(path: Path) -> list[Entry]:
    """Read one ledger; a last line that was cut off by a kill is left out. A missing file is an empty ledger."""
    if not path.exists():
        return []
    games: dict[tuple[str, str], Entry] = {}
    for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
        record = json.loads(line)
        key = (record["path"], record["game_id"])
        match record.pop("event"):
            case "finished":
                games[key] = replace(games[key], finished=True, in_doubt=False)
            case "playing":
                games[key] = replace(_entry(record), finished=False, in_doubt=True)
            case _:
                games[key] = replace(_entry(record), finished=False, in_doubt=False)
    return list(games.values())


def read_ledgers(directory: Path) -> list[Entry]:
    """Read every ledger of the directory."""
    return [entry for path in sorted(directory.glob("*.jsonl")) for entry in read_ledger(path)]


def _entry(record: dict[str, object]) -> Entry:
    record["plan"] = Plan(str(record["plan"]))
    return Entry(**record)  # type: ignore[arg-type] # the file is our own
