"""Names of files: a path relative to one of a node's roots, and never anything outside them.

The first root is the node's own directory: its files are called ``data/games/x.db``. Files of root i (extra
storage) are called ``@i/...``. Confinement looks at the real place, so a symbolic link may lead from root to root,
but not out.
"""

from __future__ import annotations

import os
import re
from typing import Sequence, Tuple

from .errors import KitError

_EXTRA = re.compile(r"@([1-9][0-9]{0,3})/(.+)", re.DOTALL)


def display(path: str) -> str:
    """Give a path as text that JSON and a terminal can carry, whatever bytes the file system holds."""
    try:
        return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # No file system gave this: a caller made it up.
        return path.encode("utf-8", "backslashreplace").decode("utf-8")


def is_text(path: str) -> bool:
    """Tell whether the bytes of a path are UTF-8."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


class Roots:
    """The directories of a node that the kit may touch; ``paths[0]`` is the node's own. They need not exist."""

    def __init__(self, paths: Sequence[str]) -> None:
        if not paths or any(not path or "\0" in path for path in paths):
            raise KitError("bad_arguments", "a node needs at least one root, and no root may be empty or hold a NUL")
        self.paths: Tuple[str, ...] = tuple(os.path.realpath(os.path.expanduser(path)) for path in paths)
        self._stems = tuple(path.rstrip(os.sep) + os.sep for path in self.paths)

    def prefix(self, index: int) -> str:
        """Give what the names of a root's files begin with: nothing for the first, ``@1/`` for the second."""
        return f"@{index}/" if index else ""

    def contains(self, real: str) -> bool:
        """Tell whether a real path (no symbolic link in it) lies in a root or is one."""
        return real in self.paths or real.startswith(self._stems)

    def split(self, path: str) -> Tuple[int, str]:
        """Split a name into the number of its root and the path below it.

        Raises:
            KitError: ``outside`` for a NUL, an absolute path, ``..`` or an unknown root; ``bad_arguments`` for no
            text.

        """
        if not path or not is_text(path):
            raise KitError("bad_arguments", "a path must be text that is not empty", display(path))
        extra = _EXTRA.fullmatch(path)
        index, inner = (int(extra.group(1)), extra.group(2)) if extra else (0, path)
        bad = "\0" in inner or inner.startswith("/") or ".." in inner.split("/") or index >= len(self.paths)
        if bad or (path.startswith("@") and not extra):
            raise KitError("outside", "the path does not lie under a root of this node", path)
        return index, inner

    def resolve(self, path: str) -> str:
        """Give the real absolute path of a name; the file itself may be missing.

        Raises:
            KitError: as ``split``; also ``outside`` where a symbolic link leads out of all roots.

        """
        index, inner = self.split(path)
        real = os.path.realpath(os.path.join(self.paths[index], inner))
        if not self.contains(real):
            raise KitError("outside", "a symbolic link leads out of this node's roots", path)
        return real

    def real(self, path: str) -> str:
        """Give the real path of a name or of any path of this machine, however it is written; it may lie anywhere."""
        extra = _EXTRA.fullmatch(path)
        if extra and int(extra.group(1)) < len(self.paths):
            return os.path.realpath(os.path.join(self.paths[int(extra.group(1))], extra.group(2)))
        return os.path.realpath(os.path.join(self.paths[0], path))

    def relative(self, absolute: str) -> str:
        """Give the name of an absolute path: the inverse of ``resolve`` for a path without symbolic links.

        Raises:
            KitError: ``outside`` where no root holds it.

        """
        for candidate in (absolute, os.path.realpath(absolute)):
            for index, stem in enumerate(self._stems):
                if candidate.startswith(stem):
                    return self.prefix(index) + candidate[len(stem) :]
        raise KitError("outside", "the path does not lie under a root of this node", display(absolute))
