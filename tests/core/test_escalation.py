"""The ladder as values: the guide's table, the order of rungs, one budget of time, and what each error means."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringrift_sync_dagster import errors
from ringrift_sync_dagster.core.escalation import (
    FORCED,
    LADDER,
    LONGEST_RESCUE_SECONDS,
    LONGEST_SECONDS,
    SKIPPED,
    Attempt,
    Rung,
    Then,
    budget_seconds,
    judge,
    order,
    pause_seconds,
    share_seconds,
    summary,
)

ALL = tuple(LADDER)
MB = 1_000_000


def made(kind: type[errors.TransferError], text: str = "words") -> errors.TransferError:
    return kind("n1", "rsync", text)


def test_the_table_is_the_guides() -> None:
    limits = {rung: (line.connect_seconds, line.transfer_seconds, line.tries) for rung, line in LADDER.items()}
    assert limits == {Rung.P2P: (5, 120, 2), Rung.RSYNC: (10, 300, 3), Rung.BASE64: (30, 600, 1)}
    assert {line.stall_seconds for line in LADDER.values()} == {15, 30, 60}
    assert set(FORCED.values()) == set(Rung)


def test_the_rung_that_worked_last_comes_first_and_the_others_keep_their_order() -> None:
    assert order(ALL, "") == ALL
    assert order(ALL, "base64") == (Rung.BASE64, Rung.P2P, Rung.RSYNC)
    assert order((Rung.BASE64, Rung.RSYNC), "p2p_http") == (Rung.RSYNC, Rung.BASE64)


@pytest.mark.parametrize(
    "kind,then,blames,worked",
    [
        (errors.RungUnusableError, Then.NEXT_RUNG, True, False),
        (errors.UnreachableError, Then.NEXT_RUNG, True, False),
        (errors.TransientError, Then.RETRY, True, False),
        (errors.StallError, Then.RETRY, True, False),
        (errors.DeadlineExceededError, Then.NEXT_RUNG, True, False),
        (errors.ChecksumError, Then.NEXT_RUNG, False, False),
        (errors.LocalToolError, Then.NEXT_RUNG, False, False),
        (errors.TransferUnderWayError, Then.STOP, False, False),
        (errors.AuthenticationError, Then.STOP, False, False),
        (errors.TokenError, Then.STOP, False, False),
        (errors.HostKeyError, Then.STOP, False, False),
        (errors.RemoteCallError, Then.STOP, False, True),
        (errors.ArtifactGoneError, Then.STOP, False, True),
        (errors.SourceChangedError, Then.STOP, False, True),
        (errors.LocalDiskError, Then.STOP, False, False),
        (errors.TransferCancelledError, Then.STOP, False, False),
        (errors.AdmissionRefusedError, Then.STOP, False, False),
        (errors.NodeDownError, Then.STOP, False, False),
    ],
)
def test_an_error_says_what_to_do_next(
    kind: type[errors.TransferError], then: Then, *, blames: bool, worked: bool
) -> None:
    found = judge(made(kind), budget_spent=False)
    assert (found.then, found.blames, found.worked) == (then, blames, worked)


def test_what_is_our_own_fault_never_counts_against_a_node() -> None:
    ours = [kind for kind in _subclasses(errors.TransferError) if kind.next_step is errors.NextStep.OURS]
    assert ours
    assert not [kind for kind in ours if judge(made(kind), budget_spent=False).blames]


def test_when_the_whole_budget_is_spent_nothing_is_tried_again_and_the_rung_is_not_blamed_for_our_haste() -> None:
    spent = judge(made(errors.DeadlineExceededError), budget_spent=True)
    assert (spent.then, spent.blames) == (Then.STOP, False)
    assert judge(made(errors.TransientError), budget_spent=True).then is Then.STOP


def test_a_small_transfer_has_the_guides_times_and_a_large_one_twice_what_its_rate_needs() -> None:
    assert budget_seconds(ALL, 1000, 50 * MB) == 45 + 600
    assert budget_seconds((Rung.P2P,), 1000, 50 * MB) == 5 + 120
    # 500 MB in the background of a host of 50 MB/s that others use too: 200 s, and no failure.
    assert budget_seconds((Rung.P2P,), 500 * MB, 2.5 * MB) == 5 + 400
    assert budget_seconds((Rung.P2P,), 500 * MB, math.inf) == 5 + 120


def test_no_transfer_has_more_than_fifteen_minutes_and_a_rescue_thirty() -> None:
    assert budget_seconds(ALL, 10**12, MB) == LONGEST_SECONDS
    assert budget_seconds(ALL, 10**12, MB, rescue=True) == LONGEST_RESCUE_SECONDS


@given(st.sampled_from(ALL), st.floats(0.01, 900), st.integers(0, 10**10), st.floats(1e4, 1e9))
def test_a_share_never_passes_what_is_left(rung: Rung, remaining: float, size: int, rate: float) -> None:
    later = ALL[ALL.index(rung) + 1 :]
    share = share_seconds(rung, later, remaining, size, rate)
    assert 0 < share <= remaining
    if not later:
        assert share == min(
            remaining, LADDER[rung].connect_seconds + max(LADDER[rung].transfer_seconds, 2 * size / rate)
        )


def test_a_call_may_take_what_the_later_rungs_do_not_need_to_connect() -> None:
    assert share_seconds(Rung.P2P, (Rung.RSYNC, Rung.BASE64), 300.0, None, 1.0) == 260.0
    assert share_seconds(Rung.BASE64, (), 300.0, None, 1.0) == 300.0


def test_whoever_moves_and_is_slow_goes_on_without_blame() -> None:
    found = judge(made(errors.DeadlineExceededError), budget_spent=False, moved=True)
    assert (found.then, found.blames) == (Then.GO_ON, False)


def test_a_node_whose_agent_is_closed_and_whose_sshd_answers_is_not_down() -> None:
    tried = [made(errors.UnreachableError), made(errors.RungUnusableError)]
    assert type(summary("n1", tried, [])) is errors.RungUnusableError


def test_what_is_missing_here_is_said_before_what_the_node_lacks() -> None:
    tried = [made(errors.LocalToolError), made(errors.UnreachableError)]
    assert type(summary("n1", tried, [])) is errors.LocalToolError


def test_a_share_leaves_the_later_rungs_time_to_connect() -> None:
    assert share_seconds(Rung.P2P, (Rung.RSYNC, Rung.BASE64), 100.0, 0, 1.0) == 60.0
    assert share_seconds(Rung.P2P, (Rung.RSYNC, Rung.BASE64), 30.0, 0, 1.0) == 10.0


def test_pauses_grow_to_five_seconds_and_are_spread_from_nothing_on() -> None:
    assert [pause_seconds(done, 1.0) for done in (1, 2, 3, 4, 5, 9)] == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    assert pause_seconds(3, 0.0) == 0.0


def test_a_node_that_answers_nowhere_is_down_and_every_rung_says_why() -> None:
    attempts = [
        Attempt("p2p_http", "UnreachableError", "port 8765: refused"),
        Attempt("rsync", "UnreachableError", "port 22: refused"),
        Attempt("base64", SKIPPED, "not tried: nothing answers for ssh"),
    ]
    found = summary("n1", [made(errors.UnreachableError), made(errors.UnreachableError)], attempts)
    assert type(found) is errors.NodeDownError
    assert all(words in str(found) for words in ("p2p_http: port 8765", "rsync: port 22", "base64: not tried"))


def test_a_node_that_answers_and_cannot_serve_is_not_called_down() -> None:
    found = summary("n1", [made(errors.RungUnusableError)], [Attempt("rsync", "RungUnusableError", "no rsync")])
    assert type(found) is errors.RungUnusableError


def test_the_error_that_says_most_gives_its_class() -> None:
    tried = [made(errors.StallError), made(errors.UnreachableError)]
    assert type(summary("n1", tried, [Attempt("p2p_http", "StallError", "silent")])) is errors.StallError


def test_a_node_without_any_rung_says_so() -> None:
    assert "no transport" in str(summary("n1", [], []))


def test_each_rung_is_told_once_with_its_last_words() -> None:
    tried = [Attempt("rsync", "TransientError", "first"), Attempt("rsync", "TransientError", "second"), Attempt("x")]
    assert str(summary("n1", [made(errors.TransientError)], tried)) == "n1: rsync: second"


def _subclasses(kind: type[errors.TransferError]) -> list[type[errors.TransferError]]:
    found = [kind]
    for child in kind.__subclasses__():
        found += _subclasses(child)
    return found
