"""Merging is a union: the order, the grouping and repetitions of packs mean nothing."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringrift_sync_dagster.demo.games import Game
from tests.node.merging import Shop, first_row, game, record

_IDS, _SEEDS, _LENGTHS, _VARIANTS = ("a", "b"), (1, 2), (5, 6), (0, 1)


_QUALITY = (None, 0.25, 0.75)


def _variant(game_id: str, seed: int, length: int, variant: int, quality: float | None) -> Game:
    made = game(f"{game_id}{seed}{length}{variant}", game_id=game_id, length=length, rng_seed=seed)
    first_row(made).update(created_at=f"2026-03-0{seed}", winner=variant + 1, quality_score=quality)
    return made


_GAMES = st.builds(
    _variant, st.sampled_from(_IDS), st.sampled_from(_SEEDS), st.sampled_from(_LENGTHS), st.sampled_from(_VARIANTS),
    st.sampled_from(_QUALITY),
)  # fmt: skip


_SOURCES = st.lists(st.lists(_GAMES, min_size=1, max_size=2, unique_by=lambda one: one.game_id), min_size=1, max_size=4)


def _outcome(folder: Path, sources: list[list[Game]], order: tuple[int, ...]) -> tuple[object, object]:
    """Merge the sources in this order; give the canonical content and what was set aside."""
    place = folder / f"order-{'-'.join(map(str, order))}"
    place.mkdir(exist_ok=True)
    shop = Shop(place)
    for number in order:
        database = folder / f"source-{number}.db"
        if not database.exists():
            record(database, *sources[number])
        shop.collect(database, node=f"n{number}")
    content = {found.game_id: (found.identity, found.annotation) for found in shop.content().values()}
    assert shop.value("SELECT COUNT(*) FROM games") == int(
        shop.value("SELECT value FROM ringrift_store WHERE key = 'games'")
    )
    assert shop.rows("PRAGMA foreign_key_check") == []
    return content, {(aside.game_id, aside.identity) for aside in shop.asides}


@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow], derandomize=True, deadline=None)
@given(sources=_SOURCES)
def test_merge_is_commutative_associative_and_idempotent(sources: list[list[Game]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        numbers = tuple(range(len(sources)))
        expected = _outcome(folder, sources, numbers)
        orders = [*itertools.islice(itertools.permutations(numbers), 1, 4), tuple(reversed(numbers)), numbers * 2]
        for order in orders:
            assert _outcome(folder, sources, order) == expected, order


@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow], derandomize=True, deadline=None)
@given(
    mine=st.sets(st.integers(0, 12), max_size=8), theirs=st.sets(st.integers(0, 12), min_size=1, max_size=8),
    limit=st.integers(1, 5),
)  # fmt: skip
def test_pack_then_merge_is_the_set_difference(mine: set[int], theirs: set[int], limit: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        shop = Shop(Path(name))
        if mine:
            shop.collect(record(Path(name) / "mine.db", *(game(f"g{number}") for number in sorted(mine))), "mine")
        database = record(Path(name) / "theirs.db", *(game(f"g{number}") for number in sorted(theirs)))
        new, cursor, more = 0, None, True
        while more:
            result = shop.pack(database, cursor=cursor, max_games=limit)
            cursor, more = result["cursor"], result["more"]
            new += shop.merge(result["artifact"], "theirs", cursor).new

        assert new == len(theirs - mine)
        assert set(shop.content()) == {f"g{number}" for number in mine | theirs}
        assert shop.pack(database, cursor=cursor)["artifact"] is None
