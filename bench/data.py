"""What is measured on, made from a seed: the same games, files and changes on every machine."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ringrift_sync_dagster.demo.games import make_game
from ringrift_sync_dagster.demo.recorder import Recorder
from ringrift_sync_dagster.demo.schemas import Dialect, open_games_database
from ringrift_sync_dagster.node.patterns import CONFIGS
from ringrift_sync_dagster.state.changes import Change

MB: Final = 1_000_000
CONFIG: Final = "hex8_2p"
_AT_ONCE: Final = 500
_OLD_SECONDS: Final = 3600.0  # a node's files are older than the agent's caution about fresh ones


def play(path: Path, seed: str, count: int, config: str = CONFIG) -> None:
    """Write finished games into a database as upstream's self-play does, and bring them into its main file.

    The log is emptied, so that a program that copies the main file alone finds everything in it.
    """
    with Recorder(path, Dialect.V18) as recorder:
        for start in range(0, count, _AT_ONCE):
            numbers = range(start, min(count, start + _AT_ONCE))
            recorder.record_all([make_game(f"{seed}-{number}", config) for number in numbers])
    conn = open_games_database(path, Dialect.V18)
    conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    conn.close()


def play_until(path: Path, seed: str, size_bytes: int) -> int:
    """Write games until the database has this size; give how many there are. About 27 kB a game."""
    count = 0
    while count == 0 or path.stat().st_size < size_bytes:
        play(path, f"{seed}-{count}", _AT_ONCE)
        count += _AT_ONCE
    return count


def random_file(path: Path, size_bytes: int) -> None:
    """Write a file that does not compress, as weights do not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = random.Random(size_bytes)
    with path.open("wb") as target:
        for _ in range(size_bytes >> 20):
            target.write(rng.randbytes(1 << 20))


def node_files(root: Path, files: int, databases: int) -> None:
    """Lay out a node: arrays, models and lists in the folders of the guide, and so many databases with a few games."""
    for number, path in enumerate(_names(root, files)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number)
        _make_old(path)
    first = root / "data" / "games" / "first.db"
    play(first, "few", 3)
    for number in range(databases):
        config = CONFIGS[number % len(CONFIGS)]
        copy = root / "data" / "selfplay" / f"run_{number // 50:02d}" / f"selfplay_{config}_{number:03d}.db"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(first, copy)
        _make_old(copy)
    first.unlink()


def changes(partitions: int) -> list[Change]:
    """One change for each partition: twelve configs by as many nodes as it takes."""
    return [
        Change(
            f"change-{number:05d}", 1_000_000.0 + number, "games", "up", CONFIGS[number % len(CONFIGS)],
            f"vast-{number // len(CONFIGS):06d}", artifact=f"{number:064x}",
            source_path="data/games/selfplay.db", games_new=200, size_bytes=1_000_000, seconds=0.4,
            transport="p2p_http", canonical_games=20_000, lag_seconds=12.5, trigger="bench",
            checks={"no_moveless_games": True, "counts_reconcile": True, "asides": []},
        )
        for number in range(partitions)
    ]  # fmt: skip


def _names(root: Path, files: int) -> Iterator[Path]:
    for number in range(files):
        config, folder = CONFIGS[number % len(CONFIGS)], f"{number // 250:03d}"
        if number % 8 < 5:
            yield root / "data" / "training" / folder / f"{config}_{number}.npz"
        elif number % 8 < 7:
            yield root / "models" / "checkpoints" / folder / f"checkpoint_{config}_{number}.pth"
        else:
            yield root / "data" / "games" / folder / f"{config}_{number}.jsonl"


def _make_old(path: Path) -> None:
    at = path.stat().st_mtime - _OLD_SECONDS
    os.utime(path, (at, at))
