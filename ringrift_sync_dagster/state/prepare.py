"""Making a database ready when it is opened: create it when new, migrate it when older, refuse what is not ours.

Everything happens in one write transaction (on PostgreSQL under an advisory lock), so that of many processes that open
a new database at once, one creates it and the others find it done. A new database is made from ``schema`` and stamped
with the newest revision; Alembic is imported only when a database of an older revision must be migrated.
"""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import URL

from ringrift_sync_dagster.errors import LocalDiskError, StateError
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.state import schema
from ringrift_sync_dagster.state.trouble import database_name
from ringrift_sync_dagster.storage.files import make_dirs

PREPARE_SECONDS: Final = 30.0
"""How long opening waits for other processes that prepare the same file."""

_ADVISORY_LOCK: Final = 0x52525344  # "RRSD"; any number that nobody else takes


def prepare(engine: sa.Engine, url: URL) -> None:
    """Create or migrate the database. Idempotent.

    Raises:
        StateError: It is not a state database, or of a newer version of this program.
        sqlalchemy.exc.SQLAlchemyError: The database itself is in trouble; ``store`` translates it.

    """
    if url.get_backend_name() == "sqlite":
        _prepare_file(Path(str(url.database)), url)
    with engine.connect() as connection:
        connection.execution_options(ringrift_write=True)
        with connection.begin():
            if connection.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
            _prepare_tables(connection, url)


def _prepare_tables(connection: sa.Connection, url: URL) -> None:
    tables = set(sa.inspect(connection).get_table_names())
    if schema.VERSION_TABLE not in tables:
        _refuse_foreign(tables, connection, url)
        schema.metadata.create_all(connection)
        connection.execute(sa.insert(schema.version).values(version_num=schema.REVISION))
        return
    revision = connection.execute(sa.select(schema.version.c.version_num)).scalar_one_or_none() or ""
    if revision != schema.REVISION:
        _migrate(connection, revision, url)


def _refuse_foreign(tables: set[str], connection: sa.Connection, url: URL) -> None:
    """Never put our tables into a games database. A PostgreSQL database may be shared, as long as no name is taken."""
    foreign = tables if connection.dialect.name == "sqlite" else tables & set(schema.metadata.tables)
    if foreign:
        raise StateError(
            f"{database_name(url)} is not a state database: it has a table {min(foreign)} "
            f"and no {schema.VERSION_TABLE}; correct the state URL"
        )


def _migrate(connection: sa.Connection, revision: str, url: URL) -> None:
    from ringrift_sync_dagster.state.migrations import known_revisions, upgrade  # noqa: PLC0415 - imports Alembic

    if revision not in known_revisions():
        raise StateError(
            f"state database {database_name(url)} has revision {revision or '(none)'}, which this version of the "
            f"program does not know (its own is {schema.REVISION}): a newer one wrote it; upgrade this installation"
        )
    upgrade(connection)


def _prepare_file(path: Path, url: URL) -> None:
    """Create the directory, and turn on WAL, which the file then keeps."""
    try:
        make_dirs(path.parent)
    except LocalDiskError as error:
        raise StateError(f"state database {path}: {error}; or correct the state URL") from error
    connection = sqlite3.connect(path, timeout=PREPARE_SECONDS, isolation_level=None)
    try:
        mode = _turn_on_wal(connection)
    except sqlite3.DatabaseError as error:
        raise sa.exc.DatabaseError(None, None, error) from error
    finally:
        connection.close()
    if mode != "wal":
        raise StateError(
            f"state database {database_name(url)}: its file system cannot do WAL (it stays in mode {mode}): "
            "put it on a local disk, or use PostgreSQL"
        )


def _turn_on_wal(connection: sqlite3.Connection) -> str:
    deadline = Deadline(PREPARE_SECONDS)
    while True:
        try:
            return str(connection.execute("PRAGMA journal_mode = WAL").fetchone()[0])
        except sqlite3.OperationalError as error:
            # The switch itself does not wait for other processes that switch, however long the timeout.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or deadline.expired:
                raise
            threading.Event().wait(0.02)
