"""Packs that somebody forged: refused whole or game by game, kept in quarantine, and nothing of them published."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from ringrift_sync_dagster.node.packfile import RAW_LIMIT_BYTES
from tests.badinput.conftest import CONFIG, A, B, Scene, quarantined
from tests.badinput.liar import LIAR, file_of
from tests.badinput.packs import changed, good_pack, rewritten
from tests.node.merging import game
from tests.sync.conftest import Field
from tests.sync.test_collect import ids, litter

Change = Callable[[bytes, Path], bytes]


def sql(*statements: str) -> Change:
    return lambda pack, folder: changed(pack, folder, *statements)


def in_utf_16(pack: bytes, folder: Path) -> bytes:
    """The same tables and rows in another text encoding, which could not be attached."""

    def convert(path: Path) -> None:
        with closing(sqlite3.connect(path)) as old, closing(sqlite3.connect(path.with_suffix(".16"))) as new:
            new.execute("PRAGMA encoding='UTF-16le'")
            new.executescript("\n".join(old.iterdump()))
        path.with_suffix(".16").replace(path)

    return rewritten(pack, folder, convert)


def with_a_log(pack: bytes, folder: Path) -> bytes:
    """In WAL mode, so that opening it would make files beside it."""

    def convert(path: Path) -> None:
        with closing(sqlite3.connect(path)) as conn:
            conn.execute("PRAGMA journal_mode=WAL")

    return rewritten(pack, folder, convert)


def with_torn_pages(pack: bytes, folder: Path) -> bytes:
    return rewritten(pack, folder, lambda path: os.truncate(path, path.stat().st_size - 4096))


def bomb(pack: bytes, folder: Path) -> bytes:
    """A megabyte of zeros, flushed, again and again: more than any pack inflates to."""
    packer = zlib.compressobj()
    head = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + again * (RAW_LIMIT_BYTES >> 20)


REFUSED: dict[str, tuple[Change, str]] = {
    "trigger": (sql("CREATE TRIGGER t AFTER INSERT ON games BEGIN DELETE FROM games; END"), "schema is not that of"),
    "view": (sql("CREATE VIEW v AS SELECT * FROM games"), "schema is not that of"),
    "games as a view": (
        sql("ALTER TABLE games RENAME TO g", "CREATE VIEW games AS SELECT * FROM g"),
        "schema is not that of",
    ),
    "virtual table": (sql("CREATE VIRTUAL TABLE f USING fts5(x)"), "schema is not that of"),
    "further table": (sql("CREATE TABLE extra (x)"), "schema is not that of"),
    "index with code": (sql("CREATE INDEX i ON games(abs(winner))"), "schema is not that of"),
    "column with code": (sql("ALTER TABLE games ADD COLUMN c GENERATED ALWAYS AS (1/0)"), "schema is not that of"),
    "schema that cannot be compared": (
        sql("UPDATE sqlite_master SET type = x'00' WHERE name = 'games'", "UPDATE sqlite_master SET sql = NULL"),
        "it is",
    ),
    "bomb": (bomb, "inflates to more than 1048576 bytes"),
    "cut": (lambda pack, _: pack[:-20], "cut short"),
    "goes on": (lambda pack, _: pack + b"x", "bytes behind its end"),
    "no zlib": (lambda *_: b"SQLite format 3\0", "no zlib stream"),
    "no database": (lambda *_: zlib.compress(b"games"), "not a database as packs are"),
    "other encoding": (in_utf_16, "not a database as packs are"),
    "write-ahead log": (with_a_log, "not a database as packs are"),
    "torn": (with_torn_pages, "damaged|not a readable pack"),
    "config unknown": (sql("UPDATE pack_meta SET value = '../../x' WHERE key = 'config'"), "config '../../x'"),
    "config of another order": (
        sql("UPDATE pack_meta SET value = 'hex8_3p' WHERE key = 'config'"),
        "of config hex8_3p; hex8_2p was ordered",
    ),
    "no meta": (sql("DELETE FROM pack_meta"), "of config ''"),
    "id is a blob": (sql("UPDATE pack_games SET game_id = x'ff00'"), "bad line in pack_games"),
    "id is no text": (sql("UPDATE pack_games SET game_id = CAST(x'ff' AS TEXT)"), "bad line in pack_games"),
    "digest is a path": (sql("UPDATE pack_games SET identity = '../../x'"), "bad line in pack_games"),
    "aside with a blob for an id": (
        sql("UPDATE pack_meta SET value = 'aside' WHERE key = 'kind'", "UPDATE pack_games SET game_id = x'ff00'"),
        "bad line in pack_games",
    ),
}


def test_forged_packs_are_refused_whole_with_their_reasons_and_kept_in_quarantine(
    scene: Scene, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("made")
    good = good_pack(folder)
    packs = {file_of(lie): change(good, folder) for lie, (change, _) in REFUSED.items()}
    scene.liar.offer_each(packs)
    scene.play()

    report = scene.collect()

    (failure,) = report.failures
    assert (failure.error, failure.partition.node) == ("PackRefusedError", LIAR)
    entries = {entry.name: entry for entry in scene.quarantined()}
    for lie, (_, reason) in REFUSED.items():
        pack = packs[file_of(lie)]
        entry = entries.pop(f"pack-{hashlib.sha256(pack).hexdigest()}")
        assert (entry.node, entry.reason) == (LIAR, "refused_pack"), lie
        assert any(word in entry.detail for word in reason.split("|")), (lie, entry.detail)
        assert entry.path.read_bytes() == pack
        assert file_of(lie) in failure.message, lie
    assert entries == {}
    assert ids(scene.field, CONFIG) == ["honest"]
    assert litter(scene.field) == []
    scene.require_confinement()


SET_ASIDE = {
    "moves are missing": ("DELETE FROM game_moves WHERE move_number = 3 AND game_id = '{p}'", "short"),
    "the game is missing": ("DELETE FROM games WHERE game_id = '{p}'", "not_finished"),
    "it is not over": ("UPDATE games SET game_status = 'active' WHERE game_id = '{p}'", "not_finished"),
    "it is of another config": ("UPDATE games SET num_players = 4 WHERE game_id = '{p}'", "other_config"),
    "players are out of this world": ("UPDATE games SET num_players = 9e999 WHERE game_id = '{p}'", "other_config"),
    "a needed value is missing": ("UPDATE games SET created_at = NULL WHERE game_id = '{p}'", "missing_value"),
    "a move is missing": ("UPDATE game_moves SET move_json = NULL WHERE game_id = '{p}'", "missing_value"),
    "moves declared otherwise": ("UPDATE pack_games SET moves = 'many' WHERE game_id = '{p}'", "short"),
    "the winner was changed": ("UPDATE games SET winner = 9 WHERE game_id = '{p}'", "digest_mismatch"),
}


def test_forged_games_are_set_aside_with_their_reasons_and_the_rest_of_their_packs_arrives(
    scene: Scene, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("made")
    bad = [f"p{number}" for number in range(len(SET_ASIDE))]
    pack = good_pack(folder, *bad, "q1", "q2")
    statements = [statement.format(p=game_id) for game_id, (statement, _) in zip(bad, SET_ASIDE.values(), strict=True)]
    scene.liar.offer(changed(pack, folder, *statements))

    (outcome,) = scene.field.collect(CONFIG, nodes=(LIAR,)).outcomes

    assert outcome.failure is None
    assert ids(scene.field, CONFIG) == ["q1", "q2"]
    asides = {entry.name.split("~")[0]: (entry.node, entry.reason) for entry in scene.quarantined()}
    assert asides == {game_id: (LIAR, reason) for game_id, (_, reason) in zip(bad, SET_ASIDE.values(), strict=True)}
    scene.require_confinement()


PUSHED: dict[str, Change] = {
    "aside": REFUSED["aside with a blob for an id"][0],
    "trigger": REFUSED["trigger"][0],
    "text that is none": sql("UPDATE pack_meta SET value = CAST(x'ff00' AS TEXT) WHERE key IN ('path', 'config')"),
    "noise": lambda *_: b"noise",
}


def test_forged_packs_that_were_pushed_stop_no_pass(field_: Field, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("made")
    good = good_pack(folder)
    for change in PUSHED.values():
        push(field_, change(good, folder))
    field_.play(A, "data/games/honest.db", game("honest", config=CONFIG))

    field_.collect(CONFIG).raise_if_failed()

    assert ids(field_, CONFIG) == ["honest"]
    assert litter(field_) == []
    assert [(entry.node, entry.reason) for entry in quarantined(field_)] == [(B, "refused_pack")] * len(PUSHED)


CURSORS = {
    "no cursor": "x",
    "a list": "[]",
    "no version": '{"x": 1}',
    "deep": "[" * 100_000,
    "garbage": '{"v": 1, "inode": 1, "rowid": [], "game_id": 1, "digest": 1, "token": "", "waiting": 7}',
    "half a character": '{"v": 1, "inode": 1, "rowid": 1, "game_id": "g", "digest": null, "token": "\\ud800",'
    ' "waiting": {}}',
    "too far": '{"v": 1, "inode": 1, "rowid": 99999999999999999999, "game_id": "g", "digest": null, "token": "",'
    ' "waiting": {}}',
}


def test_cursors_that_are_none_in_good_pushed_packs_are_left_out_and_cost_no_game(
    field_: Field, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for number, words in enumerate(CURSORS.values()):
        folder, path = tmp_path_factory.mktemp("made"), f"data/games/{number}.db"
        cursor = words.replace("'", "''")
        lie = f"UPDATE pack_meta SET value = '{cursor}' WHERE key = 'cursor'"
        where = f"UPDATE pack_meta SET value = '{path}' WHERE key = 'path'"
        push(field_, changed(good_pack(folder, f"p{number}"), folder, lie, where))
        field_.play(B, path, game(f"honest{number}", config=CONFIG))

    field_.collect(CONFIG).raise_if_failed()

    numbers = range(len(CURSORS))
    assert ids(field_, CONFIG) == [*(f"honest{number}" for number in numbers), *(f"p{number}" for number in numbers)]


def push(field_: Field, pack: bytes) -> None:
    """Put a pack where the agent puts what a node pushed."""
    folder = field_.base / "root" / "data" / "incoming" / B
    folder.mkdir(parents=True, exist_ok=True)
    (folder / hashlib.sha256(pack).hexdigest()).write_bytes(pack)


def test_a_cursor_that_somebody_spoilt_in_the_store_is_replaced(field_: Field) -> None:
    field_.play(A, "data/games/x.db", game("g1", config=CONFIG))
    field_.one(CONFIG, A)
    with closing(sqlite3.connect(field_.canonical(CONFIG))) as conn:
        conn.execute('UPDATE ringrift_cursors SET cursor = \'{"rowid": "x"}\'')
        conn.commit()
    field_.play(A, "data/games/x.db", game("g2", config=CONFIG))

    outcome = field_.one(CONFIG, A)

    assert (outcome.failure, outcome.games_new) == (None, 1)


def test_the_canonical_database_is_not_blamed_for_rows_that_it_refuses(
    scene: Scene, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A canonical database that upstream made may have stricter rules than ours."""
    scene.play()
    scene.collect()
    with closing(sqlite3.connect(scene.field.canonical(CONFIG))) as conn:
        conn.execute("CREATE UNIQUE INDEX strict ON games(source)")
    scene.liar.offer(good_pack(tmp_path_factory.mktemp("made")))

    report = scene.collect()

    (failure,) = report.failures
    assert (failure.error, failure.partition.node) == ("PackRefusedError", LIAR)
    assert "UNIQUE constraint failed" in failure.message
    assert ids(scene.field, CONFIG) == ["honest"]
