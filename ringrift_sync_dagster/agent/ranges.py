"""Byte ranges and validators of HTTP as RFC 9110 has them (sections 8.8, 13 and 14): headers in, a decision out.

An artifact is named by its content, so its entity tag is the quoted SHA-256 and always strong. There is no
``Last-Modified``: a date in ``If-Range`` therefore never matches, and the whole artifact is sent. A server may ignore
``Range`` (14.2); this one does for several ranges at once, for a unit other than bytes and for a malformed header.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

# 19 digits are more than any file has bytes; a longer number is not worth parsing.
_ONE_RANGE: Final = re.compile(r"bytes=[ \t]*(?P<first>[0-9]{0,19})-(?P<last>[0-9]{0,19})[ \t]*", re.IGNORECASE)
_CONTENT_RANGE: Final = re.compile(r"bytes (?:(?P<first>[0-9]{1,19})-(?P<last>[0-9]{1,19})|\*)/(?P<total>[0-9]{1,19})")


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of a file.

    Args:
        start: Offset of the first byte.
        count: Number of bytes; 0 only for an empty file.

    """

    start: int
    count: int

    @property
    def end(self) -> int:
        """The offset after the last byte."""
        return self.start + self.count


class UnsatisfiableError(Exception):
    """The range lies wholly behind the end of the file: the answer is 416."""


def entity_tag(sha256: str) -> str:
    """Give the strong entity tag of an artifact."""
    return f'"{sha256}"'


def wanted_slice(range_header: str | None, if_range: str | None, tag: str, size_bytes: int) -> Slice | None:
    """Say which part of the file a GET asks for.

    Args:
        range_header: ``Range`` of the request.
        if_range: ``If-Range`` of the request; the range counts only if it is exactly ``tag``.
        tag: Entity tag of the file.
        size_bytes: Length of the file.

    Returns:
        The part for a 206, or None when the whole file is to be sent with 200.

    Raises:
        UnsatisfiableError: The range is well formed, and no byte of the file is in it.

    """
    if range_header is None or (if_range is not None and if_range.strip() != tag):
        return None
    match = _ONE_RANGE.fullmatch(range_header.strip())
    if match is None or (not match["first"] and not match["last"]):
        return None
    if not match["first"]:
        return _suffix(int(match["last"]), size_bytes)
    return _from_first(int(match["first"]), match["last"], size_bytes)


def _suffix(length: int, size_bytes: int) -> Slice:
    count = min(length, size_bytes)
    if count == 0:
        raise UnsatisfiableError
    return Slice(size_bytes - count, count)


def _from_first(first: int, last_text: str, size_bytes: int) -> Slice | None:
    last = int(last_text) if last_text else size_bytes - 1
    if last_text and last < first:
        return None
    if first >= size_bytes:
        raise UnsatisfiableError
    return Slice(first, min(last, size_bytes - 1) - first + 1)


def tag_listed(header: str | None, tag: str, *, weak: bool) -> bool:
    """Say whether ``If-None-Match`` (``weak``) or ``If-Match`` (not ``weak``) names the tag or is ``*``."""
    if header is None:
        return False
    listed = [item.strip() for item in header.split(",")]
    if weak:
        listed = [item.removeprefix("W/") for item in listed]
    return "*" in listed or tag in listed


def pushed_slice(content_range: str | None, content_length: int | None) -> tuple[Slice, int]:
    """Read what part of an artifact a PUT carries.

    Args:
        content_range: ``Content-Range``; without it the body is the whole artifact.
        content_length: ``Content-Length``.

    Returns:
        The part, and the length of the whole artifact in bytes.

    Raises:
        ValueError: The header is malformed or contradicts itself; the text says how to write it.

    """
    if content_range is None:
        if content_length is None:
            raise ValueError("the request needs Content-Range: bytes first-last/total, or Content-Length")
        return Slice(0, content_length), content_length
    match = _CONTENT_RANGE.fullmatch(content_range.strip())
    if match is None:
        raise ValueError(f"Content-Range {content_range!r} is not bytes first-last/total or bytes */total")
    total = int(match["total"])
    if match["first"] is None:
        part = Slice(total, 0)  # "bytes */total" carries no byte: all are there already, or there are none
    else:
        part = Slice(int(match["first"]), int(match["last"]) - int(match["first"]) + 1)
    if part.count < 0 or part.end > total or (match["first"] is not None and part.count == 0):
        raise ValueError(f"Content-Range {content_range!r} contradicts itself")
    if content_length is not None and content_length != part.count:
        raise ValueError(f"Content-Range {content_range!r} does not fit Content-Length {content_length}")
    return part, total
