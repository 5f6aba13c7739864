"""No node waits for all the work of another."""

from collections import Counter
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from ringrift_sync_dagster.core.fairness import Turns
from ringrift_sync_dagster.core.model import Partition

PARTITIONS = st.lists(
    st.builds(Partition, st.sampled_from(["hex8_2p", "square8_2p", "hexagonal_4p"]), st.sampled_from(["a", "b", "c"]))
)


def interleave(partitions: Iterable[Partition]) -> list[Partition]:
    """Let all partitions wait, then take them one after the other."""
    turns: Turns[Partition] = Turns()
    for partition in partitions:
        turns.add(partition.node, partition)
    ordered = []
    while (following := turns.take()) is not None:
        ordered.append(following)
    assert not turns.waiting
    return ordered


def test_a_node_with_as_much_under_way_as_it_may_have_waits_for_an_end() -> None:
    turns: Turns[str] = Turns(per_node=1)
    for node, work in (("a", "a1"), ("a", "a2"), ("b", "b1")):
        turns.add(node, work)

    assert [turns.take(), turns.take(), turns.take()] == ["a1", "b1", None]
    turns.done("a")
    assert (turns.waiting, turns.take(), turns.waiting) == (True, "a2", False)


def test_nodes_take_turns_in_the_order_in_which_they_appear() -> None:
    keys = ["x|a", "y|a", "z|a", "x|b", "x|c", "y|c"]
    assert [part.key for part in interleave(map(Partition.parse, keys))] == ["x|a", "x|b", "x|c", "y|a", "y|c", "z|a"]


@given(PARTITIONS)
def test_nothing_is_lost_or_doubled_and_each_nodes_own_order_stays(partitions: list[Partition]) -> None:
    ordered = interleave(partitions)
    assert Counter(ordered) == Counter(partitions)
    for node in "abc":
        assert [p for p in ordered if p.node == node] == [p for p in partitions if p.node == node]


@given(PARTITIONS)
def test_between_two_turns_of_a_node_every_other_waiting_node_has_one(partitions: list[Partition]) -> None:
    ordered = interleave(partitions)
    for index, part in enumerate(ordered):
        turns = Counter(other.node for other in ordered[: index + 1])
        assert all(
            turns[node] >= turns[part.node] - 1 or node not in {other.node for other in ordered[index + 1 :]}
            for node in "abc"
        )
