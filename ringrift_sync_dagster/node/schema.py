"""The games schema of RingRift, version 18, as data.

The data are tables, columns, triggers and indices; the pack's tables are made from them. Every reader and writer of
game rows in this project takes its column names from here, so that no statement says ``SELECT *`` and a database of
another version (columns missing, in another order, or under an old name) is still read exactly.

Source: upstream's schema history, versions 1 to 18.
"""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Optional, Tuple

SCHEMA_VERSION = 18
MIN_MOVES = 5
"""A finished game with fewer moves is not complete (upstream's triggers refuse it as well)."""

FINISHED = ("completed", "finished")
"""Values of ``game_status`` that say a game is over; compared in lower case."""


class Column(NamedTuple):
    """One column: its SQL type, what an absent or NULL value stands for, and whether the schema forbids NULL."""

    name: str
    kind: str
    default: Optional[str] = None  # a SQL literal
    required: bool = False
    identity: bool = False  # part of what makes a game this game; all others are annotation
    old_name: Optional[str] = None


class Table(NamedTuple):
    """One table: its columns in the order of the DDL, and the columns of its primary key."""

    name: str
    columns: Tuple[Column, ...]
    key: Tuple[str, ...]
    packed: bool = True  # False: stays home unless asked for

    def names(self) -> List[str]:
        """Column names in the order of the DDL."""
        return [column.name for column in self.columns]


def _columns(text: str) -> Tuple[Column, ...]:
    """Read the compact notation below.

    A column is ``name KIND [=default] [!required] [*identity] [<old name]``; columns are separated by ``;``.
    """
    columns = []
    for part in text.split(";"):
        words = part.split()
        extra: Dict[str, str] = {word[0]: word[1:] for word in words[2:]}
        columns.append(Column(words[0], words[1], extra.get("="), "!" in extra, "*" in extra, extra.get("<")))
    return tuple(columns)


GAMES = Table(
    "games",
    _columns(
        "game_id TEXT *; board_type TEXT ! *; num_players INTEGER ! *; rng_seed INTEGER *; created_at TEXT ! ='' *;"
        "completed_at TEXT; game_status TEXT !; winner INTEGER *; termination_reason TEXT *;"
        "total_moves INTEGER ! =0; total_turns INTEGER ! =0; duration_ms INTEGER; source TEXT;"
        "schema_version INTEGER ! =0; time_control_type TEXT ='none'; initial_time_ms INTEGER;"
        "time_increment_ms INTEGER; metadata_json TEXT; quality_score REAL; quality_category TEXT; engine_mode TEXT;"
        "parity_status TEXT ='pending'; parity_checked_at TEXT; parity_divergence_move INTEGER; opponent_type TEXT;"
        "opponent_model_id TEXT"
    ),
    ("game_id",),
)
MOVES = Table(
    "game_moves",
    _columns(
        "game_id TEXT; move_number INTEGER * <move_index; turn_number INTEGER; player INTEGER *; phase TEXT;"
        "move_type TEXT;"
        "move_json TEXT ! ='' *; timestamp TEXT; think_time_ms INTEGER; time_remaining_ms INTEGER; engine_eval REAL;"
        "engine_eval_type TEXT; engine_depth INTEGER; engine_nodes INTEGER; engine_pv TEXT; engine_time_ms INTEGER;"
        "move_probs TEXT; search_stats_json TEXT; heuristic_features BLOB"
    ),
    ("game_id", "move_number"),
)
PLAYERS = Table(
    "game_players",
    _columns(
        "game_id TEXT; player_number INTEGER *; player_type TEXT *; ai_type TEXT *; ai_difficulty INTEGER *;"
        "ai_profile_id TEXT *;"
        "final_eliminated_rings INTEGER *; final_territory_spaces INTEGER *; final_rings_in_hand INTEGER *"
    ),
    ("game_id", "player_number"),
)
INITIAL = Table(
    "game_initial_state",
    _columns("game_id TEXT; initial_state_json TEXT *; compressed INTEGER =0 *"),
    ("game_id",),
)
CHOICES = Table(
    "game_choices",
    _columns(
        "game_id TEXT; move_number INTEGER; choice_type TEXT; player INTEGER; options_json TEXT;"
        "selected_option_json TEXT; ai_reasoning TEXT"
    ),
    ("game_id", "move_number", "choice_type"),
)
SNAPSHOTS = Table(
    "game_state_snapshots",
    _columns("game_id TEXT; move_number INTEGER; state_json TEXT; compressed INTEGER =0; state_hash TEXT"),
    ("game_id", "move_number"),
)
HISTORY = Table(
    "game_history_entries",
    _columns(
        "game_id TEXT; move_number INTEGER; player INTEGER; phase_before TEXT; phase_after TEXT; status_before TEXT;"
        "status_after TEXT; progress_before_json TEXT; progress_after_json TEXT; state_hash_before TEXT;"
        "state_hash_after TEXT;"
        "board_summary_before_json TEXT; board_summary_after_json TEXT; state_before_json TEXT; state_after_json TEXT;"
        "compressed_states INTEGER =0; available_moves_json TEXT; available_moves_count INTEGER; engine_eval REAL;"
        "engine_depth INTEGER; fsm_valid INTEGER; fsm_error_code TEXT"
    ),
    ("game_id", "move_number"),
    packed=False,
)
FEATURES = Table(
    "game_nnue_features",
    _columns(
        "game_id TEXT; move_number INTEGER; player_perspective INTEGER; features BLOB; value REAL; board_type TEXT;"
        "feature_dim INTEGER"
    ),
    ("game_id", "move_number", "player_perspective"),
    packed=False,
)
CHILDREN = (MOVES, PLAYERS, INITIAL, CHOICES, SNAPSHOTS, HISTORY, FEATURES)
"""Tables whose rows belong to a game; moves come first, because the triggers of version 14 abort the other order."""
TABLES = (GAMES, *CHILDREN)
BY_NAME = {table.name: table for table in TABLES}
INCLUDABLE = {"history": HISTORY, "features": FEATURES}
"""What a pack leaves at home unless ``include`` names it: the full-state history and the derived feature cache."""

STORE_TABLE = "ringrift_store"
"""The marker: a database that holds it was written by us and is never collected again."""

_STORE_DDL = (
    "CREATE TABLE IF NOT EXISTS ringrift_store (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    (
        "CREATE TABLE IF NOT EXISTS ringrift_provenance (game_id TEXT PRIMARY KEY, origin_id TEXT,"
        " identity TEXT NOT NULL, annotation TEXT NOT NULL, artifact TEXT NOT NULL, node TEXT NOT NULL,"
        " change_id TEXT NOT NULL) WITHOUT ROWID"
    ),
    (
        "CREATE INDEX IF NOT EXISTS ringrift_provenance_origin ON ringrift_provenance(origin_id)"
        " WHERE origin_id IS NOT NULL"
    ),
    (
        "CREATE TABLE IF NOT EXISTS ringrift_cursors (node TEXT NOT NULL, path TEXT NOT NULL, config TEXT NOT NULL,"
        " cursor TEXT NOT NULL, PRIMARY KEY (node, path, config)) WITHOUT ROWID"
    ),
    (
        "CREATE TABLE IF NOT EXISTS ringrift_changes (seq INTEGER PRIMARY KEY AUTOINCREMENT,"
        " change_id TEXT NOT NULL UNIQUE, summary TEXT NOT NULL, sent INTEGER NOT NULL DEFAULT 0)"
    ),
    "CREATE INDEX IF NOT EXISTS ringrift_changes_unsent ON ringrift_changes(seq) WHERE sent = 0",
)

_INDICES = (
    ("idx_games_board_type", "games(board_type)"),
    ("idx_games_winner", "games(winner)"),
    ("idx_games_created_at", "games(created_at)"),
    ("idx_games_completed_at", "games(completed_at)"),
    ("idx_games_status", "games(game_status)"),
    ("idx_games_source", "games(source)"),
    ("idx_games_config", "games(board_type, num_players, game_status)"),
    ("idx_games_quality", "games(quality_score DESC)"),
    ("idx_games_quality_category", "games(quality_category)"),
    ("idx_games_engine_mode", "games(engine_mode)"),
    ("idx_games_parity_status", "games(parity_status)"),
    ("idx_games_opponent_type", "games(opponent_type)"),
    ("idx_games_opponent_model", "games(opponent_model_id)"),
    ("idx_players_ai_type", "game_players(ai_type)"),
    ("idx_history_fsm", "game_history_entries(fsm_valid)"),
)

_TRIGGERS = (
    f"""CREATE TRIGGER IF NOT EXISTS enforce_moves_on_complete BEFORE UPDATE ON games
WHEN NEW.game_status IN ('completed', 'finished') AND NEW.total_moves < {MIN_MOVES}
BEGIN SELECT RAISE(ABORT, 'a finished game needs at least {MIN_MOVES} moves'); END""",
    f"""CREATE TRIGGER IF NOT EXISTS enforce_moves_on_insert AFTER INSERT ON games
WHEN NEW.game_status IN ('completed', 'finished')
AND (SELECT COUNT(*) FROM game_moves WHERE game_id = NEW.game_id) < {MIN_MOVES}
BEGIN SELECT RAISE(ABORT, 'a finished game needs at least {MIN_MOVES} rows in game_moves'); END""",
)


def _table_ddl(table: Table) -> str:
    """The ``CREATE TABLE`` of one games table at version 18."""
    lines = []
    for column in table.columns:
        line = f"{column.name} {column.kind}"
        if column.required:
            line += " NOT NULL"
        if column.default is not None:
            line += f" DEFAULT {column.default}"
        lines.append(line)
    lines.append(f"PRIMARY KEY ({', '.join(table.key)})")
    if table is not GAMES:
        lines.append("FOREIGN KEY (game_id) REFERENCES games(game_id) ON DELETE CASCADE")
    return f"CREATE TABLE IF NOT EXISTS {table.name} (\n  " + ",\n  ".join(lines) + "\n)"


def games_ddl() -> List[str]:
    """Statements that make an empty games database at version 18, as upstream's own program would."""
    statements = ["CREATE TABLE IF NOT EXISTS schema_metadata (key TEXT PRIMARY KEY, value TEXT NOT NULL)"]
    statements += [_table_ddl(table) for table in TABLES]
    statements.append(
        "CREATE TABLE IF NOT EXISTS orphaned_games (game_id TEXT PRIMARY KEY, detected_at TEXT, reason TEXT,"
        " original_status TEXT, board_type TEXT, num_players INTEGER)"
    )
    statements += [f"CREATE INDEX IF NOT EXISTS {name} ON {target}" for name, target in _INDICES]
    statements += _TRIGGERS
    return statements


def store_ddl() -> List[str]:
    """Statements that add the marker, provenance, cursors and changes to a canonical database."""
    return list(_STORE_DDL)


def pack_ddl() -> List[str]:
    """Statements of a pack: the same columns without triggers, foreign keys or second indices.

    The pack's own two tables come last. ``WITHOUT ROWID`` keeps the rows in key order once, which makes the file small
    and every look-up by game a range.
    """
    statements = []
    for table in TABLES:
        columns = ", ".join(f"{column.name} {column.kind}" for column in table.columns)
        statements.append(f"CREATE TABLE {table.name} ({columns}, PRIMARY KEY ({', '.join(table.key)})) WITHOUT ROWID")
    statements.append(
        "CREATE TABLE pack_games (game_id TEXT PRIMARY KEY, identity TEXT NOT NULL, annotation TEXT NOT NULL,"
        " moves INTEGER NOT NULL) WITHOUT ROWID"
    )
    statements.append("CREATE TABLE pack_meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID")
    return statements
