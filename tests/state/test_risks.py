"""What nodes say is on them alone: the last word counts, and it grows old while they are silent."""

from __future__ import annotations

import pytest

from ringrift_sync_dagster.state.risks import MAX_IDS, Risk, every, give_up, oldest, put, risk_of
from ringrift_sync_dagster.state.store import StateStore


def test_the_last_word_of_a_node_counts(store: StateStore) -> None:
    put(store, Risk("vast-1", 2, 100, ["a", "b"], 10.0, 5, 1, at=20.0))
    put(store, Risk("vast-2", 1, 50, ["c"], 5.0, at=20.0))
    put(store, Risk("vast-1", 0, 0, [], None, at=30.0))

    assert every(store) == [Risk("vast-1", at=30.0), Risk("vast-2", 1, 50, (), 5.0, at=20.0)]
    assert risk_of(store, "vast-2") == Risk("vast-2", 1, 50, ["c"], 5.0, at=20.0)
    assert risk_of(store, "vast-3") is None
    found = oldest(store)
    assert found is not None
    assert (found.node, found.age(25.0), found.age(305.0)) == ("vast-2", 20.0, 300.0)


def test_a_node_is_given_up_once_and_its_next_word_takes_that_back(store: StateStore) -> None:
    said = Risk("vast-1", 1, 50, ["c"], 5.0, at=20.0)
    put(store, said)
    assert give_up(store, said, 100.0)
    assert not give_up(store, said, 101.0)
    assert oldest(store) is None
    assert [one.lost_at for one in every(store)] == [100.0]

    put(store, Risk("vast-1", 1, 50, ["c"], 5.0, at=200.0))
    assert not give_up(store, said, 201.0)  # it spoke meanwhile
    found = oldest(store)
    assert found is not None
    assert found.lost_at is None


@pytest.mark.parametrize(
    "more", [{"games": -1}, {"outbox_bytes": -1}, {"node": "../x"}, {"ids": ["x"] * (MAX_IDS + 1)}]
)
def test_nonsense_is_refused(more: dict[str, object]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - two kinds of words
        Risk(**{"node": "vast-1", **more})  # type: ignore[arg-type]
