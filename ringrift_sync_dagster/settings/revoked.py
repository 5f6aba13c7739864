"""The file of revoked node ids: an id in it is refused although its token is good.

One id per line, and ``#`` starts a comment, so that a person can edit it and say why. It lies beside the coordinator's
key, and a copy of it wherever an agent shall refuse these ids. Source: architecture.md, 2 "Identity".
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ringrift_sync_dagster.core.model import checked_node_name
from ringrift_sync_dagster.settings.identity import replace_file

REVOKED_NAME: Final = "revoked"


def read_revoked(path: Path) -> frozenset[str]:
    """Give the node ids of a file of revoked ids: one per line, ``#`` starts a comment. No file revokes nobody.

    Raises:
        OSError: The file is there but cannot be read.

    """
    return frozenset(filter(None, map(_revoked_id, _lines(path))))


def set_revoked(path: Path, node: str, *, revoked: bool) -> bool:
    """Put a node into the file of revoked ids, or take it out; comments and other ids stay. Idempotent.

    Returns:
        Whether the file changed.

    Raises:
        ValueError: The name cannot be a node's.
        OSError: The file cannot be read or written; the old one is still there.

    """
    checked_node_name(node)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _directory_locked(path.parent):  # two people at a time must not undo each other
        old = _lines(path)
        if (node in map(_revoked_id, old)) == revoked:
            return False
        new = [*old, node] if revoked else [line for line in old if _revoked_id(line) != node]
        replace_file(path, "".join(f"{line}\n" for line in new).encode("utf-8", "surrogateescape"), 0o644)
    return True


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except FileNotFoundError:
        return []


def _revoked_id(line: str) -> str:
    return line.partition("#")[0].strip()


@contextlib.contextmanager
def _directory_locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
