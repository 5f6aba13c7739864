"""Revision 0004: what strategies remember: cursors, marks, forecasts, measures, exclusions, backpressure.

Written out, not imported: it must stay as it was.

Revision ID: 0004
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0004"
down_revision: Final = "0003"

_ID: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create six tables."""
    op.create_table(
        "event_cursors",
        _key("subscriber"),
        _count("event_id"),
        _time("at", nullable=False),
        sa.PrimaryKeyConstraint("subscriber", name="pk_event_cursors"),
    )
    _create_marks()
    _create_forecasts()
    op.create_table(
        "measures",
        _key("node"),
        _number("bytes_per_second"),
        _number("success", "1"),
        _time("rtt_seconds"),
        *(sa.Column(name, sa.BigInteger) for name in ("disk_free_bytes", "disk_total_bytes")),
        _text("storage"),
        _count("last_transfer"),
        _time("at", nullable=False),
        sa.PrimaryKeyConstraint("node", name="pk_measures"),
    )
    op.create_table(
        "exclusions",
        _key("node"),
        _text("reason"),
        _number("until"),
        _text("epoch"),
        _time("at", nullable=False),
        sa.PrimaryKeyConstraint("node", name="pk_exclusions"),
    )
    op.create_table(
        "backpressure",
        _key("owner"),
        sa.Column("active", sa.Boolean, nullable=False),
        _number("pressure"),
        sa.Column("signals", sa.JSON, nullable=False),
        *(_time(name) for name in ("since_at", "until")),
        *(_text(name) for name in ("epoch", "source")),
        _time("looked_at", nullable=False),
        sa.PrimaryKeyConstraint("owner", name="pk_backpressure"),
    )


def downgrade() -> None:
    """Remove them."""
    for table in ("backpressure", "exclusions", "measures", "forecasts", "marks", "event_cursors"):
        op.drop_table(table)


def _create_marks() -> None:
    op.create_table(
        "marks",
        sa.Column("id", _ID, nullable=False),
        *(_text(name) for name in ("strategy", "owner")),
        *(_time(name, nullable=False) for name in ("mark", "began_at")),
        _number("seconds"),
        _count("changes"),
        _text("holder"),
        sa.PrimaryKeyConstraint("id", name="pk_marks"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_marks_strategy_id", "marks", ["strategy", "id"])


def _create_forecasts() -> None:
    op.create_table(
        "forecasts",
        sa.Column("id", _ID, nullable=False),
        _time("at", nullable=False),
        *(_text(name) for name in ("trigger", "data_type", "config", "node", "direction")),
        _count("predicted_bytes"),
        _number("predicted_seconds"),
        _count("actual_bytes"),
        _number("actual_seconds"),
        sa.PrimaryKeyConstraint("id", name="pk_forecasts"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_forecasts_node_data_type", "forecasts", ["node", "data_type"])


def _key(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


def _number(name: str, default: str = "0") -> sa.Column[Any]:
    return sa.Column(name, sa.Double, nullable=False, server_default=default)


def _time(name: str, *, nullable: bool = True) -> sa.Column[Any]:
    return sa.Column(name, sa.Double, nullable=nullable)
