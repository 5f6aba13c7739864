"""Text that a node, or a program, gave: made such that every database, terminal and command takes it."""

from __future__ import annotations

from typing import Final

LONGEST_CHARS: Final = 4096


def legible(value: object, longest: int = LONGEST_CHARS) -> str:
    """Give text for a message: bounded, valid Unicode, without NUL; what is no text is named by its type.

    Args:
        value: What was given; bytes of a name that are no UTF-8 may stand in it with ``surrogateescape``.
        longest: Characters at most; the rest is cut off.

    """
    text = value if isinstance(value, str) else f"a {type(value).__name__} instead of text"
    return text[:longest].encode("utf-8", "replace").decode("utf-8").replace("\0", "?")


def is_path(value: object) -> bool:
    """Say whether something can be an absolute path on a node: without NUL, and made of bytes."""
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        return False
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True
