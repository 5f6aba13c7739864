"""What a database error means for a person: each becomes, here and once, a ``StateError`` that says what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import URL

from ringrift_sync_dagster.errors import StateError

_ADVICE: Final = (
    ("file is not a database", "it is not a SQLite file: move it away and start again; a new one is created"),
    ("malformed", "it is damaged: move it away and start again; receipts and history are then built anew"),
    ("database is locked", "another process has been writing for 10 s: look for a stuck process that has it open"),
    ("unable to open", "it cannot be opened: check that the directory exists, and who may write there"),
    ("readonly database", "this user may not write it: give the file and its directory to the user who runs the sync"),
    ("disk is full", "the disk is full: free space and start again"),
    ("disk i/o error", "the disk reports an input or output error: look into the kernel log before you go on"),
    ("connection refused", "the server does not answer: start it, or correct the state URL"),
    ("password authentication failed", "the server refuses the user: correct the state URL"),
)

# Errors that a correct program meets. The others (a broken constraint, wrong SQL) are faults of ours, and stay so.
_OUTSIDE: Final = (sa.exc.OperationalError, sa.exc.InternalError, sa.exc.InterfaceError, sa.exc.TimeoutError)


def database_name(url: URL) -> str:
    """Name the database for a person: the file, or the URL without its password."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    return url.render_as_string(hide_password=True)


@contextlib.contextmanager
def as_state_error(url: URL, *, opening: bool = False) -> Iterator[None]:
    """Translate the database's own troubles in the body.

    Args:
        url: The database.
        opening: True while it is opened: then wrong SQL too means a database that is not as it should be, or rights
            that are missing, and not a fault of the program.

    Raises:
        StateError: The database cannot be reached, read or written; names it and says what to do.

    """
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        if not (opening or isinstance(error, _OUTSIDE) or type(error) is sa.exc.DatabaseError):
            raise
        cause = str(getattr(error, "orig", None) or error).strip()
        raise StateError(f"state database {database_name(url)}: {_advice(cause)} ({cause})") from error


def _advice(cause: str) -> str:
    lowered = cause.lower()
    return next((advice for words, advice in _ADVICE if words in lowered), "it cannot be used now")
