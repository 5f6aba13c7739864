"""Revision 0001: the first tables of the state database. Written out, not imported: it must stay as it was.

Revision ID: 0001
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0001"
down_revision: Final = None

_ID: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_PENDING: Final = sa.text("recorded_at IS NULL")


def upgrade() -> None:
    """Create all tables."""
    _create_nodes()
    _create_artifacts()
    _create_leases()
    _create_transfers()
    _create_changes()


def downgrade() -> None:
    """Remove all tables."""
    for table in ("changes", "transfers", "leases", "receipts", "artifacts", "node_files", "nodes"):
        op.drop_table(table)


def _text(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text, nullable=False, server_default="") for name in names]


def _counts(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger, nullable=False, server_default="0") for name in names]


def _key(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False)


def _time(name: str, *, nullable: bool = True) -> sa.Column[float]:
    return sa.Column(name, sa.Double, nullable=nullable)


def _create_nodes() -> None:
    op.create_table(
        "nodes",
        _key("name"),
        *_text("status", "transport", "agent_version", "manifest_token"),
        _time("manifest_at"),
        _time("last_seen_at"),
        *_text("last_error"),
        _time("last_error_at"),
        sa.Column("extra", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_nodes"),
    )
    op.create_table(
        "node_files",
        _key("node"),
        _key("path"),
        _key("config"),
        *_text("data_type", "kind"),
        sa.Column("collectable", sa.Boolean, nullable=False),
        *_counts("size_bytes", "mtime_ns"),
        *_text("token"),
        sa.Column("games", sa.BigInteger),
        *_text("error"),
        _time("seen_at", nullable=False),
        sa.PrimaryKeyConstraint("node", "path", "config", name="pk_node_files"),
        sa.ForeignKeyConstraint(["node"], ["nodes.name"], ondelete="CASCADE"),
    )
    op.create_index("ix_node_files_config_data_type", "node_files", ["config", "data_type"])


def _create_artifacts() -> None:
    op.create_table(
        "artifacts",
        _key("sha256"),
        *_text("kind"),
        *_counts("size_bytes", "raw_bytes"),
        *_text("config", "origin_node"),
        _time("created_at", nullable=False),
        sa.PrimaryKeyConstraint("sha256", name="pk_artifacts"),
    )
    op.create_index("ix_artifacts_config", "artifacts", ["config"])
    op.create_table(
        "receipts",
        sa.Column("id", _ID, nullable=False),
        *_text("sha256", "node", "path"),
        *_counts("size_bytes"),
        _time("verified_at", nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_receipts"),
        sa.UniqueConstraint("sha256", "node", name="uq_receipts_sha256_node"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_receipts_node_path", "receipts", ["node", "path"])


def _create_leases() -> None:
    op.create_table(
        "leases",
        _key("name"),
        *_text("holder", "host"),
        *_counts("pid"),
        sa.Column("pid_started", sa.BigInteger),
        *_text("boot_id"),
        sa.Column("expires", sa.Double, nullable=False, server_default="0"),
        *_counts("fence"),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
    )


def _create_transfers() -> None:
    op.create_table(
        "transfers",
        sa.Column("id", _ID, nullable=False),
        *_text("artifact", "node", "direction", "transport", "config", "trigger"),
        *_counts("size_bytes", "received_bytes", "resumed_from"),
        *_text("state"),
        _time("started_at", nullable=False),
        _time("updated_at", nullable=False),
        _time("finished_at"),
        *_text("error_class", "error", "host"),
        *_counts("pid"),
        sa.Column("pid_started", sa.BigInteger),
        *_text("boot_id"),
        sa.PrimaryKeyConstraint("id", name="pk_transfers"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_transfers_state", "transfers", ["state"])
    op.create_index("ix_transfers_node_started_at", "transfers", ["node", "started_at"])


def _create_changes() -> None:
    op.create_table(
        "changes",
        sa.Column("id", _ID, nullable=False),
        _key("change_id"),
        _time("at", nullable=False),
        *_text("data_type", "direction", "config", "node", "artifact", "source_path"),
        *_counts("games_new", "games_same", "games_revised", "games_renamed", "games_annotated"),
        *_counts("set_aside", "size_bytes"),
        sa.Column("seconds", sa.Double, nullable=False, server_default="0"),
        *_text("transport"),
        sa.Column("canonical_games", sa.BigInteger),
        _time("lag_seconds"),
        sa.Column("checks", sa.JSON, nullable=False),
        *_text("trigger"),
        _time("recorded_at"),
        *_text("recorded_by"),
        sa.PrimaryKeyConstraint("id", name="pk_changes"),
        sa.UniqueConstraint("change_id", name="uq_changes_change_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_changes_pending", "changes", ["id"], sqlite_where=_PENDING, postgresql_where=_PENDING)
    op.create_index("ix_changes_config_node", "changes", ["config", "node"])
