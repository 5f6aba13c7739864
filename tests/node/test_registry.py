"""The union of registries: what is one row, which stage holds, what conflicts, and what belongs to which config."""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from ringrift_sync_dagster.demo.registry_rows import RegisteredVersion, write_registry
from ringrift_sync_dagster.node import records, rows, union
from ringrift_sync_dagster.node.errors import KitError

CONFIG = "hex8_2p"
NAME = "data/model_registry/registry.db"
MODEL = "canonical_hex8_2p"


class Owner:
    """An owner's registry, and what it refused."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.path = folder / "own" / "registry.db"
        self.scratch = folder / "scratch"
        self.merges = 0

    def take(self, database: Path, config: str = CONFIG) -> records.Merged | None:
        answer = rows.pack_rows(
            str(database), str(self.scratch), rows.Wanted(NAME, "registry", config, None, 20_000), 0.0
        )
        if answer["artifact"] is None:
            return None
        return self.unite(self.scratch / "artifacts" / answer["artifact"])

    def unite(self, artifact: Path) -> records.Merged:
        self.merges += 1
        note = union.Note(f"c{self.merges}", "n", {}, None)
        with union.proved(str(artifact), str(self.scratch / "inflated.db")) as pack:
            return union.into_own(str(self.path), pack, note, lambda _: None)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.path)) as conn:
            return conn.execute(query).fetchall()

    def whole(self) -> list[list[tuple[Any, ...]]]:
        """Everything that must be the same whatever order registries came in."""
        return [
            self.rows("SELECT * FROM models ORDER BY 1"),
            self.rows("SELECT model_id, version, stage, file_hash, training_config_json FROM versions ORDER BY 1, 2"),
            self.rows("SELECT model_id, version, to_stage, transitioned_at FROM stage_transitions ORDER BY 1, 2, 4, 3"),
            self.rows("SELECT model_id, version, status, work_id FROM validations ORDER BY 1, 2, 4"),
        ]


@pytest.fixture
def owner(tmp_path: Path) -> Owner:
    return Owner(tmp_path / "owner")


def version(number: int, *stages: tuple[str, str], content: str = "", model: str = MODEL) -> RegisteredVersion:
    return RegisteredVersion(model, number, content or f"{model}-{number}", stages)


def test_versions_of_two_nodes_whose_row_ids_collide_are_all_there(owner: Owner, tmp_path: Path) -> None:
    owner.take(write_registry(tmp_path / "a.db", [version(1), version(2)]))
    merged = owner.take(write_registry(tmp_path / "b.db", [version(2), version(3)]))

    assert merged is not None
    assert (merged.counts["versions_new"], merged.checks) == (1, {"no_version_conflicts": True})
    assert owner.rows("SELECT version FROM versions ORDER BY 1") == [(1,), (2,), (3,)]
    assert owner.rows("SELECT COUNT(*) FROM validations") == [(3,)]


def test_in_any_order_of_nodes_the_registry_is_the_same(tmp_path: Path) -> None:
    nodes = [
        write_registry(tmp_path / "a.db", [version(1, ("staging", "2026-01-01"), ("production", "2026-01-03"))]),
        write_registry(tmp_path / "b.db", [version(1, ("archived", "2026-01-02")), version(2)]),
        write_registry(tmp_path / "c.db", [version(2, ("rejected", "2026-01-05")), version(3)]),
    ]
    results = []
    for number, order in enumerate(itertools.permutations(nodes)):
        owner = Owner(tmp_path / str(number))
        for database in order:
            owner.take(database)
        results.append(owner.whole())

    assert all(result == results[0] for result in results)
    assert [row[2] for row in results[0][1]] == ["production", "rejected", "development"]


def test_the_same_registry_again_changes_nothing(owner: Owner, tmp_path: Path) -> None:
    database = write_registry(tmp_path / "a.db", [version(1, ("staging", "2026-01-01"))])
    owner.take(database)
    before = owner.whole()
    merged = owner.take(database)

    assert merged is not None
    assert not merged.changed
    assert owner.whole() == before


def test_one_version_with_two_hashes_is_refused_and_fails_the_check(owner: Owner, tmp_path: Path) -> None:
    owner.take(write_registry(tmp_path / "a.db", [version(1, content="one")]))
    merged = owner.take(write_registry(tmp_path / "b.db", [version(1, content="two"), version(2)]))

    assert merged is not None
    assert merged.checks == {"no_version_conflicts": False}
    assert [refused.reason for refused in merged.refused] == ["version_conflict"]
    assert "here stays" in merged.refused[0].detail
    assert owner.rows("SELECT version, file_hash FROM versions ORDER BY 1") == [
        (1, version(1, content="one").file_hash),
        (2, version(2).file_hash),
    ]


def test_a_row_belongs_to_the_config_of_its_model_s_name_else_of_its_training_else_to_none(
    owner: Owner, tmp_path: Path
) -> None:
    database = write_registry(
        tmp_path / "a.db",
        [
            version(1),
            RegisteredVersion("nightly", 7, "n", (("staging", "2026-01-01"),), trained_on="hex8_2p"),
            RegisteredVersion("champion", 1, "c", (("staging", "2026-01-01"),)),
        ],
    )
    mine = owner.take(database)
    nobody = owner.take(database, "")

    assert mine is not None
    assert nobody is not None
    assert (mine.counts["versions_new"], mine.counts["transitions_new"]) == (2, 1)
    assert (nobody.counts["versions_new"], nobody.counts["transitions_new"]) == (1, 1)
    assert owner.take(database, "square8_2p") is None


@pytest.mark.parametrize(
    "statement, reason",
    [
        ("UPDATE versions SET file_hash = 'deadbeef'", "bad_hash"),
        ("UPDATE versions SET stage = 'heaven'", "unknown_stage"),
        ("UPDATE stage_transitions SET to_stage = 'heaven'", "unknown_stage"),
        ("UPDATE versions SET version = 'first'", "bad_version"),
    ],
)
def test_a_row_that_is_none_is_set_aside_with_its_reason_and_the_others_enter(
    owner: Owner, tmp_path: Path, statement: str, reason: str
) -> None:
    database = write_registry(tmp_path / "a.db", [version(1, ("staging", "2026-01-01"))])
    with contextlib.closing(sqlite3.connect(database)) as conn, conn:
        conn.execute(statement)
    write_registry(database, [version(2)])

    merged = owner.take(database)

    assert merged is not None
    assert [refused.reason for refused in merged.refused] == [reason]
    assert (2,) in owner.rows("SELECT version FROM versions")


def test_a_column_that_only_a_node_has_arrives(owner: Owner, tmp_path: Path) -> None:
    owner.take(write_registry(tmp_path / "a.db", [version(1)]))
    newer = write_registry(tmp_path / "b.db", [version(2)])
    with contextlib.closing(sqlite3.connect(newer)) as conn, conn:
        conn.execute("ALTER TABLE validations ADD COLUMN win_rate REAL")
        conn.execute("UPDATE validations SET win_rate = 0.75")
    owner.take(newer)

    assert owner.rows("SELECT version, win_rate FROM validations ORDER BY 1") == [(1, None), (2, 0.75)]


def test_a_node_gets_rows_only_in_columns_that_it_has_and_no_row_twice(owner: Owner, tmp_path: Path) -> None:
    newer = write_registry(tmp_path / "b.db", [version(2)])
    with contextlib.closing(sqlite3.connect(newer)) as conn, conn:
        conn.execute("ALTER TABLE validations ADD COLUMN win_rate REAL")
        conn.execute("UPDATE validations SET win_rate = 0.75")
    owner.take(newer)
    with contextlib.closing(sqlite3.connect(owner.path)) as conn:
        all_rows = list(records.family("registry").all_records(conn, CONFIG))
    node = write_registry(tmp_path / "node.db", [version(1)])

    first = union.into_live(str(node), union.Proved("registry", CONFIG, {}, all_rows, 0))
    again = union.into_live(str(node), union.Proved("registry", CONFIG, {}, all_rows, 0))

    assert first.counts["versions_new"] == 1
    assert [refused.reason for refused in first.refused] == ["older_schema"]
    assert (again.counts["versions_new"], again.counts["rows_new"]) == (0, 0)


def test_hostile_names_of_columns_never_reach_a_statement(owner: Owner, tmp_path: Path) -> None:
    body = {"model_id": MODEL, "x; DROP TABLE models": 1}
    forged = records.Record("tags", "k", CONFIG, body)
    sealed = records.write_pack(
        [forged], {"kind": "registry", "config": CONFIG, "path": "", "cursor": ""}, str(tmp_path), 0.0
    )
    owner.scratch.mkdir(parents=True)

    merged = owner.unite(tmp_path / "artifacts" / str(sealed["artifact"]))

    assert [refused.reason for refused in merged.refused] == ["bad_row"]


def test_a_database_without_versions_is_left_alone(owner: Owner, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db")) as conn, conn:
        conn.execute("CREATE TABLE models (model_id TEXT)")
    with pytest.raises(KitError, match="left alone"):
        owner.take(tmp_path / "a.db")


def test_a_training_config_that_is_no_json_belongs_to_nobody(owner: Owner, tmp_path: Path) -> None:
    database = write_registry(tmp_path / "a.db", [RegisteredVersion("m", 1, "c")])
    with contextlib.closing(sqlite3.connect(database)) as conn, conn:
        conn.execute("UPDATE versions SET training_config_json = ?", (json.dumps([1]),))
    assert owner.take(database) is None
    assert owner.take(database, "") is not None
