"""Opening the state database, and its transactions: the one place that knows which kind of database it is.

SQLite: WAL, so that readers never wait; 10 s of patience for the one writer; write transactions are BEGIN IMMEDIATE (a
deferred one that turns into a writer fails at once when somebody wrote meanwhile) and hold no I/O but their own.
``synchronous=FULL``: in WAL mode NORMAL may forget the last commits after a power cut, and a sender deletes its copy on
the word of a receipt; a commit then costs one fsync, and a cycle makes dozens, not thousands.
PostgreSQL: READ COMMITTED for writes with explicit row locks, a read-only snapshot for reads.
A store may be shared by threads, and a forked child may go on using it: it never touches its parent's connections.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url

from ringrift_sync_dagster.errors import StateError
from ringrift_sync_dagster.state.prepare import prepare
from ringrift_sync_dagster.state.trouble import as_state_error, database_name

BUSY_SECONDS: Final = 10.0
"""How long a writer waits for another one."""

_WRITE: Final = "ringrift_write"


class StateStore:
    """One open state database. Close it, or use it as a context manager.

    Args:
        url: The database, already prepared; use ``open``.

    """

    def __init__(self, url: URL) -> None:
        self.url = url
        self._engine = _new_engine(url)
        self._pid = os.getpid()

    @classmethod
    def open(cls, url: str) -> Self:
        """Open the database; create it when it is new, migrate it when it is older. Safe in many processes at once.

        Args:
            url: ``sqlite:///relative/path.db``, ``sqlite:////absolute/path.db``, or ``postgresql://user@host/name``.

        Raises:
            StateError: The URL is not usable; the file is not a state database, damaged, of a newer version of this
                program or not writable; the server does not answer. The message says what to do.

        """
        store = cls(_checked_url(url))
        try:
            with as_state_error(store.url, opening=True):
                prepare(store.engine, store.url)
        except BaseException:
            store.close()
            raise
        return store

    @property
    def name(self) -> str:
        """The database as a person calls it: the file, or the URL without its password."""
        return database_name(self.url)

    @property
    def is_local(self) -> bool:
        """True when the database is a file: all who use it run on this machine."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def engine(self) -> sa.Engine:
        """The engine of this process; a forked child gets one of its own."""
        if self._pid != os.getpid():
            _INHERITED.append(self._engine)
            self._engine = _new_engine(self.url)
            self._pid = os.getpid()
        return self._engine

    @contextlib.contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """Open a write transaction: committed at the end, rolled back when the body raises. Keep it short.

        Raises:
            StateError: The database stayed locked for 10 s, is damaged, full or gone.

        """
        with as_state_error(self.url), self.engine.connect() as connection:
            connection.execution_options(**{_WRITE: True})
            with connection.begin():
                yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Open a read transaction: all statements of the body see one state.

        Raises:
            StateError: The database is damaged or gone.

        """
        with as_state_error(self.url), self.engine.connect() as connection:
            if connection.dialect.name == "postgresql":
                connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with connection.begin():
                yield connection

    def close(self) -> None:
        """Close the connections. Idempotent; the store may be used again, and opens new ones."""
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        # A process started with `spawn` gets the URL, and opens its own.
        return (_reopen, (self.url.render_as_string(hide_password=False),))


# Engines of a parent process. They are kept so that garbage collection never closes their connections: a close in the
# child would end the parent's session on PostgreSQL, and on SQLite touch files that the parent has locked.
_INHERITED: Final[list[sa.Engine]] = []


def _reopen(url: str) -> StateStore:
    return StateStore(make_url(url))


def _checked_url(url: str) -> URL:
    try:
        parsed = make_url(url)
    except sa.exc.ArgumentError as error:
        raise StateError(f"the state URL {url!r} is not a database URL: write sqlite:///path/to/state.db") from error
    kind = parsed.get_backend_name()
    if kind == "sqlite" and parsed.database in {None, "", ":memory:"}:
        raise StateError(f"the state URL {url!r} names no file: the state is shared by processes, so give it a path")
    if parsed.drivername == "postgresql":
        # The driver that dagster-postgres brings; SQLAlchemy 2.1 would ask for another one.
        return parsed.set(drivername="postgresql+psycopg2")
    if kind not in {"sqlite", "postgresql"}:
        raise StateError(
            f"the state cannot live in {kind}: use sqlite:///path/to/state.db or postgresql://user@host/name"
        )
    return parsed


KEPT_CONNECTIONS: Final = 32
"""As many as a pass has threads: one that is opened anew for every question reads its pages from the disk again."""


def _new_engine(url: URL) -> sa.Engine:
    if url.get_backend_name() == "sqlite":
        engine = sa.create_engine(
            url,
            connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
            pool_size=KEPT_CONNECTIONS,
            max_overflow=-1,
        )
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "checkout", _require_same_file)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    try:
        return sa.create_engine(url, pool_pre_ping=True, executemany_mode="values_plus_batch")
    except ImportError as error:
        raise StateError(f"{database_name(url)} needs a driver: pip install psycopg2-binary") from error


def _prepare_sqlite(connection: Any, record: Any) -> None:  # noqa: ANN401 - the driver's own class
    connection.isolation_level = None  # the driver begins nothing by itself; _begin_sqlite does
    for pragma in ("foreign_keys = ON", "synchronous = FULL", "trusted_schema = OFF"):
        connection.execute(f"PRAGMA {pragma}")
    path = Path(connection.execute("PRAGMA database_list").fetchone()[2])
    record.info["file"] = path, _file(path)


def _require_same_file(_connection: object, record: Any, _proxy: object) -> None:  # noqa: ANN401 - as above
    """Give up a connection whose file was replaced, by a copy that somebody restored: what it writes is lost."""
    path, opened = record.info["file"]
    now = _file(path)
    if now is not None and opened is not None and now != opened:
        raise sa.exc.DisconnectionError


def _file(path: Path) -> tuple[int, int] | None:
    """Which file a path leads to; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _begin_sqlite(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get(_WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
