"""Packs are made while other processes write: nothing half, nothing lost, nothing invented, and nobody is disturbed.

The combinations of journal mode, disturbance, page size and load are pairwise in ``make test`` and complete in ``make
cluster``. Source: Litestream's wave soak and Jepsen's ledger (field notes 1.8, F and G).
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from itertools import combinations, product
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.live.follower import Follower, halted
from tests.live.watching import Writer
from tests.live.writers import DISTURBANCES, JOURNALS, LOADS, Plan
from tests.node.merging import Shop, game, record

PAGE_SIZES: Final = (512, 1024, 4096, 8192, 32768, 65536)
LIVE_SECONDS: Final = 20.0


class Case(NamedTuple):
    """One combination."""

    journal: str
    disturbance: str
    page_size: int
    load: str


def pairwise() -> list[Case]:
    """36 combinations in which every value of one factor meets every value of every other.

    Page sizes are a Latin square over modes and disturbances; the load runs across all three.
    """
    return [
        Case(journal, disturbance, PAGE_SIZES[(i + j) % 6], LOADS[(i + 2 * j) % 3])
        for i, journal in enumerate(JOURNALS)
        for j, disturbance in enumerate(DISTURBANCES)
    ]


def follow(case: Case, folder: Path) -> None:
    """Collect beside a live writer, then to the end, and compare with the writer's ledger."""
    folder.mkdir()
    plan = Plan(f"{folder}/n.db", f"{folder}/ledger", case.journal, case.page_size, case.load, case.disturbance)
    with Writer(plan) as writer:
        follower = Follower(folder / "store", folder / "n.db")
        writer.wait_for(lambda ledger: bool(ledger.final))
        limit = time.monotonic() + LIVE_SECONDS
        cycles = 0
        while cycles < 3 or writer.ledger.read().done < 2:
            cycles += follower.cycle()
            assert writer.alive
            assert time.monotonic() < limit, follower
        assert follower.artifacts
        writer.stop()
    follower.until_empty()

    assert follower.packed() <= writer.ledger.played
    assert follower.canonical() == writer.ledger.final


def test_every_value_of_a_factor_meets_every_value_of_every_other() -> None:
    every = (JOURNALS, tuple(DISTURBANCES), PAGE_SIZES, LOADS)
    for one, other in combinations(range(4), 2):
        assert {(case[one], case[other]) for case in pairwise()} == set(product(every[one], every[other]))


@pytest.mark.parametrize("case", pairwise(), ids=lambda case: "-".join(map(str, case)))
def test_what_a_live_writer_finished_is_collected_and_nothing_else(tmp_path: Path, case: Case) -> None:
    follow(case, tmp_path / "n")


@pytest.mark.cluster
@pytest.mark.parametrize("disturbance", DISTURBANCES)
@pytest.mark.parametrize("journal", JOURNALS)
def test_so_it_is_under_every_page_size_and_load(tmp_path: Path, journal: str, disturbance: str) -> None:
    for page_size, load in product(PAGE_SIZES, LOADS):
        follow(Case(journal, disturbance, page_size, load), tmp_path / f"{page_size}-{load}")


@pytest.mark.parametrize("disturbance", ["none", "checkpoint", "vacuum", "schema", "rowids"])
def test_a_pack_that_takes_long_holds_the_moment_of_its_beginning_while_a_wal_writer_goes_on(
    tmp_path: Path, disturbance: str
) -> None:
    plan = Plan(f"{tmp_path}/n.db", f"{tmp_path}/ledger", disturbance=disturbance, patience_ms=30)
    with Writer(plan) as writer:
        writer.wait_for(lambda ledger: len(ledger.final) >= 8)
        follower = Follower(tmp_path / "store", tmp_path / "n.db")
        late: set[str] = set()

        def meanwhile() -> None:
            """Let it finish a dozen games and disturb twice; what it began to finish until now may be in the pack."""
            before, done = writer.ledger.read().played.copy(), writer.ledger.done
            writer.wait_for(lambda ledger: ledger.done >= done + 2 and len(ledger.played) >= len(before) + 12)
            late.update(content for _, content in writer.ledger.played - before)

        with halted("src.game_moves", meanwhile):
            assert follower.cycle()
        first = follower.packed()
        writer.stop()
    follower.until_empty()

    assert len(first) >= 8
    assert not late & {content for _, content in first}
    assert follower.canonical() == writer.ledger.final


@pytest.mark.parametrize("journal", ["DELETE", "TRUNCATE", "PERSIST", "MEMORY"])
def test_a_rollback_writer_waits_for_a_pack_and_loses_nothing(tmp_path: Path, journal: str) -> None:
    plan = Plan(f"{tmp_path}/n.db", f"{tmp_path}/ledger", journal, disturbance="schema")
    with Writer(plan) as writer:
        writer.wait_for(lambda ledger: len(ledger.final) >= 3)
        follower = Follower(tmp_path / "store", tmp_path / "n.db")
        finished: list[int] = []

        def meanwhile() -> None:
            for _ in range(2):
                finished.append(len(writer.ledger.read().final))
                time.sleep(0.1)

        with halted("src.game_moves", meanwhile):
            assert follower.cycle()
        writer.wait_for(lambda ledger: len(ledger.final) > finished[1])
        writer.stop()
    follower.until_empty()

    assert finished[1] - finished[0] <= 1  # the line of a commit that was over before
    assert follower.canonical() == writer.ledger.final


def test_games_asked_for_by_name_are_packed_as_they_are_now(tmp_path: Path) -> None:
    """The node was never told to forget its first answer; the revision must not hide behind it."""
    shop = Shop(tmp_path)
    short, long = (game("g1", length=length, rng_seed=5, created_at="2026-03-01") for length in (6, 9))
    first = shop.pack(record(tmp_path / "n.db", short), ids=("g1",))
    with contextlib.closing(sqlite3.connect(tmp_path / "n.db", isolation_level=None)) as conn:
        conn.execute("PRAGMA foreign_keys = ON")
        conn.execute("DELETE FROM games")

    again = shop.pack(record(tmp_path / "n.db", long), ids=("g1",))
    shop.merge(first["artifact"])
    merged = shop.merge(again["artifact"])

    assert (merged.revised, merged.same) == (1, 0)
    assert shop.pack(tmp_path / "n.db", ids=("g1",)) == again
