"""Join two copies of one game: same identity, other annotations; the result does not depend on the order of arrival.

Column by column: a value beats NULL (or the default), else the larger one in SQLite's order stays. The three parity
columns speak of one check and go together: the later check wins. Rows that only one copy has are added.
"""

from __future__ import annotations

import sqlite3

from .schema import CHILDREN, GAMES, Column, Table

_PARITY = ("parity_status", "parity_checked_at", "parity_divergence_move")
_PARITY_ORDER = (  # as SQL tuples: a later check, then a result instead of 'pending', then the larger values
    "(COALESCE({0}.parity_checked_at, ''), COALESCE({0}.parity_status, 'pending') <> 'pending',"
    " COALESCE({0}.parity_status, ''), COALESCE({0}.parity_divergence_move, -1))"
)


def join_game(conn: sqlite3.Connection, stored_id: str, packed_id: str) -> int:
    """Bring the annotations of the attached ``pack``'s game into the stored game; return how many rows changed."""
    changed = _join_rows(conn, GAMES, stored_id, packed_id) + _join_parity(conn, stored_id, packed_id)
    for table in CHILDREN:
        changed += _add_rows(conn, table, stored_id, packed_id)
        changed += _join_rows(conn, table, stored_id, packed_id)
    return changed


def _joined(table: Table, column: Column) -> str:
    """SQL for the join of one column of the stored row (by its table's name) and the packed row ``p``."""
    mine, other = f"{table.name}.{column.name}", f"p.{column.name}"
    if column.default is not None and not column.required:
        mine, other = f"NULLIF({mine}, {column.default})", f"NULLIF({other}, {column.default})"
        return f"COALESCE(MAX({mine}, {other}), {mine}, {other}, {column.default})"
    return f"COALESCE(MAX({mine}, {other}), {mine}, {other})"


def _join_rows(conn: sqlite3.Connection, table: Table, stored_id: str, packed_id: str) -> int:
    """Join the annotation columns of the rows that both copies have."""
    columns = [c for c in table.columns if not c.identity and c.name not in table.key and c.name not in _PARITY]
    if not columns:
        return 0
    twin = " AND ".join(
        ["p.game_id = ?2", *(f"p.{name} = {table.name}.{name}" for name in table.key if name != "game_id")]
    )
    differs = " OR ".join(f"{table.name}.{c.name} IS NOT {_joined(table, c)}" for c in columns)
    return conn.execute(
        f"UPDATE main.{table.name} SET ({', '.join(c.name for c in columns)}) ="
        f" (SELECT {', '.join(_joined(table, c) for c in columns)} FROM pack.{table.name} p WHERE {twin})"
        f" WHERE game_id = ?1 AND EXISTS (SELECT 1 FROM pack.{table.name} p WHERE {twin} AND ({differs}))",
        (stored_id, packed_id),
    ).rowcount


def _join_parity(conn: sqlite3.Connection, stored_id: str, packed_id: str) -> int:
    """Take the packed game's parity check when it is the later one."""
    names = ", ".join(_PARITY)
    return conn.execute(
        f"UPDATE main.games SET ({names}) = (SELECT {names} FROM pack.games WHERE game_id = ?2)"
        " WHERE game_id = ?1 AND EXISTS (SELECT 1 FROM pack.games p WHERE p.game_id = ?2 AND"
        f" {_PARITY_ORDER.format('p')} > {_PARITY_ORDER.format('games')})",
        (stored_id, packed_id),
    ).rowcount


def _add_rows(conn: sqlite3.Connection, table: Table, stored_id: str, packed_id: str) -> int:
    """Add the child rows that only the packed copy has."""
    rest = ", ".join(name for name in table.names() if name != "game_id")
    return conn.execute(
        f"INSERT OR IGNORE INTO main.{table.name} (game_id, {rest})"
        f" SELECT ?1, {rest} FROM pack.{table.name} WHERE game_id = ?2",
        (stored_id, packed_id),
    ).rowcount
