"""Who serves whom: the owner once where holders can, a holder a few at a time, and nobody waits for ever."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack

from ringrift_sync_dagster.sync.holders import OWNER, PER_HOLDER, Holders

SHA = "a" * 64


def test_without_a_holder_the_owner_serves() -> None:
    with Holders().serving(SHA, "n1") as source:
        assert source == OWNER


def test_a_node_is_never_its_own_source() -> None:
    holders = Holders()
    holders.add(SHA, "n1")
    with holders.serving(SHA, "n1") as source:
        assert source == OWNER


def test_the_holder_that_serves_fewest_is_chosen_and_the_owner_when_all_are_busy() -> None:
    holders = Holders()
    for name in ("h1", "h2"):
        holders.add(SHA, name)
    with ExitStack() as stack:
        chosen = [stack.enter_context(holders.serving(SHA, f"n{number}")) for number in range(2 * PER_HOLDER + 1)]
    assert chosen == ["h1", "h2", "h1", "h2", OWNER]


def test_whoever_finds_the_owner_busy_waits_for_the_first_holder() -> None:
    holders, chosen = Holders(), list[str]()

    def second() -> None:
        with holders.serving(SHA, "n2") as source:
            chosen.append(source)

    waiting = threading.Thread(target=second)
    with holders.serving(SHA, "n1"):
        waiting.start()
        time.sleep(0.05)
        assert chosen == []
        holders.add(SHA, "n1")
        waiting.join(5)
    assert chosen == ["n1"]


def test_after_a_while_the_owner_serves_a_second_one() -> None:
    holders = Holders(patience_seconds=0.05)
    with holders.serving(SHA, "n1"), holders.serving(SHA, "n2") as source:
        assert source == OWNER


def test_a_holder_that_failed_is_not_asked_again() -> None:
    holders = Holders()
    holders.add(SHA, "h1")
    holders.drop(SHA, "h1")
    holders.add(SHA, "h1")
    with holders.serving(SHA, "n1") as source:
        assert source == OWNER
