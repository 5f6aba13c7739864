"""Packs: what leaves a live database, in what order, and how the cursor finds the way again."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import time
from pathlib import Path

import pytest

from ringrift_sync_dagster.demo.recorder import Recorder
from ringrift_sync_dagster.demo.schemas import Dialect
from ringrift_sync_dagster.node import packfile
from ringrift_sync_dagster.node.cursor import parse
from ringrift_sync_dagster.node.digest import digests
from ringrift_sync_dagster.node.errors import KitError
from ringrift_sync_dagster.node.gate import UNSETTLED, change_token
from ringrift_sync_dagster.node.listing import list_games
from ringrift_sync_dagster.node.schema import GAMES, TABLES, games_ddl
from tests.node.merging import CONFIG, NAME, Shop, game, record


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def ids(shop: Shop, artifact: str | None) -> list[str]:
    """Ids of the games in a pack."""
    assert artifact is not None
    with packfile.open_pack(str(shop.inflated(artifact))) as conn:
        return [row[0] for row in conn.execute("SELECT game_id FROM pack_games ORDER BY 1")]


def test_a_pack_holds_complete_finished_games_with_all_their_child_rows(shop: Shop, tmp_path: Path) -> None:
    one = game("g1", length=24)
    database = record(tmp_path / "n.db", one)

    result = shop.pack(database)

    with (
        packfile.open_pack(str(shop.inflated(result["artifact"]))) as conn,
        contextlib.closing(sqlite3.connect(database)) as source,
    ):
        for table in TABLES:
            if table.packed:
                names = ", ".join(table.names())
                query = f"SELECT {names} FROM {table.name} ORDER BY {', '.join(table.key)}"
                assert conn.execute(query).fetchall() == source.execute(query).fetchall(), table.name
        assert conn.execute("SELECT COUNT(*) FROM game_moves").fetchone()[0] == 24


def test_the_artifact_is_named_by_its_content(shop: Shop, tmp_path: Path) -> None:
    result = shop.pack(record(tmp_path / "n.db", game("g1")))

    data = (tmp_path / "scratch" / "artifacts" / result["artifact"]).read_bytes()
    assert hashlib.sha256(data).hexdigest() == result["artifact"]
    assert len(data) == result["bytes"]


def test_unfinished_and_short_games_wait_and_leave_when_they_are_complete(shop: Shop, tmp_path: Path) -> None:
    late = game("late", length=8)
    with Recorder(tmp_path / "n.db", Dialect.V18) as writer:
        writer.record_all([game("done")])
        writer.begin(late)
        writer.play(late, 0, 4)
        first = shop.pack(tmp_path / "n.db")
        writer.play(late, 4, 4)
        writer.finish(late)
        writer.record_all([game("next")])
        second = shop.pack(tmp_path / "n.db", cursor=first["cursor"])

    assert ids(shop, first["artifact"]) == ["done"]
    assert first["waiting"] == 1
    assert ids(shop, second["artifact"]) == ["late", "next"]
    assert second["waiting"] == 0


def test_a_finished_game_without_all_its_moves_is_told_as_short_once_after_ten_minutes_of_stillness(
    shop: Shop, tmp_path: Path
) -> None:
    database = record(tmp_path / "n.db", game("ok"), game("short", length=3), dialect=Dialect.V12)
    now = time.time()

    first = shop.pack(database, now=now)
    soon = shop.pack(database, now=now + 599, cursor=first["cursor"])
    later = shop.pack(database, now=now + 600, cursor=soon["cursor"])
    aside = shop.pack(database, now=now + 601, cursor=later["cursor"], ids=("short",), aside=True)
    after = shop.pack(database, now=now + 5000, cursor=aside["cursor"])

    assert ids(shop, first["artifact"]) == ["ok"]
    assert (first["short"], soon["short"], later["short"]) == ([], [], ["short"])
    assert ids(shop, aside["artifact"]) == ["short"]
    assert after["short"] == []
    assert after["artifact"] is None


def test_a_backlog_leaves_as_packs_that_are_bounded_and_useful_alone(shop: Shop, tmp_path: Path) -> None:
    database = record(tmp_path / "n.db", *(game(f"g{number:03d}") for number in range(230)))

    packs, cursor, more = [], None, True
    while more:
        result = shop.pack(database, cursor=cursor, max_games=100)
        packs.append(ids(shop, result["artifact"]))
        cursor, more = result["cursor"], result["more"]
        shop.merge(result["artifact"], cursor=cursor)

    assert [len(pack) for pack in packs] == [100, 100, 30]
    assert shop.value("SELECT COUNT(*) FROM games") == 230


def test_a_pack_is_bounded_in_bytes(shop: Shop, tmp_path: Path) -> None:
    database = record(tmp_path / "n.db", *(game(f"g{number:03d}", length=40) for number in range(120)))

    result = shop.pack(database, max_bytes=1_000_000)

    assert result["more"]
    assert 0 < result["games"] < 120
    assert result["raw_bytes"] < 1_000_000 + 60 * 40_000


def test_an_artifact_that_a_power_cut_tore_is_made_anew(shop: Shop, tmp_path: Path) -> None:
    """A node's packs are not flushed, so a file may be there, named by its content, and full of zeros."""
    database = record(tmp_path / "n.db", game("g1"))
    digest = shop.pack(database)["artifact"]
    artifact = tmp_path / "scratch" / "artifacts" / digest
    artifact.write_bytes(bytes(artifact.stat().st_size))

    assert shop.pack(database)["artifact"] == digest
    assert hashlib.sha256(artifact.read_bytes()).hexdigest() == digest


def test_the_same_request_gets_the_same_artifact_while_it_is_there(shop: Shop, tmp_path: Path) -> None:
    database = record(tmp_path / "n.db", game("g1"))
    first = shop.pack(database)
    record(database, game("g2"))

    again = shop.pack(database)
    (tmp_path / "scratch" / "artifacts" / first["artifact"]).unlink()
    anew = shop.pack(database)

    assert again == first
    assert ids(shop, anew["artifact"]) == ["g1", "g2"]


def test_games_of_other_configs_stay_where_they_are(shop: Shop, tmp_path: Path) -> None:
    database = record(tmp_path / "n.db", game("mine"), game("other", config="square8_2p"), game("alias"))
    with contextlib.closing(sqlite3.connect(database)) as conn:
        conn.execute("UPDATE games SET board_type = ' HEX8 ' WHERE game_id = 'alias'")
        conn.commit()

    assert ids(shop, shop.pack(database)["artifact"]) == ["alias", "mine"]


@pytest.mark.parametrize("dialect", Dialect)
def test_the_digests_do_not_depend_on_schema_version_column_order_or_dialect(
    shop: Shop, tmp_path: Path, dialect: Dialect
) -> None:
    one = game("g1", length=9, opponent_type=None, opponent_model_id=None, parity_status="pending")
    reference = shop.pack(record(tmp_path / "reference.db", one))
    other = shop.pack(record(tmp_path / f"{dialect.value}.db", one, dialect=dialect))

    def identity(artifact: str) -> str:
        with packfile.open_pack(str(shop.inflated(artifact))) as conn:
            return next(digests(conn)).identity

    assert identity(other["artifact"]) == identity(reference["artifact"])


def test_numbers_are_one_value_whatever_type_the_source_declares(shop: Shop, tmp_path: Path) -> None:
    one = game("g1")
    plain = record(tmp_path / "plain.db", one)
    loose = tmp_path / "loose.db"
    with contextlib.closing(sqlite3.connect(loose, isolation_level=None)) as conn:
        for table in TABLES:  # every column without a type, so that nothing is converted
            conn.execute(f"CREATE TABLE {table.name} ({', '.join(table.names())})")
            for row in one.rows.get(table.name, []):
                texts = {
                    name: (float(v) if isinstance(v, int) and name != "compressed" else v) for name, v in row.items()
                }
                names = [name for name in texts if name in table.names()]
                marks = ", ".join(f":{name}" for name in names)
                conn.execute(f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({marks})", texts)

    made = [shop.pack(database)["artifact"] for database in (plain, loose)]

    seen = []
    for artifact in made:
        with packfile.open_pack(str(shop.inflated(artifact))) as conn:
            seen.append(next(digests(conn)).identity)
    assert seen[0] == seen[1]


def test_rows_that_lie_twice_in_a_source_without_keys_do_not_make_a_game_complete(shop: Shop, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "n.db", isolation_level=None)) as conn:
        for table in TABLES:
            conn.execute(f"CREATE TABLE {table.name} ({', '.join(table.names())})")
        conn.execute(
            "INSERT INTO games (game_id, board_type, num_players, game_status, total_moves)"
            " VALUES ('g', 'hex8', 2, 'completed', 6)"
        )
        conn.executemany(
            "INSERT INTO game_moves (game_id, move_number, move_json) VALUES ('g', ?, '{}')", [(1,), (1,), (2,)] * 2
        )

    result = shop.pack(tmp_path / "n.db")

    assert (result["artifact"], result["waiting"]) == (None, 1)


def replaced_by_delete_and_insert(conn: sqlite3.Connection) -> None:
    """The last row goes, and another game takes its rowid."""
    conn.execute("DELETE FROM game_moves WHERE game_id = 'g2'")
    conn.execute("DELETE FROM games WHERE game_id = 'g2'")


def shifted(conn: sqlite3.Connection) -> None:
    """What VACUUM may do to a table without a declared integer key: every rowid moves."""
    conn.execute("UPDATE games SET rowid = rowid + 10")


def changed_in_place(conn: sqlite3.Connection) -> None:
    """The anchor's own game has other moves now."""
    conn.execute("UPDATE game_moves SET player = 3 - player WHERE game_id = 'g2'")


@pytest.mark.parametrize("change", [replaced_by_delete_and_insert, shifted, changed_in_place])
def test_an_anchor_that_no_longer_holds_asks_for_a_listing(shop: Shop, tmp_path: Path, change: object) -> None:
    database = record(tmp_path / "n.db", game("g1"), game("g2"))
    first = shop.pack(database)
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as conn:
        change(conn)  # type: ignore[operator]
    record(database, game("g3"))

    assert shop.pack(database, cursor=first["cursor"])["mode"] == "listing_needed"


def test_a_replaced_file_asks_for_a_listing(shop: Shop, tmp_path: Path) -> None:
    database = record(tmp_path / "n.db", game("g1"))
    first = shop.pack(database)
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as conn:
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    other = tmp_path / "other.db"
    other.write_bytes(database.read_bytes())
    other.replace(database)

    assert shop.pack(database, cursor=first["cursor"])["mode"] == "listing_needed"


def test_replace_gives_a_new_rowid_and_the_cursor_sees_the_revision(shop: Shop, tmp_path: Path) -> None:
    database = record(tmp_path / "n.db", game("g1"), game("g2"), game("g3"))
    first = shop.pack(database)
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as conn:
        names = ", ".join(GAMES.names())
        conn.execute(f"INSERT OR REPLACE INTO games ({names}) SELECT {names} FROM games WHERE game_id = 'g1'")

    assert ids(shop, shop.pack(database, cursor=first["cursor"])["artifact"]) == ["g1"]


def test_a_listing_pages_through_all_complete_games_and_its_cursor_goes_on(shop: Shop, tmp_path: Path) -> None:
    database = record(tmp_path / "n.db", *(game(f"g{number}") for number in range(7)))
    scratch = str(tmp_path / "scratch")

    found, after, more = [], None, True
    while more:
        page = list_games(str(database), NAME, scratch, CONFIG, parse(after), 3, time.time())
        found += [entry[0] for entry in page["games"]]
        after, more = page["cursor"], page["more"]
    record(database, game("g7"))

    assert sorted(found) == [f"g{number}" for number in range(7)]
    assert ids(shop, shop.pack(database, cursor=after)["artifact"]) == ["g7"]


def test_a_listing_whose_rows_moved_says_changed(tmp_path: Path) -> None:
    database = record(tmp_path / "n.db", *(game(f"g{number}") for number in range(4)))
    scratch = str(tmp_path / "scratch")
    page = list_games(str(database), NAME, scratch, CONFIG, None, 2, time.time())
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as conn:
        shifted(conn)

    with pytest.raises(KitError, match="changed places") as caught:
        list_games(str(database), NAME, scratch, CONFIG, parse(page["cursor"]), 2, time.time())
    assert caught.value.code == "changed"


def test_the_cursor_keeps_the_change_token_only_when_everything_was_read_and_had_settled(
    shop: Shop, tmp_path: Path
) -> None:
    database = record(tmp_path / "n.db", game("g1"), game("g2"))
    old = time.time() - 60
    for path in tmp_path.glob("n.db*"):
        os.utime(path, (old, old))

    part = shop.pack(database, max_games=1)
    whole = shop.pack(database, cursor=part["cursor"])
    settled = change_token(str(database))
    record(database, game("g3"))
    fresh = shop.pack(database, cursor=whole["cursor"])

    assert part["cursor"]["token"] == ""
    assert whole["cursor"]["token"] == settled
    assert fresh["cursor"]["token"].startswith(UNSETTLED)


def test_a_pack_sees_one_moment_although_the_writer_goes_on(shop: Shop, tmp_path: Path) -> None:
    """A writer that commits between our reads is either wholly in the pack or not at all."""
    database = record(tmp_path / "n.db", *(game(f"g{number}") for number in range(60)))
    late = game("late", length=30)
    with Recorder(database, Dialect.V18) as writer:
        writer.begin(late)
        seen: list[str] = []

        def interfere(statement: str) -> None:
            if not seen and "src.game_moves" in statement:  # the games were read, their moves not yet
                seen.append(statement)
                writer.play(late, 0, 30)
                writer.finish(late)

        real = sqlite3.connect

        def traced(*args: object, **kwargs: object) -> sqlite3.Connection:
            conn: sqlite3.Connection = real(*args, **kwargs)  # type: ignore[call-overload]
            conn.set_trace_callback(interfere)
            return conn

        sqlite3.connect = traced  # type: ignore[assignment]
        try:
            result = shop.pack(database)
        finally:
            sqlite3.connect = real
    assert seen
    assert "late" not in ids(shop, result["artifact"])
    assert "late" in ids(shop, shop.pack(database, cursor=result["cursor"])["artifact"])


def test_a_database_without_games_is_left_alone_with_a_word(shop: Shop, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "n.db")) as conn:
        conn.execute("CREATE TABLE other (x)")

    with pytest.raises(KitError, match="no table games") as caught:
        shop.pack(tmp_path / "n.db")
    assert caught.value.code == "no_games_table"


@pytest.mark.parametrize("value", [{"v": 1}, {"v": 1, "waiting": []}, [], "x", {"v": 1, "waiting": {"a": 3}}])
def test_what_is_not_a_cursor_is_refused(value: object) -> None:
    with pytest.raises(KitError, match="not a cursor"):
        parse(value)


def test_the_cursor_of_another_version_begins_again() -> None:
    assert parse({"v": 99}) is None


def test_work_of_a_dead_process_is_removed(shop: Shop, tmp_path: Path) -> None:
    temporary = tmp_path / "scratch" / "tmp"
    temporary.mkdir(parents=True)
    (temporary / "999999999-x.pack.tmp").write_text("left")
    (temporary / f"{os.getpid()}-x.pack.tmp").write_text("mine")

    shop.pack(record(tmp_path / "n.db", game("g1")))

    assert [path.name for path in temporary.iterdir()] == [f"{os.getpid()}-x.pack.tmp"]


def test_the_ddl_of_a_new_database_has_upstreams_triggers(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "n.db", isolation_level=None)) as conn:
        for statement in games_ddl():
            conn.execute(statement)
        with pytest.raises(sqlite3.IntegrityError, match="5 rows"):
            conn.execute(
                "INSERT INTO games (game_id, board_type, num_players, game_status, created_at)"
                " VALUES ('g','hex8',2,'completed','x')"
            )


def test_a_pack_is_plain_json_and_sqlite_for_every_reader(shop: Shop, tmp_path: Path) -> None:
    result = shop.pack(record(tmp_path / "n.db", game("g1")))

    with packfile.open_pack(str(shop.inflated(result["artifact"]))) as conn:
        meta = packfile.read_meta(conn)
    assert (meta["config"], meta["path"], meta["kind"]) == (CONFIG, NAME, "games")
    declared = packfile.declared(meta)
    assert declared is not None
    assert (declared.path, declared.after, declared.cursor.as_json()) == (NAME, None, result["cursor"])
