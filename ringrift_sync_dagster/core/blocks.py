"""Blocks of an artifact: resume, many sources and blame for a bad block all rest on the same 4 MiB cuts.

Offsets are bytes from 0; a range is half open, ``start`` to ``end``. Source: architecture.md, 1 ("block list").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

BLOCK_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Block:
    """One cut of an artifact.

    Args:
        index: Number of the block, from 0.
        start: First byte.
        end: One past the last byte.

    """

    index: int
    start: int
    end: int

    @property
    def size_bytes(self) -> int:
        """Length of the block; all but the last have ``BLOCK_BYTES``."""
        return self.end - self.start


def block_count(size_bytes: int) -> int:
    """Give the number of blocks of a file; an empty file has none.

    Raises:
        ValueError: The size is negative.

    """
    if size_bytes < 0:
        raise ValueError(f"a file cannot have {size_bytes} bytes")
    return -(-size_bytes // BLOCK_BYTES)


def block(index: int, size_bytes: int) -> Block:
    """Give one block of a file of that size.

    Raises:
        ValueError: The file has no such block.

    """
    count = block_count(size_bytes)
    if not 0 <= index < count:
        raise ValueError(f"block {index} does not exist: a file of {size_bytes} bytes has {count} blocks")
    start = index * BLOCK_BYTES
    return Block(index, start, min(start + BLOCK_BYTES, size_bytes))


def blocks(size_bytes: int) -> Iterator[Block]:
    """Give all blocks of a file in order."""
    return (block(index, size_bytes) for index in range(block_count(size_bytes)))


def resume_offset(received_bytes: int, size_bytes: int) -> int:
    """Give the byte from which a transfer goes on after ``received_bytes`` have arrived in order.

    More bytes than the file has mean that the partial file is of something else: it starts again at 0.

    Raises:
        ValueError: A number is negative.

    """
    if received_bytes < 0 or size_bytes < 0:
        raise ValueError(f"cannot resume at {received_bytes} of {size_bytes} bytes")
    return received_bytes if received_bytes <= size_bytes else 0


def whole_blocks(received_bytes: int, size_bytes: int) -> int:
    """Give the number of blocks that are complete in the first ``received_bytes``; only those can be verified.

    Raises:
        ValueError: A number is negative.

    """
    offset = resume_offset(received_bytes, size_bytes)
    return block_count(size_bytes) if offset == size_bytes else offset // BLOCK_BYTES
