"""Migrating an older state database with Alembic; the only part of the package that imports it, and only when needed.

To add a revision: change ``state/schema.py``, write ``versions/r<number>_<what>.py`` with both directions, and set
``schema.REVISION``. Tests hold the newest revision and the schema together.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

_HERE: Final = Path(__file__).parent


def known_revisions() -> frozenset[str]:
    """Give the names of all revisions that this version of the program can read."""
    return frozenset(script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


def upgrade(connection: sa.Connection, revision: str = "head") -> None:
    """Bring the database of an open write transaction to the revision; the caller commits.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: A step failed; roll back, and the database is as it was.

    """
    command.upgrade(_config(connection), revision)


def _config(connection: sa.Connection | None = None) -> Config:
    config = Config()
    # A percent sign in the path would be read as the start of a substitution.
    config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
