"""A pack does not make the writer wait: its p99 commit latency stays as it was, in a WAL and in rollback modes.

Figures of time depend on the machine, so they are asserted only among the long tests.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any, Final

import pytest

from tests.live.watching import Writer
from tests.live.writers import LOADS, Plan
from tests.node.merging import Shop

ROUNDS: Final = 5
ROUND_SECONDS: Final = 6.0
BETWEEN_COMMITS_SECONDS: Final = 0.01
"""About 90 commits a second, as in the field notes; self-play on a node makes far fewer."""
BETWEEN_PACKS_SECONDS: Final = {"WAL": 0.2, "DELETE": 2.5}
"""A pack keeps one commit waiting where the journal is a rollback journal, so there it comes twice as often as the
shortest interval of the settings (5 s); under WAL nobody waits, and it comes all the time."""

SYNCHRONOUS: Final = {"WAL": "NORMAL", "DELETE": "OFF"}
"""A rollback-mode commit waits for three flushes, and on a shared disk these would be what is measured. Without them a
commit waits for locks only, which is all that a reader can hold."""

AUTOCHECKPOINT_PAGES: Final = 250
"""A quarter of SQLite's default. With the default just one commit in a hundred checkpoints, which takes ten times as
long as the others: the 99th percentile then falls on either side of that step by chance. So it is a checkpoint's time,
with its flushes, that is compared."""


def p99_seconds(folder: Path, plan: Plan, *, packs: bool) -> float:
    """Let one writer play for a round, with packs or without; its 99th percentile commit."""
    folder.mkdir()
    shop, every = Shop(folder), BETWEEN_PACKS_SECONDS[plan.journal]
    cursor: dict[str, Any] | None = None
    with Writer(plan) as writer:
        writer.wait_for(lambda ledger: len(ledger.final) >= 3)
        for _ in range(int(ROUND_SECONDS / every)):
            if packs:
                cursor = shop.pack(folder / "n.db", cursor=cursor)["cursor"]
            time.sleep(every)
        return statistics.quantiles(writer.stop(), n=100)[98]


@pytest.mark.soak
@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("journal", BETWEEN_PACKS_SECONDS)
def test_p99_of_a_writers_commits_stays_within_a_fifth_or_two_milliseconds(
    tmp_path: Path, journal: str, load: str
) -> None:
    found: dict[bool, list[float]] = {False: [], True: []}
    for number in range(ROUNDS):
        for packs, seconds in found.items():
            folder = tmp_path / f"{number}-{packs}"
            plan = Plan(
                f"{folder}/n.db",
                f"{folder}/ledger",
                journal,
                load=load,
                pause_seconds=BETWEEN_COMMITS_SECONDS,
                synchronous=SYNCHRONOUS[journal],
                autocheckpoint=AUTOCHECKPOINT_PAGES,
            )
            seconds.append(p99_seconds(folder, plan, packs=packs))
    alone, beside = statistics.median(found[False]), statistics.median(found[True])
    print(f"{journal} {load}: p99 {1000 * alone:.2f} ms alone, {1000 * beside:.2f} ms beside packs")
    assert beside <= max(1.2 * alone, alone + 0.002)
