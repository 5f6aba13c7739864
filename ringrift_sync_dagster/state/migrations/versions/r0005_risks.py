"""Revision 0005: what nodes say is on them alone.

Written out, not imported: it must stay as it was.

Revision ID: 0005
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0005"
down_revision: Final = "0004"


def upgrade() -> None:
    """Create a table."""
    op.create_table(
        "risks",
        sa.Column("node", sa.Text, nullable=False),
        *(sa.Column(name, sa.BigInteger, nullable=False, server_default="0") for name in ("games", "bytes")),
        sa.Column("ids", sa.JSON, nullable=False, server_default="[]"),
        sa.Column("oldest_at", sa.Double),
        *(
            sa.Column(name, sa.BigInteger, nullable=False, server_default="0")
            for name in ("outbox_bytes", "outbox_packs")
        ),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("lost_at", sa.Double),
        sa.PrimaryKeyConstraint("node", name="pk_risks"),
    )


def downgrade() -> None:
    """Remove it."""
    op.drop_table("risks")
