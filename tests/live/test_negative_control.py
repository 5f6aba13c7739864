"""What a plain file copy of a live database does, so that the tests of packs are known to be able to fail.

Source: field notes 0.1 (rsync of a database in WAL mode: 14 of 15 copies with the log were corrupt).
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import time
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from ringrift_sync_dagster.demo.content import fingerprint, read_games
from tests.live.follower import Follower, halted
from tests.live.watching import Writer
from tests.live.writers import Plan

COPIES: Final = 40
BYTES_PER_SECOND: Final = 50_000_000
CHUNK_BYTES: Final = 1 << 16


def harm(copy: Path, finished: dict[str, str]) -> str:
    """Say what is wrong with a copy that should hold the games that were finished before it began, or nothing."""
    try:
        with contextlib.closing(sqlite3.connect(copy)) as conn:
            verdict = conn.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if verdict != "ok":
                return f"corrupt: {verdict}"
            found = {game_id: fingerprint(rows) for game_id, rows in read_games(conn)}
    except sqlite3.DatabaseError as error:
        return f"corrupt: {error}"
    lost = [game_id for game_id, content in finished.items() if found.get(game_id) != content]
    return f"lost: {len(lost)} games" if lost else ""


def held(folder: Path) -> Writer:
    """A writer that checkpoints and holds after each 40 games."""
    return Writer(Plan(f"{folder}/n.db", f"{folder}/ledger", pause_seconds=0, hold_after=40))


def play_on(writer: Writer) -> None:
    """Let it commit 40 games more and checkpoint them."""
    done = writer.ledger.done
    writer.go_on()
    writer.wait_for(lambda ledger: ledger.done > done)


def test_a_file_copy_that_a_writer_overtakes_is_broken(tmp_path: Path) -> None:
    with held(tmp_path) as writer:
        writer.wait_for(lambda ledger: ledger.done == 1)
        finished = dict(writer.ledger.final)
        with (tmp_path / "n.db").open("rb") as source, (tmp_path / "copy.db").open("wb") as target:
            half = (tmp_path / "n.db").stat().st_size // 2
            target.write(source.read(half))
            play_on(writer)
            shutil.copyfileobj(source, target)

    assert len(finished) == 40
    assert harm(tmp_path / "copy.db", finished)


def test_a_pack_that_the_same_writer_overtakes_is_whole(tmp_path: Path) -> None:
    with held(tmp_path) as writer:
        writer.wait_for(lambda ledger: ledger.done == 1)
        finished = dict(writer.ledger.final)
        follower = Follower(tmp_path / "store", tmp_path / "n.db")
        with halted("src.game_moves", lambda: play_on(writer)):
            assert follower.cycle()

        assert len(writer.ledger.final) == 80
    assert follower.canonical() == finished


def copied(source: Path, target: Path) -> None:
    """Copy a file as a transfer does that keeps to 50 MB/s, the guide's default limit."""
    with contextlib.suppress(FileNotFoundError), source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(CHUNK_BYTES):
            writer.write(chunk)
            time.sleep(len(chunk) / BYTES_PER_SECOND)


@pytest.mark.soak
def test_of_many_copies_beside_a_free_running_writer_some_are_broken_and_of_the_packs_none(tmp_path: Path) -> None:
    harms = []
    plan = Plan(f"{tmp_path}/n.db", f"{tmp_path}/ledger", disturbance="checkpoint", moves=40)
    with Writer(plan) as writer:
        writer.wait_for(lambda ledger: len(ledger.final) >= 100)
        follower = Follower(tmp_path / "store", tmp_path / "n.db")
        for number in range(COPIES):
            finished = dict(writer.ledger.read().final)
            copy = tmp_path / f"copy{number}.db"
            for suffix in ("", "-wal"):
                copied(Path(f"{plan.database}{suffix}"), Path(f"{copy}{suffix}"))
            harms.append(harm(copy, finished))
            follower.cycle()
        writer.stop()
    follower.until_empty()

    print(f"{sum(map(bool, harms))} of {COPIES} copies are broken: {dict(Counter(map(_kind, harms)))}")
    assert any(harms)
    assert follower.packed() <= writer.ledger.played
    assert follower.canonical() == writer.ledger.final


def _kind(harm: str) -> str:
    return harm.partition(":")[0] or "whole"
