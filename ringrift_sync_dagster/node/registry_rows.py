"""The rows of a model registry as records: models, versions, and what is only ever appended.

A model is named by its id, a version by (model, number); a tag, a stage transition, a validation and a comparison by
the digest of its values, so that the same row of two nodes is one. Autoincrement ids never travel, NULL is the same as
absent. A row belongs to the config that its model's id tells, else to that of a training config of the model, else to
none. Source: domain facts of the cluster, 2.3.
"""

from __future__ import annotations

import json
import re
import sqlite3
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from . import patterns
from .errors import KitError
from .records import Body, Record, aside, digest, plain
from .source import quoted, table_columns

MODELS, VERSIONS, TRANSITIONS = "models", "versions", "stage_transitions"
APPENDED = ("tags", TRANSITIONS, "validations", "comparisons")
TABLES = (MODELS, VERSIONS, *APPENDED)
STAGES = ("development", "staging", "production", "archived", "rejected")
"""In the order that decides where two nodes tell two stages of a version that has no transition."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COLUMN = re.compile(r"[a-z][a-z0-9_]{0,63}")
_MOST_COLUMNS = 40
_MOST_VERSION = 1 << 53
_NAMING = ("model_id", "model_a", "model_a_id", "model_id_a", "candidate_id")
"""Columns that name a model; the first that is there tells a row's config."""
_DDL = (
    (
        "CREATE TABLE IF NOT EXISTS models (model_id TEXT PRIMARY KEY, name TEXT, description TEXT, model_type TEXT,"
        " created_at TEXT, updated_at TEXT)"
    ),
    (
        "CREATE TABLE IF NOT EXISTS versions (id INTEGER PRIMARY KEY AUTOINCREMENT, model_id TEXT NOT NULL,"
        " version INTEGER NOT NULL, stage TEXT, file_path TEXT, file_hash TEXT, file_size_bytes INTEGER,"
        " metrics_json TEXT, training_config_json TEXT, created_at TEXT, updated_at TEXT, UNIQUE (model_id, version))"
    ),
    (
        "CREATE TABLE IF NOT EXISTS tags (id INTEGER PRIMARY KEY AUTOINCREMENT, model_id TEXT, version INTEGER,"
        " tag TEXT, created_at TEXT)"
    ),
    (
        "CREATE TABLE IF NOT EXISTS stage_transitions (id INTEGER PRIMARY KEY AUTOINCREMENT, model_id TEXT NOT NULL,"
        " version INTEGER NOT NULL, from_stage TEXT, to_stage TEXT NOT NULL, reason TEXT, transitioned_by TEXT,"
        " transitioned_at TEXT NOT NULL)"
    ),
    ("CREATE TABLE IF NOT EXISTS comparisons (id INTEGER PRIMARY KEY AUTOINCREMENT, model_id TEXT, created_at TEXT)"),
    (
        "CREATE TABLE IF NOT EXISTS validations (id INTEGER PRIMARY KEY AUTOINCREMENT, model_id TEXT, version INTEGER,"
        " status TEXT, work_id TEXT, baselines TEXT, games_per_matchup INTEGER, created_at TEXT)"
    ),
)


def prepare(conn: sqlite3.Connection) -> None:
    """Make or adopt an owner's database, inside the caller's transaction; rows stay."""
    for statement in _DDL:
        conn.execute(statement)


def columns_of(conn: sqlite3.Connection, table: str) -> List[str]:
    """The columns of a table that travel: all but the autoincrement id, by their names in lower case."""
    have = table_columns(conn, "main", table)
    rowid = {"id"} if table != MODELS else set()
    return [name for name in have if name not in rowid and _COLUMN.fullmatch(name)][:_MOST_COLUMNS]


def rows(conn: sqlite3.Connection) -> Iterator[Record]:
    """Every row of the registry as a record; one that is none is a record set aside.

    Raises:
        KitError: ``no_games_table`` where there are no versions of models.

    """
    if not {"model_id", "version"} <= set(table_columns(conn, "main", VERSIONS)):
        raise KitError("no_games_table", "it has no table versions of models; it is left alone")
    configs = _configs(conn)
    for table in TABLES:
        names = columns_of(conn, table)
        if names:
            have = table_columns(conn, "main", table)
            listed = ", ".join(quoted(have[name]) for name in names)
            for found in conn.execute(f"SELECT {listed} FROM {table}"):
                yield _record(table, dict(zip(names, found)), configs)


def _record(table: str, row: Mapping[str, object], configs: Mapping[str, str]) -> Record:
    body = {name: plain(value) for name, value in row.items() if plain(value) is not None}
    config = config_of(body, configs)
    wrong = wrong_with(table, body)
    if wrong is not None:
        return aside(table, list(row.items()), config, *wrong)
    return Record(table, key_of(table, body), config, body)


def key_of(table: str, body: Body) -> str:
    """Name a row."""
    if table == MODELS:
        return str(body["model_id"])
    if table == VERSIONS:
        return f"{body['model_id']}@{body['version']}"
    return digest(body)[:32]


def config_of(body: Body, configs: Mapping[str, str]) -> str:
    """The config that a row belongs to; empty when none."""
    model = next((str(body[name]) for name in _NAMING if isinstance(body.get(name), str)), "")
    return patterns.config_of_name(model) or configs.get(model, "") or _trained_on(body.get("training_config_json"))


def wrong_with(table: str, body: Body) -> Optional[Tuple[str, str]]:
    """Say why these values are no row of the table: a word and a sentence; None where they are one."""
    if table not in TABLES:
        return "unknown_kind", f"a registry has no rows of kind {table[:40]!r}"
    if not body or len(body) > _MOST_COLUMNS or not all(map(_COLUMN.fullmatch, body)) or "id" in body:
        return "bad_row", "it has no values, too many, or names that no column has"
    if any(isinstance(value, (dict, list, bool)) for value in body.values()):
        return "bad_row", "a value of it is none that a row can have"
    if table in (MODELS, VERSIONS, TRANSITIONS) and not _is_text(body.get("model_id")):
        return "missing_model", "it names no model"
    if table in (VERSIONS, TRANSITIONS) and not _is_version(body.get("version")):
        return "bad_version", f"its version is {body.get('version')!r:.40}, not a whole number"
    return _wrong_stage(table, body) or _wrong_hash(table, body)


def _wrong_stage(table: str, body: Body) -> Optional[Tuple[str, str]]:
    stage = body.get("to_stage" if table == TRANSITIONS else "stage")
    if table == TRANSITIONS and (stage is None or body.get("transitioned_at") is None):
        return "bad_transition", "a transition has a stage that it leads to, and a time"
    if table in (VERSIONS, TRANSITIONS) and stage is not None and stage not in STAGES:
        return "unknown_stage", f"there is no stage {stage!r:.40}: the stages are {', '.join(STAGES)}"
    return None


def _wrong_hash(table: str, body: Body) -> Optional[Tuple[str, str]]:
    found = body.get("file_hash") if table == VERSIONS else None
    if found is None or (isinstance(found, str) and _SHA256.fullmatch(found)):
        return None
    return "bad_hash", f"its file_hash {str(found)[:80]!r} is no SHA-256 in lower-case hexadecimal"


def _configs(conn: sqlite3.Connection) -> Dict[str, str]:
    """The config of each model whose id does not tell it, from the training configs of its versions."""
    if "training_config_json" not in table_columns(conn, "main", VERSIONS):
        return {}
    found: Dict[str, str] = {}
    query = (
        "SELECT model_id, training_config_json FROM versions WHERE training_config_json IS NOT NULL ORDER BY version"
    )
    for model, text in conn.execute(query):
        config = _trained_on(text)
        if config and isinstance(model, str):
            found.setdefault(model, config)
    return found


def _trained_on(text: object) -> str:
    try:
        value: Any = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return ""
    if not isinstance(value, dict):
        return ""
    told = next((value[name] for name in ("config_key", "config") if isinstance(value.get(name), str)), None)
    if told is not None and patterns.config_of_name(told):
        return patterns.config_of_name(told) or ""
    board = value.get("board_type", value.get("board"))
    return (patterns.config_key(board, value.get("num_players")) or "") if isinstance(board, str) else ""


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_version(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _MOST_VERSION


def ordered(values: Sequence[object]) -> List[object]:
    """Values of one column in an order that is the same everywhere: nothing, numbers, texts."""
    return sorted(values, key=_rank)


def _rank(value: object) -> Tuple[int, float, str]:
    if value is None:
        return 0, 0.0, ""
    if isinstance(value, (int, float)):
        return 1, float(value), ""
    return 2, 0.0, str(value)
