"""Open somebody else's live database for reading, without ever writing, checkpointing or migrating it.

``mode=ro`` is enough for a database that is alive. Where it is not, because a writer died (see ``recovery``), a
copy is recovered in the scratch folder and read instead. SQLite's errors become ``KitError`` here and nowhere else.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import urllib.parse
from typing import Iterator, Tuple

from . import recovery
from .errors import KitError, from_os_error

BUSY_SECONDS = 5.0

# What SQLite says, in the order of asking; the result codes themselves are only told from Python 3.11 on.
_MESSAGES: Tuple[Tuple[str, str], ...] = (
    ("locked", "locked"),
    ("busy", "locked"),
    ("not a database", "not_a_database"),
    ("encrypted", "not_a_database"),
    ("unsupported file format", "not_a_database"),
    ("malformed", "corrupt"),
    ("no such table", "no_games_table"),
    ("disk is full", "no_space"),
    # Said of a database that could be read a moment ago: a writer died since, or another file took its place while we
    # have the old one and so do not see the lock that belongs to the journal.
    ("attempt to write a readonly database", "changed"),
)
_DEAD_WRITER = ("attempt to write a readonly database", "unable to open database file")


def uri_path(path: str) -> str:
    """Quote a path for a ``file:`` URI: ``?``, ``#``, ``%``, blanks, line ends and foreign bytes survive."""
    return "/" + urllib.parse.quote(os.fsencode(os.path.abspath(path))).lstrip("/")


def source_uri(path: str) -> str:
    """Give the URI that opens a database read-only."""
    return f"file:{uri_path(path)}?mode=ro"


SQLITE_ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""What SQLite's module raises about a bad file: words of SQLite that quote its bytes may be no text."""


def classified(error: Exception, path: str) -> KitError:
    """Translate an error of SQLite about ``path``; what has no code of its own is ``unreadable``."""
    text = str(error)
    if isinstance(error, UnicodeDecodeError):
        return KitError("corrupt", "its schema is damaged: it holds bytes that are no text", path)
    if not os.path.exists(path):
        return KitError("missing", "there is no such database", path)
    code = next((code for words, code in _MESSAGES if words in text.lower()), "unreadable")
    return KitError(code, text, path)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _connect(path: str, busy_seconds: float) -> sqlite3.Connection:
    """Open read-only and read the header, so that a database that cannot be read fails here."""
    conn = sqlite3.connect(source_uri(path), timeout=busy_seconds, isolation_level=None, uri=True)
    try:
        conn.text_factory = _text
        # Without mmap a file that somebody truncates gives an error; with it, the process would be killed.
        for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "query_only=ON", "mmap_size=0"):
            conn.execute(f"PRAGMA {pragma}")
        conn.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    except BaseException:
        conn.close()
        raise
    return conn


def _require_file(path: str) -> None:
    """Refuse what SQLite would misreport: nothing there, a folder, a pipe."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise from_os_error(error, path) from error
    if not stat.S_ISREG(found.st_mode):
        raise KitError("not_a_database", "this is no regular file", path)
    if not os.access(path, os.R_OK):
        raise KitError("unreadable", "this user may not read the database", path)


def _dead_writer(path: str, busy_seconds: float) -> bool:
    """Try to read the database: True where only a recovered copy can be read."""
    try:
        _connect(path, busy_seconds).close()
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        if any(words in str(error) for words in _DEAD_WRITER):
            return True
        raise classified(error, path) from error
    return False


@contextlib.contextmanager
def resolve_source(path: str, scratch: str, busy_seconds: float = BUSY_SECONDS) -> Iterator[str]:
    """Give a path that opens with ``mode=ro`` while the context lasts: the database itself, or a recovered copy.

    Args:
        path: Absolute path of a database.
        scratch: Folder of the kit's own for the copy, which is removed at the end.
        busy_seconds: How long to wait for a writer that holds the whole database.

    Raises:
        KitError: ``missing``, ``not_a_database``, ``corrupt``, ``locked``, ``unreadable``, ``no_space`` or
        ``changed``.

    """
    _require_file(path)
    with recovery.reading(path):
        dead = _dead_writer(path, busy_seconds)
        if not dead:
            yield path
    if dead:
        with recovery.recovered_copy(path, scratch) as copy:
            yield copy


@contextlib.contextmanager
def open_source(path: str, scratch: str, busy_seconds: float = BUSY_SECONDS) -> Iterator[sqlite3.Connection]:
    """Open a database for reading in autocommit; text that is not UTF-8 arrives with surrogates.

    Arguments and errors as for ``resolve_source``; an error of SQLite inside the context is translated as well. A
    file of 0 bytes is an empty database: it opens, and has no tables.
    """
    with resolve_source(path, scratch, busy_seconds) as usable:
        try:
            with contextlib.closing(_connect(usable, busy_seconds)) as conn:
                yield conn
        except (sqlite3.ProgrammingError, sqlite3.InterfaceError):
            raise  # A fault of the caller's statement, not of the file.
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise classified(error, path) from error
