"""INSERT for both kinds of database: ON CONFLICT, where SQLAlchemy has a function for each, and the id of a new row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

Row = Mapping[str, Any]


def insert_row(connection: sa.Connection, table: sa.Table, row: Row) -> int:
    """Insert a row into a table that counts its ids up; give the id."""
    # No RETURNING: SQLite knows it since 3.35 only, and the driver tells the last id anyway.
    inserted = connection.execute(sa.insert(table).values(row)).inserted_primary_key
    if inserted is None:
        raise RuntimeError(f"the database gave no id for a new row of {table.name}")
    return int(inserted[0])


def insert_new(connection: sa.Connection, table: sa.Table, rows: Sequence[Row], key: Sequence[str]) -> int:
    """Insert the rows whose key is not there yet; leave the others alone. Give how many were inserted."""
    statement = _insert(connection, table).on_conflict_do_nothing(index_elements=list(key))
    # One by one: after an executemany no driver tells reliably how many rows went in.
    return sum(connection.execute(statement, row).rowcount for row in rows)


def insert_or_update(
    connection: sa.Connection, table: sa.Table, rows: Sequence[Row], key: Sequence[str], update: Sequence[str]
) -> None:
    """Insert the rows; where the key is there, set the columns of ``update`` to the new values.

    Every row has the same columns, and no two rows have the same key.
    """
    if not rows:
        return
    statement = _insert(connection, table)
    changes = {column: statement.excluded[column] for column in update}
    connection.execute(statement.on_conflict_do_update(index_elements=list(key), set_=changes), list(rows))


def _insert(connection: sa.Connection, table: sa.Table) -> sqlite.Insert:
    if connection.dialect.name == "sqlite":
        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql  # noqa: PLC0415 - only who uses PostgreSQL pays for its import

    # The two classes have the same methods for this and no common base that declares them.
    return postgresql.insert(table)  # type: ignore[return-value]
