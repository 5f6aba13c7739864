"""Games that meet under one id: revisions, other games, and annotations that join; no game is lost."""

from __future__ import annotations

from pathlib import Path

from ringrift_sync_dagster.demo.content import Row
from ringrift_sync_dagster.demo.games import Game
from ringrift_sync_dagster.node import packfile
from tests.node.merging import Shop, bring, game, with_moves


def test_of_two_revisions_the_one_with_more_moves_stays_and_the_other_is_set_aside(shop: Shop) -> None:
    short = game("g1", length=6, rng_seed=5, created_at="2026-03-01")
    long = game("g1", length=9, rng_seed=5, created_at="2026-03-01")

    bring(shop, short)
    merged = bring(shop, long, node="vast-2")
    late = bring(shop, short, node="vast-3")

    assert (merged.revised, merged.games) == (1, 1)
    assert shop.value("SELECT COUNT(*) FROM game_moves WHERE game_id = 'g1'") == 9
    assert [(aside.game_id, aside.reason) for aside in shop.asides] == [("g1", "revision")] * 2
    assert shop.asides[0].identity == shop.asides[1].identity
    assert late.games == 1


def test_what_is_set_aside_is_a_pack_with_all_rows_of_the_game(shop: Shop, tmp_path: Path) -> None:
    short = game("g1", length=6, rng_seed=5, created_at="2026-03-01")
    bring(shop, short)
    bring(shop, game("g1", length=9, rng_seed=5, created_at="2026-03-01"))

    (tmp_path / "aside").write_bytes(shop.asides[0].pack)
    packfile.inflate(str(tmp_path / "aside"), str(tmp_path / "aside.db"))

    with packfile.open_pack(str(tmp_path / "aside.db")) as conn:
        assert conn.execute("SELECT game_id, identity, moves FROM pack_games").fetchall() == [
            ("g1", shop.asides[0].identity, 6)
        ]
        assert conn.execute("SELECT COUNT(*) FROM game_moves").fetchone() == (6,)


def test_different_games_under_one_id_are_both_kept(shop: Shop) -> None:
    one, other = game("diversity_1", rng_seed=1), game("diversity_1", rng_seed=2)

    bring(shop, one)
    merged = bring(shop, other, node="vast-2")

    first, second = sorted(shop.content().values(), key=lambda found: found.identity)
    assert merged.games == 2
    assert first.game_id == "diversity_1"
    assert second.game_id == f"diversity_1~{second.identity[:12]}"
    assert shop.rows("PRAGMA foreign_key_check") == []


def test_a_renamed_game_is_known_when_it_comes_again(shop: Shop) -> None:
    games = [game("diversity_1", rng_seed=seed) for seed in (1, 2, 3)]
    for number, one in enumerate(games):
        bring(shop, one, node=f"vast-{number}")

    again = [bring(shop, one, node=f"again-{number}") for number, one in enumerate(games)]

    assert [(merged.same, merged.changed) for merged in again] == [(1, False)] * 3
    assert len(shop.content()) == 3


def test_annotations_join_column_by_column_and_the_later_check_wins(shop: Shop) -> None:
    base = game("g1", quality_score=None, parity_status="pending", parity_checked_at=None, metadata_json=None)
    checked = game(
        "g1", quality_score=0.5, parity_status="failed", parity_checked_at="2026-01-01", parity_divergence_move=3
    )
    later = game(
        "g1", quality_score=0.4, parity_status="passed", parity_checked_at="2026-02-01", parity_divergence_move=None
    )

    bring(shop, base)
    first = bring(shop, checked, node="vast-2")
    second = bring(shop, later, node="vast-3")
    third = bring(shop, checked, node="vast-2")

    columns = "quality_score, parity_status, parity_checked_at, parity_divergence_move"
    assert shop.rows(f"SELECT {columns} FROM games") == [(0.5, "passed", "2026-02-01", None)]
    assert (first.annotated, second.annotated, third.annotated) == (1, 1, 0)
    assert not shop.asides


def test_rows_that_only_one_copy_has_are_annotation_and_join(shop: Shop) -> None:
    """Snapshots and choices say nothing about which game it is: two copies with other such rows are one game."""
    rich = game("g1")
    snapshot: Row = {"game_id": "g1", "move_number": 5, "state_json": "{}", "compressed": 0, "state_hash": "x"}
    rich = Game(rich.game_id, rich.config, {**rich.rows, "game_state_snapshots": [snapshot]})
    poor = Game(rich.game_id, rich.config, {**rich.rows, "game_state_snapshots": [], "game_choices": []})

    bring(shop, poor)
    merged = bring(shop, rich, node="vast-2")

    assert (merged.same, merged.annotated, merged.games) == (1, 1, 1)
    assert shop.value("SELECT COUNT(*) FROM game_state_snapshots") == 1
    assert next(iter(shop.content().values())).identity == shop.value("SELECT identity FROM ringrift_provenance")


def test_search_data_that_came_later_joins_the_moves(shop: Shop) -> None:
    bring(shop, with_moves(game("g1"), engine_eval=None, move_probs=None))
    bring(shop, with_moves(game("g1"), engine_eval=0.25, move_probs=None), node="vast-2")
    bring(shop, with_moves(game("g1"), engine_eval=None, move_probs="[1]"), node="vast-3")

    assert set(shop.rows("SELECT engine_eval, move_probs FROM game_moves")) == {(0.25, "[1]")}
