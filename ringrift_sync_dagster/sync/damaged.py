"""Put a database that a node has and nobody can read into the quarantine list, so that nobody overlooks it.

Its bytes stay on the node, which owns them; what is kept here is the node's word about them.
"""

from __future__ import annotations

import json
from typing import Final

from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.nodes import NodeFile
from ringrift_sync_dagster.sync.runtime import Runtime

DAMAGED: Final = frozenset({"corrupt", "not_a_database"})
"""Codes of the kit that mean that the file itself is bad, not that it is busy or new."""


def list_damaged(runtime: Runtime, file: NodeFile, code: str, message: str) -> None:
    """List the database; the same state of the same file is listed once.

    Raises:
        LocalDiskError: The quarantine cannot be written.

    """
    word = {
        "path": file.path, "bytes": file.size_bytes, "mtime_ns": file.mtime_ns, "error": f"{code}: {message}",
    }  # fmt: skip
    runtime.intake.quarantine.add(
        file.node,
        f"{file.path}@{file.size_bytes}-{file.mtime_ns}",
        json.dumps(word).encode(),
        reason=code,
        detail=f"{file.path} stays on the node: {message}",
        artifact="",
        at=clock.wall(),
    )
