"""The table of rungs says what the rows say, and a node that came another way than planned is found."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from ringrift_sync_dagster.core.breaker import CircuitBreakerConfig
from ringrift_sync_dagster.core.escalation import SKIPPED, Attempt, Rung
from ringrift_sync_dagster.demo.rungs import print_rungs, rung_checks, served
from ringrift_sync_dagster.errors import NodeDownError
from ringrift_sync_dagster.state import breakers
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.transfers import fail, finish, start_transfer

NODE = "hetzner-v1"
CLOSED = Attempt("p2p_http", "UnreachableError", f"{NODE} over p2p_http: nothing answers at 127.77.0.14:8765", 0.1)
NO_RSYNC = Attempt("rsync", "RungUnusableError", f"{NODE} over rsync: rsync is missing on the node", 0.2)
EXPLAINED = "every failed try has a class and a text, and every rung that was left out a reason"
WORKED = Attempt("base64", "", "", 0.5, 2_000_000)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateStore]:
    with StateStore.open(f"sqlite:///{tmp_path}/state.db") as store:
        yield store


def transfer(state: StateStore, attempts: Sequence[Attempt], *, works: bool = True) -> None:
    row = start_transfer(
        state, artifact="a" * 64, node=NODE, direction="fetch", transport="", size_bytes=2_000_000
    )  # fmt: skip
    rungs = [asdict(attempt) for attempt in attempts]
    if works:
        last = attempts[-1].rung
        finish(state, row, seconds=0.5, rungs=rungs, transport=last, rate_granted=50e6)
    else:
        fail(state, row, NodeDownError(NODE, "", "nothing works"), rungs=rungs)


def printed(state: StateStore) -> str:
    text = StringIO()
    print_rungs(Console(file=text, width=200), served(state, [NODE]))
    return text.getvalue()


def verdict(state: StateStore, rung: Rung = Rung.BASE64) -> dict[str, tuple[str, ...]]:
    return {check.question: check.problems for check in rung_checks(served(state, [NODE]), {NODE: rung})}


def test_the_table_shows_the_rung_the_numbers_and_why_the_others_failed(state: StateStore) -> None:
    transfer(state, [CLOSED, NO_RSYNC, WORKED])
    transfer(state, [WORKED])
    [line] = [line for line in printed(state).splitlines() if NODE in line]

    cells = [cell.strip() for cell in line.split("│")[1:-1]]
    assert cells[:7] == [NODE, "base64", "2", "4.00", "1.00", "50", "4.0"]
    assert cells[7] == "p2p_http: UnreachableError: nothing answers at 127.77.0.14:8765"
    assert "rsync: RungUnusableError: rsync is missing on the node" in printed(state)
    assert set(verdict(state).values()) == {()}


def test_a_rung_that_failed_before_the_first_transfer_is_told_by_its_breaker(state: StateStore) -> None:
    config = CircuitBreakerConfig()
    breakers.failed(state, NODE, "p2p_http", config, CLOSED.message)
    transfer(state, [WORKED])
    assert "p2p_http: nothing answers at 127.77.0.14:8765" in printed(state)
    assert verdict(state)[EXPLAINED] == (f"{NODE}: nothing is said of rsync",)

    breakers.failed(state, NODE, "rsync", config, f"RungUnusableError: {NO_RSYNC.message}")
    assert "rsync: RungUnusableError: rsync is missing on the node" in printed(state)
    assert set(verdict(state).values()) == {()}


def test_another_rung_than_the_planned_one_is_a_problem(state: StateStore) -> None:
    transfer(state, [CLOSED, Attempt("rsync", "", "", 0.5, 2_000_000)])

    assert verdict(state)[f"{NODE} was served by base64"] == ("1 over rsync", "no transfer")
    assert verdict(state, Rung.RSYNC)[f"{NODE} was served by rsync"] == ()


def test_a_failure_without_a_class_or_a_text_is_a_problem(state: StateStore) -> None:
    transfer(state, [CLOSED, NO_RSYNC, Attempt("base64", "", "it broke"), Attempt("base64", "StallError")], works=False)
    transfer(state, [WORKED])

    assert verdict(state)[EXPLAINED] == (
        f"{NODE}: base64: no class: it broke",
        f"{NODE}: base64: StallError: no text",
    )


def test_a_rung_that_was_not_tried_did_not_fail(state: StateStore) -> None:
    transfer(state, [CLOSED, NO_RSYNC, Attempt("base64", SKIPPED, "not tried: it is open")], works=False)
    transfer(state, [WORKED])

    assert "not tried" not in printed(state)
    assert set(verdict(state).values()) == {()}


def test_hashes_are_shown_short(state: StateStore) -> None:
    transfer(state, [Attempt("p2p_http", "TransientError", f"artifact {'ab' * 32}: it broke"), NO_RSYNC, WORKED])

    assert "artifact abababababab: it broke" in printed(state)
