"""The union of matches: dialects, order, incremental ratings equal to computed ones, and rows that are no match."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringrift_sync_dagster.demo.ratings import (
    MatchDialect,
    PlayedMatch,
    make_matches,
    ratings_by_hand,
    statements,
    write_matches,
)
from ringrift_sync_dagster.node import canonical, packfile, records, rows, standings, union
from ringrift_sync_dagster.node.errors import KitError

CONFIG = "hex8_2p"
NAME = "data/unified_elo.db"


def flat(ratings: dict[str, tuple[float, int]]) -> dict[str, float]:
    """Ratings and numbers of games in one mapping, as ``approx`` wants them."""
    return {f"{name}/{what}": value for name, both in ratings.items() for what, value in zip("rg", both, strict=True)}


def by_hand(matches: Sequence[PlayedMatch]) -> object:
    """What the ratings of these matches must be near."""
    return pytest.approx(flat(ratings_by_hand(matches)))


class Owner:
    """An owner's database, and what it refused."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "own" / "unified_elo.db"
        self.scratch = folder / "scratch"
        self.refused: list[records.Refused] = []
        self.merges = self.settled = 0

    def take(
        self, database: Path, cursor: dict[str, Any] | None = None, limit: int = 20_000, *, settle: bool = True
    ) -> dict[str, Any]:
        """Pack the rows of a node's database, unite them and settle; give the node's answer, counts and checks."""
        wanted = rows.Wanted(NAME, "matches", CONFIG, cursor, limit)
        answer = rows.pack_rows(str(database), str(self.scratch), wanted, 0.0)
        if answer["artifact"] is not None:
            answer["merged"] = self.unite(self.scratch / "artifacts" / answer["artifact"])
        answer["checks"] = self.settle() if settle else {}
        return answer

    def unite(self, artifact: Path) -> records.Merged:
        self.merges += 1
        self.scratch.mkdir(exist_ok=True)
        database = self.scratch / "inflated.db"
        note = union.Note(f"c{self.merges}", "n", {}, None)
        with union.proved(str(artifact), str(database)) as pack:
            return union.into_own(str(self.path), pack, note, self.refused.extend)

    def settle(self) -> dict[str, Any]:
        """Compute the ratings that are due; give the checks that the change of it carries."""
        self.settled += 1
        name = f"settled-{self.settled}"
        union.settle(str(self.path), "matches", CONFIG, union.Note(name, "n", {}, None))
        with canonical.opened(str(self.path)) as conn:
            assert union.due(conn) == {}
            told = {summary["change_id"]: summary["checks"] for _, summary in canonical.unsent_changes(conn)}
        return dict(told.get(name, {}))

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.path)) as conn:
            return conn.execute(query).fetchall()

    def ratings(self) -> dict[str, float]:
        found = self.rows("SELECT participant_id, rating, games_played FROM elo_ratings WHERE board_type = 'hex8'")
        return flat({name: (rating, games) for name, rating, games in found})

    def whole(self) -> list[tuple[Any, ...]]:
        """Everything that must be the same whatever order packs came in."""
        matches = self.rows("SELECT game_id, participant_ids, rankings, timestamp FROM match_history ORDER BY 1, 4")
        return matches + self.rows("SELECT * FROM elo_ratings ORDER BY 1, 2, 3")


@pytest.fixture
def owner(tmp_path: Path) -> Owner:
    return Owner(tmp_path)


@pytest.mark.parametrize("dialect", MatchDialect)
def test_every_dialect_gives_the_same_matches_and_ratings(owner: Owner, tmp_path: Path, dialect: MatchDialect) -> None:
    matches = make_matches("d", CONFIG, 120)
    answer = owner.take(write_matches(tmp_path / "n.db", matches, dialect))

    assert answer["merged"].counts == {"matches_new": 120, "matches_same": 0}
    assert sorted(owner.rows("SELECT game_id, timestamp FROM match_history")) == sorted(
        (match.game_id, match.timestamp) for match in matches
    )
    assert owner.ratings() == by_hand(matches)
    assert answer["checks"] == {"ratings_equal_recomputation": True}


def test_ids_that_collide_between_nodes_lose_no_match_and_a_shared_one_counts_once(
    owner: Owner, tmp_path: Path
) -> None:
    """Autoincrement ids are 1 to 60 on both nodes; 20 matches were played under both programs' eyes."""
    matches = make_matches("two", CONFIG, 100)
    owner.take(write_matches(tmp_path / "a.db", matches[:60]))
    second = owner.take(write_matches(tmp_path / "b.db", matches[40:], MatchDialect.MODEL))

    assert second["merged"].counts == {"matches_new": 40, "matches_same": 20}
    assert owner.rows("SELECT COUNT(*), COUNT(DISTINCT game_id) FROM match_history") == [(100, 100)]
    assert owner.ratings() == by_hand(matches)


@given(cuts=st.lists(st.integers(0, 60), max_size=4), order=st.randoms(use_true_random=False))
@settings(max_examples=25, derandomize=True, deadline=None)
def test_any_split_in_any_order_gives_the_same_bits(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], order: random.Random
) -> None:
    """Later matches on top of earlier ones, or all anew: the floats are equal, not only near."""
    matches = make_matches("split", CONFIG, 60)
    edges = sorted({0, 60, *cuts})
    parts = [matches[start:end] for start, end in itertools.pairwise(edges)]
    order.shuffle(parts)

    results = []
    for batches in (parts, [matches]):
        folder = tmp_path_factory.mktemp("owner")
        one = Owner(folder)
        for number, batch in enumerate(batches):
            one.take(write_matches(folder / f"{number}.db", batch))
        results.append(one.whole())

    assert results[0] == results[1]


def test_new_matches_that_are_the_newest_count_on_top(owner: Owner, tmp_path: Path) -> None:
    matches = make_matches("inc", CONFIG, 200)
    matches.sort(key=lambda match: match.timestamp)
    database = write_matches(tmp_path / "n.db", matches[:150])
    first = owner.take(database)
    write_matches(database, matches[150:])
    second = owner.take(database, first["cursor"])

    assert second["rows"] == 50  # only the new rows travel
    assert (second["merged"].due, second["checks"]) == (False, {})  # nothing was computed anew
    assert owner.ratings() == by_hand(matches)
    with contextlib.closing(sqlite3.connect(owner.path)) as conn:
        assert standings.ratings_hold(conn, CONFIG)


def test_many_unions_are_rated_once_and_until_then_the_ratings_are_those_of_before(
    owner: Owner, tmp_path: Path
) -> None:
    matches = make_matches("once", CONFIG, 90)
    owner.take(write_matches(tmp_path / "0.db", matches[0::3]))
    before = owner.ratings()
    for part in (1, 2):
        answer = owner.take(write_matches(tmp_path / f"{part}.db", matches[part::3]), settle=False)
        assert answer["merged"].due
        assert owner.ratings() == before == by_hand(matches[0::3])

    assert owner.settle() == {"ratings_equal_recomputation": True}
    assert owner.ratings() == by_hand(matches)
    assert owner.settle() == {}


def test_ratings_that_somebody_changed_are_computed_anew(owner: Owner, tmp_path: Path) -> None:
    """A sleepy clock must not keep inflated ratings alive (189bec294)."""
    matches = sorted(make_matches("inflated", CONFIG, 100), key=lambda match: match.timestamp)
    owner.take(write_matches(tmp_path / "a.db", matches[:90]))
    with contextlib.closing(sqlite3.connect(owner.path)) as conn, conn:
        conn.execute("UPDATE elo_ratings SET rating = rating + 300")
    owner.take(write_matches(tmp_path / "b.db", matches[90:]))

    assert owner.ratings() == by_hand(matches)


def test_a_cursor_whose_row_is_another_one_now_begins_again(owner: Owner, tmp_path: Path) -> None:
    matches = make_matches("cursor", CONFIG, 30)
    database = write_matches(tmp_path / "n.db", matches[:20])
    cursor = owner.take(database)["cursor"]
    with contextlib.closing(sqlite3.connect(database)) as conn, conn:
        conn.execute("UPDATE match_history SET id = id + 1000 WHERE id = 20")
        conn.execute("DELETE FROM match_history WHERE id = 1")
    write_matches(database, matches[20:])

    answer = owner.take(database, cursor)

    assert answer["merged"].counts["matches_new"] == 10
    assert owner.rows("SELECT COUNT(*) FROM match_history") == [(30,)]


def test_a_backlog_leaves_in_packs(owner: Owner, tmp_path: Path) -> None:
    database = write_matches(tmp_path / "n.db", make_matches("b", CONFIG, 50))
    cursor, taken = None, []
    while True:
        answer = owner.take(database, cursor, limit=20)
        taken.append(answer["rows"])
        cursor = answer["cursor"]
        if not answer["more"]:
            break

    assert taken == [20, 20, 10]
    assert owner.rows("SELECT COUNT(*) FROM match_history") == [(50,)]


def _raw(path: Path, *values: dict[str, object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as conn:
        for statement in statements(MatchDialect.PARTICIPANT):
            conn.execute(statement)
        for value in values:
            row = {
                "participant_a": "a", "participant_b": "b", "winner": "a", "board_type": "hex8", "num_players": 2,
                "timestamp": 5.0, "game_id": "g", **value,
            }  # fmt: skip
            listed = ", ".join(row)
            conn.execute(f"INSERT INTO match_history ({listed}) VALUES ({', '.join('?' * len(row))})", [*row.values()])
    return path


@pytest.mark.parametrize(
    "reason, row",
    [
        ("missing_participant", {"participant_b": None}),
        ("missing_participant", {"participant_b": "  "}),
        ("bad_participants", {"participant_b": "a"}),
        ("mixed_player_counts", {"participant_ids": json.dumps(["a", "b", "c"]), "rankings": "[1, 2, 3]"}),
        ("mixed_player_counts", {"participant_b": "canonical_square8_4p"}),
        ("no_result", {"winner": "somebody else"}),
        ("bad_timestamp", {"timestamp": "yesterday"}),
    ],
)
def test_a_row_that_is_no_match_is_set_aside_with_its_reason_and_the_others_enter(
    owner: Owner, tmp_path: Path, reason: str, row: dict[str, object]
) -> None:
    database = _raw(tmp_path / "n.db", {"game_id": "good"}, {"game_id": "bad", **row})

    merged = owner.take(database)["merged"]

    assert [one.reason for one in merged.refused] == [reason]
    assert owner.rows("SELECT game_id FROM match_history") == [("good",)]


def test_a_row_of_no_known_board_stays_at_home_and_is_told(owner: Owner, tmp_path: Path) -> None:
    answer = owner.take(_raw(tmp_path / "n.db", {"board_type": "chess"}, {"game_id": "h", "board_type": "HEX8"}))

    assert answer["warnings"] == ["1 matches are of no board and number of players that are known; they stay at home"]
    assert owner.rows("SELECT game_id, board_type FROM match_history") == [("h", "hex8")]


def test_of_two_different_matches_with_one_id_the_same_one_stays_whichever_came_first(tmp_path: Path) -> None:
    one = _raw(tmp_path / "one.db", {"winner": "a"})
    other = _raw(tmp_path / "other.db", {"winner": "b"})
    stayed = []
    for number, order in enumerate(((one, other), (other, one))):
        folder = tmp_path / str(number)
        folder.mkdir()
        owner = Owner(folder)
        for database in order:
            owner.take(database)
        assert [refused.reason for refused in owner.refused] == ["same_id_other_match"]
        stayed.append(owner.whole())

    assert stayed[0] == stayed[1]


def test_matches_without_a_game_id_are_one_by_participants_and_time(owner: Owner, tmp_path: Path) -> None:
    first = _raw(tmp_path / "a.db", {"game_id": None}, {"game_id": None, "timestamp": 6.0})
    second = _raw(tmp_path / "b.db", {"game_id": None}, {"game_id": None, "timestamp": 7.0})
    owner.take(first)
    merged = owner.take(second)["merged"]

    assert merged.counts == {"matches_new": 1, "matches_same": 1}


def test_an_owner_s_database_that_upstream_made_is_adopted_and_its_double_rows_stay(
    owner: Owner, tmp_path: Path
) -> None:
    matches = make_matches("old", CONFIG, 10)
    write_matches(owner.path, [*matches, matches[0]], MatchDialect.MODEL)

    merged = owner.take(write_matches(tmp_path / "n.db", make_matches("new", CONFIG, 5)))["merged"]

    assert merged.counts["matches_new"] == 5
    assert owner.rows("SELECT COUNT(*) FROM match_history") == [(16,)]


def _pack(folder: Path, found: Sequence[records.Record], meta: dict[str, str]) -> Path:
    sealed = records.write_pack(found, meta, str(folder), 0.0)
    return folder / "artifacts" / str(sealed["artifact"])


@pytest.mark.parametrize(
    "body, reason",
    [
        ({"participants": ["a", "a"]}, "bad_participants"),
        ({"board": "square8"}, "unknown_config"),
        ({"ranks": [1]}, "no_result"),
        ({"timestamp": "x"}, "bad_timestamp"),
        ({"game_id": "another"}, "bad_key"),
        ({"worker": {"a": 1}}, "bad_row"),
    ],
)
def test_a_forged_record_is_refused_and_the_others_enter(
    owner: Owner, tmp_path: Path, body: dict[str, object], reason: str
) -> None:
    good = {"participants": ["a", "b"], "ranks": [0, 1], "game_id": "g", "timestamp": 1, "board": "hex8", "players": 2}
    forged = records.Record("match", "g:f", CONFIG, {**good, "game_id": "f", **body})
    meta = {"kind": "matches", "config": CONFIG, "path": "", "cursor": ""}
    merged = owner.unite(_pack(tmp_path, [records.Record("match", "g:g", CONFIG, good), forged], meta))

    assert [one.reason for one in merged.refused] == [reason]
    assert owner.rows("SELECT game_id FROM match_history") == [("g",)]


def test_a_pack_with_anything_foreign_in_it_is_none(owner: Owner, tmp_path: Path) -> None:
    for number, statement in enumerate(
        (
            "CREATE TRIGGER t AFTER INSERT ON pack_meta BEGIN DELETE FROM pack_meta; END",
            "CREATE VIEW v AS SELECT 1",
            "INSERT INTO pack_records VALUES ('match', 'k', 'hex8_2p', '[1]')",
            "INSERT INTO pack_records VALUES ('match', 'k', 'hex8_2p', '{\"a\": NaN}')",
        )
    ):
        database = tmp_path / f"{number}.db"
        with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as conn:
            for ddl in records.pack_ddl():
                conn.execute(ddl)
            conn.execute("INSERT INTO pack_meta VALUES ('kind', 'matches')")
            conn.execute(statement)
        sealed = packfile.seal(str(database), str(tmp_path))
        with pytest.raises(KitError) as caught:
            owner.unite(tmp_path / sealed.sha256)
        assert caught.value.code == "corrupt", statement
    assert not owner.path.exists()


def test_rows_are_applied_beside_a_live_writer_in_the_node_s_own_dialect(owner: Owner, tmp_path: Path) -> None:
    """The node goes on writing; nothing of ours but rows is in its database, and its journal is as it was."""
    theirs = make_matches("theirs", CONFIG, 20)
    own = write_matches(tmp_path / "n.db", theirs[:10], MatchDialect.MODEL_ID)
    owner.take(write_matches(tmp_path / "x.db", theirs[10:]))
    with contextlib.closing(sqlite3.connect(owner.path)) as conn:
        missing = list(records.family("matches").all_records(conn, CONFIG))
    with contextlib.closing(sqlite3.connect(own, isolation_level=None)) as live:
        before = [row[0] for row in live.execute("SELECT name FROM sqlite_master ORDER BY 1")]
        pack = union.Proved("matches", CONFIG, {}, missing, 0)
        merged = union.into_live(str(own), pack)
        write_matches(own, make_matches("later", CONFIG, 1), MatchDialect.MODEL_ID)
        after = [row[0] for row in live.execute("SELECT name FROM sqlite_master ORDER BY 1")]
        rated = live.execute("SELECT participant_id, rating, games_played FROM elo_ratings").fetchall()
        count = live.execute("SELECT COUNT(*) FROM match_history").fetchone()[0]

    assert merged.counts == {"matches_new": 10, "matches_same": 0}
    assert before == after
    assert count == 21
    assert flat({name: (rating, games) for name, rating, games in rated}) == by_hand(theirs)


def test_a_writer_that_holds_the_database_is_told(tmp_path: Path) -> None:
    own = write_matches(tmp_path / "n.db", make_matches("l", CONFIG, 1))
    with contextlib.closing(sqlite3.connect(own, isolation_level=None)) as live:
        live.execute("BEGIN IMMEDIATE")
        with pytest.raises(KitError) as caught:
            union.into_live(str(own), union.Proved("matches", CONFIG, {}, [], 0), busy_ms=50)
    assert caught.value.code == "locked"


def test_what_is_not_a_match_database_is_left_alone(owner: Owner, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "n.db")) as conn:
        conn.execute("CREATE TABLE match_history (id INTEGER PRIMARY KEY, note TEXT)")
    with pytest.raises(KitError, match="left alone"):
        owner.take(tmp_path / "n.db")
