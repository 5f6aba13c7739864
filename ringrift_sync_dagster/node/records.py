"""Records: rows of the small databases (matches, registry) in one form, and the packs that they travel in.

A record is one row by name, whatever columns its database has: a kind, a key that is the same on every node, the config
that it belongs to, and its values. A pack of records is sealed and proved like a pack of games; its only tables are
``pack_records`` and ``pack_meta``. What kinds of databases there are stands in ``FAMILIES``; each is a module with the
functions of ``Family``.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import math
import os
import sqlite3
import tempfile
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from . import KIT_VERSION, packfile
from .errors import KitError
from .pack import folders, prune

FAMILIES: Dict[str, str] = {"matches": "elo", "registry": "registry"}
"""Name of a family (and of its module here) to the data type of its database."""

MAX_RECORDS = 20_000
MAX_BODY_BYTES = 1 << 20
"""One row of such a database is a few hundred bytes; metadata may be long, and is bounded."""
_TABLES = (
    (
        "CREATE TABLE pack_records (kind TEXT NOT NULL, key TEXT NOT NULL, config TEXT NOT NULL, body TEXT NOT NULL,"
        " PRIMARY KEY (kind, key)) WITHOUT ROWID"
    ),
    "CREATE TABLE pack_meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
)
ASIDE = "aside"
"""The kind of a row that its node could not make a record of; its body says why (``reason``) and what it was."""

Body = Dict[str, Any]


class Record(NamedTuple):
    """One row: ``kind`` says of which table, ``config`` is empty where it belongs to none, ``body`` has its values."""

    kind: str
    key: str
    config: str
    body: Body

    @property
    def name(self) -> str:
        """Sixteen hexadecimal digits that name the record on every node."""
        return digest([self.kind, self.key])[:16]

    @property
    def content(self) -> str:
        """The digest of the values; equal rows have equal ones."""
        return digest(self.body)


class Reading(NamedTuple):
    """What was read of a database: the records, how far (None where nothing is remembered), whether more follows."""

    records: List[Record]
    cursor: Optional[Dict[str, Any]]
    more: bool
    warnings: List[str]


class Refused(NamedTuple):
    """One record that does not enter, and why: a word, and a sentence."""

    record: Record
    reason: str
    detail: str


class Merged(NamedTuple):
    """What a union did: counts by the names of changes, what does not enter, checks by name, whether rows changed.

    ``due``: what follows from all rows is not written yet; the family's ``settle`` does it once for many unions.
    """

    counts: Dict[str, int]
    refused: List[Refused]
    checks: Dict[str, bool]
    changed: bool
    due: bool = False


def family(name: str) -> Any:  # noqa: ANN401 - a module; its functions are those of both families
    """Give the module of a family: ``prepare``, ``read``, ``all_records``, ``checked``, ``merge`` and ``settle``."""
    if name not in FAMILIES:
        raise KitError("bad_arguments", f"kind must be one of {', '.join(FAMILIES)}")
    return importlib.import_module(f".{name}", __package__)


def canonical_json(value: object) -> str:
    """The one text of a value: keys sorted, no blanks."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: object) -> str:
    """SHA-256 of the one text of a value, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def plain(value: object) -> object:
    """Give an SQLite value as JSON can carry it, and the same for every database that holds it; NULL for a blob.

    A whole number that a column of type REAL made a float of is a whole number again.
    """
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if value.is_integer() and abs(value) < 1 << 53 else value
    if isinstance(value, bytes):
        return None
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return value


def pack_ddl() -> List[str]:
    """The statements that make an empty pack of records."""
    return list(_TABLES)


def write_pack(records: Iterable[Record], meta: Dict[str, str], scratch: str, now: float) -> Dict[str, Any]:
    """Seal records as an artifact ``<scratch>/artifacts/<sha256>``; the same records give the same artifact.

    Returns:
        ``artifact`` (None when there is no record), ``bytes``, ``raw_bytes`` and ``rows``.

    """
    found = sorted({(r.kind, r.key, r.config, canonical_json(r.body)) for r in records})
    if not found:
        return {"artifact": None, "bytes": 0, "raw_bytes": 0, "rows": 0}
    artifacts, temporary = folders(scratch)
    prune(artifacts, temporary, now)
    handle, database = tempfile.mkstemp(prefix=f"{os.getpid()}-", suffix=".pack.tmp", dir=temporary)
    os.close(handle)
    try:
        with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as conn:
            conn.execute("PRAGMA synchronous=OFF")
            conn.execute("PRAGMA journal_mode=MEMORY")
            for statement in _TABLES:
                conn.execute(statement)
            conn.execute("BEGIN")
            conn.executemany("INSERT OR IGNORE INTO pack_records VALUES (?, ?, ?, ?)", found)
            described = sorted({**meta, "kit_version": KIT_VERSION}.items())
            conn.executemany("INSERT INTO pack_meta VALUES (?, ?)", described)
            conn.execute("COMMIT")
        sealed = packfile.seal(database, artifacts)
    finally:
        for leftover in (database, database + ".seal"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(leftover)
    note = {"kind": "records", "path": meta.get("path", ""), "bytes": sealed.size_bytes}
    packfile.write_json(os.path.join(artifacts, f"{sealed.sha256}.json"), note)
    return {
        "artifact": sealed.sha256, "bytes": sealed.size_bytes, "raw_bytes": sealed.raw_bytes, "rows": len(found)
    }  # fmt: skip


@contextlib.contextmanager
def open_pack(database: str) -> Iterator[sqlite3.Connection]:
    """Open an inflated pack of records read-only after proving that it is one; errors as for ``packfile.open_pack``."""
    with packfile.open_pack(database, pack_ddl()) as conn:
        yield conn


def read_pack(conn: sqlite3.Connection) -> List[Record]:
    """Give the records of a proved pack.

    Raises:
        KitError: ``corrupt``: it holds more than a pack may, or a body that is no JSON object.

    """
    records: List[Record] = []
    for kind, key, config, body in conn.execute("SELECT kind, key, config, body FROM pack_records ORDER BY kind, key"):
        if len(records) >= MAX_RECORDS:
            raise KitError("corrupt", f"it holds more than {MAX_RECORDS} records")
        records.append(Record(str(kind), str(key), str(config), _body(body)))
    return records


def _body(text: object) -> Body:
    if not isinstance(text, str) or len(text) > MAX_BODY_BYTES:
        raise KitError("corrupt", "a record has no body, or one that is longer than any row")
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise KitError("corrupt", f"the body of a record is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise KitError("corrupt", "the body of a record is no JSON object")
    return value


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no number")


def aside(table: str, row: Sequence[Tuple[str, object]], config: str, reason: str, detail: str) -> Record:
    """Give the record of a row that is none: its node tells what it was and why it does not fit."""
    body = {"table": table, "row": {name: plain(value) for name, value in row}, "reason": reason, "detail": detail}
    return Record(ASIDE, digest([table, body["row"]])[:32], config, body)


def names_of(records: Iterable[Record]) -> List[str]:
    """The names of the records, sorted, those set aside left out."""
    return sorted(record.name for record in records if record.kind != ASIDE)
