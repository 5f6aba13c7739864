"""The one error of the kit: a code that callers act on, a sentence for people, and the path that it is about."""

from __future__ import annotations

import errno
from typing import Dict, Optional

CODES: Dict[str, str] = {
    "outside": "the path leaves the roots",
    "missing": "there is no such file",
    "not_a_database": "the file is no SQLite database",
    "corrupt": "SQLite finds the database malformed",
    "locked": "another process holds the database",
    "newer_schema": "the schema is newer than the kit; a warning, never raised",
    "no_games_table": "the database holds no games yet",
    "no_space": "the disk is full",
    "changed": "the source changed while it was read",
    "checksum": "what arrived is another artifact",
    "short": "some of the artifact has not arrived yet",
    "uncollected": "a file of the node, which its owner does not have, would be replaced",
    "bad_arguments": "the caller asked for something that does not exist",
    "unreadable": "the file cannot be read as it is",
    "no_python": "the operation takes Python 3.8 or later, which a login does not find on the node",
    "internal": "a fault of the kit itself",
}

_BY_ERRNO: Dict[int, str] = {
    errno.ENOENT: "missing",
    errno.ENOTDIR: "missing",
    errno.ENOSPC: "no_space",
    errno.EDQUOT: "no_space",
}


class KitError(Exception):
    """What the kit refuses or cannot do; ``code`` is one of ``CODES`` and the same over every transport.

    It survives pickling, because the agent runs the kit in worker processes.
    """

    def __init__(self, code: str, message: str, path: Optional[str] = None) -> None:
        super().__init__(code, message, path)
        self.code = code
        self.message = message
        self.path = path

    def __str__(self) -> str:
        return self.message

    def as_json(self) -> Dict[str, Optional[str]]:
        """Give the form that travels: ``{"code", "message", "path"}``."""
        return {"code": self.code, "message": self.message, "path": self.path}


def from_os_error(error: OSError, path: Optional[str] = None) -> KitError:
    """Translate an error of the operating system; what is neither absence nor a full disk is ``unreadable``."""
    code = _BY_ERRNO.get(error.errno or 0, "unreadable")
    return KitError(code, f"{error.strerror or error}", path)
