"""Which versions of SQLite have the WAL-reset bug: two connections that write or checkpoint at once may lose commits.

It came with WAL in 3.7.0 and is gone since 3.51.3; 3.44.6 and 3.50.7 are mended as well. Source: field_notes.md, 1 (4).
"""

from __future__ import annotations

from typing import Final

_FIRST: Final = (3, 7, 0)
_MENDED: Final = (3, 51, 3)
_BACKPORTS: Final = ((3, 44, 6), (3, 50, 7))


def version_of(text: str) -> tuple[int, int, int]:
    """Read a version such as ``3.40.1``; what is not written counts as 0.

    Raises:
        ValueError: It is none.

    """
    parts = [int(part) for part in text.split(".")] + [0, 0]
    return parts[0], parts[1], parts[2]


def has_wal_reset_bug(text: str) -> bool:
    """Say whether this version of SQLite has the bug.

    Raises:
        ValueError: It is no version.

    """
    version = version_of(text)
    backported = any(version[:2] == mended[:2] and version >= mended for mended in _BACKPORTS)
    return _FIRST <= version < _MENDED and not backported
