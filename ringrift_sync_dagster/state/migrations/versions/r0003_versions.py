"""Revision 0003: versions of files, which one is published, what each node was brought, deep scans; counts of changes.

Written out, not imported: it must stay as it was.

Revision ID: 0003
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0003"
down_revision: Final = "0002"

_ID: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create four tables, and give changes their counts."""
    _create_versions()
    op.create_table(
        "published",
        _key("data_type"),
        _key("config"),
        _text("sha256"),
        _count("serial"),
        _text("trigger"),
        sa.Column("at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("data_type", "config", name="pk_published"),
    )
    op.create_table(
        "placements",
        _key("node"),
        _key("data_type"),
        _key("config"),
        _text("content"),
        _count("serial"),
        sa.Column("detail", sa.JSON, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("node", "data_type", "config", name="pk_placements"),
    )
    op.create_table(
        "deep_scans",
        _key("node"),
        _key("path"),
        _key("config"),
        sa.Column("after", sa.JSON, nullable=False),
        sa.Column("worked_seconds", sa.Double, nullable=False, server_default="0"),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("looked_at", sa.Double, nullable=False),
        sa.Column("finished_at", sa.Double),
        sa.PrimaryKeyConstraint("node", "path", "config", name="pk_deep_scans"),
    )
    op.add_column("changes", sa.Column("counts", sa.JSON, nullable=False, server_default="{}"))


def downgrade() -> None:
    """Remove them."""
    op.drop_column("changes", "counts")
    for table in ("deep_scans", "placements", "published", "versions"):
        op.drop_table(table)


def _create_versions() -> None:
    op.create_table(
        "versions",
        sa.Column("id", _ID, nullable=False),
        *(_text(name) for name in ("data_type", "config", "sha256", "name", "path")),
        _count("size_bytes"),
        *(_text(name) for name in ("origin_node", "state", "reason")),
        sa.Column("detail", sa.JSON, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_versions"),
        sa.UniqueConstraint("data_type", "config", "sha256", name="uq_versions_data_type_config_sha256"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_versions_sha256", "versions", ["sha256"])


def _key(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")
