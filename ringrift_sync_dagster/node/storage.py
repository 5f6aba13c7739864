"""Evidence of shared storage: a mark that one node writes on its disk, and another one finds on its own.

A mark is a small file named by a random token, and has that token in it; it is looked for by its name, which nobody
asked for before, so that no cache of a network file system answers from memory. Marks lie below the first root, also
where the kit's own folder is elsewhere, and are removed when their probe ends, or after an hour.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import List, Optional, Sequence

from . import durable

_MAX_SECONDS = 3600.0
_TOKEN = re.compile(r"[0-9a-f]{32}")


def probe(root: str, mark: Optional[str], look: Sequence[str], drop: Optional[str], now: float) -> List[str]:
    """Write a mark, remove one, and give those of ``look`` that lie on this disk.

    Args:
        root: The node's first root.
        mark: Token to write; None writes nothing.
        look: Tokens to look for; what is no token is not there.
        drop: Token to remove; None removes nothing.
        now: The node's wall clock, in seconds since 1970.

    """
    folder = os.path.join(root, "data", ".ringrift-sync", "storage")
    os.makedirs(folder, exist_ok=True)
    if mark is not None:
        _remove_old(folder, now)
        durable.write(os.path.join(folder, mark), mark.encode("ascii"))
    if drop is not None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, drop))
    return [token for token in look if _TOKEN.fullmatch(token) and _holds(os.path.join(folder, token), token)]


def _holds(path: str, token: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(token) + 1) == token.encode("ascii")
    except OSError:
        return False


def _remove_old(folder: str, now: float) -> None:
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        with contextlib.suppress(OSError):
            if now - os.stat(path).st_mtime > _MAX_SECONDS:
                os.unlink(path)
