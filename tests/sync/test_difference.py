"""What a node and its owner lack of each other, told without asking anybody, is what the next pass works on."""

from __future__ import annotations

import time
from collections import Counter

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.demo.exports import make_export, write_model
from ringrift_sync_dagster.demo.games import make_game
from ringrift_sync_dagster.demo.ratings import make_matches, write_matches
from ringrift_sync_dagster.demo.registry_rows import RegisteredVersion, write_registry
from ringrift_sync_dagster.sync.collect import Request, move
from ringrift_sync_dagster.sync.difference import Difference, difference
from ringrift_sync_dagster.sync.owner_state import OwnerState
from ringrift_sync_dagster.sync.runtime import Runtime
from tests.sync.conftest import Field
from tests.sync.test_collect import A, B

CONFIG = "hex8_2p"
REST_SECONDS = 2.2


def lay_out(field_: Field) -> None:
    """Something of each type on the node, of one config."""
    field_.play(A, "data/games/selfplay.db", make_game("difference-1", CONFIG))
    root = field_.cluster.node_root(A)
    make_export(root / f"data/training/{CONFIG}.npz", CONFIG, 6)
    write_model(root / f"models/candidate_{CONFIG}.pth", "candidate")
    write_matches(root / "data/unified_elo.db", make_matches("diff", CONFIG, 5))
    write_registry(root / "data/model_registry/registry.db", [RegisteredVersion(CONFIG, 1, "a" * 64)])


def told(field_: Field, *, asked: bool = False) -> Difference:
    with Runtime.open(field_.settings) as runtime:
        return difference(OwnerState(runtime), runtime.inventory.get(A), asked=asked)


def at_rest(field_: Field) -> None:
    """Wait until a second write could not hide behind what the node's databases look like."""
    databases = field_.cluster.node_root(A).rglob("*.db")
    time.sleep(max(0.0, max(path.stat().st_mtime for path in databases) + REST_SECONDS - time.time()))


def moved(field_: Field, *, up: bool = True, down: bool = True, to: tuple[str, ...] = ()) -> None:
    with Runtime.open(field_.settings) as runtime:
        for report in move(runtime, Request(None, None, [A], "test", up=up, down=down, to=to)).values():
            report.raise_if_failed()


def test_nothing_is_known_of_a_node_that_never_answered(field_: Field) -> None:
    assert (told(field_).known, told(field_).missing) == (None, ())


def test_what_was_told_and_not_fetched_is_missing_until_a_pass_has_brought_it(field_: Field) -> None:
    lay_out(field_)
    with Runtime.open(field_.settings) as runtime:  # the node is asked, and nothing fetched
        move(runtime, Request([DataType.GAMES], ["hexagonal_4p"], [A], "test", down=False))

    before = [one for one in told(field_).missing if one.config in {CONFIG, ""}]
    moved(field_)
    written_just_now = told(field_).missing
    at_rest(field_)
    moved(field_)
    after = [one for one in told(field_).missing if one.way == "up"]

    assert Counter(one.data_type for one in before if one.way == "up") == dict.fromkeys(DataType, 1)
    games = next(one for one in before if one.data_type is DataType.GAMES)
    assert (games.what, games.count, games.why) == ("data/games/selfplay.db", 1, "it was never read")
    (games,) = [one for one in written_just_now if one.data_type is DataType.GAMES and one.way == "up"]
    assert games.why.startswith("it was not at rest")
    assert [(one.data_type, one.why) for one in after] == []


def test_another_game_makes_its_database_missing_again_and_its_reason_is_told(field_: Field) -> None:
    lay_out(field_)
    at_rest(field_)
    moved(field_, down=False)
    field_.play(A, "data/games/selfplay.db", make_game("difference-2", CONFIG))
    with Runtime.open(field_.settings) as runtime:
        move(runtime, Request([DataType.NPZ], [CONFIG], [A], "test", down=False))

    found = [one for one in told(field_).missing if one.way == "up" and one.config == CONFIG]

    assert [(one.data_type, one.why) for one in found] == [(DataType.GAMES, "it changed since it was read")]


def test_what_the_flow_table_brings_is_missing_on_the_node_until_it_was_brought(field_: Field) -> None:
    lay_out(field_)
    with Runtime.open(field_.settings) as runtime:
        model = write_model(field_.base / "best.pth", "best")
        runtime.files.publisher.promote(CONFIG, model, trigger="test")
    moved(field_)  # what it brings makes the node's own databases look changed once
    promoted = write_model(field_.base / "better.pth", "better")
    with Runtime.open(field_.settings) as runtime:
        now = runtime.files.publisher.promote(CONFIG, promoted, trigger="test")

    (missing,) = [one for one in told(field_).missing if one.data_type is DataType.MODELS and one.way == "down"]
    asked = {one.data_type for one in told(field_, asked=True).missing if one.way == "down"}
    moved(field_, up=False, to=(A,))

    assert missing.why.startswith(f"{now.sha256[:12]} is published, it was brought ")
    assert {DataType.GAMES, DataType.MODELS} <= asked
    left = [one for one in told(field_, asked=True).missing if one.way == "down"]
    assert [one for one in left if one.data_type not in {DataType.ELO, DataType.REGISTRY}] == []


def test_who_looks_at_few_nodes_reads_only_what_is_known_of_them(field_: Field) -> None:
    for node in field_.nodes:
        field_.play(node, f"data/games/{node}.db", make_game(node, CONFIG))
    with Runtime.open(field_.settings) as runtime:
        move(runtime, Request(nodes=list(field_.nodes), down=False))
        few, all_ = OwnerState(runtime, (A,)), OwnerState(runtime)

        assert {node for node, _, _ in few.deep_scans} == {A}
        assert {node for node, _, _ in all_.deep_scans} == set(field_.nodes)
        assert few.read_up_to("games", CONFIG, B, f"data/games/{B}.db") is None
        assert all_.read_up_to("games", CONFIG, B, f"data/games/{B}.db") is not None
        assert few.read_up_to("games", CONFIG, A, f"data/games/{A}.db") is not None
