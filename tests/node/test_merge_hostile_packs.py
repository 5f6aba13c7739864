"""Packs that lie, are broken or forged: what is bad is set aside or refused, and the rest enters."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import zlib
from pathlib import Path

import pytest

from ringrift_sync_dagster.node import packfile
from ringrift_sync_dagster.node.errors import KitError
from tests.node.merging import Shop, bring, game, record


def tampered(shop: Shop, *statements: str, games: int = 2) -> str:
    """A pack whose rows were changed after it was made, sealed again as an artifact of its own."""
    result = shop.pack(record(shop.folder / f"t{shop.merges}.db", *(game(f"g{number}") for number in range(games))))
    database = shop.inflated(result["artifact"])
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as conn:
        for statement in statements:
            conn.execute(statement)
    return packfile.seal(str(database), str(shop.folder / "scratch" / "artifacts")).sha256


@pytest.mark.parametrize(
    "statement, reason",
    [
        ("DELETE FROM game_moves WHERE game_id = 'g0' AND move_number > 3", "short"),
        ("DELETE FROM game_moves WHERE game_id = 'g0' AND move_number = 6", "short"),
        ("UPDATE games SET game_status = 'active' WHERE game_id = 'g0'", "not_finished"),
        ("DELETE FROM games WHERE game_id = 'g0'", "not_finished"),
        ("UPDATE games SET board_type = 'square8' WHERE game_id = 'g0'", "other_config"),
    ],
)
def test_a_bad_game_is_set_aside_and_the_others_enter(shop: Shop, statement: str, reason: str) -> None:
    merged = shop.merge(tampered(shop, statement))

    assert [(aside.game_id, aside.reason) for aside in shop.asides] == [("g0", reason)]
    assert (merged.new, list(shop.content())) == (1, ["g1"])


def test_a_digest_that_lies_is_found_by_the_sample_and_then_no_digest_is_trusted(shop: Shop) -> None:
    swapped = "UPDATE game_moves SET player = 3 - player WHERE game_id IN ('g0', 'g1')"

    merged = shop.merge(tampered(shop, swapped, games=3))

    assert {aside.game_id: aside.reason for aside in shop.asides} == {"g0": "digest_mismatch", "g1": "digest_mismatch"}
    assert (merged.new, list(shop.content())) == (1, ["g2"])


def test_the_digest_of_a_known_id_is_never_trusted(shop: Shop) -> None:
    bring(shop, *(game(f"g{number}") for number in range(2)))
    merged = shop.merge(tampered(shop, "UPDATE games SET winner = 7 WHERE game_id = 'g1'"))

    assert [(aside.game_id, aside.reason) for aside in shop.asides] == [("g1", "digest_mismatch")]
    assert (merged.same, merged.games) == (1, 2)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER evil AFTER INSERT ON games BEGIN SELECT 1; END",
        "CREATE VIEW evil AS SELECT 1",
        "CREATE TABLE evil (x)",
        "CREATE INDEX evil ON games(winner)",
        "DROP TABLE game_choices",
    ],
)
def test_a_pack_with_another_schema_is_refused(shop: Shop, statement: str) -> None:
    artifact = tampered(shop, statement)

    with pytest.raises(KitError, match="not that of a pack"):
        shop.inflated(artifact)


def test_a_pack_is_refused_when_it_inflates_too_far_ends_early_or_goes_on(tmp_path: Path) -> None:
    good = zlib.compress(b"x" * 5_000_000)
    cases = {"bomb": good, "cut": good[:-9], "more": good + b"tail", "none": b"no zlib"}
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)

    for name in cases:
        with pytest.raises(KitError) as caught:
            packfile.inflate(
                str(tmp_path / name), str(tmp_path / "out"), limit_bytes=4_000_000 if name == "bomb" else 10**9
            )
        assert caught.value.code == "corrupt", name
    assert (tmp_path / "out").stat().st_size < 5_100_000


def test_any_size_inflates_to_what_was_compressed(tmp_path: Path) -> None:
    for size in (0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5_000_000):
        data = os.urandom(size // 2) + b"\0" * (size - size // 2)
        (tmp_path / "in").write_bytes(zlib.compress(data))
        assert packfile.inflate(str(tmp_path / "in"), str(tmp_path / "out")) == size
        assert (tmp_path / "out").read_bytes() == data


def test_random_bytes_are_no_pack(tmp_path: Path) -> None:
    for data in (b"", b"x" * 100, b"SQLite format 3\0" + os.urandom(4000)):
        (tmp_path / "pack.db").write_bytes(data)
        with pytest.raises(KitError), packfile.open_pack(str(tmp_path / "pack.db")):
            pass
