"""The revisions and the schema are one: whoever migrates gets what whoever creates gets."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from ringrift_sync_dagster.errors import StateError
from ringrift_sync_dagster.state import migrations, schema
from ringrift_sync_dagster.state.nodes import node_rows, seen
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.transfers import TransferState, mark_abandoned, start_transfer, transfer_rows

AddRevision = Callable[[str], None]

NEXT = f"{int(schema.REVISION) + 1:04}"
NEXT_REVISION = """
import sqlalchemy as sa
from alembic import op
revision = "{revision}"
down_revision = "{down_revision}"
def upgrade():
    op.add_column("nodes", sa.Column("mood", sa.Text))
    {then}
def downgrade():
    op.drop_column("nodes", "mood")
"""


@pytest.fixture
def add_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AddRevision:
    """A copy of the revisions with one more: the next version of the program."""
    copy = tmp_path / "migrations"
    shutil.copytree(migrations._HERE, copy, ignore=shutil.ignore_patterns("__pycache__"))

    def add(then: str) -> None:
        text = NEXT_REVISION.format(revision=NEXT, down_revision=schema.REVISION, then=then)
        (copy / "versions" / f"r{NEXT}_mood.py").write_text(text)
        monkeypatch.setattr(migrations, "_HERE", copy)
        monkeypatch.setattr(schema, "REVISION", NEXT)

    return add


def _words(index: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in index.get("dialect_options", {}).items()}


def _shape(connection: sa.Connection) -> dict[str, Any]:
    inspector = sa.inspect(connection)
    return {
        table: (
            [{**column, "type": str(column["type"])} for column in inspector.get_columns(table)],
            inspector.get_pk_constraint(table),
            sorted(inspector.get_unique_constraints(table), key=str),
            sorted(str({**index, "dialect_options": _words(index)}) for index in inspector.get_indexes(table)),
            inspector.get_foreign_keys(table),
        )
        for table in sorted(inspector.get_table_names())
    }


def _columns(store: StateStore, table: str) -> set[str]:
    with store.read() as connection:
        return {column["name"] for column in sa.inspect(connection).get_columns(table)}


def test_the_schema_names_the_newest_revision() -> None:
    assert ScriptDirectory.from_config(migrations._config()).get_current_head() == schema.REVISION


def test_migrating_an_empty_database_gives_the_schema_that_a_new_one_gets(store: StateStore) -> None:
    with store.begin() as connection:
        created = _shape(connection)
        schema.metadata.drop_all(connection)
    with store.begin() as connection:
        migrations.upgrade(connection)
        assert _shape(connection) == created
        assert connection.execute(sa.select(schema.version.c.version_num)).scalar_one() == schema.REVISION
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []


def test_ids_are_never_used_again_in_a_migrated_sqlite_database(sqlite_store: StateStore) -> None:
    with sqlite_store.begin() as connection:
        schema.metadata.drop_all(connection)
        migrations.upgrade(connection)
        ddl = connection.exec_driver_sql("SELECT group_concat(sql) FROM sqlite_master").scalar_one()
    assert ddl.count("AUTOINCREMENT") == 7


def test_the_newest_revision_can_be_taken_back_and_applied_again(store: StateStore) -> None:
    with store.begin() as connection:
        created = _shape(connection)
    transfer = start_transfer(store, artifact="a" * 64, node="n", direction="push", transport="t", size_bytes=1)
    with store.begin() as connection:
        command.downgrade(migrations._config(connection), "0001")
        assert "breakers" not in sa.inspect(connection).get_table_names()
        migrations.upgrade(connection)
        assert _shape(connection) == created
    assert [row.id for row in transfer_rows(store)] == [transfer]


def test_transfers_of_the_first_revision_stay_and_take_no_part_in_the_limits(url: str) -> None:
    with StateStore.open(url) as store:
        transfer = start_transfer(store, artifact="a" * 64, node="n", direction="push", transport="t", size_bytes=1)
        with store.begin() as connection:
            command.downgrade(migrations._config(connection), "0001")
    with StateStore.open(url) as migrated:
        [row] = transfer_rows(migrated, running=True)
        assert (row.id, row.state, row.priority, row.multiplier, row.rungs) == (
            transfer, TransferState.RUNNING, "", 1.0, [],
        )  # fmt: skip
        assert mark_abandoned(migrated) == 0


def test_a_database_of_an_older_revision_is_migrated_when_it_is_opened(url: str, add_revision: AddRevision) -> None:
    with StateStore.open(url) as older:
        seen(older, "vast-1", at=1.0)
    add_revision("pass")
    with StateStore.open(url) as migrated:
        assert "mood" in _columns(migrated, "nodes")
        with migrated.read() as connection:
            assert connection.execute(sa.select(schema.version.c.version_num)).scalar_one() == NEXT
            assert connection.execute(sa.select(schema.nodes.c.name)).scalar_one() == "vast-1"


def test_a_migration_that_fails_leaves_the_database_as_it_was(url: str, add_revision: AddRevision) -> None:
    with StateStore.open(url) as older:
        seen(older, "vast-1", at=1.0)
        add_revision('op.execute("SELECT * FROM no_such_table")')
        with pytest.raises(StateError, match="no_such_table"):
            StateStore.open(url)
        assert "mood" not in _columns(older, "nodes")
        assert [row.name for row in node_rows(older)] == ["vast-1"]
