"""Revision 0002: breakers, events, remembered rungs and priorities of hosts; transfers wait, expire and have shares.

Written out, not imported: it must stay as it was.

Revision ID: 0002
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0002"
down_revision: Final = "0001"

_ID: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create four tables, and give transfers their new columns."""
    for column in _transfer_columns():
        op.add_column("transfers", column)
    _create_breakers()
    op.create_table(
        "events",
        sa.Column("id", _ID, nullable=False),
        _time("at", nullable=False),
        _text("type"),
        sa.Column("payload", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "rungs",
        _key("node"),
        _text("transport"),
        _number("until"),
        _text("epoch"),
        sa.PrimaryKeyConstraint("node", name="pk_rungs"),
    )
    op.create_table(
        "host_priorities",
        _key("host"),
        _text("priority"),
        sa.PrimaryKeyConstraint("host", name="pk_host_priorities"),
    )


def downgrade() -> None:
    """Remove them; a transfer that waits is no row that the older version knows."""
    for table in ("host_priorities", "rungs", "events", "breakers"):
        op.drop_table(table)
    op.execute("DELETE FROM transfers WHERE state = 'waiting'")
    for column in _transfer_columns():
        op.drop_column("transfers", column.name)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


def _number(name: str, default: str = "0") -> sa.Column[float]:
    return sa.Column(name, sa.Double, nullable=False, server_default=default)


def _key(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False)


def _time(name: str, *, nullable: bool = True) -> sa.Column[float]:
    return sa.Column(name, sa.Double, nullable=nullable)


def _transfer_columns() -> Iterator[sa.Column[Any]]:
    yield _text("priority")
    yield _number("multiplier", "1")
    yield _time("expires")
    yield _text("epoch")
    yield _time("requested")
    yield _count("reserved_bytes")
    yield _text("disk")
    yield _number("rate_granted")
    yield _number("seconds")
    yield sa.Column("rungs", sa.JSON, nullable=False, server_default="[]")


def _create_breakers() -> None:
    op.create_table(
        "breakers",
        _key("node"),
        _key("transport"),
        _count("failures"),
        _count("opens"),
        _time("open_until"),
        _text("epoch"),
        _text("host"),
        _count("pid"),
        sa.Column("pid_started", sa.BigInteger),
        _text("boot_id"),
        _count("thread"),
        _time("probe_expires"),
        _text("last_error"),
        _time("changed_at", nullable=False),
        sa.PrimaryKeyConstraint("node", "transport", name="pk_breakers"),
    )
