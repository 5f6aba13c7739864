r"""What one rsync over many files says of each of them: which were sent, and which could not be read.

rsync writes odd bytes of a name as ``\#ooo``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container
from typing import Final

FORMAT: Final = "%i %l %n"
"""For ``--out-format``: what was done, the file's length, and its name."""
_SENT: Final = re.compile(rb"[<>]f\S* (?P<bytes>\d+) (?P<name>.*)")
_BLAMED: Final = re.compile(r'"(?P<path>.*)"(?: failed: (?P<why>.*))?$')
_ODD: Final = re.compile(rb"\\#([0-7]{3})")


def sent(printed: bytes) -> dict[str, int]:
    """Read rsync's own list of the files that it sent, and the bytes of each."""
    found = (_SENT.fullmatch(line) for line in printed.splitlines())
    return {_name(one["name"]): int(one["bytes"]) for one in found if one is not None}


def blamed(words: str, root: str, names: Container[str]) -> dict[str, str]:
    """Read what rsync says of single files at their source.

    Args:
        words: Its stderr.
        root: The source.
        names: The files below it that were to be sent; what is said of others is left out.

    Returns:
        Their names, and why they cannot be read.

    """
    found = {}
    for line in words.splitlines():
        one = _BLAMED.search(line)
        name = "" if one is None else _name(os.fsencode(one["path"])).removeprefix(f"{root.rstrip('/')}/")
        if one is not None and name in names:
            found[name] = one["why"] or "it vanished while the batch ran"
    return found


def _name(printed: bytes) -> str:
    return os.fsdecode(_ODD.sub(lambda odd: bytes([int(odd[1], 8)]), printed)).removeprefix("./")
