"""What is judged of a node that vanished: games with a receipt must be there, and the loss report must be true."""

from dataclasses import replace
from pathlib import Path

import pytest

from ringrift_sync_dagster.demo.ledger import Entry, Plan
from ringrift_sync_dagster.demo.vanishing import Arrived, Report, Vanished, missing, vanishing_checks

NODE = "vast-900001"


def game(name: str) -> Entry:
    return Entry(
        Plan.NORMAL, NODE, "data/games/selfplay.db", "hex8_2p", name, f"content of {name}", 20, 1, "", finished=True
    )


SAVED, AT_RISK = (game("a"), game("b")), (game("c"), game("d"), game("e"))
VANISHED = Vanished(NODE, Path("/evidence"), SAVED, AT_RISK, 2, 0.1, ("c", "d"))
HERE = Arrived(frozenset({"content of a", "content of b", "content of c"}), frozenset({"a", "b", "c"}))
TOLD = Report(frozenset({"d"}), 1, "its status is terminated")


def failed(vanished: Vanished, here: Arrived, report: Report) -> list[int]:
    return [place for place, one in enumerate(vanishing_checks(vanished, here, report)) if not one.passed]


def test_what_is_missing_may_be_what_was_at_risk_and_is_told_by_name() -> None:
    assert [one.game_id for one in missing(VANISHED, HERE)] == ["d", "e"]
    assert failed(VANISHED, HERE, TOLD) == []
    assert str(VANISHED) == f"3 games were at risk on {NODE} when it was killed (status said 2, 0.1 s before)"


@pytest.mark.parametrize(
    "vanished,here,report,expected",
    [
        (replace(VANISHED, said=None), HERE, TOLD, [0]),
        (replace(VANISHED, receipted=()), HERE, TOLD, [1]),
        (VANISHED, Arrived(HERE.contents - {"content of a"}, HERE.ids - {"a"}), TOLD, [1, 2]),
        (VANISHED, HERE, replace(TOLD, ids=frozenset({"c", "d"})), [3]),
        (VANISHED, HERE, replace(TOLD, ids=frozenset()), [3]),
        (VANISHED, HERE, replace(TOLD, ids=frozenset({"d", "never played"})), [3]),
        (VANISHED, HERE, replace(TOLD, games=0), [3]),
    ],
)
def test_the_verdict_breaks_when_a_receipt_or_the_report_was_wrong(
    vanished: Vanished, here: Arrived, report: Report, expected: list[int]
) -> None:
    assert failed(vanished, here, report) == expected
