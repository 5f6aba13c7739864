"""A plan is what a pass would move, urgent things first, with what earlier transfers took as a measure."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ringrift_sync_dagster.core.bandwidth import TransferPriority
from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.demo.exports import make_export
from ringrift_sync_dagster.demo.games import make_game
from ringrift_sync_dagster.state.changes import Change, add_changes
from ringrift_sync_dagster.state.forecasts import Forecast, recent
from ringrift_sync_dagster.state.nodes import NodeRow
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.transfers import finish, start_transfer
from ringrift_sync_dagster.sync.collect import Request, move
from ringrift_sync_dagster.sync.difference import Difference, Missing, Way, difference
from ringrift_sync_dagster.sync.owner_state import OwnerState
from ringrift_sync_dagster.sync.planner import USUAL_GAME_BYTES, Measured, learned, measured_before, plan
from ringrift_sync_dagster.sync.runtime import Runtime
from tests.sync.conftest import Field
from tests.sync.test_collect import A

CONFIG = "hex8_2p"


def lacking(node: str, data_type: DataType, way: Way, *, size: int | None = None, count: int | None = None) -> Missing:
    return Missing(node, data_type, CONFIG, way, "it", "because", size, count)


def known(name: str, told_at: float) -> NodeRow:
    return NodeRow(name, "up", "p2p_http", "", "t", told_at, told_at, "", None, {})


def test_urgent_things_come_first_and_then_the_node_that_waits_longest() -> None:
    waits, fresh = known("waits", 10.0), known("fresh", 20.0)
    found = [
        Difference("fresh", fresh, (lacking("fresh", DataType.GAMES, "up"), lacking("fresh", DataType.ELO, "up"))),
        Difference("waits", waits, (lacking("waits", DataType.GAMES, "up"), lacking("waits", DataType.MODELS, "down"))),
        Difference("silent", None, ()),
        Difference("tried", NodeRow("tried", "down", "", "", "", None, None, "nobody there", 1.0, {}), ()),
    ]

    chosen = plan(found, Measured())

    order = [(one.priority, one.missing.node, one.missing.data_type.value) for one in chosen.transfers]
    assert order == [
        (TransferPriority.CRITICAL, "waits", "models"), (TransferPriority.NORMAL, "waits", "games"),
        (TransferPriority.NORMAL, "fresh", "games"), (TransferPriority.LOW, "fresh", "elo"),
    ]  # fmt: skip
    assert chosen.unknown_nodes == ("silent", "tried")


def test_bytes_and_seconds_are_those_of_earlier_transfers() -> None:
    measured = Measured({"fast": 1e6}, {CONFIG: 2_000.0})
    games = Difference("fast", known("fast", 1.0), (lacking("fast", DataType.GAMES, "up", count=500),))
    model = Difference("slow", known("slow", 1.0), (lacking("slow", DataType.MODELS, "down", size=50_000_000),))

    first, second = plan([games, model], measured).transfers

    assert (first.size_bytes, first.seconds) == (50_000_000, 10.0)
    assert (second.size_bytes, second.seconds) == (1_000_000, 1.0)
    chosen = plan([games, model], measured)
    assert chosen.size_bytes == 51_000_000
    assert (chosen.seconds(1), chosen.seconds(5)) == (11.0, 10.0)


def test_what_was_measured_is_read_from_the_state_database(tmp_path: Path) -> None:
    with StateStore.open(f"sqlite:///{tmp_path}/state.db") as state:
        for size, seconds in ((1_000, 1.0), (5_000, 2.0)):
            number = start_transfer(
                state, artifact="a" * 64, node="n", direction="fetch", transport="p2p_http", size_bytes=size
            )
            finish(state, number, seconds=seconds)
        add_changes(
            state,
            [
                Change("a", 1.0, "games", "up", CONFIG, "n", games_new=3, size_bytes=900),
                Change("b", 1.0, "games", "up", CONFIG, "n", games_new=1, size_bytes=300),
                Change("c", 1.0, "npz", "up", CONFIG, "n", size_bytes=10**9),
            ],
        )

        assert measured_before(state) == Measured({"n": 2000.0}, {CONFIG: 300.0})


def test_a_plan_over_live_nodes_moves_nothing_and_names_what_the_pass_then_moves(field_: Field) -> None:
    field_.play(A, "data/games/selfplay.db", make_game("plan", CONFIG))
    make_export(field_.cluster.node_root(A) / f"data/training/{CONFIG}.npz", CONFIG, 4)
    with Runtime.open(field_.settings) as runtime:
        move(runtime, Request([DataType.ELO], [CONFIG], [A], "test", down=False))  # the node tells its files
        chosen = plan([difference(OwnerState(runtime), runtime.inventory.get(A))], measured_before(runtime.state))
        assert runtime.intake.store.games(CONFIG) == 0
        done = move(runtime, Request(None, [CONFIG], [A], "test", down=False))

    planned = {one.missing.data_type: one for one in chosen.transfers if one.missing.config == CONFIG}
    assert planned[DataType.GAMES].size_bytes == USUAL_GAME_BYTES
    (npz,) = done[DataType.NPZ].outcomes
    assert planned[DataType.NPZ].size_bytes == npz.bytes_moved


def test_a_pass_writes_what_it_expected_beside_what_it_took_and_the_next_plan_learns_from_it(field_: Field) -> None:
    field_.play(A, "data/games/x.db", *(make_game(f"f{n}", CONFIG) for n in range(5)))
    with Runtime.open(field_.settings) as runtime:
        move(runtime, Request(configs=[CONFIG], nodes=[A], down=False))
        (found,) = recent(runtime.state)
        measured = measured_before(runtime.state)
        move(runtime, Request(configs=[CONFIG], nodes=[A], down=False))

        assert (found.data_type, found.config, found.node, found.direction) == ("games", CONFIG, A, "up")
        assert found.predicted_bytes == 5 * USUAL_GAME_BYTES
        assert found.actual_bytes > 0 < found.actual_seconds
        assert measured.usual_bytes["games", "up"] == found.actual_bytes
        assert measured.errors is not None
        assert len(recent(runtime.state)) == 1  # where nothing moves nothing is expected


@given(
    st.lists(
        st.builds(
            Forecast, st.sampled_from(["elo", "npz"]), st.just(CONFIG), st.just("n"), st.sampled_from(["up", "down"]),
            st.integers(0, 10**9), st.floats(0, 1e4), st.integers(0, 10**9), st.floats(0, 1e4),
        )
    )
)  # fmt: skip
def test_what_is_learned_lies_within_what_was_seen(forecasts: list[Forecast]) -> None:
    measured = learned(Measured({"n": 1e6}), forecasts)
    moved = [one for one in forecasts if one.actual_bytes]
    for (data_type, way), size in measured.usual_bytes.items():
        sizes = [one.actual_bytes for one in moved if (one.data_type, one.direction) == (data_type, way)]
        assert min(sizes) <= size <= max(sizes)
        assert measured.overheads[data_type, way] >= 0
