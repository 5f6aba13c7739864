"""The family of registry records: the union of models and versions, and rows that are only appended.

Two rows of one model or version are joined column by column (the larger value, the earlier creation), which gives the
same row in whatever order nodes come. The stage of a version is that its last transition leads to. Where one version
has two hashes, the one that is there stays, the other is refused, and the check ``no_version_conflicts`` fails.
"""

from __future__ import annotations

import sqlite3
from typing import Any, Dict, Iterator, List, Optional, Sequence, Set, Tuple

from . import canonical
from .records import ASIDE, Body, Merged, Reading, Record, Refused, digest
from .registry_rows import (
    APPENDED,
    MODELS,
    STAGES,
    TABLES,
    TRANSITIONS,
    VERSIONS,
    columns_of,
    key_of,
    ordered,
    prepare,
    rows,
    wrong_with,
)
from .source import quoted, table_columns

_COUNTED = {MODELS: "models_new", VERSIONS: "versions_new", TRANSITIONS: "transitions_new"}
_EARLIER = "created_at"


def read(conn: sqlite3.Connection, config: str, _cursor: Optional[Dict[str, Any]], inode: int, limit: int) -> Reading:
    """Read all rows of the config (of none, where it is empty).

    A registry is small, and equal rows give equal packs, so that no cursor is needed.
    """
    found = [record for record in rows(conn) if record.config == config]
    chosen = found[:limit]
    warnings = [f"it has {len(found)} rows; only {limit} of them travel"] if len(found) > limit else []
    return Reading(chosen, {"v": 1, "inode": inode}, more=False, warnings=warnings)


def all_records(conn: sqlite3.Connection, config: str) -> Iterator[Record]:
    """Every row of the config, those that are none left out."""
    return (record for record in rows(conn) if record.config == config and record.kind != ASIDE)


def checked(record: Record, config: str) -> Optional[Tuple[str, str]]:
    """Say why a record that came from elsewhere does not enter; None where it does."""
    if record.kind == ASIDE:
        return str(record.body.get("reason", "bad_row"))[:60], str(record.body.get("detail", ""))[:300]
    wrong = wrong_with(record.kind, record.body)
    if wrong is None and (record.config != config or record.key != key_of(record.kind, record.body)):
        return "bad_key", "its key or config is not that of its values"
    return wrong


def merge(conn: sqlite3.Connection, records: Sequence[Record], config: str) -> Merged:
    """Unite rows with those of the database, and set the stages, inside the caller's transaction."""
    union = _Union(conn, config, own=canonical.get(conn, "store_id") is not None)
    for table in TABLES:
        for record in sorted((one for one in records if one.kind == table), key=lambda one: one.key):
            union.take(record)
    for record in records:
        if record.kind not in TABLES:
            union.refuse(record, *(checked(record, config) or ("bad_row", "")))
    union.set_stages()
    return union.merged()


class _Union:
    """The steps of one union, with their counts."""

    def __init__(self, conn: sqlite3.Connection, config: str, *, own: bool) -> None:
        self.conn, self.config, self.own = conn, config, own
        self.counts: Dict[str, int] = dict.fromkeys((*_COUNTED.values(), "rows_new", "rows_same", "rows_joined"), 0)
        self.refused: List[Refused] = []
        self.conflicts = 0
        self.touched: Set[Tuple[str, int]] = set()
        self.columns = {table: columns_of(conn, table) for table in TABLES}
        known = [record for record in rows(conn) if record.kind != ASIDE]
        self.known = {(record.kind, record.key): record for record in known}

    def refuse(self, record: Record, reason: str, detail: str) -> None:
        self.refused.append(Refused(record, reason, detail))

    def take(self, record: Record) -> None:
        """Insert a row, join it with the one that is there, or refuse it."""
        wrong = checked(record, self.config)
        if wrong is not None:
            self.refuse(record, *wrong)
            return
        if record.kind in (VERSIONS, TRANSITIONS):
            self.touched.add((record.body["model_id"], record.body["version"]))
        there = self.known.get((record.kind, record.key))
        if there is None:
            self._insert(record)
        elif record.kind in APPENDED:
            self.counts["rows_same"] += 1
        else:
            self._join(there, record)

    def _insert(self, record: Record) -> None:
        lacking = [name for name in record.body if name not in self.columns[record.kind]]
        if lacking and not self.own:
            if record.kind in APPENDED:  # without them it would be another row, and be brought again and again
                self.refuse(record, "older_schema", f"the node's table lacks {', '.join(lacking)}")
                return
            lacking_set = set(lacking)
            record = record._replace(body={k: v for k, v in record.body.items() if k not in lacking_set})
        elif lacking:
            for name in lacking:
                self.conn.execute(f"ALTER TABLE {record.kind} ADD COLUMN {quoted(name)}")
                self.columns[record.kind].append(name)
        names = list(record.body)
        have = table_columns(self.conn, "main", record.kind)
        listed, marks = ", ".join(quoted(have[name]) for name in names), ", ".join("?" * len(names))
        self.conn.execute(f"INSERT INTO {record.kind} ({listed}) VALUES ({marks})", [record.body[n] for n in names])
        self.known[record.kind, record.key] = record
        self.counts[_COUNTED.get(record.kind, "rows_new")] += 1

    def _join(self, there: Record, arriving: Record) -> None:
        """Join two rows of one model or version."""
        hashes = [record.body.get("file_hash") for record in (there, arriving)]
        if arriving.kind == VERSIONS and None not in hashes and hashes[0] != hashes[1]:
            self.conflicts += 1
            words = f"{arriving.key} has hash {hashes[0]} here, and {hashes[1]} there; the one here stays"
            self.refuse(arriving, "version_conflict", words)
            return
        values = self._joined(there.body, arriving.body, self.columns[arriving.kind])
        changes = {name: value for name, value in values.items() if there.body.get(name) != value}
        if not changes:
            self.counts["rows_same"] += 1
            return
        self._update(arriving, changes)
        self.known[arriving.kind, arriving.key] = there._replace(body={**there.body, **changes})
        self.counts["rows_joined"] += 1

    def _joined(self, one: Body, other: Body, columns: Sequence[str]) -> Body:
        joined: Body = {}
        for name in columns:
            values = [value for value in (one.get(name), other.get(name)) if value is not None]
            if values:
                in_order = sorted(values, key=_stage_rank) if name == "stage" else ordered(values)
                joined[name] = in_order[0 if name == _EARLIER else -1]
        return joined

    def _update(self, record: Record, changes: Body) -> None:
        have = table_columns(self.conn, "main", record.kind)
        key = ("model_id",) if record.kind == MODELS else ("model_id", "version")
        listed = ", ".join(f"{quoted(have[name])} = ?" for name in changes)
        where = " AND ".join(f"{quoted(have[name])} = ?" for name in key)
        values = [*changes.values(), *(record.body[name] for name in key)]
        self.conn.execute(f"UPDATE {record.kind} SET {listed} WHERE {where}", values)

    def set_stages(self) -> None:
        """Give each touched version the stage that its last transition leads to."""
        last: Dict[Tuple[str, int], Record] = {}
        for (kind, _), record in self.known.items():
            version = (record.body.get("model_id"), record.body.get("version"))
            if kind == TRANSITIONS and version in self.touched:
                best = last.get(version)
                if best is None or _moment(record) > _moment(best):
                    last[version] = record
        for (model, number), record in last.items():
            there = self.known.get((VERSIONS, f"{model}@{number}"))
            stage = record.body["to_stage"]
            if there is not None and there.body.get("stage") != stage and "stage" in self.columns[VERSIONS]:
                self._update(there, {"stage": stage})
                self.counts["rows_joined"] += 1

    def merged(self) -> Merged:
        changed = any(count for name, count in self.counts.items() if name != "rows_same") or bool(self.refused)
        return Merged(self.counts, self.refused, {"no_version_conflicts": not self.conflicts}, changed)


def _moment(record: Record) -> Tuple[Any, ...]:
    """The place of a transition in the order that is the same everywhere."""
    at = record.body["transitioned_at"]
    return (isinstance(at, str), at if isinstance(at, str) else float(at), digest(record.body))


def _stage_rank(stage: object) -> int:
    return STAGES.index(stage) if stage in STAGES else -1


__all__ = ["all_records", "checked", "merge", "prepare", "read"]
